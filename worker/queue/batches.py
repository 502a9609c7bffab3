"""Batches of a Batch API: what was sent, and by whom it is collected. See docs/sql-api.md."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol
from uuid import UUID

from worker.queue.audit import CallSource
from worker.queue.calls import Calls
from worker.queue.jobs import Claim, Job, JobId
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.targets import Target
from worker.queue.transports import MOST_ROWS
from worker.queue.worker_calls import CLAIMED

BatchState = Literal["preparing", "submitted", "completed", "failed", "expired", "cancelled"]
SCHEMA_WITH_BATCHES = 2
SMALLEST_SHARE = 0.01  # of a limit; less is not worth a batch
NO_ROOM = "no_room"  # error class of a batch into which no text did fit


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the database knows it.

    `token` is the name by which it is found at the provider. `target_id` is None if its column is
    no longer watched. `model` is the full name. `provider_batch` and `input_file` are the ids at
    the provider, and `worker` who works on it, or did last. `texts`, `bytes`, `tokens` and `cost`
    are those of the input file, as estimates; once it has ended, `tokens` and `cost` are what the
    provider counts. `completed`, `failed`, `stale` and `released` are jobs.
    """

    id: int
    token: UUID
    target_id: int | None
    table_name: str
    embedding_column: str
    model: str
    state: BatchState
    provider_state: str | None
    provider_batch: str | None
    input_file: str | None
    worker: str | None
    lease_expires_at: datetime | None
    look_at: datetime | None
    texts: int | None
    bytes: int | None
    tokens: int | None
    cost: float | None
    completed: int
    failed: int
    stale: int
    released: int
    cancel_requested_at: datetime | None
    error_class: str | None
    error_message: str | None
    created_at: datetime
    submitted_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None

    @property
    def is_under_way(self) -> bool:
        """Whether it has not ended yet."""
        return self.ended_at is None


@dataclass(frozen=True, slots=True)
class BatchBackfill:
    """A column whose jobs wait for batches, or did.

    `model` and `document_prompt` are None if they are not decided. `waiting`: jobs. `committed`: US
    dollars for its batches since it was requested, those under way with their estimates.
    `most_tokens`: as many may be under way, as the provider said. `failures`: attempts in a row to
    send a batch that failed; no other is made before `retry_at`.
    """

    target_id: int
    table_name: str
    embedding_column: str
    model: str | None
    document_prompt: str | None
    dimensions: int | None
    waiting: int
    committed: float
    max_cost: float | None
    most_tokens: int | None
    retry_at: datetime | None
    failures: int
    error_class: str | None
    error_message: str | None
    requested_at: datetime

    @property
    def cost_left(self) -> float | None:
        """The US dollars that more batches may cost; None: there is no limit."""
        return None if self.max_cost is None else max(self.max_cost - self.committed, 0.0)

    @property
    def is_over_budget(self) -> bool:
        """Whether too little is left of the limit to be worth a batch, or for the next text."""
        if self.max_cost is None or self.cost_left is None:
            return False
        is_too_little = self.error_class == NO_ROOM and self.retry_at is not None
        return is_too_little or self.cost_left <= SMALLEST_SHARE * self.max_cost


class BatchQueue(Protocol):
    """The calls about batches. Those of a worker that another one has taken a batch from return
    False, 0 or None, and change nothing."""

    def has_batches(self) -> bool:
        """Whether the schema knows batches: if not, no other of these calls is possible."""

    def plan_batches(
        self,
        target: Target,
        batch: int = JOBS_IN_ONE_CALL,
        max_cost: float | None = None,
        *,
        source: CallSource = "api",
    ) -> int:
        """Let rows without a vector, and jobs of an ordinary backfill, wait for batches.

        Returns how many of about `batch`: call it until that is 0. `max_cost`: US dollars for all
        batches; each call sets it. Raises SettingsError if no batch can do what the column needs.
        """

    def cancel_waiting(
        self, target: Target, batch: int = JOBS_IN_ONE_CALL, *, source: CallSource = "api"
    ) -> int:
        """Let jobs that wait for a batch be due now. Returns how many: call it until that is 0."""

    def batch_backfills(self) -> list[BatchBackfill]:
        """Return the columns whose jobs wait for batches, or did, the first requested first."""

    def batches(self) -> list[Batch]:
        """Return the batches, the earliest first: all that are under way, and of each column the
        latest 200 that have ended."""

    def begin_batch(
        self,
        worker: str,
        lease_for: timedelta,
        default_model: str,
        table: str | None = None,
        column: str | None = None,
        except_targets: Collection[int] = (),
    ) -> Batch | None:
        """Begin a batch for a column whose jobs wait for one. None: there is none to begin."""

    def claim_batch_jobs(self, batch: int, worker: str, most: int, default_model: str) -> Claim:
        """Claim jobs that wait into a batch that is being prepared. Their lease does not run out.

        False if none waits, or nothing can be claimed. Raises Busy if their table is locked.
        """

    def extend_batch(self, batch: int, worker: str, lease_for: timedelta) -> bool:
        """Extend the lease of a batch. With a lease of 0, another worker can continue it at once.

        False: another worker has it by now, or it has ended.
        """

    def record_batch_file(
        self,
        batch: int,
        worker: str,
        input_file: str,
        *,
        texts: int,
        bytes: int,
        tokens: int,
        cost: float | None,
    ) -> bool:
        """Record the file that is uploaded, and estimates of what it costs."""

    def submit_batch(
        self,
        batch: int,
        worker: str,
        provider_batch: str,
        expires_at: datetime | None,
        look_in: timedelta,
    ) -> bool:
        """Record that the provider has the batch, and give its lease back.

        False: another worker has it by now, and what was created must be cancelled.
        """

    def next_batch(
        self,
        worker: str,
        lease_for: timedelta,
        batch: int | None = None,
        except_batches: Collection[int] = (),
    ) -> Batch | None:
        """Take the batch that is to be looked at by now, or whose worker has died.

        `batch`: only that one, also if it is not its time yet. None: there is none, or others have
        them.
        """

    def report_batch(
        self, batch: int, worker: str, provider_state: str | None, look_in: timedelta
    ) -> bool:
        """Record the state at the provider, and give the lease back until `look_in` has passed."""

    def batch_jobs(self, batch: int, job_ids: Sequence[int]) -> list[tuple[int, Job]]:
        """Return the jobs with the texts of these jobs that the batch still holds, without their
        texts, each with the one of `job_ids` that has its text."""

    def release_batch_jobs(
        self,
        batch: int,
        worker: str,
        *,
        to_wait: bool,
        most: int = JOBS_IN_ONE_CALL,
        job_ids: Sequence[int] | None = None,
    ) -> int:
        """Give jobs back that the batch holds: these, or (None) at most `most` of all.

        Returns how many: call it until that is 0. `to_wait`: for another batch; else they are due
        now. Those of `job_ids` that it does not hold are no longer counted as its jobs.
        """

    def end_batch(
        self,
        batch: int,
        worker: str,
        state: BatchState,
        error_class: str | None = None,
        error_message: str | None = None,
        retry_in: timedelta | None = None,
        most_tokens: int | None = None,
        *,
        tokens: int | None = None,
        cost: float | None = None,
    ) -> Batch | None:
        """End a batch, and return it with what became of its jobs.

        What it still holds is given back, as release_batch_jobs does: `to_wait` if it `failed` or
        `expired`. `retry_in`: the pause before the next batch of the column, which doubles with
        each failure in a row, up to an hour. `tokens` and `cost`: what the provider counts; None:
        those of the completed jobs. None: another worker has it by now.
        """

    def cancel_batch(self, batch: int, *, source: CallSource = "api") -> bool:
        """Mark a batch to be cancelled by a worker. False: it has ended, or there is none."""


class BatchCalls(Calls):
    """The BatchQueue protocol."""

    _has_batches = False

    def has_batches(self) -> bool:
        if not self._has_batches:  # a schema does not lose them again
            version = int(self._call("embedding_schema_version"))
            self._has_batches = version >= SCHEMA_WITH_BATCHES
        return self._has_batches

    def plan_batches(
        self,
        target: Target,
        batch: int = JOBS_IN_ONE_CALL,
        max_cost: float | None = None,
        *,
        source: CallSource = "api",
    ) -> int:
        arguments = {**target.arguments, "max_cost": max_cost, "source": source}
        return self._counted("plan_embedding_batches", batch, arguments)

    def cancel_waiting(
        self, target: Target, batch: int = JOBS_IN_ONE_CALL, *, source: CallSource = "api"
    ) -> int:
        arguments = {**target.arguments, "source": source}
        return self._counted("cancel_waiting_embeddings", batch, arguments)

    def batch_backfills(self) -> list[BatchBackfill]:
        return self._rows(BatchBackfill, "list_batch_backfills")

    def batches(self) -> list[Batch]:
        return self._read(Batch, "embedding_batches", "id")

    def begin_batch(
        self,
        worker: str,
        lease_for: timedelta,
        default_model: str,
        table: str | None = None,
        column: str | None = None,
        except_targets: Collection[int] = (),
    ) -> Batch | None:
        return self._first(
            "begin_embedding_batch",
            worker=worker,
            lease_for=lease_for,
            default_model=default_model,
            only_table=table,
            only_column=column,
            except_targets=list(except_targets),
        )

    def claim_batch_jobs(self, batch: int, worker: str, most: int, default_model: str) -> Claim:
        arguments = {"id": batch, "worker": worker, "default_model": default_model}
        return self._portion.within_time(
            most,
            lambda size: Claim.of(
                self._transport.rows("claim_embedding_batch", {**arguments, "most": size}, CLAIMED)
            ),
        )

    def extend_batch(self, batch: int, worker: str, lease_for: timedelta) -> bool:
        return bool(
            self._call("extend_embedding_batch", id=batch, worker=worker, lease_for=lease_for)
        )

    def record_batch_file(
        self,
        batch: int,
        worker: str,
        input_file: str,
        *,
        texts: int,
        bytes: int,
        tokens: int,
        cost: float | None,
    ) -> bool:
        return bool(
            self._call(
                "record_embedding_batch_file",
                id=batch,
                worker=worker,
                input_file=input_file,
                texts=texts,
                bytes=bytes,
                tokens=tokens,
                cost=cost,
            )
        )

    def submit_batch(
        self,
        batch: int,
        worker: str,
        provider_batch: str,
        expires_at: datetime | None,
        look_in: timedelta,
    ) -> bool:
        return bool(
            self._call(
                "submit_embedding_batch",
                id=batch,
                worker=worker,
                provider_batch=provider_batch,
                expires_at=expires_at,
                look_in=look_in,
            )
        )

    def next_batch(
        self,
        worker: str,
        lease_for: timedelta,
        batch: int | None = None,
        except_batches: Collection[int] = (),
    ) -> Batch | None:
        return self._first(
            "next_embedding_batch",
            worker=worker,
            lease_for=lease_for,
            only_id=batch,
            except_ids=list(except_batches),
        )

    def report_batch(
        self, batch: int, worker: str, provider_state: str | None, look_in: timedelta
    ) -> bool:
        return bool(
            self._call(
                "report_embedding_batch",
                id=batch,
                worker=worker,
                provider_state=self._transport.storable(provider_state),
                look_in=look_in,
            )
        )

    def batch_jobs(self, batch: int, job_ids: Sequence[int]) -> list[tuple[int, Job]]:
        found: list[tuple[int, Job]] = []
        while True:
            rows = self._transport.rows(
                "embedding_batch_jobs",
                {
                    "id": batch,
                    "job_ids": list(job_ids),
                    "after_id": found[-1][1].id if found else 0,
                    "batch": MOST_ROWS,
                },
                _HELD,
            )
            found += [(row.pop("asked"), _without_text(row)) for row in rows]
            if len(rows) < MOST_ROWS:
                return found

    def release_batch_jobs(
        self,
        batch: int,
        worker: str,
        *,
        to_wait: bool,
        most: int = JOBS_IN_ONE_CALL,
        job_ids: Sequence[int] | None = None,
    ) -> int:
        arguments = {
            "id": batch,
            "worker": worker,
            "to_wait": to_wait,
            "job_ids": None if job_ids is None else list(job_ids),
        }
        return self._counted("release_embedding_batch", most, arguments)

    def end_batch(
        self,
        batch: int,
        worker: str,
        state: BatchState,
        error_class: str | None = None,
        error_message: str | None = None,
        retry_in: timedelta | None = None,
        most_tokens: int | None = None,
        *,
        tokens: int | None = None,
        cost: float | None = None,
    ) -> Batch | None:
        return self._first(
            "end_embedding_batch",
            id=batch,
            worker=worker,
            state=state,
            error_class=error_class,
            error_message=self._transport.storable(error_message),
            retry_in=retry_in,
            most_tokens=most_tokens,
            tokens=tokens,
            cost=cost,
        )

    def cancel_batch(self, batch: int, *, source: CallSource = "api") -> bool:
        return bool(self._call("cancel_embedding_batch", id=batch, source=source))

    def _first(self, function: Any, **arguments: Any) -> Batch | None:
        """Return the only batch that a function returns, if it does."""
        found = self._rows(Batch, function, **arguments)
        return found[0] if found else None

    def _counted(self, function: Any, batch: int, arguments: dict[str, Any]) -> int:
        """Return the number of jobs that a function for a batch of jobs returns, or one for a
        smaller batch if that takes too long."""
        return self._portion.within_time(
            batch, lambda size: int(self._call(function, **arguments, batch=size))
        )


_HELD = {
    "asked": int,
    "job_id": int,
    **{
        name: CLAIMED[name]
        for name in (
            *("target_id", "table_name", "record_id", "embedding_column", "content_hash", "lease"),
            *("model", "document_prompt", "dimensions", "attempts", "truncate"),
        )
    },
}


def _without_text(row: dict[str, Any]) -> Job:
    return Job(id=JobId(row.pop("job_id")), content="", **row)
