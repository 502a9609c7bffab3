"""A worker that stays while its provider goes away and comes back: for an hour of virtual time with
every kind of trouble, and as a process in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Condition, Event, Lock

import pytest

from tests import conftest
from tests.acceptance.conftest import Start, statuses
from tests.chaos.conftest import CountingServer, wrong_vectors
from tests.conftest import Database, rows, value
from tests.integration.runs import SCOPE, Runs
from tests.openai_server import (
    Answer,
    Fault,
    OpenAIServer,
    Request,
    answers,
    cut_short,
    not_json,
    out_of_quota,
    rate_limited,
    server_error,
    unavailable,
    wrong_width,
)
from worker.embedders.base import Embedder
from worker.engine import providers
from worker.engine.limiter import Limiter
from worker.engine.progress import RunStats
from worker.engine.service import CommandThrottle, Service
from worker.errors import SettingsError
from worker.queue.postgres import PostgresQueue

DOWN = 240.0  # seconds, virtual ones
UP = 120.0  # in which all must be done: the longest pause is a minute
ROWS = 20  # that are written while it is down
MOST_REQUESTS = 60  # while it is down, for 240 seconds
REFUSED = {"error": {"message": "no"}}
CANNOT_BE_OPENED = "the model cannot be opened"
TROUBLES: dict[str, Fault | None] = {
    "500": server_error,
    "503 and a wait of ages": answers(503, REFUSED, **{"retry-after": "1000000000"}),
    "429": rate_limited(),
    "401": answers(401, REFUSED),
    "no credit": out_of_quota,
    "no such model": answers(404, REFUSED),
    "another width": wrong_width,
    "a page to log in": not_json,
    "half an answer": cut_short,
    CANNOT_BE_OPENED: None,
}


class Hour:
    """Time that passes only while somebody waits for it to pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self._skipped, self._lock = time.monotonic, 0.0, Lock()
        self.stop = self.Stop(self)
        self.began = self.now()
        self.on_tick: Callable[[], None] = lambda: None
        monkeypatch.setattr(time, "monotonic", self.now)
        hour = self

        class Hurried(Limiter):
            def __post_init__(self, *given: object) -> None:
                super().__post_init__(*given)  # type: ignore[arg-type]
                self._changed = hour.Waiting(hour)

        monkeypatch.setattr(providers, "Limiter", Hurried)

    def now(self) -> float:
        return self._real() + self._skipped

    def skip(self, seconds: float) -> None:
        with self._lock:
            self._skipped += seconds
        self.on_tick()

    class Stop(Event):
        def __init__(self, hour: Hour) -> None:
            super().__init__()
            self._hour = hour

        def wait(self, timeout: float | None = None) -> bool:
            self._hour.skip(timeout or 0.0)
            return self.is_set()

    class Waiting(Condition):
        def __init__(self, hour: Hour) -> None:
            super().__init__()
            self._hour = hour

        def wait(self, timeout: float | None = None) -> bool:
            self._hour.skip(timeout or 0.0)
            return super().wait(0.001)


@dataclass
class Told:
    """Writes down the names of the events that concern a provider."""

    names: list[str] = field(default_factory=list)

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if name.startswith("provider_"):
            self.names.append(name)


class Deaf(PostgresQueue):
    """A queue that no notification reaches, so that nobody waits for one in real time."""

    def listen(self) -> bool:
        return False


class Unsteady(OpenAIServer):
    """Has one trouble after the other: each for DOWN seconds, and none for UP seconds after it."""

    def __init__(self) -> None:
        super().__init__()
        self.began = 0.0
        self.requests_of: dict[str, int] = dict.fromkeys(TROUBLES, 0)

    @property
    def error(self) -> str | None:
        phase, seconds = divmod(time.monotonic() - self.began, DOWN + UP)
        is_down = seconds < DOWN and phase < len(TROUBLES)
        return list(TROUBLES)[int(phase)] if is_down else None

    def answer(self, request: Request) -> Answer | None:
        error = self.error
        if error is not None:
            self.requests_of[error] += 1
            if fault := TROUBLES[error]:
                return fault(self.due(request))
        return super().answer(request)


@pytest.fixture
def unsteady() -> Iterator[Unsteady]:
    with Unsteady() as server:
        yield server


@dataclass
class UnsteadyRuns(Runs):
    def open(self, model: str, width: int | None, prompt: str | None = None) -> Embedder:
        assert isinstance(self.server, Unsteady)
        if self.server.error == CANNOT_BE_OPENED:
            self.server.requests_of[CANNOT_BE_OPENED] += 1
            raise SettingsError(CANNOT_BE_OPENED)
        return super().open(model, width, prompt)


class Writer:
    """Writes ROWS rows in each phase, and notes what is not done at its end."""

    def __init__(self, notes: Database, began: float, stop: Event) -> None:
        self.notes, self.began, self.stop = notes, began, stop
        self.unfinished: dict[str, object] = {}
        self.phase = -1
        self._lock = Lock()

    def tick(self) -> None:
        with self._lock:
            phase = int((time.monotonic() - self.began) // (DOWN + UP))
            if phase == self.phase:
                return
            if self.phase >= 0:
                self.unfinished[list(TROUBLES)[self.phase]] = self.look()
            self.phase = phase
            if phase >= len(TROUBLES):
                self.stop.set()
                return
            self.notes.execute(
                "insert into notes select i, 'note ' || i from generate_series(%s::int, %s::int) i",
                [phase * ROWS + 1, (phase + 1) * ROWS],
            )

    def look(self) -> object:
        statuses = rows(self.notes, "select distinct status, attempts from embedding_queue")
        return statuses, rows(self.notes, "select provider from embedding_providers")


@pytest.mark.over_a_connection
def test_an_hour_of_troubles_leaves_nothing_behind(
    notes: Database, database_url: str, unsteady: Unsteady, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = Hour(monkeypatch)
    unsteady.began = hour.began
    writer = Writer(notes, hour.began, hour.stop)
    hour.on_tick = writer.tick
    with Deaf(database_url, "tests") as queue:
        scope = replace(SCOPE, lease=SCOPE.lease * 100)
        commands, told = CommandThrottle(queue, SCOPE), Told()
        run = UnsteadyRuns(queue, unsteady).new(
            None, scope, progress=told, stop=hour.stop, throttle=commands
        )
        writer.tick()
        Service(run, commands, sleep_after=30.0).run()
    assert writer.unfinished == dict.fromkeys(TROUBLES, ([("completed", 0)], []))
    assert wrong_vectors(notes) == []
    assert min(unsteady.requests_of.values()) > 0
    assert max(unsteady.requests_of.values()) <= MOST_REQUESTS
    assert len(told.names) >= 2 * 6
    assert told.names == ["provider_stopped", "provider_back"] * (len(told.names) // 2)


# -- as a process

TIMEOUT = 150.0  # seconds
eventually = partial(conftest.eventually, within=TIMEOUT)


@pytest.mark.timeout(600)
@pytest.mark.over_a_connection
def test_a_process_gets_over_an_outage_of_its_provider(
    notes: Database,
    start: Start,
    openai: CountingServer,
    with_openai: dict[str, str],
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    """With `--full` the outage lasts until the worker has given the provider up, and longer."""
    start("run", **with_openai, WORKER_LOG_LEVEL="warning")
    eventually(lambda: rows(notes, "select state from embedding_workers") == [("waiting",)])
    openai.faults.extend([unavailable] * 100_000)
    notes.execute("insert into notes select i, 'note ' || i from generate_series(1, 300) i")
    if full:
        time.sleep(75)
        assert rows(notes, "select provider from embedding_providers") == [("openai",)]
        assert "wait" in value(notes, "select cause from embedding_workers")
    else:
        openai.wait_for_texts(600)
    asked = len(openai.requests)
    openai.faults.clear()
    back = time.monotonic()
    eventually(lambda: statuses(notes) == {"completed": 300})
    record_property("outage", f"{asked} requests during it, {time.monotonic() - back:.0f} s after")
    assert asked < 100
    assert value(notes, "select max(attempts) from embedding_queue") == 0
    eventually(lambda: rows(notes, "select provider from embedding_providers") == [])
    assert wrong_vectors(notes) == []


@pytest.mark.timeout(300)
@pytest.mark.over_a_connection
def test_a_process_whose_key_is_refused_at_the_start_goes_on_when_it_is_accepted(
    notes: Database, start: Start, openai: CountingServer, with_openai: dict[str, str]
) -> None:
    openai.faults.extend([answers(401, REFUSED)] * 100_000)
    notes.execute("insert into notes select i, 'note ' || i from generate_series(1, 30) i")
    process = start("run", **with_openai, WORKER_LOG_LEVEL="warning")
    eventually(lambda: rows(notes, "select provider from embedding_providers") == [("openai",)])
    assert process.poll() is None
    openai.faults.clear()
    eventually(lambda: statuses(notes) == {"completed": 30})
