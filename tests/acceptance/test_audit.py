"""`worker audit`, and what the commands leave in the audit."""

from __future__ import annotations

import psycopg
import pytest

from tests.acceptance.conftest import fill, refused
from tests.acceptance.test_commands import documented_fields, one_document
from tests.conftest import Database, Worker, rows


@pytest.fixture
def failed(notes: Database) -> Database:
    """Three notes whose jobs failed."""
    fill(notes, 3)
    notes.execute(
        "update embedding_queue"
        " set status = 'failed', error_class = 'rejected', error_message = 'no'"
    )
    return notes


def test_each_command_leaves_an_entry(failed: Database, worker: Worker) -> None:
    before = len(rows(failed, "select from embedding_audit"))
    for command in (
        "requeue --failed --table notes",
        "reprocess *2* --yes",
        "pause",
        "resume",
        "unwatch notes --column embedding",
    ):
        assert worker(*command.split()).returncode == 0
    entries = rows(
        failed,
        "select event, source, table_name, figures from embedding_audit order by id offset %s",
        before,
    )
    assert entries == [
        ("requeued", "cli", "notes", {"status": "failed", "jobs": 3}),
        ("reprocessed", "cli", None, {"pattern": "*2*"}),
        ("controlled", "cli", None, {"desired_state": "pause", "workers": 0}),
        ("controlled", "cli", None, {"desired_state": "work", "workers": 0}),
        ("unwatched", "cli", "notes", None),
    ]


def test_it_lists_the_newest_first(failed: Database, worker: Worker) -> None:
    worker("requeue", "--failed", "--table", "notes")
    failed.execute("select control_embeddings('pause')")
    result = worker("audit", "--limit", "2")
    assert result.returncode == 0
    heads, newest, older = result.stdout.splitlines()
    assert heads.split() == ["when", "event", "column", "by", "from", "figures"]
    assert " controlled " in newest
    assert " sql " in newest
    assert "desired_state: pause" in newest
    assert " requeued " in older
    assert " notes " in older
    assert " cli " in older
    assert "jobs: 3" in older
    assert "There may be more" in result.stderr


def test_it_lists_the_entries_of_one_table(failed: Database, worker: Worker) -> None:
    failed.execute("select control_embeddings('pause')")
    worker("requeue", "--failed", "--table", "notes")
    assert "controlled" not in worker("audit", "--table", "notes").stdout
    assert "requeued" in worker("audit", "--table", "public.notes").stdout
    failed.execute("drop table notes")
    assert "requeued" in worker("audit", "--table", "notes").stdout
    refused(worker("audit", "--table", "nothing"), 2)


def test_its_json_is_documented(failed: Database, worker: Worker) -> None:
    failed.execute("select control_embeddings('pause')")
    entries = one_document(worker("audit", "--json", "--limit", "1").stdout)
    assert list(entries[0]) == documented_fields("## worker audit", "With `--json`")
    assert entries[0]["figures"]["desired_state"] == "pause"


def test_an_empty_audit_says_so(notes: Database, worker: Worker) -> None:
    notes.execute("create table plain (id integer primary key, body text)")
    result = worker("audit", "--table", "plain")
    assert (result.stdout, result.stderr, result.returncode) == ("", "No entries.\n", 0)


def test_a_login_that_only_works_reads_it(failed: Database, worker: Worker) -> None:
    failed.execute("select control_embeddings('pause')")
    with psycopg.connect(failed.info.dsn, autocommit=True) as other:
        other.execute("set role embedding_worker")
        assert rows(other, "select event from list_embedding_audit(max_rows => 1)") == [
            ("controlled",)
        ]
