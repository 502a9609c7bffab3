"""What counts as a text, and that each vector is that of exactly the text in its row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import LiteralString

import numpy as np
import psycopg
import pytest

from tests.acceptance.conftest import statuses
from tests.conftest import (
    REPOSITORY,
    Database,
    Server,
    Worker,
    migrate,
    rows,
    value,
)
from tests.integration.jobs import SCOPE, claim, insert
from tests.integration.runs import MODEL, Runs, unlike_their_text
from tests.integration.runs import SCOPE as SCOPE_OF_RUNS
from tests.integration.tables import embed, refusal
from tests.openai_server import MAX_TOKENS_PER_TEXT, OpenAIServer, tokens_in, vector_for
from worker.embedders.local import LocalEmbedder
from worker.queue.postgres import PostgresQueue

# A text of 10 MB in UTF-8. That it repeats itself makes its vector that of its beginning, nearly.
SENTENCE = "日本の人は文を書く。"


@pytest.fixture(scope="session")
def long_text(full: bool) -> str:
    """A text of 10 MB; of 2 MB as a part of the suite."""
    return SENTENCE * ((10 if full else 2) * 1_048_576 // len(SENTENCE.encode()))


@pytest.fixture
def worker_at_long_text(
    postgres: Callable[[str], str], long_text: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A worker with the local model that embeds the long text, in a database of its own."""
    server = Server(postgres("18"), postgres("18"))
    url = server.direct_url_of("long_text")
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute("create database long_text")
    migrate(url)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("create table docs (id bigint primary key, body text)")
        db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 256)")
        db.execute("insert into docs values (1, %s)", [long_text])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "DATABASE_URL": url}
    # below a small process, which measures it
    command = [sys.executable, "-m", "benchmarks.usage", sys.executable, "-m", "worker", "process"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield url, process
        process.kill()
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute("drop database long_text with (force)")


def put(db: Database, *bodies: str | None) -> None:
    """Rows 0, 1, 2 … with these texts."""
    for number, body in enumerate(bodies):
        db.execute("insert into docs values (%s, %s)", [number, body])


def outcomes(db: Database) -> dict[int, tuple[str, bool]]:
    """Of each row: the status of its job, and whether it has a vector."""
    return {
        key: (status, has_vector)
        for key, status, has_vector in rows(
            db,
            "select docs.id, job.status, docs.embedding is not null"
            "  from docs join embedding_queue as job on job.record_id = docs.id::text",
        )
    }


# -- nothing, white space, and what only looks like it


EMPTY = [None, "", " ", "\t", "\n", "\r\n", "\v\f", " \t\n ", "\n" * 1_000_000]
# In every locale that knows of Unicode. (In that of the name C only ASCII has white space.)
EMPTY_IN_UNICODE = [
    "\u1680",
    "\u2000",
    "\u2003",
    "\u2028",
    "\u2029",
    "\u205f",
    "\u3000",
    " \u3000\n",
    # of these C libraries say that they are none
    "\u0085",
    "\u00a0",
    "\u2007",
    "\u202f",
]
NOT_EMPTY = [
    "\u200b",
    "\ufeff",
    "\u2060",
    "\u200d",
    "\u00ad",
    "\u180e",
    "\x01",
    "\x1f",
    "\x7f",
    ".",
]


def test_white_space_of_every_kind_is_skipped_and_never_sent(
    texts: Database, runs: Runs, openai: OpenAIServer
) -> None:
    blank = EMPTY + EMPTY_IN_UNICODE
    put(texts, *blank)
    stats = runs.drain(100)
    assert (stats.skipped, stats.taken) == (len(blank), len(blank))
    assert outcomes(texts) == dict.fromkeys(range(len(blank)), ("skipped", False))
    assert openai.requests == []
    assert rows(
        texts, "select distinct attempts, error_class, content_hash from embedding_queue"
    ) == [(0, None, None)]


def test_characters_without_width_are_text_and_get_the_vector_of_just_themselves(
    texts: Database, runs: Runs
) -> None:
    put(texts, *NOT_EMPTY)
    assert runs.drain(100).completed == len(NOT_EMPTY)
    assert outcomes(texts) == dict.fromkeys(range(len(NOT_EMPTY)), ("completed", True))
    assert unlike_their_text(texts) == []


def test_what_is_empty_does_not_depend_on_the_collation_of_the_column(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute('create table docs (id bigint primary key, body text collate "C")')
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    put(db, "\u2003")
    assert queue.claim(SCOPE, 1).settled == {"skipped": 1}


def test_a_text_between_white_space_is_sent_with_it(
    texts: Database, runs: Runs, openai: OpenAIServer
) -> None:
    bodies = ["\u2003 word\n", "word", "\ufeffword", "\n" * 10_000 + "word"]
    put(texts, *bodies)
    runs.drain(100)
    assert sorted(text for request in openai.requests for text in request.texts) == sorted(bodies)
    assert unlike_their_text(texts) == []


# -- every script


SCRIPTS = {
    "Arabic": "السلام عليكم، كيف حالك؟",
    "Hebrew, with points": "שָׁלוֹם עוֹלָם",
    "both directions": "abc \u202bשלום\u202c 123 \u2066مرحبا\u2069",  # noqa: RUF001
    "a family": "👩\u200d👩\u200d👧\u200d👦 👍🏽 🏳\ufe0f\u200d🌈 🇩🇪",
    "half a family": "👩\u200d👩\u200d",
    "composed": "\u00e9\u00fc\u1e69",
    "decomposed": "e\u0301u\u0308s\u0323\u0307",
    "marks alone": "\u0301\u0308\u0323",
    "marks without end": "Z" + "\u0301" * 500,
    "beyond the first plane": "\U0001d518\U0001d52b\U0001d526 𐍈 𒀀 \U0010fffd",
    "no characters": "\ufffe\uffff\U0010ffff \ufffd",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "escapes of a terminal": "\x1b[31mred\x1b[0m\x07\x08",
    "quotes of every kind": "'\"`$$\\ \\x00 %s {} $1 -- ;",
    "Thai, without spaces": "ภาษาไทยไม่มีช่องว่าง",
    "lines": "\r\n".join(["line"] * 5000),
}


def test_texts_of_every_script_get_the_vector_of_exactly_themselves(
    texts: Database, runs: Runs
) -> None:
    put(texts, *SCRIPTS.values())
    assert runs.drain(100).completed == len(SCRIPTS)
    assert set(outcomes(texts).values()) == {("completed", True)}
    assert unlike_their_text(texts) == []
    assert value(texts, "select count(distinct embedding::text) from docs") == len(SCRIPTS)


def test_the_hash_is_that_of_the_utf8_of_the_text(texts: Database, runs: Runs) -> None:
    put(texts, *SCRIPTS.values())
    runs.drain(100)
    hashes: dict[int, bytes] = dict(
        rows(texts, "select record_id::integer, content_hash from embedding_queue")
    )

    assert hashes == {
        number: sha256(text.encode()).digest() for number, text in enumerate(SCRIPTS.values())
    }


TWINS = {
    "a trailing space": ("word", "word "),
    "a trailing line feed": ("word", "word\n"),
    "composed and decomposed": ("caf\u00e9", "cafe\u0301"),
    "an invisible character": ("word", "word\u200b"),
    "another space": ("two words", "two\u00a0words"),
}


@pytest.mark.parametrize("duplicates", TWINS.values(), ids=list(TWINS))
def test_texts_that_look_alike_are_two_texts(
    texts: Database, queue: PostgresQueue, runs: Runs, duplicates: tuple[str, str]
) -> None:
    put(texts, *duplicates)
    assert runs.drain(100).completed == 2
    assert unlike_their_text(texts) == []
    assert value(texts, "select count(distinct content_hash) from embedding_queue") == 2
    assert value(texts, "select count(distinct embedding::text) from docs") == 2

    # and the guard tells them apart, also where no trigger did
    queue.requeue(status="completed", record="0")
    [job] = claim(queue, scope=SCOPE_OF_RUNS)
    texts.execute("alter table docs disable trigger user")
    texts.execute("update docs set body = %s where id = 0", [duplicates[1]])
    assert [refused.reason for refused in embed(queue, [job])] == ["changed"]


# -- what is no text


def test_a_lone_surrogate_does_not_leave_the_client(texts: Database) -> None:
    with pytest.raises(UnicodeEncodeError):
        texts.execute("insert into docs values (1, %s)", ["half a \ud83d character"])
    assert value(texts, "select count(*) from docs") == 0


def test_a_search_for_bytes_that_are_no_text_is_a_search(db: Database, worker: Worker) -> None:
    """A shell hands over bytes; Python has lone surrogates for those that are no UTF-8."""
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 256)")
    db.execute("insert into docs values (1, 'half a character')")
    assert worker("process").returncode == 0
    for words in ("half a \udced\udca0\udcbd character", "\udcff"):
        result = worker("search", words)
        assert (result.returncode, result.stderr) == (0, "")
        assert "half a character" in result.stdout


NUL_AS_TEXT: list[LiteralString] = [
    "insert into docs values (1, chr(0))",
    r"insert into docs values (1, E'a\x00b')",
    r"insert into docs values (1, convert_from('\x610062', 'UTF8'))",
    r"""insert into docs values (1, '{"a": "x\u0000y"}'::jsonb ->> 'a')""",
]


def test_a_nul_cannot_be_in_a_text(texts: Database) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        texts.execute("insert into docs values (1, %s)", ["a\x00b"])
    for statement in NUL_AS_TEXT:
        refusal(texts, statement)
    assert value(texts, "select count(*) from docs") == 0


def unreadable(db: Database) -> dict[str, str]:
    """Record and reason of what failed as unreadable."""
    return dict(
        rows(
            db,
            "select record_id, error_message from embedding_queue"
            " where status = 'failed' and error_class = 'unreadable' and attempts = 0",
        )
    )


def test_a_nul_in_json_makes_its_row_unreadable_and_no_other(db: Database, runs: Runs) -> None:
    db.execute("create table docs (id bigint primary key, data json)")
    db.execute("select watch_embeddings('docs', 'data ->> ''a''', 'embedding', dimensions => 8)")
    for number, text in enumerate(["before", r"x\u0000y", r"\\u0000 spelt out", "after"]):
        db.execute("insert into docs values (%s, %s)", [number, f'{{"a": "{text}"}}'])
    stats = runs.drain(100)
    assert (stats.completed, stats.failed) == (3, 1)
    assert unreadable(db) == {"1": "unsupported Unicode escape sequence (SQLSTATE 22P05)"}
    assert value(db, "select embedding from docs where id = 1") is None


def test_bytes_are_embedded_as_postgres_writes_them_unless_they_are_converted(
    db: Database, runs: Runs
) -> None:
    db.execute("create table docs (id bigint primary key, data bytea)")
    db.execute("select watch_embeddings('docs', 'data', 'embedding', dimensions => 8)")
    db.execute(
        "select watch_embeddings('docs', 'convert_from(data, ''UTF8'')', 'converted',"
        " dimensions => 8)"
    )
    for number, data in enumerate([b"caf\xc3\xa9", b"caf\xe9", b"a\x00b", b""]):
        db.execute("insert into docs values (%s, %s)", [number, data])
    stats = runs.drain(100)
    assert (stats.completed, stats.failed, stats.skipped) == (5, 2, 1)
    for data, vector in rows(db, "select data, embedding::real[] from docs"):
        assert np.allclose(vector, vector_for(f"\\x{data.hex()}", 8))
    [converted] = rows(db, "select converted::real[] from docs where converted is not null")
    assert np.allclose(converted[0], vector_for("café", 8))
    assert unreadable(db) == {
        "1": 'invalid byte sequence for encoding "..." (SQLSTATE 22021)',
        "2": 'invalid byte sequence for encoding "..." (SQLSTATE 22021)',
    }


# Ways in which a source can fail over the text of one row that are no errors of data.
FAILING: dict[str, tuple[LiteralString, str]] = {
    "words without end": (
        "to_tsvector(''simple'', body)::text",
        " ".join(f"{number:x}" for number in range(200_000)),
    ),
    "too deep": ("body::jsonb ->> 0", "[" * 50_000),
}
STATES = ["PT404", "23505", "0A000", "55000", "XX000"]


@pytest.mark.parametrize(("source", "text"), FAILING.values(), ids=list(FAILING))
def test_a_text_over_which_the_source_reaches_a_limit_is_alone_with_it(
    db: Database, queue: PostgresQueue, source: LiteralString, text: str
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(f"select watch_embeddings('docs', '{source}', 'embedding', dimensions => 8)")
    put(db, '["good"]', text, '["fine"]')
    claimed = queue.claim(SCOPE, 10)
    assert sorted(job.record_id for job in claimed.jobs) == ["0", "2"]
    assert list(unreadable(db)) == ["1"]


@pytest.mark.parametrize("state", STATES)
def test_a_function_in_the_source_may_raise_whatever_it_likes(
    docs: Database, queue: PostgresQueue, state: LiteralString
) -> None:
    """PT404 is how a function tells PostgREST that there is no such page."""
    docs.execute(
        "create function text_of(docs) returns text language plpgsql as $$ begin"
        f" if $1.id = 2 then raise 'no text' using errcode = '{state}'; end if;"
        " return $1.body; end $$"
    )
    docs.execute("select watch_embeddings('docs', 'public.text_of(docs)', 'embedding')")
    insert(docs, 3)
    claimed = queue.claim(SCOPE, 10)
    assert sorted(job.record_id for job in claimed.jobs) == ["1", "3"]
    assert unreadable(docs) == {"2": f"SQLSTATE {state} in function public.text_of"}


# -- length


LONG_TEXTS = {
    "words": "a long text, " * 4000,
    "emoji": "👩\u200d👧" * 4000,
    "one word": "x" * 60_000,
}
TOO_LONG: LiteralString = (
    "select status, error_class, attempts, truncated_to, tokens from embedding_queue"
    " where record_id = '1'"
)


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=list(LONG_TEXTS))
def test_a_text_that_is_too_long_is_embedded_as_far_as_it_fits_if_its_target_says_so(
    texts: Database, runs: Runs, text: str
) -> None:
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', on_too_long => 'truncate')")
    put(texts, "before", text, "after")
    stats = runs.drain(100)
    assert (stats.completed, stats.failed) == (3, 0)
    [(status, error_class, attempts, kept, tokens)] = rows(texts, TOO_LONG)
    assert (status, error_class, attempts) == ("completed", None, 0)
    assert tokens == tokens_in(text[:kept]) <= MAX_TOKENS_PER_TEXT
    assert tokens > 0.8 * MAX_TOKENS_PER_TEXT, "no more is cut off than has to be"
    stored = value(texts, "select embedding::real[] from docs where id = 1")
    assert np.allclose(stored, vector_for(text[:kept], 8), atol=1e-6)
    assert unlike_their_text(texts) == [1], "the neighbours are whole"
    assert value(texts, "select count(*) from embedding_queue where truncated_to is null") == 2


def test_a_text_that_was_cut_is_left_alone_until_it_is_edited_and_whole_once_it_is_shorter(
    texts: Database, runs: Runs, openai: OpenAIServer
) -> None:
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', on_too_long => 'truncate')")
    put(texts, "before", LONG_TEXTS["words"])
    runs.drain(100)
    [(_, _, _, kept, tokens)] = rows(texts, TOO_LONG)
    asked = len(openai.requests)
    texts.execute("update embedding_queue set status = 'pending'")
    assert runs.drain(100).unchanged == 2
    assert len(openai.requests) == asked
    assert rows(texts, TOO_LONG) == [("completed", None, 0, kept, tokens)]

    texts.execute("update docs set body = 'short' where id = 1")
    assert runs.drain(100).completed == 1
    assert rows(texts, TOO_LONG) == [("completed", None, 0, None, tokens_in("short"))]
    assert unlike_their_text(texts) == []


def test_a_text_that_is_too_long_fails_otherwise_and_says_by_how_much(
    texts: Database, runs: Runs
) -> None:
    text = LONG_TEXTS["words"]
    put(texts, "before", text, "after")
    stats = runs.drain(100)
    assert (stats.completed, stats.failed) == (2, 1)
    assert rows(texts, TOO_LONG) == [("failed", "too_long", 1, None, None)]
    message = value(texts, "select error_message from embedding_queue where record_id = '1'")
    assert "maximum context length is 8192 tokens" in message
    assert f"you requested {tokens_in(text)} tokens" in message
    assert statuses(texts) == {"completed": 2, "failed": 1}

    texts.execute("update docs set body = 'short' where id = 1")
    assert runs.drain(100).completed == 1
    assert unlike_their_text(texts) == []


def test_a_target_that_truncates_by_now_takes_up_what_failed_when_it_is_requeued(
    texts: Database, queue: PostgresQueue, runs: Runs
) -> None:
    put(texts, LONG_TEXTS["words"])
    assert runs.drain().failed == 1
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', on_too_long => 'truncate')")
    assert statuses(texts) == {"failed": 1}, "watching again alone does not start it over"
    assert queue.requeue(status="failed", error_class="too_long").requeued == 1
    assert runs.drain().completed == 1
    assert rows(texts, "select truncated_to > 0, model from embedding_queue") == [(True, MODEL)]


def test_a_million_lines_are_a_text(db: Database, runs: Runs) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 256)")
    put(db, "\n" * 1_000_000 + "word")
    scope = replace(SCOPE_OF_RUNS, default_model="local:wordllama-256")
    assert runs.drain(scope=scope).completed == 1
    assert value(db, "select tokens from embedding_queue") > 1_000_000
    stored = value(db, "select embedding::real[] from docs")
    nearly = LocalEmbedder().embed(["\n" * 10_000], "document").vectors[0]
    assert np.allclose(stored, nearly, atol=1e-3)


@pytest.mark.only_in_full
def test_a_text_of_ten_megabytes_is_embedded_by_the_local_model_in_one_and_a_half_gigabytes(
    worker_at_long_text: tuple[str, subprocess.Popen[bytes]], long_text: str, full: bool
) -> None:
    url, process = worker_at_long_text
    usage, _ = process.communicate()
    assert process.returncode == 0
    assert json.loads(usage)["peak"] < (1500 if full else 750)  # MB
    with psycopg.connect(url, autocommit=True) as db:
        assert statuses(db) == {"completed": 1}
        digest = sha256(long_text.encode()).digest()
        assert value(db, "select content_hash from embedding_queue") == digest
        stored = value(db, "select embedding::real[] from docs")
    assert np.allclose(
        stored, LocalEmbedder().embed([SENTENCE * 1000], "document").vectors[0], atol=1e-3
    )
