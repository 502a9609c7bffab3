"""Which column is checked next, and by whom."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conftest import Database
from worker.queue import AdminQueue, Check, Checked, Target

LEASE = timedelta(minutes=5)
EVERY = timedelta(days=1)


@pytest.fixture
def targets(docs: Database, queue: AdminQueue) -> list[Target]:
    """Two watched columns, docs.embedding and notes.embedding."""
    docs.execute("create table notes (id integer primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    return queue.targets()


def begin(queue: AdminQueue, worker: str = "one", target: Target | None = None) -> Check | None:
    return queue.begin_check(
        worker,
        EVERY,
        LEASE,
        target.table_name if target else None,
        target.embedding_column if target else None,
    )


def begun(queue: AdminQueue, worker: str = "one", target: Target | None = None) -> Check:
    check = begin(queue, worker, target)
    assert check
    return check


def let_pass(db: Database, time: str) -> None:
    """What time does to all checks."""
    db.execute(
        "update embedding_checks set checked_at = checked_at - %(time)s::interval,"
        " started_at = started_at - %(time)s::interval,"
        " lease_expires_at = lease_expires_at - %(time)s::interval",
        {"time": time},
    )


def test_each_column_is_checked_by_one_worker_at_a_time(
    targets: list[Target], queue: AdminQueue
) -> None:
    first, second = begun(queue, "one"), begun(queue, "two")
    assert {first.table_name, second.table_name} == {target.table_name for target in targets}
    assert begin(queue, "three") is None
    assert (first.state, first.looked_to, first.found_so_far) == (None, None, {})


def test_a_checked_column_is_due_again_after_the_interval(
    targets: list[Target], queue: AdminQueue, docs: Database
) -> None:
    first, second = begun(queue, "one"), begun(queue, "two")
    found = Checked(vectors=9, lost=1)
    assert queue.end_check(first, "waiting", found)
    let_pass(docs, "1 hour")
    assert queue.end_check(second, "sound", Checked(vectors=4))
    assert begin(queue) is None
    known = {check.table_name: check for check in queue.checks()}[first.table_name]
    assert (known.state, known.vectors, known.lost) == ("waiting", 9, 1)
    assert (known.overwritten, known.started_at, known.lease_expires_at) == (0, None, None)
    let_pass(docs, "23 hours 30 minutes")
    again = begun(queue)
    assert again.target_id == first.target_id
    assert begin(queue) is None
    assert queue.end_check(again, "sound", Checked(vectors=10))
    let_pass(docs, "1 hour")
    assert begun(queue, "two").target_id == second.target_id


def test_another_worker_goes_on_where_a_dead_one_ended(
    targets: list[Target], queue: AdminQueue, docs: Database
) -> None:
    [target, _] = targets
    dead = begun(queue, "one", target)
    begun_at = dead.started_at
    assert queue.continue_check(dead, LEASE, "500", {"overwritten": 5, "lost": 2})
    assert queue.continue_check(dead, LEASE)
    assert begin(queue, "two", target) is None
    let_pass(docs, "6 minutes")
    check = begun(queue, "two", target)
    assert (check.looked_to, check.found_so_far) == ("500", {"overwritten": 5, "lost": 2})
    assert begun_at
    assert check.started_at
    assert begun_at - check.started_at == timedelta(minutes=6)
    assert not queue.continue_check(dead, LEASE, "600", {"lost": 6})
    assert not queue.end_check(dead, "sound", Checked(vectors=600))
    assert queue.end_check(check, "sound", Checked(vectors=998))
    [known] = queue.checks()
    assert (known.looked_to, known.found_so_far, known.vectors) == (None, {}, 998)


@pytest.mark.contract
def test_an_unfinished_walk_comes_before_a_new_one(
    targets: list[Target], queue: AdminQueue, docs: Database
) -> None:
    unfinished = begun(queue, "one", targets[1])
    assert queue.continue_check(unfinished, timedelta(0), "5", {})
    assert begun(queue, "two").table_name == targets[1].table_name


@pytest.mark.contract
def test_a_walk_that_repairs_says_so(targets: list[Target], queue: AdminQueue) -> None:
    check = begun(queue)
    assert queue.continue_check(check, LEASE, state="repairing")
    assert queue.checks()[0].state == "repairing"


@pytest.mark.contract
def test_a_repair_is_in_the_audit_and_a_sound_walk_is_not(
    targets: list[Target], queue: AdminQueue, docs: Database
) -> None:
    before = len(queue.audit(limit=1000))
    [target, other] = targets
    queue.end_check(begun(queue, target=other), "sound", Checked(vectors=4))
    queue.end_check(
        begun(queue, target=target), "waiting", Checked(vectors=1, lost=3, over_budget=3)
    )
    assert len(queue.audit(limit=1000)) == before
    let_pass(docs, "2 days")
    figures = Checked(vectors=1, lost=3, from_cache=1, from_backup=1, requeued=1)
    assert queue.end_check(begun(queue, target=target), "repaired", figures, source="cli")
    entry = queue.audit(limit=1)[0]
    assert (entry.event, entry.table_name, entry.source) == (
        "repaired",
        target.table_name,
        "cli",
    )
    assert (entry.figures or {})["from_backup"] == 1
    known = {check.table_name: check for check in queue.checks()}[target.table_name]
    assert (known.from_cache, known.from_backup, known.requeued, known.over_budget) == (1, 1, 1, 0)


@pytest.mark.contract
@pytest.mark.parametrize(
    "statement",
    [
        "update embedding_targets set enabled = false",
        "update embedding_targets set problem = 'renamed'",
        "select unwatch_embeddings('docs', 'embedding')",
    ],
)
def test_only_columns_that_are_worked_on_are_checked(
    docs: Database, queue: AdminQueue, statement: str
) -> None:
    docs.execute(statement.encode())
    assert begin(queue) is None


@pytest.mark.contract
def test_a_column_that_is_no_longer_watched_leaves_no_check(
    targets: list[Target], queue: AdminQueue, docs: Database
) -> None:
    check = begun(queue, target=targets[0])
    docs.execute("select unwatch_embeddings(%s, 'embedding')", [targets[0].table_name])
    assert queue.checks() == []
    assert not queue.end_check(check, "sound", Checked(vectors=1))
