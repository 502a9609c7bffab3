"""Commands that go through a long queue: a batch at a time, until somebody interrupts them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from signal import SIGINT, SIGTERM

import pytest

from tests.acceptance.conftest import Start, fill, statuses
from tests.conftest import Database, Worker, eventually, rest_in_full, value
from tests.integration.tables import Connect

JOBS = 4100  # more than two batches
CONTINUES = "interrupted: the same command continues with the rest\n"
BEGINS_AGAIN = "interrupted: the same command begins again with the first job\n"


@pytest.fixture
def long_queue(notes: Database) -> Database:
    """Notes whose jobs failed. A batch waits for an advisory lock."""
    fill(notes, JOBS)
    notes.execute("update embedding_queue set status = 'failed', error_message = 'no'")
    notes.execute(
        "create function wait() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock_shared(1); return null; end $$"
    )
    notes.execute(
        "create trigger wait before insert or update on embedding_queue"
        " for each statement execute function wait()"
    )
    return notes


Interrupt = Callable[..., tuple[int | None, str, str]]


@pytest.fixture
def interrupt(long_queue: Database, start: Start, connect: Connect) -> Interrupt:
    """Runs a command, sends it a signal in its first batch, or two, and returns how it ended."""
    holding = connect()

    def interrupt(*command: str, signals: Sequence[int] = (SIGINT,)) -> tuple[int | None, str, str]:
        holding.execute("select pg_advisory_lock(1)")
        process = start(*command)
        eventually(lambda: is_waiting(long_queue), within=30)
        process.send_signal(signals[0])
        assert process.stderr is not None
        assert process.stderr.readline() == (
            "stopping: finishing this batch (interrupt again to exit at once)\n"
        )
        for number in signals[1:]:
            process.send_signal(number)
            process.wait(30)
        holding.execute("select pg_advisory_unlock(1)")
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    return interrupt


def is_waiting(db: Database) -> bool:
    """Whether a batch waits for the lock."""
    waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
    return bool(value(db, waiting))


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
@pytest.mark.parametrize(
    ("command", "how_to_go_on"),
    rest_in_full(
        [
            ("requeue --failed", CONTINUES),
            ("requeue --all --yes", BEGINS_AGAIN),
            ("reprocess * --yes", BEGINS_AGAIN),
        ],
        first=2,
    ),
)
def test_a_signal_lets_the_batch_end_and_says_how_many_were_requeued(
    long_queue: Database, interrupt: Interrupt, command: str, how_to_go_on: str, number: int
) -> None:
    code, stdout, stderr = interrupt(*command.split(), signals=[number])
    requeued = statuses(long_queue)["pending"]
    assert 0 < requeued <= 2000
    assert (code, stdout, stderr) == (130, f"Requeued: {requeued}\n", how_to_go_on)


def test_a_second_signal_ends_it_at_once(long_queue: Database, interrupt: Interrupt) -> None:
    code, stdout, _ = interrupt("requeue", "--failed", signals=[SIGINT, SIGTERM])
    assert (code, stdout) == (130, "")
    eventually(lambda: not is_waiting(long_queue), within=30)
    assert statuses(long_queue) == {"failed": JOBS}


def test_the_same_command_continues(
    long_queue: Database, interrupt: Interrupt, worker: Worker
) -> None:
    interrupt("requeue", "--failed")
    requeued = statuses(long_queue)["pending"]
    result = worker("requeue", "--failed")
    assert (result.stdout, result.returncode) == (f"Requeued: {JOBS - requeued}\n", 0)
    assert statuses(long_queue) == {"pending": JOBS}


def test_an_interrupted_reprocess_prints_its_document(
    long_queue: Database, interrupt: Interrupt
) -> None:
    code, stdout, _ = interrupt("reprocess", "*", "--yes", "--json")
    assert (code, json.loads(stdout)) == (130, {"requeued": statuses(long_queue)["pending"]})


def test_an_interrupted_backfill_continues(
    long_queue: Database, interrupt: Interrupt, worker: Worker
) -> None:
    long_queue.execute("delete from embedding_queue")
    code, stdout, stderr = interrupt("backfill", "--batch", "100")
    assert (code, stdout) == (130, "Enqueued: 100\n")
    assert stderr == f"notes.embedding: 100 rows enqueued\n{CONTINUES}"
    assert worker("backfill").stdout == f"Enqueued: {JOBS - 100}\n"


def test_an_interrupted_recheck_says_what_it_found(
    long_queue: Database, interrupt: Interrupt
) -> None:
    long_queue.execute("update embedding_queue set status = 'completed', error_message = null")
    code, stdout, stderr = interrupt("recheck", "--json")
    changed = statuses(long_queue)["pending"]
    assert json.loads(stdout) == {"checked": changed, "changed": changed, "missing": 0}
    assert (code, stderr) == (130, BEGINS_AGAIN)
