"""A re-embedding that is killed at many points: the same command ends it, and pays nothing twice
but what was in flight."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest

from tests.acceptance.conftest import Start, fill
from tests.acceptance.test_index import await_line, is_building, old_snapshot
from tests.chaos.conftest import CountingServer, Process
from tests.conftest import Database, Worker, eventually, rows, value
from tests.integration.jobs import expire_leases
from tests.openai_server import vector_for

NAME = "notes.embedding"
NEW = "openai:text-embedding-3-large"
NEW_VECTORS = {"column": "embedding_2", "table": "notes_embedding_2"}
LATENCY = 0.05
MOST_TRIES = 20
SLOWLY = {"EMBEDDING_BATCH_SIZE": "5", "EMBEDDING_MAX_CONCURRENCY": "2"}


@dataclass
class Killer:
    """Starts `worker reembed` again and again, and kills it."""

    notes: Database
    start: Start
    worker: Worker
    environment: dict[str, str]
    points: int = 0
    in_flight: int = 0
    """Jobs that those who were killed had claimed and not completed."""
    dice: random.Random = field(default_factory=lambda: random.Random(11))

    def kill(self, when: Callable[[Process], object], *command: str) -> None:
        with self.start("reembed", *command, **SLOWLY, **self.environment) as process:
            when(process)
            process.kill()
            process.wait()
            self.wait_for_its_sessions(process)
        self.points += 1
        self.in_flight += value(
            self.notes, "select count(*) from embedding_queue where status = 'processing'"
        )
        expire_leases(self.notes)

    def wait_for_its_sessions(self, process: Process) -> None:
        """Wait until the server has noticed the end of a process: its last statement may still have
        claimed jobs, or begun something."""
        left = (
            "select exists (select from pg_stat_activity"
            " where split_part(application_name, ':', 2) = %s)"
        )
        eventually(lambda: not value(self.notes, left, str(process.pid)), 30)

    def kill_at_random(self, *command: str) -> None:
        self.kill(lambda _: self.notes.execute("select pg_sleep(%s)", [self.pause]), *command)

    @property
    def pause(self) -> float:
        """Seconds in which a command begins, or is over."""
        return self.dice.uniform(0.0, 0.8)

    def repeat(self, *command: str) -> None:
        """Run a command until it has succeeded: what a killed one left in the server may last
        until the server notices."""
        for _ in range(MOST_TRIES):
            result = self.worker("reembed", *command, **self.environment)
            if result.returncode == 0:
                return
            self.notes.execute("select pg_sleep(0.5)")
        raise AssertionError(result.stdout + result.stderr)

    @property
    def state(self) -> str | None:
        """Of the only re-embedding."""
        states = rows(self.notes, "select state from embedding_reembeddings")
        assert len(states) < 2
        return states[0][0] if states else None


def wrong(notes: Database, *vectors: str) -> list[tuple[int, str]]:
    """The notes with a vector, in a column or a side table, that is not that of their text."""
    beside = "(select side.embedding from {} as side where side.id = notes.id)"
    return [
        (key, name)
        for name in vectors
        for key, body, vector in notes.execute(
            "select id, body, ({})::real[] from notes order by id".format(
                beside.format(name) if name.startswith("notes_") else name
            ).encode()
        )
        if vector is None or not np.allclose(vector, vector_for(body, len(vector)), atol=1e-6)
    ]


@pytest.mark.parametrize("store", ["table", pytest.param("column", marks=pytest.mark.only_in_full)])
@pytest.mark.timeout(600)
def test_wherever_it_is_killed_the_same_command_ends_it(
    notes: Database,
    start: Start,
    worker: Worker,
    openai: CountingServer,
    with_openai: dict[str, str],
    connect: Callable[[], Database],
    full: bool,
    record_property: Callable[[str, object], None],
    store: str,
) -> None:
    count, times = (600, 5) if full else (60, 1)
    fill(notes, count)
    notes.execute("create index on notes using hnsw (embedding vector_cosine_ops)")
    assert worker("process", **with_openai).returncode == 0
    # A text that was in flight at the first five kills would be given up.
    notes.execute("update embedding_targets set max_attempts = 100")
    openai.requests.clear()
    openai.latency = LATENCY
    killer = Killer(notes, start, worker, with_openai)

    begin = ["start", NAME, "--model", NEW, "--dimensions", "12", "--yes", "--detach"]
    begin += ["--store", store]
    for _ in range(times):
        killer.kill_at_random(*begin)
    if killer.state is None:
        killer.repeat(*begin)
    assert killer.state == "filling"

    kills = 5 * times  # while it is filled
    for number in range(1, kills + 1):
        seen = count + count * number // (kills + 3)
        killer.kill(partial(when_asked_for, openai, seen), "resume")
        assert killer.state == "filling"
    for _ in range(times):
        with old_snapshot(connect):  # the build cannot end before the kill, nor after it
            killer.kill(lambda process: await_building(notes, process), "resume")
    for _ in range(times):
        killer.kill(lambda process: await_line(process, "verifying"), "resume")
    filled = Counter(
        text
        for request in openai.requests
        for text in request.texts
        if request.body["model"] in NEW and text.startswith("note number")
    )
    killer.repeat("resume")
    assert killer.state == "ready"

    for command, state in [("swap", "swapped"), ("rollback", "ready")] * times + [
        ("swap", "swapped")
    ]:
        killer.kill_at_random(command)
        if killer.state != state:
            killer.repeat(command)
        assert killer.state == state
    assert wrong(notes, "embedding", NEW_VECTORS[store]) == []
    for _ in range(times):
        with connect().transaction() as reading:
            reading.connection.execute("select count(*) from notes")
            killer.kill_at_random("cleanup", "--yes", "--rename")
    killer.repeat("cleanup", NAME, "--yes", "--rename")
    renamed = "embedding" if store == "column" else "notes_embedding"
    assert (killer.state, wrong(notes, renamed)) == ("finished", [])
    table = "notes" if store == "column" else renamed
    widths = notes.execute(f"select distinct vector_dims(embedding) from {table}".encode())
    assert widths.fetchall() == [(12,)]
    twice = sum(filled.values()) - len(filled)
    assert twice <= killer.in_flight
    record_property("kills", f"{killer.points}, paid twice {twice} of {killer.in_flight} texts")


def when_asked_for(openai: CountingServer, texts: int, _: Process) -> None:
    openai.wait_for_texts(texts)


def await_building(notes: Database, process: Process) -> None:
    """Wait until the index is built, in a state that only its end would change."""
    await_line(process, "building the index")
    eventually(lambda: is_building(notes), 30)
