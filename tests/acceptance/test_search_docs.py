"""What docs/search.md says, done as an app does it: over the Data API, by supabase-js and -py."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, LiteralString, cast

import httpx
import pytest
from supabase import create_client
from supabase.lib.client_options import SyncClientOptions

import worker
from tests.acceptance.conftest import MODEL
from tests.conftest import IN_CI, REPOSITORY, Database, rows, run_worker
from tests.openai_server import OpenAIServer
from tests.supabase_project import NO_SUPABASE, Project, data_api, supabase_is_here
from tests.typescript import compiled, run_javascript
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)

PAGE = (REPOSITORY / "docs/search.md").read_text(encoding="utf-8")
OPENAI = "https://api.openai.com/v1"
QUERY = "error WL-1042"


def snippet(language: str, having: str) -> LiteralString:
    """The only snippet of the page in a language that has a text in it."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    [only] = [each for each in found if having in each]
    return cast(LiteralString, only)  # it is the text of a file of ours


@pytest.fixture
def with_openai_and_project(project: Project, with_openai: dict[str, str]) -> dict[str, str]:
    return with_openai | {"DATABASE_URL": project.database_url}


@pytest.fixture
def found_by_set_up(
    owner: Database, with_openai_and_project: dict[str, str], tmp_path: Path
) -> list[str]:
    """The table of the page, set up as it says: what its search then prints."""
    owner.execute(snippet("sql", "create table articles"))
    owner.execute(
        "insert into articles (tenant_id, lang, title, body) values"
        " (5, 'en', 'Error WL-1042', 'The tablet has missed changes.'),"
        " (5, 'en', 'Money back', 'Press Refund.'),"
        " (7, 'en', 'WL-1042 at another shop', 'The same error, and a tablet as well.'),"
        " (5, 'sv', 'Fel WL-1042', 'En surfplatta.')"
    )
    return run_all(snippet("console", "worker watch articles"), tmp_path, with_openai_and_project)


def run_all(commands: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run the commands of a snippet. Returns what the last one prints."""
    for line in commands.splitlines():
        for command in line.removeprefix("$ ").split(" && "):
            result = run_worker(*shlex.split(command)[1:], cwd=folder, environment=environment)
            assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def build_index(table: str, folder: Path, environment: dict[str, str]) -> None:
    """Build the index of a table as the page says, and compare what it shows."""
    [command, built] = snippet("console", f"worker index {table}").splitlines()
    assert run_all(command, folder, environment) == [built]


@pytest.fixture
def articles(
    found_by_set_up: list[str],
    owner: Database,
    with_openai_and_project: dict[str, str],
    tmp_path: Path,
) -> Database:
    build_index("articles", tmp_path, with_openai_and_project)
    return owner


@pytest.fixture
def settings(project: Project, openai: OpenAIServer) -> Settings:
    return Settings(
        database_url=project.database_url,
        embedding_model=MODEL,
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )


@pytest.fixture
def embedding(articles: Database, settings: Settings) -> str:
    """The vector of the query, as SQL reads it."""
    with worker.open_queue(settings) as queue:
        return json.dumps(worker.embed_query(queue, settings, QUERY, table="articles"))


def test_a_search_finds_the_error_code_after_the_set_up(found_by_set_up: list[str]) -> None:
    head, first, *_ = found_by_set_up
    assert head.split() == ["score", "vector", "words", "distance"]
    assert "WL-1042" in first


def test_it_is_searched_in_sql(articles: Database, embedding: str) -> None:
    statement = re.sub(r"\$\d", "%s", snippet("sql", "match_count => 5"))
    found = rows(articles, statement, embedding, QUERY)
    assert {id for id, *_ in found} == {1, 2, 3, 4}
    assert found[-1][0] == 2  # it has none of the words


def test_a_filter_keeps_the_rows_of_a_tenant_and_its_languages(
    articles: Database, embedding: str
) -> None:
    statement = re.sub(r"\$\d", "%s", snippet("sql", "filter =>"))
    found = rows(articles, statement, embedding, QUERY)
    assert [id for id, _ in found] == [1, 2]


CLIENT = """
import { createClient } from "@supabase/supabase-js";
declare const process: { env: Record<string, string> };
const { SUPABASE_URL, PUBLISHABLE_KEY } = process.env;
const supabase = createClient(SUPABASE_URL, PUBLISHABLE_KEY, { auth: { persistSession: false } });
"""
CREDENTIALS = """
const credentials = { email: "anna@example.com", password: "correct horse battery" };
"""
SIGN_UP = """
const { data, error } = await supabase.auth.signUp(credentials);
console.log(error ?? data.user!.id);
"""
SIGN_IN = """
await supabase.auth.signInWithPassword(credentials);
const openaiKey = process.env.OPENAI_API_KEY;
"""
SEARCH = f"""
console.log(JSON.stringify(await search("{QUERY}")));
"""


@pytest.mark.only_in_full
def test_a_signed_in_user_finds_the_rows_of_their_tenant_by_supabase_js(
    project: Project, articles: Database, openai: OpenAIServer, tmp_path: Path
) -> None:
    environment = {
        "SUPABASE_URL": project.url,
        "PUBLISHABLE_KEY": project.publishable_key,
        "OPENAI_API_KEY": openai.api_key,
    }
    anna = run_javascript(
        compiled(CLIENT + CREDENTIALS + SIGN_UP, tmp_path), tmp_path, **environment
    ).strip()
    articles.execute(snippet("sql", "create policy"))
    articles.execute("insert into members values (%s, 5)", [anna])
    app = (
        CLIENT
        + CREDENTIALS
        + SIGN_IN
        + snippet("ts", "match_articles").replace(OPENAI, openai.base_url)
    )
    said = run_javascript(compiled(app + SEARCH, tmp_path), tmp_path, **environment)
    found: list[dict[str, Any]] = json.loads(said)
    assert [row["id"] for row in found][-1] == 2
    assert {row["id"] for row in found} == {1, 2, 4}
    assert {"content", "similarity", "score", "vector_rank", "text_rank"} < set(found[0])


def test_the_service_finds_the_rows_of_all_tenants_by_supabase_py(
    project: Project, articles: Database, settings: Settings
) -> None:
    with httpx.Client() as http:  # which the client would open itself, and leave open
        names: dict[str, Any] = {
            "supabase": create_client(
                project.url, project.secret_key, SyncClientOptions(httpx_client=http)
            ),
            "json": json,
            "settings": settings,
            "words": QUERY,
            "worker": worker,
        }
        exec(snippet("python", "match_articles"), names)
    assert {row["id"] for row in names["found"].data} == {1, 2, 3, 4}


@pytest.mark.only_in_full
def test_it_is_measured_over_the_data_api_as_over_a_connection(
    project: Project, articles: Database, with_openai_and_project: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "queries.jsonl").write_text('{"query": "error WL-1042", "relevant": [1, 4, 9]}')
    command = ["evaluate", "--queries", "queries.jsonl", "--k", "2", "--json"]
    connected = with_openai_and_project
    by_api = {
        **{name: value for name, value in connected.items() if name != "DATABASE_URL"},
        "SUPABASE_URL": project.url,
        "SUPABASE_SERVICE_ROLE_KEY": project.secret_key,
    }
    results = [
        run_worker(*command, cwd=tmp_path, environment=environment)
        for environment in (connected, by_api)
    ]
    assert results[0].returncode == 0, results[0].stderr
    assert results[0].stdout == results[1].stdout
    assert json.loads(results[1].stdout)["missing"] == 1


def test_its_queries_are_those_that_the_command_reads(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(snippet("json", "relevant"))
    assert [len(query.grades) for query in worker.read_queries(path)] == [2, 2]


# Documents in chunks

FILLER = "Some words follow that do not matter for the search. " * 15
MANUAL = f"""# Orders

Press Order. {FILLER}

# Returns

## Refunds

Press Refund, and the money is back within 14 days. {FILLER}
"""
WANTED = "Refund money back"


@pytest.fixture
def found_in_manuals(
    owner: Database, with_openai_and_project: dict[str, str], tmp_path: Path
) -> list[str]:
    """The table of long texts of the page, set up as it says: what its search then prints."""
    owner.execute(snippet("sql", "create table manuals"))
    owner.execute(
        "insert into manuals (tenant_id, title, body) values (5, 'Tills', %s), (7, 'Scales', 'x')",
        [MANUAL],
    )
    return run_all(snippet("console", "--table manuals\n"), tmp_path, with_openai_and_project)


@pytest.fixture
def manuals(
    found_in_manuals: list[str],
    owner: Database,
    with_openai_and_project: dict[str, str],
    tmp_path: Path,
) -> Database:
    build_index("manuals", tmp_path, with_openai_and_project)
    return owner


def test_a_search_finds_the_passage_after_the_set_up(found_in_manuals: list[str]) -> None:
    assert re.match(r"[01]\.\d+  1  \[Returns\] ## Refunds Press Refund, and", found_in_manuals[0])
    assert len(found_in_manuals) == 2


def test_passages_are_searched_in_sql_and_shown_with_their_neighbors(
    manuals: Database, settings: Settings
) -> None:
    with worker.open_queue(settings) as queue:
        vector = json.dumps(worker.embed_query(queue, settings, WANTED, table="manuals"))
    statement = re.sub(r"\$\d", "%s", snippet("sql", "per_document => 2"))
    found = rows(manuals, statement, vector, WANTED)
    assert found[0][0] == 1
    assert found[0][1].startswith("# Returns")
    assert [id for id, *_ in found] == [1, 1, 2]
    around = re.sub(r"\$(\d)", r"%(p\1)s", snippet("sql", "from manuals_passages"))
    [(content,)] = manuals.execute(
        around, {"p1": 1, "p2": len(MANUAL) - 20, "p3": len(MANUAL) - 10}
    ).fetchall()
    assert MANUAL.endswith(content)
    assert "14 days" in content
    assert rows(manuals, snippet("sql", "unenhanced is not null")) == []


def test_passages_are_found_by_supabase_js_and_in_python(
    project: Project, manuals: Database, settings: Settings, openai: OpenAIServer, tmp_path: Path
) -> None:
    app = snippet("ts", "match_articles") + snippet("ts", "match_manuals")
    program = (
        CLIENT
        + "const openaiKey = process.env.OPENAI_API_KEY;\n"
        + app.replace(OPENAI, openai.base_url)
        + f'console.log(JSON.stringify(await searchPassages("{WANTED}")));\n'
    )
    with data_api(project.database_url) as fresh:  # which knows the new function
        environment = {
            "SUPABASE_URL": fresh.url,
            "PUBLISHABLE_KEY": fresh.secret_key,  # of a server of the app
            "OPENAI_API_KEY": openai.api_key,
        }
        said = run_javascript(compiled(program, tmp_path), tmp_path, **environment)
    found = json.loads(said)
    names: dict[str, Any] = {"settings": settings, "words": WANTED, "worker": worker}
    exec(snippet("python", "per_document"), names)
    assert [row["first_char"] for row in found] == [
        passage.first_char for passage in names["passages"]
    ]
    assert found[0]["heading_path"] == names["passages"][0].heading_path
