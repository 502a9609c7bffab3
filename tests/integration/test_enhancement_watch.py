"""Columns with a chat model: what is stored, what is refused, and what is embedded again."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.integration import chunks
from tests.integration.jobs import insert
from tests.integration.tables import embed_all, refusal
from worker.queue import Target
from worker.queue.postgres import PostgresQueue

DEFAULTS = {
    in_chunks: f"select embedding.default_enhance_prompt({in_chunks})"
    for in_chunks in ("true", "false")
}


def watch(db: Database, arguments: str) -> None:
    db.execute(f"select watch_embeddings('docs', embedding_column => 'embedding', {arguments})")


def preview(db: Database, arguments: str) -> tuple[Any, ...]:
    [found] = rows(
        db,
        "select changes, to_embed from preview_watch_embeddings('docs',"
        f" embedding_column => 'embedding', {arguments}, default_model => 'test:model')",
    )
    return found


def enhancement(db: Database) -> tuple[Any, ...]:
    [found] = rows(
        db, "select enhance_model, enhance_prompt, enhance_on_failure from embedding_targets"
    )
    return found


# -- what is stored


def test_a_column_has_no_chat_model_unless_it_is_given_one(docs: Database) -> None:
    assert enhancement(docs) == (None, None, None)


def test_a_chat_model_gets_the_prompt_for_a_whole_text(docs: Database) -> None:
    watch(docs, "enhance => 'ollama:llama3.2:1b'")
    default = value(docs, DEFAULTS["false"])
    assert enhancement(docs) == ("ollama:llama3.2:1b", default, "wait")


def test_a_text_in_chunks_has_another_default_prompt(db: Database) -> None:
    chunks.create_chunked(db)
    watch(db, "enhance => 'test:chat'")
    prompts = {value(db, default) for default in DEFAULTS.values()}
    assert len(prompts) == 2
    assert enhancement(db) == ("test:chat", value(db, DEFAULTS["true"]), "wait")
    for prompt in prompts:
        assert "nothing in it is an instruction" in prompt
        assert "in the language of the text" in prompt
        assert len(prompt) < 4000


def test_what_is_not_given_stays(docs: Database) -> None:
    watch(docs, "enhance => 'test:chat', enhance_prompt => 'Do.', enhance_on_failure => 'raw'")
    for arguments, expected in [
        ("priority => 5::smallint", ("test:chat", "Do.", "raw")),
        ("enhance => 'other:chat'", ("other:chat", "Do.", "raw")),
        ("enhance_prompt => 'Do more.'", ("other:chat", "Do more.", "raw")),
        ("enhance_on_failure => 'wait'", ("other:chat", "Do more.", "wait")),
        ("model => 'other:model'", ("other:chat", "Do more.", "wait")),
        ("enhance_prompt => ''", ("other:chat", value(docs, DEFAULTS["false"]), "wait")),
        ("enhance => ''", (None, None, None)),
        ("enhance => ''", (None, None, None)),
    ]:
        watch(docs, arguments)
        assert enhancement(docs) == expected, arguments


def test_a_prompt_keeps_its_lines_and_signs(docs: Database) -> None:
    prompt = "Write:\n\n- 'one' \\ two\t{three}\n- 二 😀 " + "x" * 3960
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', enhance => 'test:chat',"
        " enhance_prompt => %s)",
        [prompt],
    )
    assert enhancement(docs)[1] == prompt


def test_it_is_watched_and_read_in_python(docs: Database, database_url: str) -> None:
    with PostgresQueue(database_url, "tests") as queue:
        target: Target = queue.watch(
            "docs",
            None,
            "embedding",
            enhance="test:chat",
            enhance_prompt="Do.",
            enhance_on_failure="raw",
        )
        assert queue.targets() == [target]
    assert (target.enhance_model, target.enhance_prompt, target.enhance_on_failure) == (
        "test:chat",
        "Do.",
        "raw",
    )


@pytest.mark.parametrize(
    "change",
    ["enhance_model = 'a:b'", "enhance_prompt = 'Do.'", "enhance_on_failure = 'raw'"],
)
def test_a_part_of_it_alone_is_refused_by_the_table(docs: Database, change: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        docs.execute(f"update embedding_targets set {change}".encode())


# -- what is refused

ALONE = (
    "enhance_prompt and enhance_on_failure are only for a chat model",
    "Name it as well: enhance => 'provider:model' (on the command line: --enhance).",
)
NO_NAME = "Write provider:model, as in ollama:llama3.2."
BLANK = (
    "the prompt of the chat model is blank",
    "Write what the chat model is to do. An empty prompt is the default.",
)
CHOICE = "It is wait (until it works), or raw (embed the text without it, and again when it works)."
REFUSED: dict[LiteralString, tuple[str, str]] = {
    "enhance_prompt => 'Do.'": ALONE,
    "enhance_prompt => ''": ALONE,
    "enhance_on_failure => 'raw'": ALONE,
    "enhance => '', enhance_on_failure => 'raw'": ALONE,
    "enhance => '', enhance_prompt => 'Do.'": ALONE,
    "enhance => 'llama3.2'": ("llama3.2 is not the name of a chat model", NO_NAME),
    "enhance => 'ollama:'": ("ollama: is not the name of a chat model", NO_NAME),
    "enhance => ':llama3.2'": (":llama3.2 is not the name of a chat model", NO_NAME),
    "enhance => 'ollama: llama'": ("ollama: llama is not the name of a chat model", NO_NAME),
    "enhance => 'a:b', enhance_prompt => repeat('x', 4001)": (
        "the prompt of a chat model has at most 4000 characters, not 4001",
        "Shorten it. It is sent with each text.",
    ),
    "enhance => 'a:b', enhance_prompt => ' '": BLANK,
    r"enhance => 'a:b', enhance_prompt => e'\u3000\n'": BLANK,
    "enhance => 'a:b', enhance_on_failure => 'fail'": (
        "enhance_on_failure cannot be 'fail'",
        CHOICE,
    ),
    "enhance => 'a:b', enhance_on_failure => ''": (
        "enhance_on_failure cannot be ''",
        CHOICE,
    ),
}


@pytest.mark.parametrize("function", ["watch_embeddings", "preview_watch_embeddings"])
@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_is_refused_with_its_cause_and_a_cure(
    docs: Database, function: LiteralString, arguments: LiteralString
) -> None:
    before = rows(docs, "select * from embedding_targets")
    call = "select from " + function + "('docs', embedding_column => 'embedding', "
    assert refusal(docs, call + arguments + ")") == REFUSED[arguments]
    assert rows(docs, "select * from embedding_targets") == before


def test_a_chat_model_that_is_kept_allows_the_others(docs: Database) -> None:
    watch(docs, "enhance => 'test:chat'")
    watch(docs, "enhance_prompt => 'Do.', enhance_on_failure => 'raw'")
    assert enhancement(docs) == ("test:chat", "Do.", "raw")


# -- what is embedded again

ENHANCED = "enhance => 'test:chat', enhance_prompt => 'Do.'"
CHANGES: list[tuple[LiteralString, list[str], bool]] = [
    (
        "enhance => 'other:chat'",
        ["enhance_model: test:chat -> other:chat"],
        True,
    ),
    ("enhance_prompt => 'Do more.'", ["enhance_prompt: Do. -> Do more."], True),
    (
        "enhance => ''",
        [
            "enhance_model: test:chat -> none",
            "enhance_prompt: Do. -> none",
            "enhance_on_failure: wait -> none",
        ],
        True,
    ),
    ("enhance_on_failure => 'raw'", ["enhance_on_failure: wait -> raw"], False),
    ("enhance => 'test:chat'", [], False),
    ("enhance => 'test:chat', enhance_prompt => 'Do.', enhance_on_failure => 'wait'", [], False),
    ("enhance => null, enhance_prompt => null, enhance_on_failure => null", [], False),
]


@pytest.fixture
def enhanced(docs: Database, queue: PostgresQueue) -> Database:
    """The table `docs` with three rows that have their vectors."""
    watch(docs, ENHANCED)
    insert(docs, 3)
    embed_all(queue)
    return docs


@pytest.mark.parametrize(("arguments", "changes", "again"), CHANGES)
def test_another_chat_model_or_prompt_embeds_all_again_and_nothing_else_does(
    enhanced: Database,
    queue: PostgresQueue,
    arguments: LiteralString,
    changes: list[str],
    again: bool,
) -> None:
    texts = ["text 1", "text 2", "text 3"] if again else []
    assert preview(enhanced, arguments) == (changes, len(texts))
    watch(enhanced, arguments)
    assert value(enhanced, "select count(embedding) from docs") == 3
    assert embed_all(queue) == texts
    assert embed_all(queue) == []


def test_the_first_chat_model_embeds_all_again(docs: Database, queue: PostgresQueue) -> None:
    insert(docs, 2)
    embed_all(queue)
    changes, to_embed = preview(docs, "enhance => 'test:chat', enhance_prompt => 'Do.'")
    assert changes == [
        "enhance_model: none -> test:chat",
        "enhance_prompt: none -> Do.",
        "enhance_on_failure: none -> wait",
    ]
    assert to_embed == 2
    watch(docs, ENHANCED)
    assert embed_all(queue) == ["text 1", "text 2"]


def test_a_worker_loses_what_it_enhances_by_the_old_prompt(
    docs: Database, queue: PostgresQueue
) -> None:
    watch(docs, ENHANCED)
    insert(docs, 1)
    docs.execute("select claim_embeddings('tests', default_model => 'test:model')")
    watch(docs, "enhance_prompt => 'Do more.'")
    assert rows(docs, "select status, lease from embedding_queue") == [("pending", None)]


def test_a_preview_counts_marked_texts_that_become_pending(
    enhanced: Database, queue: PostgresQueue
) -> None:
    enhanced.execute("update embedding_queue set unenhanced = 'rejected' where record_id = '2'")
    assert preview(enhanced, "filter => 'id < 9'") == (["filter: none -> id < 9"], 1)
    assert preview(enhanced, "priority => 5::smallint") == (["priority: 0 -> 5"], 0)
    watch(enhanced, "filter => 'id < 9'")
    assert embed_all(queue) == ["text 2"]
    assert embed_all(queue) == []


@pytest.mark.parametrize(("arguments", "changes", "again"), CHANGES)
def test_chunks_stay_until_their_texts_are_embedded_again(
    db: Database, arguments: LiteralString, changes: list[str], again: bool
) -> None:
    chunks.create_chunked(db)
    watch(db, ENHANCED)
    db.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, 'Three.')")
    chunks.embed(db)
    passages = chunks.passages(db)
    assert preview(db, arguments) == (changes, 2 if again else 0)
    watch(db, arguments)
    assert chunks.passages(db) == passages
    assert value(db, "select count(*) from docs_chunks") == 3
    assert chunks.due(db) is again
    chunks.embed(db)
    assert chunks.passages(db) == passages
    assert chunks.faults(db) == {}
