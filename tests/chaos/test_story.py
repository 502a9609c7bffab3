"""One event after another, drawn at random: whatever their order, no vector is wrong in between.

The race next door has many hands and looks when all is over. This one has a single hand and looks
after each event: it also sees what a later event would mend, and orders that are too rare there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

import numpy as np
import pytest
from psycopg.rows import TupleRow

from tests.conftest import Database, rows
from worker.embedders.base import Vectors
from worker.queue import Completion, Job, Scope
from worker.queue.postgres import PostgresQueue

EVENTS_A_STORY = 25
AN_HOUR = timedelta(hours=1)
LEASES_RUN_OUT = "update embedding_queue set lease_expires_at = now() where status = 'processing'"


def vector_of(text: str, model: str) -> Vectors:
    """A vector that tells the text and the model that it was made from."""
    digest = sha256(f"{model}/{text}".encode()).digest()
    return np.frombuffer(digest[:3], np.uint8).astype(np.float32)


class Story:
    """What happens to a watched table of two records at most. `told` is what happened so far."""

    def __init__(self, db: Database, queue: PostgresQueue, seed: int) -> None:
        self.db = db
        self.queue = queue
        self.dice = random.Random(seed)
        self.told: list[str] = []
        self.claims: list[list[Job]] = []
        db.execute("truncate docs")

    def go_on(self) -> None:
        [event] = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if isinstance(event, str):
            self.execute(event)
        else:
            event(self)

    def execute(self, statement: str) -> None:
        """Each parameter of the statement has a few values, one of which is drawn."""
        parameters = {
            "key": self.dice.choice([1, 2]),
            "text": self.dice.choice(["one", "two", " "]),
        }
        self.told.append(f"{statement} {parameters}")
        self.db.execute(statement.encode(), parameters)

    def change_unseen(self) -> None:
        """A change that bypasses the triggers, of a record that is not done yet."""
        change = self.dice.choice(["body = %(text)s", "hidden = not hidden", "embedding = null"])
        with self.db.transaction():
            self.db.execute("set local session_replication_role = replica")
            self.execute(
                f"update docs set {change} where id = %(key)s and exists"
                " (select from embedding_queue where record_id = docs.id::text"
                " and status in ('pending', 'processing', 'failed'))"
            )

    def claim(self) -> None:
        # of the two models more often the one, so that it meets its own results again
        model = self.dice.choice(["test:model"] * 3 + ["test:other"])
        scope = Scope(self.dice.choice(["first", "second"]), AN_HOUR, model)
        jobs = self.queue.claim(scope, self.dice.randint(1, 2)).jobs
        self.told.append(f"{scope.worker} claims {[job.record_id for job in jobs]} for {model}")
        if jobs:
            self.claims.append(jobs)

    def answer(self) -> None:
        """Maybe not for the first time, and maybe long after the lease was lost."""
        if not self.claims:
            return
        jobs = self.dice.choice(self.claims[-3:])
        [answer] = self.dice.choices([complete, fail, try_again, release, beat], [6, 1, 1, 1, 1])
        self.told.append(f"{answer.__name__} {[(job.record_id, job.content) for job in jobs]}")
        lost = self.without_lease(jobs)
        answer(self.queue, jobs)
        assert set(lost) <= set(self.without_lease(jobs)), "who lost a lease has changed something"

    def without_lease(self, jobs: list[Job]) -> list[TupleRow]:
        """Those of the jobs that are not the claimer's any more, as they are now."""
        return rows(
            self.db,
            "select job.*, embedding::text from embedding_queue as job left join docs"
            " on record_id = docs.id::text"
            " where job.id = any (%s) and (lease is null or lease <> all (%s::uuid[]))",
            *([job.id for job in jobs], [job.lease for job in jobs]),
        )

    def end(self) -> None:
        """Work until nothing is left to do."""
        self.db.execute(LEASES_RUN_OUT)
        self.db.execute("update embedding_queue set available_at = now() where status = 'pending'")
        while claim := self.queue.claim(Scope("last", AN_HOUR, "test:model"), 10):
            if claim.jobs:
                complete(self.queue, claim.jobs)


def complete(queue: PostgresQueue, jobs: list[Job]) -> None:
    model = jobs[0].model
    queue.complete(model, [Completion(job, vector_of(job.content, model), None) for job in jobs])


def fail(queue: PostgresQueue, jobs: list[Job]) -> None:
    queue.fail(jobs, "rejected", "no")


def try_again(queue: PostgresQueue, jobs: list[Job]) -> None:
    queue.fail(jobs, "rejected", "no", timedelta(0))


def release(queue: PostgresQueue, jobs: list[Job]) -> None:
    queue.release(jobs)


def beat(queue: PostgresQueue, jobs: list[Job]) -> None:
    queue.extend(Scope("first", AN_HOUR, "test:model"), jobs)


WEIGHTS: dict[str | Callable[[Story], None], int] = {
    "insert into docs (id, body) values (%(key)s, %(text)s)"
    " on conflict (id) do update set body = excluded.body": 6,
    "update docs set hidden = not hidden where id = %(key)s": 2,
    "delete from docs where id = %(key)s": 1,
    "update docs set id = 3 - id where id = %(key)s"
    " and not exists (select from docs where id = 3 - %(key)s)": 2,
    Story.change_unseen: 4,
    Story.claim: 8,
    Story.answer: 8,
    LEASES_RUN_OUT: 2,
    "select requeue_embeddings('failed')": 1,
    "select requeue_embeddings('processing')": 1,
    "select requeue_embeddings(null)": 1,
    "update embedding_queue set status = 'pending' where status <> 'skipped'": 3,  # by hand
}


def assert_all_is_right(db: Database, *, at_the_end: bool = False) -> None:
    for key, text, hidden, status, model, vector in rows(
        db,
        "select docs.id, body, hidden, status, model, embedding::real[] from docs"
        " full join embedding_queue on record_id = docs.id::text",
    ):
        assert key is not None, "a job without a record"
        match status:
            case None:
                assert hidden, "a record without a job"
                assert vector is None
            case "completed":
                assert not hidden
                assert vector == vector_of(text, model).tolist()
            case "skipped":
                assert not hidden
                assert (text.strip(), vector) == ("", None)
            case "pending" | "processing":
                assert not at_the_end, "not finished"


@pytest.mark.timeout(600)
def test_no_order_of_events_makes_a_wrong_vector_or_loses_a_record(
    db: Database, queue: PostgresQueue, full: bool
) -> None:
    db.execute("create table docs (id bigint primary key, body text, hidden boolean default false)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " filter => 'not hidden')"
    )
    for seed in range(5000 if full else 100):
        story = Story(db, queue, seed)
        try:
            for _ in range(EVENTS_A_STORY):
                story.go_on()
                assert_all_is_right(db)
            story.end()
            assert_all_is_right(db, at_the_end=True)
        except Exception as problem:
            problem.add_note("\n".join([f"story {seed}:", *story.told]))
            raise
