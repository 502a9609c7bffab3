"""What docs/reembedding.md promises to an app and to whoever changes EMBEDDING_MODEL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import LiteralString, cast

import pytest

import worker
from tests.conftest import IN_CI, REPOSITORY, Database, rows, run_worker, value
from tests.supabase_project import NO_SUPABASE, supabase_is_here
from tests.typescript import compiled

PAGE = (REPOSITORY / "docs/reembedding.md").read_text(encoding="utf-8")
OLD, NEW = "test:old", "test:new"


def snippet(language: str) -> LiteralString:
    """The only snippet of the page in a language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return cast(LiteralString, found)  # it is the text of a file of ours


@pytest.fixture
def articles(db: Database) -> Database:
    """A table in which both models find another row for the same vector; the new one serves."""
    db.execute("create table articles (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('articles', 'body', 'embedding', model => %s, dimensions => 3,"
        " match_function => true)",
        [OLD],
    )
    db.execute("insert into articles values (1, 'found by the old'), (2, 'found by the new')")
    db.execute("select start_reembedding('articles', 'embedding', %s, 3)", [NEW])
    db.execute(
        "update articles set embedding = case id when 1 then '[1,0,0]' else '[0,1,0]' end::vector,"
        " embedding_2 = case id when 2 then '[1,0,0]' else '[0,1,0]' end::vector"
    )
    return db


def test_the_search_in_sql_compares_a_query_with_vectors_of_its_model(articles: Database) -> None:
    statement = re.sub(r"\$\d", "%s", snippet("sql"))
    assert [rows(articles, statement, "[1,0,0]", model)[0][0] for model in (OLD, NEW)] == [1, 2]


@pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)
def test_the_search_in_typescript_is_right(tmp_path: Path) -> None:
    client = "import { createClient } from 'npm:@supabase/supabase-js@2';\n"
    client += "const supabase = createClient('a', 'b'), openaiKey = 'c';\n"
    compiled(client + snippet("ts") + "export { search };", tmp_path)


def test_both_columns_stay_in_step_when_the_default_model_changes(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    db.execute("update embedding_targets set model = %s, document_prompt = ''", [OLD])
    db.execute("update embedding_targets set model_is_default = true")
    assert value(db, "select model_is_default from embedding_targets")
    db.execute("select start_reembedding('docs', 'embedding', %s, 3)", [NEW])
    db.execute("insert into docs values (1, 'a text')")
    claim: LiteralString = "select model from claim_embeddings('w', 10, default_model => %s)"
    assert [model for _ in range(2) for (model,) in rows(db, claim, NEW)] == [OLD, NEW]


def test_the_lists_say_which_column_serves_and_do_not_round_up(
    articles: Database, database_url: str, tmp_path: Path
) -> None:
    articles.execute("insert into articles select n, 'text' from generate_series(3, 3000) as n")
    articles.execute("delete from articles where id < 3")
    articles.execute("update embedding_queue set status = 'completed', model = %s", [NEW])
    articles.execute("update embedding_queue set status = 'pending' where record_id = '7'")

    def lines(*command: str) -> list[str]:
        environment = {"DATABASE_URL": database_url}
        return run_worker(*command, cwd=tmp_path, environment=environment).stdout.splitlines()

    assert [line.split()[-2:] for line in lines("targets")[1:]] == [
        ["-", "-"],
        ["embedding", "(shadow)"],
    ]
    assert "Progress: 2997 of 2998 (99.9%)" in lines("reembed", "status")


def test_the_names_of_the_python_api_are_those_of_the_page() -> None:
    assert all(hasattr(worker, name) for name in re.findall(r"`worker\.(\w+)`", PAGE))
