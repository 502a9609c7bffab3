"""The audit: who changed what became of the vectors, when, and from where."""

from __future__ import annotations

import os
from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database, Server, rows, value
from tests.integration.jobs import SCOPE, claim, complete, insert
from tests.integration.tables import acting_as, create_role, refusal
from worker.errors import SettingsError
from worker.operations import jobs
from worker.queue import AdminQueue, AuditEntry, Report, from_web
from worker.queue.postgres import PostgresQueue

EVENTS: LiteralString = "select event, source, figures from embedding_audit order by id"


def latest(queue: AdminQueue) -> AuditEntry:
    return queue.audit(limit=1)[0]


def events(db: Database) -> list[str]:
    return [event for event, *_ in rows(db, EVENTS)]


def fail_all(queue: AdminQueue, count: int) -> None:
    assert queue.fail(claim(queue, count), "rejected", "why") == count


# -- who, and from where


def test_an_entry_says_who_called_and_from_where(
    docs: Database, queue: AdminQueue, server: Server
) -> None:
    queue.control("pause", source="cli")
    entry = latest(queue)
    assert (entry.event, entry.source) == ("controlled", "cli")
    assert entry.figures == {"desired_state": "pause", "workers": 0}
    assert entry.actor == ("service_role" if server.project else "postgres")
    assert entry.application
    assert abs((queue.clock() - entry.at).total_seconds()) < 60
    queue.control("work")
    assert latest(queue).source == "api"
    docs.execute("select control_embeddings('sleep')")
    assert (latest(queue).source, latest(queue).actor) == ("sql", "postgres")


def test_a_call_from_the_web_names_the_address_of_its_browser(
    docs: Database, queue: AdminQueue
) -> None:
    addresses = {"10.0.0.7": "10.0.0.7", "2001:DB8::1": "2001:db8::1", "fe80::1%eth0": "fe80::1"}
    for address, recorded in addresses.items():
        queue.control("pause", source=from_web(address))
        assert (latest(queue).source, latest(queue).address) == ("web", recorded)
    before = latest(queue)
    for name in (None, "", "a.name", "10.0.0.7 x"):
        queue.control("work", source=from_web(name))
        assert latest(queue).source == "web"
    queue.control("work", source="cli")
    assert latest(queue).address == queue.audit(limit=2)[1].address != before.address


@pytest.mark.over_a_connection
def test_a_login_is_named_with_its_application_and_the_role_that_it_takes(
    docs: Database, server: Server, database: str
) -> None:
    create_role(docs, "anna", "login in role embedding_worker")
    url = f"{server.direct_url_of(database)}&user=anna&application_name=nightly%20script"
    with psycopg.connect(url, autocommit=True) as anna:
        anna.execute("select control_embeddings('pause')")
        anna.execute("set role embedding_worker")
        anna.execute("select control_embeddings('work')")
    assert rows(
        docs, "select actor, login, application, address from embedding_audit order by id offset 1"
    ) == [
        ("anna", "anna", "nightly script", None),
        ("embedding_worker", "anna", "nightly script", None),
    ]


@pytest.mark.contract
def test_the_data_api_tells_the_role_of_the_key_and_its_client(docs: Database) -> None:
    """As PostgREST calls: it logs in as another role, and gives the headers as a setting."""
    create_role(docs, "service_role", "bypassrls")
    docs.execute("grant execute on function control_embeddings to service_role")
    docs.execute(
        """select set_config('request.headers', '{"host": "x", "x-client-info": "their-app/2"}',"""
        " false)"
    )
    with acting_as(docs, "service_role"):
        docs.execute("select control_embeddings('pause')")
    assert rows(
        docs, "select actor, login, application from embedding_audit order by id desc limit 1"
    ) == [("service_role", "postgres", "their-app/2")]


@pytest.mark.parametrize("headers", ["no JSON", "{", "[]", '{"x-client-info": null}', "\\"])
def test_headers_that_are_none_fail_no_call(docs: Database, headers: str) -> None:
    docs.execute("select set_config('request.headers', %s, false)", [headers])
    docs.execute("set application_name = 'mine'")
    docs.execute("select control_embeddings('pause')")
    assert value(docs, "select application from embedding_audit order by id desc limit 1") == "mine"


def test_no_other_source_is_accepted(docs: Database, queue: AdminQueue) -> None:
    for statement in (
        "select requeue_embeddings(null, source => 'browser')",
        "select requeue_embeddings(null, source => 'web 10.0.0.7; drop')",
        "select requeue_embeddings(null, source => 'web ')",
        "select requeue_embeddings(null, source => 'cli 10.0.0.7')",
        "select requeue_embeddings(null, source => null)",
        "select reprocess_embeddings('*', source => '')",
        "select control_embeddings('pause', source => 'API')",
        "select unwatch_embeddings('docs', 'embedding', source => 'Web')",
        "select watch_embeddings('docs', 'body', 'embedding', priority => 3::smallint,"
        " audit_source => 'console')",
    ):
        docs.execute("insert into docs values (1, 'one') on conflict do nothing")
        message, hint = refusal(docs, statement)
        assert message.startswith("a call cannot come from")
        assert "cli, sql, api, or web" in hint
    assert value(docs, "select count(*) from embedding_control") == 0
    assert value(docs, "select priority from embedding_targets") == 0


# -- what is recorded


@pytest.mark.contract
def test_watching_and_unwatching_are_recorded_with_what_changed(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    docs.execute("select watch_embeddings('docs', null, 'embedding', priority => 3::smallint)")
    docs.execute("select unwatch_embeddings('docs', 'embedding', source => 'cli')")
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    entries = queue.audit("docs")[::-1]
    assert [(entry.event, entry.source, entry.embedding_column) for entry in entries] == [
        ("watched", "sql", "embedding"),
        ("watched", "sql", "embedding"),
        ("watched", "sql", "embedding"),
        ("unwatched", "cli", "embedding"),
    ]
    changed = [(entry.figures or {}).get("changed") for entry in entries]
    assert (changed[0], changed[2]) == (None, ["priority"])
    assert "model" in (changed[1] or [])
    assert (entries[1].figures or {})["model"] == "a:b"


def test_a_re_embedding_is_no_second_watching(docs: Database) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    before = len(events(docs))
    docs.execute("select start_reembedding('docs', 'embedding', 'test:new', 3)")
    docs.execute("select cancel_reembedding('docs', 'embedding', source => 'cli')")
    assert rows(
        docs,
        "select event, source, table_name, embedding_column, from_state, to_state"
        "  from embedding_audit order by id offset %s",
        before,
    ) == [
        ("started", "sql", "docs", "embedding", None, "filling"),
        ("cancelled", "cli", "docs", "embedding", "filling", "cancelled"),
    ]


@pytest.mark.contract
def test_requeuing_in_batches_is_one_entry(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 7)
    fail_all(queue, 7)
    before = len(events(docs))
    after, began, requeued = 0, None, 0
    while True:
        batch = queue.requeue(
            status="failed", table="docs", after=after, batch=2, failed_before=began, source="cli"
        )
        requeued, began = requeued + batch.requeued, began or batch.called_at
        if batch.looked_to is None:
            break
        after = batch.looked_to
    assert requeued == 7
    assert rows(docs, EVENTS)[before:] == [("requeued", "cli", {"status": "failed"})]
    assert latest(queue).table_name == "docs"


def test_a_requeue_of_one_batch_is_counted(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 3)
    fail_all(queue, 3)
    assert jobs.requeue(queue, error_class="rejected", source="cli") == 3
    assert latest(queue).figures == {"status": "failed", "error_class": "rejected", "jobs": 3}
    docs.execute("select requeue_embeddings(null, only_record => '2')")
    assert latest(queue).figures == {"status": "every", "record_id": "2", "jobs": 1}


def test_two_requeues_of_many_batches_are_two_entries(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 5)
    complete(queue, claim(queue))
    before = len(events(docs))
    for _ in range(2):
        after: int | None = 0
        while after is not None:
            after = queue.requeue(status=None, after=after, batch=2).looked_to
    assert events(docs)[before:] == ["requeued"] * 2


def test_who_begins_with_a_later_batch_is_recorded_all_the_same(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 5)
    before = len(events(docs))
    docs.execute("select requeue_embeddings(null, batch => 100, after_id => 1)")
    docs.execute("select requeue_embeddings(null, after_id => 1)")
    docs.execute("select reprocess_embeddings('*', after_id => 1)")
    assert events(docs)[before:] == ["requeued", "requeued", "reprocessed"]


@pytest.mark.contract
def test_reprocessing_is_one_entry_and_its_pattern_is_cut(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 6)
    before = len(events(docs))
    pattern = "text*" + "*" * 300
    queue.reprocess(pattern, None, None, 0, dry_run=True, source="cli")
    assert events(docs)[before:] == []
    after: int | None = 0
    while after is not None:
        after = queue.reprocess(
            pattern, "docs", None, after, batch=2, dry_run=False, source="cli"
        ).looked_to
    assert rows(docs, EVENTS)[before:] == [("reprocessed", "cli", {"pattern": pattern[:200]})]


def test_a_call_without_jobs_to_choose_from_adds_nothing(docs: Database, queue: AdminQueue) -> None:
    """A requeue that runs every minute does not fill the table."""
    before = len(events(docs))
    for _ in range(3):
        docs.execute("select requeue_embeddings()")
        docs.execute("select requeue_embeddings(batch => 100, failed_before => now())")
        assert jobs.requeue(queue) == 0
        assert jobs.reprocess(queue, "nothing like this") == 0
    assert len(events(docs)) == before


def test_an_entry_goes_back_with_the_transaction_of_its_caller(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    before = len(events(docs))
    with docs.transaction(force_rollback=True):
        docs.execute("select requeue_embeddings(null)")
        docs.execute("select control_embeddings('pause')")
        docs.execute("select unwatch_embeddings('docs', 'embedding')")
        assert len(events(docs)) == before + 3
    assert len(events(docs)) == before
    assert queue.targets()


# -- what programs add


@pytest.mark.contract
def test_what_was_done_in_several_calls_is_recorded_by_the_caller(
    docs: Database, queue: AdminQueue
) -> None:
    queue.record_audit("restored", "docs", "embedding", source="cli", figures={"restored": 5})
    entry = latest(queue)
    assert (entry.event, entry.table_name, entry.figures) == ("restored", "docs", {"restored": 5})
    queue.record_audit("repaired")
    assert (latest(queue).event, latest(queue).figures) == ("repaired", None)


@pytest.mark.contract
def test_only_known_events_and_short_figures_can_be_added(
    docs: Database, queue: AdminQueue
) -> None:
    before = len(events(docs))
    with pytest.raises(SettingsError, match="the event 'swapped' cannot be recorded"):
        queue.record_audit("swapped")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="the figures of an entry have 30"):
        queue.record_audit("restored", figures={"text": "x" * 3000})
    queue.record_audit("restored", "t" * 5000)
    assert value(
        docs, "select length(table_name) from embedding_audit where event = 'restored'"
    ) == (200)
    assert len(events(docs)) == before + 1


@pytest.mark.contract
def test_the_newest_entries_come_first_and_those_of_a_table_alone(
    docs: Database, queue: AdminQueue
) -> None:
    for number in range(30):
        queue.record_audit("restored", "docs" if number % 2 else "others", figures={"n": number})
    assert [(entry.figures or {})["n"] for entry in queue.audit(limit=3)] == [29, 28, 27]
    assert len(queue.audit()) == 20
    assert [(entry.figures or {})["n"] for entry in queue.audit("others", 2)] == [28, 26]
    assert queue.audit("docs.others") == []


# -- nobody changes it


@pytest.mark.parametrize(
    "statement",
    [
        "update embedding_audit set actor = 'nobody'",
        "delete from embedding_audit",
        "truncate embedding_audit",
        "set session_replication_role = replica; truncate embedding_audit",
        "update embedding_audit set event = event",
        "insert into embedding_audit (id, actor, source, event) overriding system value"
        " select id, actor, source, event from embedding_audit"
        " on conflict (id) do update set actor = 'nobody'",
    ],
)
def test_not_even_its_owner_changes_it(docs: Database, statement: LiteralString) -> None:
    before = rows(docs, "select * from embedding_audit")
    assert before
    assert refusal(docs, statement)[0] == "the audit cannot be changed"
    assert rows(docs, "select * from embedding_audit") == before


# -- an idle worker


@pytest.mark.contract
def test_workers_that_wait_and_work_add_nothing(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 3)
    before = len(events(docs))
    for _ in range(3):
        complete(queue, claim(queue))
        queue.extend(SCOPE, [])
        queue.heartbeat(SCOPE, Report("waiting", completed=3, usage=[]))
        queue.poll(SCOPE)
        queue.command(SCOPE)
        queue.load()
        queue.recheck(None, None, 0, 100, dry_run=False)
    queue.deregister(SCOPE)
    assert len(events(docs)) == before


@pytest.mark.over_a_connection
def test_a_pooler_is_named_as_the_client_that_it_serves(docs: Database, database_url: str) -> None:
    with PostgresQueue(database_url, f"tests {os.getpid()}") as queue:
        queue.control("pause", source="cli")
        assert str(os.getpid()) in (latest(queue).application or "")
