"""Everybody has a turn: targets, owners of records, and those whose worker died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import LiteralString
from uuid import UUID

import pytest

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.jobs import SCOPE, claim, expire_leases
from worker.queue import AdminQueue, Job
from worker.queue.postgres import PostgresQueue

NOBODY = None
ANNA = UUID("6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b")
BEN = UUID("9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963")
AT_MOST_SO_MANY = 60  # claims; that chance leaves out one of fifty owners so often: 2 in a million


def users(count: int) -> list[UUID]:
    """Users whose ids are spread evenly, as random ones are nearly."""
    return [UUID(int=(2 * number + 1) * (2**127 // count)) for number in range(count)]


def recent_users(count: int) -> list[UUID]:
    """Users whose ids begin with the time of their making, as those of version 7 do."""
    return [UUID(int=(0x01931F3E << 96) + (number << 80)) for number in range(count)]


@pytest.fixture
def notes(db: Database) -> Database:
    """A watched table `notes (id, body, user_id)` without rows."""
    db.execute("create table notes (id bigserial primary key, body text, user_id uuid)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    return db


def put(db: Database, owner: UUID | None, count: int, body: str = "one of many") -> None:
    db.execute(
        "insert into notes (body, user_id) select %s, %s from generate_series(1, %s)",
        [body, owner, count],
    )


def claims(queue: AdminQueue, most: int, batch_size: int = 10) -> Iterator[list[Job]]:
    """One claim after the other, none of which is answered, until nothing is due."""
    for _ in range(most):
        claimed = queue.claim(SCOPE, batch_size)
        assert len(claimed.jobs) + claimed.settled.total() <= batch_size
        if not claimed:
            return
        yield claimed.jobs


def texts(jobs: Sequence[Job]) -> Counter[str]:
    return Counter(job.content for job in jobs)


def place_of(text: str, claimed: Iterator[list[Job]]) -> int | None:
    """In which claim a text came, counted from 1; None: in none."""
    return next((place for place, jobs in enumerate(claimed, 1) if texts(jobs)[text]), None)


# -- targets


def other_target(db: Database, name: LiteralString, count: int, priority: int = 0) -> None:
    db.execute(f"create table {name} (id bigint primary key, body text)")
    db.execute(
        f"select watch_embeddings('{name}', 'body', 'embedding', dimensions => 3,"
        " priority => %s::smallint)",
        [priority],
    )
    db.execute(
        f"insert into {name} select i, '{name} ' || i from generate_series(1, %s::integer) i",
        [count],
    )


def test_a_target_with_few_jobs_does_not_wait_for_one_with_many(
    notes: Database, queue: AdminQueue
) -> None:
    put(notes, NOBODY, 10_000)
    other_target(notes, "docs", 5)
    first, second, *others = claims(queue, 6)
    assert sorted([first[0].table_name, second[0].table_name]) == ["docs", "notes"]
    assert len(first if first[0].table_name == "docs" else second) == 5
    assert [len(jobs) for jobs in others] == [10] * 4, "nobody waits for those that have nothing"


def test_targets_of_one_priority_take_turns_whoever_asks(
    notes: Database, queue: AdminQueue, database_url: str
) -> None:
    put(notes, NOBODY, 200)
    other_target(notes, "docs", 200)
    other_target(notes, "tags", 200)
    with PostgresQueue(database_url, "other") as other:
        tables = [
            connection.claim(replace(SCOPE, worker=name), 10).jobs[0].table_name
            for _ in range(3)
            for name, connection in (("test", queue), ("other", other))
        ]
    assert Counter(tables) == {"notes": 2, "docs": 2, "tags": 2}
    assert tables[:3] == tables[3:], "in the same order each time"


def test_a_target_of_a_higher_priority_goes_first_and_one_of_a_lower_last(
    notes: Database, queue: AdminQueue
) -> None:
    other_target(notes, "low", 15, priority=-1)
    put(notes, NOBODY, 15)
    other_target(notes, "high", 15, priority=1)
    tables = [jobs[0].table_name for jobs in claims(queue, 10)]
    assert tables == ["high", "high", "notes", "notes", "low", "low"]


def test_a_backfill_stands_behind_the_edits_of_all_targets(
    notes: Database, queue: AdminQueue
) -> None:
    notes.execute("alter table notes disable trigger user")
    put(notes, NOBODY, 30, "from before")
    notes.execute("alter table notes enable trigger user")
    assert queue.backfill(queue.target("notes", "embedding"), 100) == 30
    other_target(notes, "docs", 12)
    put(notes, NOBODY, 3, "new")
    taken = list(claims(queue, 10))
    edits = [job.content for jobs in taken[:3] for job in jobs if job.content != "from before"]
    assert len(edits) == 15
    assert {job.content for jobs in taken[3:] for job in jobs} == {"from before"}


def test_targets_that_are_to_be_left_alone_are(notes: Database, queue: AdminQueue) -> None:
    put(notes, NOBODY, 20)
    other_target(notes, "docs", 20)
    ids: dict[str, int] = dict(rows(notes, "select table_name, id from embedding_targets"))
    for _ in range(2):
        assert {job.table_name for job in queue.claim(SCOPE, 5, [ids["docs"]]).jobs} == {"notes"}
    assert {job.table_name for job in queue.claim(SCOPE, 5, [ids["notes"]]).jobs} == {"docs"}
    expire_leases(notes)
    assert {job.table_name for job in queue.claim(SCOPE, 50, [ids["docs"]]).jobs} == {"notes"}
    assert not queue.claim(SCOPE, 10, ids.values())
    assert not queue.claim(replace(SCOPE, table="docs"), 10, [ids["docs"]])
    assert len(claim(queue)) == 20, "and nothing of it outlasts the claim"


# -- owners


FLOODS = {
    "by a user, then another": (ANNA, BEN),
    "by a user, then one before in order": (BEN, ANNA),
    "by a user, then nobody": (ANNA, NOBODY),
    "by nobody, then a user": (NOBODY, ANNA),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
def test_the_flood_of_one_owner_does_not_hold_up_another(
    notes: Database, queue: AdminQueue, flood: tuple[UUID | None, UUID | None]
) -> None:
    many, single = flood
    put(notes, many, 5000)
    put(notes, single, 1, "the only one")
    place = place_of("the only one", claims(queue, 2))
    assert place is not None
    assert [len(jobs) for jobs in claims(queue, 3)] == [10] * 3, "a claim is full all the same"


@pytest.mark.parametrize("ids", [users, recent_users], ids=["apart", "near each other"])
def test_the_floods_of_fifty_owners_do_not_hold_up_another(
    notes: Database, queue: AdminQueue, ids: Callable[[int], Sequence[UUID]]
) -> None:
    """Ten owners have a turn in each claim: on average in the fifth, and never long after."""
    *many, single = ids(51)
    for owner in many:
        put(notes, owner, 100)
    put(notes, single, 1, "the only one")
    assert place_of("the only one", claims(queue, AT_MOST_SO_MANY)) is not None


@pytest.mark.parametrize(("batch_size", "owners"), [(1, 2), (5, 8)])
def test_a_batch_that_is_smaller_than_the_number_of_owners_is_not_always_that_of_the_same(
    notes: Database, queue: AdminQueue, batch_size: int, owners: int
) -> None:
    """Five is what scripts/run-embedding-processor.sh claims."""
    for number, owner in enumerate(users(owners)):
        put(notes, owner, 300, f"of user {number}")
    seen = {text for jobs in claims(queue, AT_MOST_SO_MANY, batch_size) for text in texts(jobs)}
    assert len(seen) == owners


@pytest.fixture
def waiting(notes: Database) -> Database:
    """Two hundred owners with a job each that is not due yet, and one more with one that is."""
    *many, single = recent_users(201)
    for owner in many:
        put(notes, owner, 1)
    notes.execute("update embedding_queue set available_at = now() + interval '1 hour'")
    put(notes, single, 1, "due")
    return notes


def test_jobs_that_are_not_due_do_not_hide_one_that_is(
    waiting: Database, queue: AdminQueue
) -> None:
    assert value(waiting, "select count_due_embeddings()") == 1
    assert [job.content for job in claim(queue)] == ["due"]


def test_jobs_that_are_not_due_let_nothing_of_a_lower_priority_overtake(
    waiting: Database, queue: AdminQueue
) -> None:
    put(waiting, NOBODY, 50, "low")
    waiting.execute(
        "update embedding_queue set priority = -10 from notes"
        " where record_id = notes.id::text and body = 'low'"
    )
    assert [job.content for job in claim(queue, 1)] == ["due"]


def test_a_claim_reads_no_more_of_the_queue_than_it_takes(notes: Database) -> None:
    """However long the queue is: or else a drain would be quadratic."""
    put(notes, ANNA, 5000)
    put(notes, BEN, 5000)
    read: LiteralString = (
        "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'embedding_queue_due'"
    )
    taken = "select count(*) from claim_embeddings('tests', 10, default_model => 'a:b')"
    notes.execute("select pg_stat_force_next_flush()")
    before = value(notes, read)
    assert value(notes, taken) == 10
    notes.execute("select pg_stat_force_next_flush()")
    assert value(notes, read) - before < 500


def test_each_owner_gets_the_same_share_and_their_own_in_order(
    notes: Database, queue: AdminQueue
) -> None:
    for number, owner in enumerate(users(5)):
        put(notes, owner, 40, f"of user {number}")
    order: dict[str, list[int]] = {}
    for jobs in claims(queue, 4, 20):
        assert set(texts(jobs).values()) == {4}
        for job in jobs:
            order.setdefault(job.content, []).append(int(job.record_id))
    for records in order.values():
        assert sorted(records) == list(range(min(records), min(records) + 16)), "the oldest"


def test_what_one_owner_does_not_use_of_a_claim_the_others_get(
    notes: Database, queue: AdminQueue
) -> None:
    put(notes, ANNA, 2, "of Anna")
    put(notes, BEN, 40, "of Ben")
    assert [len(jobs) for jobs in claims(queue, 10)] == [10, 10, 10, 10, 2]


def test_what_one_owner_does_not_use_of_a_claim_nothing_of_a_lower_priority_gets(
    notes: Database, queue: AdminQueue
) -> None:
    put(notes, ANNA, 2, "urgent")
    put(notes, BEN, 40, "urgent")
    notes.execute("update embedding_queue set priority = 5")
    put(notes, NOBODY, 40, "not urgent")
    assert texts(claim(queue, 10)) == {"urgent": 10}


def test_an_urgent_job_of_a_flood_goes_before_all_others(
    notes: Database, queue: AdminQueue
) -> None:
    put(notes, ANNA, 1000)
    put(notes, BEN, 1, "of Ben")
    put(notes, ANNA, 12, "urgent")
    notes.execute(
        "update embedding_queue set priority = 5 from notes"
        " where record_id = notes.id::text and body = 'urgent'"
    )
    first, second = claims(queue, 2)
    assert texts(first) == {"urgent": 10}
    assert texts(second)["urgent"] == 2
    assert texts(second)["of Ben"] == 1, "the next priority follows in the same claim"


# -- those whose worker died


def test_what_a_dead_worker_left_goes_first(notes: Database, queue: AdminQueue) -> None:
    for owner in users(12):
        put(notes, owner, 2, "left behind")
    left = {job.id for jobs in claims(queue, 10) for job in jobs}
    assert len(left) == 24
    put(notes, ANNA, 100, "new")
    notes.execute("update embedding_queue set priority = 5 where status = 'pending'")
    expire_leases(notes)
    first, second, third, fourth = claims(queue, 4)
    assert texts(first) == texts(second) == {"left behind": 10}
    assert texts(third) == {"left behind": 4, "new": 6}
    assert texts(fourth) == {"new": 10}
    assert {job.id for jobs in (first, second, third) for job in jobs} >= left


@pytest.mark.parametrize("batch_size", rest_in_full([1, 2, 7, 10, 33, 1000], first=3))
def test_a_claim_never_exceeds_its_limit_and_every_job_is_claimed_once(
    notes: Database, queue: AdminQueue, batch_size: int
) -> None:
    """Of many owners and of nobody, of three priorities, left behind and new."""
    for number, owner in enumerate([NOBODY, *users(13)]):
        put(notes, owner, 1 + number)
    other_target(notes, "docs", 20)
    notes.execute("update embedding_queue set priority = 5 * (id % 3 - 1)")
    list(claims(queue, 3, 7))
    expire_leases(notes)
    # one of them for the last time, which is handed out alone
    notes.execute(
        "update embedding_queue set abandoned_claims = 4"
        " where id = (select min(id) from embedding_queue where status = 'processing')"
    )
    if batch_size == 7:
        notes.execute("analyze embedding_queue")
    taken = [job.id for jobs in claims(queue, 200, batch_size) for job in jobs]
    assert len(taken) == len(set(taken)) == value(notes, "select count(*) from embedding_queue")
