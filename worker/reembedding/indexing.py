"""Builds the vector index of a column: with which settings, and the build over two connections."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import Any, Literal, LiteralString

from worker.database.connection import PostgresConnection, translated
from worker.errors import (
    Busy,
    DatabaseError,
    SettingsError,
    StatementTimeout,
    Unreachable,
    WorkerError,
)

MOST_MEMORY_KB = 1024 * 1024
"""How much memory of the server a build takes at most, unless the server itself allows more: how
much is free cannot be seen over a connection."""

WIDEST = {"vector": 2000, "halfvec": 4000}
"""The most dimensions that an index of pgvector takes."""

FIRST_SAFE_PARALLEL = (0, 8, 2)
"""Parallel builds of hnsw overflow a buffer in pgvector 0.6.0 to 0.8.1 (CVE-2026-3172)."""

ONE_PROCESS = {"max_parallel_maintenance_workers": "0"}

POLL_SECONDS = 0.25
DROP_TIMEOUT = "5s"
"""How long the cleanup after an interruption may wait for open transactions."""

UNHURRIED = ("statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout")


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """The column whose vectors get an index.

    `like`: build what this column of the table has, instead of an hnsw index for the cosine
    distance. `rebuild`: even if the index is there and valid.
    """

    table: str
    column: str
    like: str | None = None
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """What embedding.plan_vector_index found. Names are quoted and have their schema.

    `present`: the wanted index, if it is there and valid. `leftovers`: invalid indexes of the same
    definition. `builder`: another session that builds an index of the table now.
    """

    relation: str
    definition: str
    present: str | None
    leftovers: list[str]
    method: str
    options: Mapping[str, str]
    row_count: int | None
    type: str
    dimensions: int | None
    is_partitioned: bool
    vector_version: str
    memory_kb: int
    builder: str | None


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What is to run, in this order: settings of the session, then statements, one at a time.

    Nothing, if the index is there. `needed_kb`: the memory that the build would like to have.
    """

    present: str | None
    settings: Mapping[str, str]
    statements: list[str]
    needed_kb: int

    def by_one_process(self) -> IndexPlan:
        """The same plan without a parallel build."""
        return replace(self, settings={**self.settings, **ONE_PROCESS})

    @property
    def script(self) -> list[str]:
        """The plan as lines for psql."""
        settings = {"statement_timeout": "0"} | dict(self.settings) if self.statements else {}
        return [
            *(f"set {name} = '{value}';" for name, value in settings.items()),
            *(f"{statement};" for statement in self.statements),
        ]


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a build is. `fraction` and `remaining` seconds are those of the phase, if known."""

    phase: str | None
    fraction: float | None
    remaining: float | None
    waits_for: str | None


@dataclass(frozen=True, slots=True)
class IndexResult:
    """How a build ended. `leftovers`: invalid indexes that could not be dropped at once."""

    outcome: Literal["present", "built", "rebuilt", "interrupted"]
    index: str | None
    leftovers: list[str]


def plan_index(facts: IndexFacts, *, rebuild: bool) -> IndexPlan:
    """Decide what to run. Raises SettingsError if the column can have no such index."""
    if facts.present and not rebuild:
        return IndexPlan(facts.present, {}, [], 0)
    _check(facts)
    drops = [f"drop index concurrently {name}" for name in facts.leftovers]
    build = (
        f"reindex index concurrently {facts.present}"
        if facts.present
        else f"create index concurrently on {facts.relation} {facts.definition}"
    )
    needed = memory_needed(facts) // 1024
    return IndexPlan(facts.present, _settings(facts, needed), [*drops, build], needed)


def memory_needed(facts: IndexFacts) -> int:
    """Return how many bytes of maintenance_work_mem keep the whole build in memory.

    hnsw: the graph is built in memory, and inserted into page by page once it no longer fits. Per
    row it has an element of 128 bytes, a list of neighbors for each level of 16 bytes and 16 for
    each of 2 m neighbors on the lowest level or m above it, where a row is with the probability
    1/m, 1/m², …; and the vector. In a parallel build 4 MB are kept free; in a serial one, each of
    four allocations has a header of 8 bytes (pgvector: hnsw.h, HnswInitElement in hnswutils.c,
    InsertTuple and HnswBeginParallel in hnswbuild.c). Measured with pgvector 0.8.5, 50,000 rows of
    256 dimensions: a serial build fills 24 MB at row 14,474 (halfvec: 20,516; 32 MB with m = 32:
    14,917), a parallel one 64 MB at row 36,865. The formula has 14,479, 20,525, 14,920 and 36,876,
    without what the other kind of build takes in addition. With the 87 MB that it gives for all
    rows, neither kind spills; 78 MB spill at row 45,599 (39 s, and 27 s with 87 MB).

    ivfflat: samples of 50 rows a list, and their distances to the centers of all lists, without
    which a build fails (ElkanKmeans in ivfkmeans.c).
    """
    rows = facts.row_count or 0
    numbers = facts.dimensions or 0
    vector = _aligned(8 + numbers * (2 if facts.type == "halfvec" else 4))
    if facts.method == "ivfflat":
        lists = int(facts.options.get("lists", 100))
        samples = max(50 * lists, 10_000)
        centers = 3 * lists * (8 + 4 * numbers) + 4 * lists * lists
        return round(1.1 * (samples * (vector + 8 + 4 * lists) + centers)) + 2**20
    if facts.method != "hnsw":
        return 0
    m = int(facts.options.get("m", 16))
    upper_levels = (16 + 16 * m) / (m - 1)
    return 4 * 2**20 + round(rows * (128 + 16 + 32 * m + upper_levels + vector + 32))


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8


def _settings(facts: IndexFacts, needed_kb: int) -> dict[str, str]:
    settings = {}
    memory = min(needed_kb, MOST_MEMORY_KB)
    if memory > facts.memory_kb:
        settings["maintenance_work_mem"] = f"{memory}kB"
    if facts.method == "hnsw" and not is_parallel_safe(facts.vector_version):
        settings |= ONE_PROCESS
    return settings


def is_parallel_safe(vector_version: str) -> bool:
    """Whether several processes may build an hnsw index with this version of pgvector."""
    return version_of(vector_version) >= FIRST_SAFE_PARALLEL


def version_of(text: str) -> tuple[int, ...]:
    """Parse a version of pgvector, without its suffix. One that cannot be read is the oldest."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(map(int, found.groups("0"))) if found else (0, 0, 0)


def _check(facts: IndexFacts) -> None:
    """Raise SettingsError if no index can be built concurrently over the column."""
    if facts.is_partitioned:
        raise SettingsError(
            f"table {facts.relation} is partitioned, so its index cannot be built concurrently",
            f"Run `create index concurrently on … {facts.definition}` for each partition, then"
            f" `create index on {facts.relation} {facts.definition}`, which takes these over.",
        )
    if facts.dimensions is None:
        raise SettingsError(
            f"the vectors in {facts.relation} have no fixed width, which an index needs",
            "Give the column a width: alter table … alter column … type vector(n).",
        )
    widest = WIDEST.get(facts.type)
    if widest and facts.dimensions > widest:
        raise SettingsError(
            f"an index over {facts.type} supports at most {widest} dimensions, the vectors in"
            f" {facts.relation} have {facts.dimensions}",
            f"Make the column a halfvec({facts.dimensions})."
            if facts.dimensions <= WIDEST["halfvec"]
            else f"Use a model, or a width of it, of at most {WIDEST['halfvec']} dimensions.",
        )


class IndexBuilder:
    """Builds an index over a connection of its own, and watches it over another one.

    The build runs in another thread. It ends on the server soon after this process ends: then an
    invalid index is left, which the next build drops.
    """

    def __init__(self, builder: PostgresConnection, watcher: PostgresConnection) -> None:
        self._session = builder.current  # not one that replaces it: it has the lock and settings
        self._watcher = watcher
        self._clock = _PhaseClock()

    def run(
        self,
        request: IndexRequest,
        stop: Event,
        on_progress: Callable[[IndexProgress], None] = lambda _: None,
    ) -> IndexResult:
        """Build the index unless it is there, until `stop` is set.

        Raises Busy if another session builds an index of the table, and SettingsError if there can
        be none.
        """
        self._lock(request)
        facts = find_facts(self._watcher, request)
        plan = plan_index(facts, rebuild=request.rebuild)
        if not plan.statements:
            return IndexResult("present", plan.present, [])
        if facts.builder:
            raise _is_building(facts.relation, facts.builder)
        statements = self._attempt(plan, stop, on_progress)
        if statements.found_no_room and not self._session.closed:
            # Memory or a disk was full. Only a parallel build needs shared memory, of which a
            # container has 64 MB unless it was given more.
            plan = plan_index(find_facts(self._watcher, request), rebuild=request.rebuild)
            statements = self._attempt(plan.by_one_process(), stop, on_progress)
        if statements.is_complete:
            built = find_facts(self._watcher, request).present
            return IndexResult("rebuilt" if plan.present else "built", built, [])
        left = self._clean(request)
        if statements.problem and not stop.is_set():
            raise statements.problem
        return IndexResult("interrupted", None, left)

    def _lock(self, request: IndexRequest) -> None:
        arguments = [request.table, request.column]
        lock: LiteralString = "select embedding.lock_vector_index(%s, %s)"
        with translated():
            row = self._session.execute(lock, arguments).fetchone()
        if row and row[0]:
            raise _is_building(f"{request.table}.{request.column}", row[0])

    def _set(self, settings: Mapping[str, str]) -> None:
        """Set the session up for a build: it may take hours, and ends if this process ends."""
        with translated():
            self._session.execute(
                "select pg_catalog.set_config(name, '0', false)"
                " from pg_catalog.pg_settings where name = any (%s)",
                [list(UNHURRIED)],
            )
            # Servers on Windows cannot notice it.
            self._session.execute(
                "do $$ begin set client_connection_check_interval = '2s';"
                " exception when invalid_parameter_value then null; end $$"
            )
            for name, value in settings.items():
                self._session.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])

    def _attempt(
        self, plan: IndexPlan, stop: Event, on_progress: Callable[[IndexProgress], None]
    ) -> _Statements:
        """Run the plan to its end. Cancels its statement when `stop` is set."""
        self._set(plan.settings)
        statements = _Statements(self._session.execute, plan.statements, stop)
        [session] = self._session.execute("select pg_catalog.pg_backend_pid()").fetchone() or [0]
        statements.start()
        while statements.is_alive():
            statements.join(POLL_SECONDS)
            try:
                if stop.is_set() and statements.is_alive():
                    _value(self._watcher, "select pg_catalog.pg_cancel_backend(%s)", session)
                elif statements.is_alive():
                    on_progress(self._clock.progress(**self._state_of(session)))
            except DatabaseError:
                continue  # the build goes on, and only its progress is not known
        if stop.is_set():
            self._absorb_cancellation()
        return statements

    def _absorb_cancellation(self) -> None:
        """Run a statement that may be cancelled: the last signal can arrive after the build."""
        with suppress(DatabaseError), translated():
            self._session.execute("select")

    def _state_of(self, session: int) -> dict[str, Any]:
        query: LiteralString = (
            "select pg_catalog.to_jsonb(build) from embedding.vector_index_progress(%s) as build"
        )
        state: dict[str, Any] = _value(self._watcher, query, session)
        return state

    def _clean(self, request: IndexRequest) -> list[str]:
        """Drop what an interrupted build left. Returns what open transactions kept from it."""
        if self._session.closed:
            return []
        self._set({"lock_timeout": DROP_TIMEOUT})
        left = []
        for name in find_facts(self._watcher, request).leftovers:
            try:
                with translated():
                    self._session.execute(f"drop index concurrently {name}".encode())
            except Busy:
                left.append(name)
        return left


def find_facts(database: PostgresConnection, request: IndexRequest) -> IndexFacts:
    """Return what is known of the wanted index. Raises SettingsError if there can be none."""
    query: LiteralString = (
        "select pg_catalog.to_jsonb(wanted)"
        " from embedding.plan_vector_index(%s, %s, %s::pg_catalog.text) as wanted"
    )
    return IndexFacts(**_value(database, query, request.table, request.column, request.like))


def _value(database: PostgresConnection, query: LiteralString, *arguments: object) -> Any:
    with translated():
        row = database.current.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


def _is_building(what: str, session: str) -> Busy:
    return Busy(
        f"{session} builds an index of {what} now",
        "Wait until it has ended, then run the command again.",
    )


class _Statements(Thread):
    """Runs statements one after the other. `problem` is why one of them failed."""

    def __init__(
        self, execute: Callable[[bytes], object], statements: Iterable[str], stop: Event
    ) -> None:
        super().__init__(name="index", daemon=True)
        self._execute = execute
        self._statements = statements
        self._interrupted = stop
        self.problem: WorkerError | None = None
        self.is_complete = False

    @property
    def found_no_room(self) -> bool:
        problem = self.problem
        return isinstance(problem, Unreachable) and not isinstance(problem, StatementTimeout)

    def run(self) -> None:
        try:
            for statement in self._statements:
                if self._interrupted.is_set():
                    return
                with translated():
                    self._execute(statement.encode())
            self.is_complete = True
        except WorkerError as problem:
            self.problem = problem


class _PhaseClock:
    """Estimates when the present phase of a build ends. Its progress is about linear."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._phase: str | None = None
        self._began = now()

    def progress(
        self,
        phase: str | None,
        done: int | None,
        total: int | None,
        waits_for: int | None,
        waits_for_name: str | None,
    ) -> IndexProgress:
        if phase != self._phase:
            self._phase, self._began = phase, self._now()
        fraction = min((done or 0) / total, 1.0) if total else None
        elapsed = self._now() - self._began
        remaining = elapsed * (1 - fraction) / fraction if fraction and elapsed >= 1 else None
        other = waits_for and f"process {waits_for} ({waits_for_name or 'without a name'})"
        return IndexProgress(phase, fraction, remaining, other or None)
