"""A worker that stays, for ten minutes in small: bursts, idle times and deep sleep.

At full length its idle cost and its memory are held to what the documentation promises.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests import conftest
from tests.chaos.conftest import wrong_vectors
from tests.conftest import REPOSITORY, Database, rows, value

SLEEP_AFTER = 2.0  # seconds
ASLEEP_TO_FRESH = 1.15  # the memory of a worker that sleeps, to that of one that has just started
IDLE_CORE = 0.005  # of a core
TIMEOUT = 60.0  # seconds
MISSING = "select count(*) from notes where embedding is null"
eventually = partial(conftest.eventually, within=TIMEOUT)


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def cpu_seconds(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            total += int(task.read_text().split()[0])
    return total / 1e9


def cost_of_idling(pid: int, seconds: float) -> float:
    """The share of a core that the process takes, doing nothing."""
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


class Writer:
    """Somebody who writes into `notes`, by the burst and one by one."""

    def __init__(self, notes: Database) -> None:
        self.notes = notes
        self.random = random.Random(7)
        self.count = 0

    def burst(self) -> None:
        size = self.random.randint(500, 3000)
        self.notes.execute(
            "insert into notes select i, 'note ' || i || repeat(' and more', i %% 40)"
            " from generate_series(%s::int + 1, %s::int) i",
            [self.count, self.count + size],
        )
        self.count += size
        self.notes.execute("update notes set body = body || '!' where id %% 17 = %s", [size % 17])

    def trickle(self) -> None:
        for _ in range(20):
            self.count += 1
            self.notes.execute("insert into notes values (%s, 'a single one')", [self.count])
            time.sleep(self.random.random() / 10)


@pytest.mark.timeout(1200)
@pytest.mark.over_a_connection
def test_a_worker_that_stays_stays_small_and_loses_nothing(
    notes: Database,
    database_url: str,
    with_openai: dict[str, str],
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    until = time.monotonic() + (600 if full else 10)
    state = "select state from embedding_workers"
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "DATABASE_URL": database_url,
        "WORKER_DEEP_SLEEP_AFTER": str(SLEEP_AFTER),
        "WORKER_LOG_LEVEL": "warning",
        **with_openai,
    }
    asleep: list[int] = []
    idling: list[float] = []
    # a Python of its own: a process that is forked shares its memory
    with subprocess.Popen([sys.executable, "-m", "worker", "run"], env=environment) as process:
        try:
            eventually(lambda: rows(notes, state) == [("waiting",)])
            fresh, writer = resident_kb(process.pid), Writer(notes)
            while time.monotonic() < until or not asleep:
                writer.burst()
                writer.trickle()
                eventually(lambda: value(notes, MISSING) == 0)
                eventually(lambda: rows(notes, state) == [("asleep",)])
                asleep.append(resident_kb(process.pid))
                idling.append(cost_of_idling(process.pid, 10 if full else 2))
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert value(notes, "select count(*) from embedding_queue") == writer.count
    assert rows(notes, "select distinct status from embedding_queue") == [("completed",)]
    assert wrong_vectors(notes) == []
    record_property(
        "soak",
        f"{writer.count} rows in {len(asleep)} spells; {fresh / 1024:.0f} MB fresh,"
        f" {asleep[0] / 1024:.0f} MB in the first sleep, {asleep[-1] / 1024:.0f} in the last;"
        f" {100 * sum(idling) / len(idling):.2f}% of a core asleep",
    )
    assert asleep[-1] <= ASLEEP_TO_FRESH * fresh
    if full:
        assert sum(idling) / len(idling) <= IDLE_CORE
        assert asleep[-1] <= 1.05 * asleep[len(asleep) // 5], "it grows"
