"""A backfill in batches that is killed at every point of its protocol, and at random moments: every
row gets its vector, each text is paid for once, and nothing is left over at the provider."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import LiteralString

import numpy as np
import pytest

from tests.acceptance.conftest import Start
from tests.batch_server import BatchServer, first
from tests.chaos.conftest import Process
from tests.conftest import Database, Worker, eventually, value
from tests.http_server import Answer, vector_for
from tests.integration.batches import let_leases_end

COMMAND = ["backfill", "--batch-api", "--json"]
LONG = 60.0  # seconds
HOUR = 3600.0
ROWS, KILLS = 1_000_000, 30
ROWS_A_KILL = 100  # some batches
MOST_MEMORY = 200.0  # MB of a process

DATABASE_POINTS: dict[str, LiteralString] = {
    "begin": "before insert on embedding_batches",
    "claim": "before insert on embedding.batch_jobs",
    "record the file": "before update of input_file on embedding_batches",
    "submit": "before update of provider_batch on embedding_batches",
    "complete": "before update of embedding on notes",
    "release": "before delete on embedding.batch_jobs",
    "end": "before update of ended_at on embedding_batches",
}
"""Statements. The worker is killed while each of them runs, which then commits or not."""

WAIT_HERE: LiteralString = """
    create function wait_here() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared(4711);
        return case tg_op when 'DELETE' then old else new end;
    end $$
"""


@pytest.fixture
def provider() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@dataclass
class Killer:
    """Starts the same command again and again, and kills it."""

    notes: Database
    other: Database
    start: Start
    provider: BatchServer
    tokens: int
    """The most that are enqueued at once, which makes many batches."""
    rows: int = 0
    process: Process | None = None
    memory: float = 0.0
    """The most that a process has taken, in MB."""
    kills: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(5))

    def add_rows(self, count: int) -> None:
        """Insert rows that are in no queue yet: there is something to do until it is killed."""
        self.notes.execute("alter table notes disable trigger user")
        self.notes.execute(
            "insert into notes select id, 'note number ' || id"
            " from generate_series(%s::int, %s) as id",
            [self.rows + 1, self.rows + count],
        )
        self.notes.execute("alter table notes enable trigger user")
        self.rows += count

    def environment(self) -> dict[str, str]:
        return {
            "EMBEDDING_MODEL": "openai:text-embedding-3-small",
            "OPENAI_API_KEY": self.provider.api_key,
            "OPENAI_BASE_URL": self.provider.base_url,
            "EMBEDDING_BATCH_POLL": "0.05s",
            "EMBEDDING_BATCH_TOKENS": str(self.tokens),
        }

    @contextmanager
    def started(self) -> Iterator[Process]:
        """A process that is dead at the end, and whose leases have run out."""
        with self.start(*COMMAND, **self.environment()) as process:
            self.process = process
            yield process
            assert process.wait() != 0
        self.kills += 1
        self._wait_for_its_sessions(process)
        let_leases_end(self.notes)

    def kill(self) -> None:
        assert self.process is not None
        self.has_ended()
        self.process.kill()
        self.process.wait()

    def kill_at_request(self, route: str, *, has_effect: bool) -> None:
        """Kill it when it has sent a request of this route."""

        def killed(due: Answer) -> Answer:
            self.kill()
            return due

        self.add_rows(ROWS_A_KILL)
        points = self.provider.faults_at if has_effect else self.provider.refusals
        points[route].append(first(self.kill) if has_effect else killed)
        with self.started():
            pass
        assert not points[route]

    def kill_at_statement(self, when: LiteralString, *, commits: bool) -> None:
        """Kill it while it waits in a statement."""
        self.add_rows(ROWS_A_KILL)
        self.notes.execute(
            b"create trigger wait_here %b for each row execute function wait_here()" % when.encode()
        )
        with self.held(), self.started():
            eventually(lambda: bool(self.waiting()), LONG)
            [waiting] = self.waiting()
            self.kill()
            if not commits:
                self.other.execute("select pg_terminate_backend(%s)", [waiting])
            self.other.execute("select pg_advisory_unlock(4711)")
        table = when.split(" on ")[1]
        self.notes.execute(b"drop trigger wait_here on %b" % table.encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        self.other.execute("select pg_advisory_lock(4711)")
        yield
        self.other.execute("select pg_advisory_unlock_all()")

    def waiting(self) -> list[int]:
        """The session that waits in a statement."""
        found = self.other.execute(
            "select pid from pg_locks where locktype = 'advisory' and not granted"
        )
        return [pid for (pid,) in found]

    def kill_at_random(self, kills: int) -> None:
        """Kill it at random moments, of which some are in each part of the way."""
        for share in sorted(self.dice.uniform(0.001, 0.97) for _ in range(kills)):
            with self.started():
                eventually(partial(self._is_past, share), HOUR)
                self.kill()

    def _is_past(self, share: float) -> bool:
        """Whether this share of the way is done: rows are enqueued, in batches, and completed."""
        done = "select sum(pending + 2 * processing + 3 * completed) from embedding_counts"
        return float(value(self.notes, done) or 0) >= share * 3 * self.rows

    def has_ended(self) -> bool:
        """Whether the process has ended; if not, note how much memory it takes."""
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        self.memory = max(self.memory, peak_memory(self.process))
        return False

    def _wait_for_its_sessions(self, process: Process) -> None:
        """Wait until the server has noticed the end of a process."""
        left = (
            "select exists (select from pg_stat_activity"
            " where split_part(application_name, ':', 2) = %s)"
        )
        eventually(lambda: not value(self.notes, left, str(process.pid)), LONG)


def peak_memory(process: Process) -> float:
    """The most memory that a process has had in RAM, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return max((int(kB) / 1024 for kB in re.findall(r"VmHWM:\s+(\d+) kB", status)), default=0.0)


def assert_all_is_well(notes: Database, provider: BatchServer, count: int) -> None:
    """Every row has its vector, each text was paid for once, and nothing is left over."""
    assert value(notes, "select count(*) from embedding_queue where status = 'completed'") == count
    with notes.transaction(), notes.cursor("all_notes") as every_note:
        every_note.execute("select body, embedding::real[] from notes")
        for body, vector in every_note:
            assert np.allclose(vector, vector_for(body, len(vector)), atol=1e-6), body
    assert provider.report() | {"batches": None} == {
        "texts": count,
        "paid_again": 0,
        "paid_in_full": 0,
        "left_over": [],
        "batches": None,
    }
    assert value(notes, "select count(*) from embedding.batch_jobs") == 0
    assert value(notes, "select count(*) from embedding_batches where ended_at is null") == 0


@pytest.mark.timeout(900)
def test_wherever_it_is_killed_the_same_command_ends_it(
    notes: Database,
    connect: Callable[[], Database],
    start: Start,
    worker: Worker,
    provider: BatchServer,
    record_property: Callable[[str, object], None],
) -> None:
    notes.execute(WAIT_HERE)
    killer = Killer(notes, connect(), start, provider, tokens=400)
    for when in DATABASE_POINTS.values():
        for commits in (False, True):
            killer.kill_at_statement(when, commits=commits)
    for route in ("POST /files", "POST /batches", "GET /batches/id", "GET /files/content"):
        killer.kill_at_request(route, has_effect=False)
        killer.kill_at_request(route, has_effect=True)
    for route in ("GET /batches", "GET /files", "DELETE /files/id"):
        for has_effect in (False, True):
            killer.kill_at_request("POST /batches", has_effect=False)  # the next one looks for it
            killer.kill_at_request(route, has_effect=has_effect)
    result = worker(*COMMAND, **killer.environment())
    assert result.returncode == 0, result.stderr
    assert_all_is_well(notes, provider, killer.rows)
    record_property("kills", f"{killer.kills}, at most {killer.memory:.0f} MB")


@pytest.mark.only_in_full
@pytest.mark.timeout(7200)
def test_a_million_rows_survive_kills_at_random_moments(
    notes: Database,
    connect: Callable[[], Database],
    start: Start,
    provider: BatchServer,
    record_property: Callable[[str, object], None],
) -> None:
    killer = Killer(notes, connect(), start, provider, tokens=ROWS)  # some batches under way
    killer.add_rows(ROWS)
    killer.kill_at_random(KILLS)
    with start(*COMMAND, **killer.environment()) as process:
        killer.process = process
        eventually(killer.has_ended, HOUR)
        assert process.wait() == 0
    assert_all_is_well(notes, provider, ROWS)
    assert killer.memory <= MOST_MEMORY
    record_property("kills", f"{killer.kills}, at most {killer.memory:.0f} MB")
