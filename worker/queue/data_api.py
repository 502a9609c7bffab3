"""The queue over the Data API of a Supabase project: each method is one call of the SQL API.

HTTPS, a URL and a key are all it needs; no connection to the database is ever open. A call ends
after the statement timeout of the API's role, which is 8 s unless somebody changed it: what takes
longer is halved and sent again.

Vectors travel as the shortest decimals that give the same 32-bit numbers. Base64 is less than half
as long, but SQL has nothing that makes numbers of bytes: taken apart by hand, a vector of 1536
costs the database 9 ms, as decimals half of one.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import numpy.typing as npt
import orjson

from worker.database.migrations import check_version
from worker.errors import SchemaError, SettingsError
from worker.host import resident_mb
from worker.queue import (
    Cached,
    Claim,
    Command,
    Completion,
    DatabaseLoad,
    DesiredState,
    Estimate,
    Failure,
    Finding,
    Job,
    JobId,
    LeaseKey,
    ListedJob,
    Match,
    QueueProgress,
    Rechecked,
    Refusal,
    Report,
    Reprocessed,
    Scope,
    StandingCommand,
    Stats,
    StoppedProvider,
    Target,
    TargetStatus,
    WorkerStatus,
    nearest_time,
    no_such_table,
    watched_by,
    whole,
)
from worker.queue.portion import Portion
from worker.queue.rest import Rest

Row = TypeVar("Row")


class DataApiQueue:
    """The queue in the project at `url`, and what an operator asks of it.

    Unless said otherwise, methods raise Unreachable if the project is out of reach, and
    SettingsError if it refuses the key or what it was asked.
    """

    def __init__(self, url: str, key: str, application_name: str) -> None:
        """Nothing is sent yet."""
        self._rest = Rest(url, key, application_name)
        self._portion = Portion()  # jobs or rows in one call

    def __enter__(self) -> DataApiQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self._rest.close()

    def check_schema(self) -> None:
        check_version(int(self._rest.call("embedding_schema_version", {})))

    # -- the operator's side: the AdminQueue protocol

    def targets(self, table: str | None = None, column: str | None = None) -> list[Target]:
        every = self._read(Target, "embedding_targets", "table_name", "embedding_column")
        name = self._table_name(table, every) if table is not None else None
        return watched_by(every, name, column)

    def _table_name(self, given: str, targets: Sequence[Target]) -> str:
        """The name under which a table is watched, for a name as somebody typed it."""
        if any(target.table_name == given for target in targets):
            return given
        for name in ('"' + given.replace('"', '""') + '"', given):
            try:
                return str(self._rest.call("embedding_table_name", {"relation": name}))
            except (SettingsError, SchemaError):  # not that name, or not even one
                continue
        raise no_such_table(given)

    def target(self, table: str, column: str) -> Target:
        return self.targets(table, column)[0]

    def backfill(self, target: Target, batch: int) -> int:
        return self._portion.within_time(
            batch,
            lambda size: int(
                self._rest.call(
                    "backfill_embeddings",
                    {
                        "watched_table": target.table_name,
                        "embedding_column": target.embedding_column,
                        "batch": size,
                    },
                )
            ),
        )

    def requeue(
        self,
        *,
        status: str | None,
        table: str | None = None,
        column: str | None = None,
        record: str | None = None,
        error_class: str | None = None,
    ) -> int:
        return int(
            self._rest.call(
                "requeue_embeddings",
                {
                    "only_status": status,
                    "only_table": table,
                    "only_column": column,
                    "only_record": record,
                    "only_error_class": error_class,
                },
            )
        )

    def list_jobs(
        self, statuses: Sequence[str], table: str | None, column: str | None, limit: int
    ) -> list[ListedJob]:
        found = self._rest.call(
            "list_embeddings",
            {
                "statuses": list(statuses),
                "only_table": table,
                "only_column": column,
                "max_rows": limit,
            },
        )
        return _rows(ListedJob, [{name: row[name] for name in _LISTED} for row in found])

    def reprocess(
        self, pattern: str, table: str | None, column: str | None, after: int, *, dry_run: bool
    ) -> Reprocessed:
        found = self._rest.call(
            "reprocess_embeddings",
            {
                "pattern": pattern,
                "only_table": table,
                "only_column": column,
                "after_id": after,
                "dry_run": dry_run,
            },
        )
        return _rows(Reprocessed, found)[0]

    def recheck(
        self, table: str | None, column: str | None, after: int, batch: int, *, dry_run: bool
    ) -> Rechecked:
        found = self._rest.call(
            "recheck_embeddings",
            {
                "only_table": table,
                "only_column": column,
                "after_id": after,
                "batch": batch,
                "dry_run": dry_run,
            },
        )
        return _rows(Rechecked, found)[0]

    def stats(self, since: timedelta) -> Stats:
        return _rows(Stats, self._rest.call("embedding_stats", {"since": _interval(since)}))[0]

    def control(self, desired_state: DesiredState, worker: str | None = None) -> int:
        return int(
            self._rest.call(
                "control_embeddings", {"desired_state": desired_state, "worker": worker}
            )
        )

    def commands(self) -> list[StandingCommand]:
        return self._read(StandingCommand, "embedding_control", "worker")

    def count_due(self, scope: Scope) -> int:
        return int(
            self._rest.call(
                "count_due_embeddings", {"only_table": scope.table, "only_column": scope.column}
            )
        )

    def status(self) -> list[TargetStatus]:
        return self._read(TargetStatus, "embedding_status", "table_name", "embedding_column")

    def progress(self) -> QueueProgress:
        return self._read(QueueProgress, "embedding_progress")[0]

    def workers(self) -> list[WorkerStatus]:
        return self._read(WorkerStatus, "embedding_workers", "worker")

    def failures(self) -> list[Failure]:
        found = self._read(
            Failure, "embedding_failures", "table_name", "embedding_column", "error_class"
        )
        return sorted(found, key=lambda failure: -failure.failed)

    def providers(self) -> list[StoppedProvider]:
        return self._read(StoppedProvider, "embedding_providers", "provider")

    def estimate(
        self, default_model: str, table: str | None, column: str | None, missing: bool
    ) -> list[Estimate]:
        return _rows(
            Estimate,
            self._rest.call(
                "estimate_embeddings",
                {
                    "default_model": default_model,
                    "only_table": table,
                    "only_column": column,
                    "missing": missing,
                },
            ),
        )

    def rate(self, model: str) -> float | None:
        rate = self._rest.call("embedding_rate", {"model": model})
        return float(rate) if rate else None

    def search(
        self,
        target: Target,
        vector: npt.NDArray[np.float32],
        limit: int,
        model: str | None = None,
    ) -> list[Match]:
        return _rows(
            Match,
            self._rest.call(
                "search_embeddings",
                {
                    "watched_table": target.table_name,
                    "embedding_column": target.embedding_column,
                    "query": _decimals(vector),
                    "matches": limit,
                    "model": model,
                },
            ),
        )

    def diagnose(self) -> list[Finding]:
        return [
            Finding(check=row.pop("check_name"), **row)
            for function in ("diagnose_embeddings", "sample_embeddings")
            for row in self._rest.call(function, {})
        ]

    def session(self) -> None:
        return None

    def clock(self) -> datetime:
        self._rest.call("embedding_schema_version", {})
        return self._rest.answered_at

    # -- the worker's side: the Queue protocol

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        rows = self._portion.within_time(
            batch_size,
            lambda size: self._rest.call(
                "claim_embeddings",
                {
                    "worker": scope.worker,
                    "batch": size,
                    "lease_for": _interval(scope.lease),
                    "default_model": scope.default_model,
                    "only_table": scope.table,
                    "only_column": scope.column,
                    "except_targets": list(except_targets),
                },
            ),
        )
        return Claim.of([_as_job(row) for row in rows])

    def extend(self, scope: Scope, jobs: Sequence[Job]) -> set[LeaseKey]:
        lost = self._rest.call(
            "extend_embeddings",
            {
                "worker": scope.worker,
                **_ids_and_leases(jobs),
                "lease_for": _interval(scope.lease),
            },
        )
        return {(JobId(row["id"]), UUID(row["lease"])) for row in lost}

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        refused: list[Refusal] = []
        while completions:
            refusals, completions = self._portion.within_time(
                len(completions), partial(self._complete, model, completions)
            )
            refused += refusals
        return refused

    def _complete(
        self, model: str, completions: Sequence[Completion], most: int
    ) -> tuple[list[Refusal], Sequence[Completion]]:
        """Hand in at most so many. Returns what was refused of them, and the rest."""
        completions, rest = completions[:most], completions[most:]
        refused = self._rest.call(
            "complete_embeddings",
            {
                **_ids_and_leases([completion.job for completion in completions]),
                **_hashes_and_vectors(completions),
                "model": model,
                "tokens": [completion.tokens for completion in completions],
                "truncated_to": [completion.truncated_to for completion in completions],
                "costs": [completion.cost for completion in completions],
            },
        )
        return [Refusal(JobId(row["id"]), row["reason"]) for row in refused], rest

    def fail(
        self, jobs: Sequence[Job], error_class: str, message: str, retry_in: timedelta | None = None
    ) -> int:
        return int(
            self._rest.call(
                "fail_embeddings",
                {
                    **_ids_and_leases(jobs),
                    "class": error_class,
                    "message": message,
                    "retry_in": None if retry_in is None else _interval(retry_in),
                },
            )
        )

    def release(
        self,
        jobs: Sequence[Job],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        self._rest.call(
            "release_embeddings",
            {
                **_ids_and_leases(jobs),
                "retry_in": _interval(retry_in),
                "reason": reason,
                "class": error_class,
                "embedded": embedded,
            },
        )

    def heartbeat(self, scope: Scope, report: Report) -> None:
        self._rest.call(
            "embedding_worker_heartbeat",
            {
                "worker": scope.worker,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "rss_mb": resident_mb(),
                **asdict(report),
            },
        )

    def command(self, scope: Scope) -> Command:
        found = self._rest.call("embedding_command", {"worker": scope.worker})
        return _rows(Command, found)[0] if found else Command()

    def load(self) -> DatabaseLoad:
        return _rows(DatabaseLoad, self._rest.call("embedding_database_load", {}))[0]

    def listen(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False

    def deregister(self, scope: Scope) -> None:
        self._rest.call("embedding_worker_deregister", {"worker": scope.worker})

    def report_provider(self, provider: str, error: str | None, hint: str | None = None) -> None:
        self._rest.call(
            "embedding_provider_report", {"provider": provider, "error": error, "hint": hint}
        )

    def announce(self, event: str, subject: str, announcement: UUID) -> bool:
        return bool(
            self._rest.call(
                "announce_embedding_event",
                {"event": event, "subject": subject, "announcement": str(announcement)},
            )
        )

    def cached(self, model: str, dimensions: int, hashes: Sequence[bytes]) -> Cached:
        found = self._rest.call(
            "cached_embeddings",
            {"model": model, "dimensions": dimensions, "hashes": _bytea_array(hashes)},
        )
        return {
            _bytes(row["content_hash"]): (
                np.array(json.loads(row["vector"]), dtype=np.float32),
                row["tokens"],
            )
            for row in found
        }

    def cache(self, model: str, completions: Sequence[Completion], cap_mb: int) -> None:
        completions = whole(completions)
        if not completions:
            return
        self._rest.call(
            "cache_embeddings",
            {
                "model": model,
                **_hashes_and_vectors(completions),
                "tokens": [completion.tokens for completion in completions],
                "cap_mb": cap_mb,
            },
        )

    def _read(self, row_class: type[Row], relation: str, *order: str) -> list[Row]:
        """All rows of a table or view, in the order of these columns."""
        columns = [field.name for field in fields(row_class)]  # type: ignore[arg-type]
        return _rows(row_class, self._rest.read(relation, columns, order))


def _rows(row_class: type[Row], answer: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        row_class(**{name: _READERS.get(name, _as_it_is)(value) for name, value in row.items()})
        for row in answer
    ]


def _as_it_is(value: Any) -> Any:
    return value


def _time(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return nearest_time(value)


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)


_LISTED = [field.name for field in fields(ListedJob)]

# JSON has no times, and servers differ in whether a numeric is a number or a text.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "oldest_due": _time,
    "latest_at": _time,
    "since": _time,
    "started_at": _time,
    "seen_at": _time,
    "available_at": _time,
    "lease_expires_at": _time,
    "updated_at": _time,
    "coverage": _number,
}


def _as_job(row: dict[str, Any]) -> dict[str, Any]:
    if row["status"] != "processing":
        return row
    return row | {"lease": UUID(row["lease"]), "content_hash": _bytes(row["content_hash"])}


def _bytes(value: str | Mapping[str, Any]) -> bytes:
    r"""What came of a bytea: `\x…` of PostgREST, an object of bytes of Supabase Lite."""
    return bytes.fromhex(value[2:]) if isinstance(value, str) else bytes(value["data"])


def _bytea_array(values: Sequence[bytes]) -> str:
    """As SQL writes it, within a JSON string: every server hands that to Postgres as it is."""
    return "{" + ",".join(f'"\\\\x{value.hex()}"' for value in values) + "}"


def _decimals(vector: npt.NDArray[np.float32]) -> str:
    return orjson.dumps(
        np.ascontiguousarray(vector, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY
    ).decode()


def _interval(time: timedelta) -> str:
    return f"{time.total_seconds()} seconds"


def _ids_and_leases(jobs: Sequence[Job]) -> dict[str, Any]:
    return {"ids": [job.id for job in jobs], "leases": [str(job.lease) for job in jobs]}


def _hashes_and_vectors(completions: Sequence[Completion]) -> dict[str, Any]:
    return {
        "hashes": _bytea_array([completion.job.content_hash for completion in completions]),
        "vectors": [_decimals(completion.vector) for completion in completions],
    }
