"""The calls of a worker: claim, complete, and its reports."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import worker
from worker.host import HostMeter
from worker.queue.cache import Cached, whole
from worker.queue.calls import Calls
from worker.queue.chunks import Chunk, DocumentCompletion
from worker.queue.jobs import (
    Claim,
    Completion,
    Job,
    JobId,
    Leased,
    LeaseKey,
    Refusal,
    Scope,
)
from worker.queue.reports import DatabaseLoad
from worker.queue.transports import Transport, Vector, columns_of
from worker.queue.workers import Command, Report

CLAIMED = {
    name: type_
    for name, type_ in {**columns_of(Job), "status": str}.items()
    if name not in ("claimed_at", "enhanced")  # are set by the worker
}

Completed = TypeVar("Completed", Completion, DocumentCompletion)

POLLED = {**columns_of(Command), "due": bool}


class WorkerCalls(Calls):
    """The Queue protocol."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._host = HostMeter()

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        return self._portion.within_time(batch_size, partial(self._claim, scope, except_targets))

    def _claim(self, scope: Scope, except_targets: Collection[int], batch_size: int) -> Claim:
        arguments = {
            **_worker_and_scope(scope, except_targets),
            "batch": batch_size,
            "lease_for": scope.lease,
        }
        return Claim.of(self._transport.rows("claim_embeddings", arguments, CLAIMED))

    def extend(self, scope: Scope, jobs: Sequence[Leased]) -> set[LeaseKey]:
        lost = self._transport.rows(
            "extend_embeddings",
            {"worker": scope.worker, **_ids_and_leases(jobs), "lease_for": scope.lease},
            {"id": int, "lease": UUID},
        )
        return {(JobId(row["id"]), row["lease"]) for row in lost}

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        return self._write("complete_embeddings", _completion_arguments, model, completions)

    def stage(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        return self._write("stage_chunks", _chunk_arguments, model, completions)

    def complete_documents(
        self, model: str, completions: Sequence[DocumentCompletion]
    ) -> list[Refusal]:
        return self._write("complete_documents", _document_arguments, model, completions)

    def _write(
        self,
        function: LiteralString,
        arguments_of: Callable[[Sequence[Completed]], dict[str, Any]],
        model: str,
        completions: Sequence[Completed],
    ) -> list[Refusal]:
        """Write completions by a function of the SQL API, as many at once as it takes in time."""
        refused: list[Refusal] = []

        def write(most: int) -> Sequence[Completed]:
            """Write at most `most` completions. Return the remaining ones."""
            arguments = arguments_of(completions[:most])
            rows = self._transport.rows(
                function, {**arguments, "model": model}, {"id": int, "reason": str}
            )
            refused.extend(Refusal(JobId(row["id"]), row["reason"]) for row in rows)
            return completions[most:]

        while completions:
            completions = self._portion.within_time(len(completions), write)
        return refused

    def fail(
        self,
        jobs: Sequence[Leased],
        error_class: str,
        message: str,
        retry_in: timedelta | None = None,
    ) -> int:
        words = {"class": error_class, "message": self._transport.storable(message)}
        return int(
            self._call("fail_embeddings", **_ids_and_leases(jobs), **words, retry_in=retry_in)
        )

    def release(
        self,
        jobs: Sequence[Leased],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        self._call(
            "release_embeddings",
            **_ids_and_leases(jobs),
            **{"class": error_class},
            reason=self._transport.storable(reason),
            retry_in=retry_in,
            embedded=embedded,
        )

    def heartbeat(self, scope: Scope, report: Report) -> None:
        about = asdict(report) | {"cause": self._transport.storable(report.cause)}
        self._call(
            "embedding_worker_heartbeat",
            worker=scope.worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=worker.__version__,
            **asdict(self._host.read()),
            **about,
        )

    def command(self, scope: Scope) -> Command:
        found = self._rows(Command, "embedding_command", worker=scope.worker)
        return found[0] if found else Command()

    def poll(self, scope: Scope, except_targets: Collection[int] = ()) -> tuple[Command, bool]:
        arguments = _worker_and_scope(scope, except_targets)
        [row] = self._transport.rows("poll_embeddings", arguments, POLLED)
        return Command(row["desired_state"], row["since"]), row["due"]

    def load(self) -> DatabaseLoad:
        return self._rows(DatabaseLoad, "embedding_database_load")[0]

    def listen(self) -> bool:
        return self._transport.listen()

    def wait(self, seconds: float) -> bool:
        return self._transport.wait(seconds)

    def deregister(self, scope: Scope) -> None:
        self._call("embedding_worker_deregister", worker=scope.worker)

    def report_provider(self, provider: str, error: str | None, hint: str | None = None) -> None:
        self._call(
            "embedding_provider_report",
            provider=provider,
            error=self._transport.storable(error),
            hint=self._transport.storable(hint),
        )

    def announce(self, event: str, subject: str, announcement: UUID) -> bool:
        return bool(
            self._call(
                "announce_embedding_event", event=event, subject=subject, announcement=announcement
            )
        )

    def cached(self, model: str, dimensions: int, hashes: Sequence[bytes]) -> Cached:
        found = self._transport.rows(
            "cached_embeddings",
            {"model": model, "dimensions": dimensions, "hashes": list(hashes)},
            {"content_hash": bytes, "vector": Vector, "tokens": int},
        )
        return {row["content_hash"]: (row["vector"], row["tokens"]) for row in found}

    def cache(self, model: str, completions: Sequence[Completion], cap_mb: int) -> None:
        vectors = {each.job.vector_key: (each.vector, each.tokens) for each in whole(completions)}
        self.cache_vectors(model, vectors, cap_mb)

    def cache_vectors(self, model: str, vectors: Cached, cap_mb: int) -> None:
        if vectors:
            self._call(
                "cache_embeddings",
                model=model,
                hashes=list(vectors),
                vectors=[vector for vector, _ in vectors.values()],
                tokens=[tokens for _, tokens in vectors.values()],
                cap_mb=cap_mb,
            )

    def cached_enhancements(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        found = self._transport.rows(
            "cached_enhancements", {"keys": list(keys)}, {"key": bytes, "content": str}
        )
        return {row["key"]: row["content"] for row in found}

    def cache_enhancements(self, contents: Mapping[bytes, str], cap_mb: int) -> None:
        if contents:
            self._call(
                "cache_enhancements",
                keys=list(contents),
                contents=[self._transport.storable(content) for content in contents.values()],
                cap_mb=cap_mb,
            )


def _worker_and_scope(scope: Scope, except_targets: Collection[int]) -> dict[str, Any]:
    """Return who asks for jobs, and for which."""
    return {
        "worker": scope.worker,
        "default_model": scope.default_model,
        "only_table": scope.table,
        "only_column": scope.column,
        "except_targets": list(except_targets),
    }


def _ids_and_leases(jobs: Sequence[Leased]) -> dict[str, Any]:
    return {"ids": [job.id for job in jobs], "leases": [job.lease for job in jobs]}


def _completion_arguments(completions: Sequence[Completion]) -> dict[str, Any]:
    return {
        **_ids_and_leases([completion.job for completion in completions]),
        "hashes": [completion.job.content_hash for completion in completions],
        **_vectors_and_tokens(completions),
        "truncated_to": [completion.truncated_to for completion in completions],
        "costs": [completion.cost for completion in completions],
        **_unenhanced(completions),
    }


def _chunk_arguments(completions: Sequence[Completion]) -> dict[str, Any]:
    chunks = [done.job for done in completions if isinstance(done.job, Chunk)]
    return {
        **_ids_and_leases(chunks),
        "hashes": [chunk.stored_hash for chunk in chunks],
        "contents": [chunk.own_content for chunk in chunks],
        "contexts": [chunk.context for chunk in chunks],
        "vectors": [completion.vector for completion in completions],
    }


def _document_arguments(completions: Sequence[DocumentCompletion]) -> dict[str, Any]:
    places = [(done.job.id, place) for done in completions for place in done.places]
    return {
        **_ids_and_leases([completion.job for completion in completions]),
        "hashes": [completion.job.content_hash for completion in completions],
        "tokens": [completion.tokens for completion in completions],
        "costs": [completion.cost for completion in completions],
        "place_ids": [job_id for job_id, _ in places],
        "place_hashes": [place.hash for _, place in places],
        "first_chars": [place.first_char for _, place in places],
        "last_chars": [place.last_char for _, place in places],
        "pages": [place.page for _, place in places],
        "heading_paths": [place.heading_path for _, place in places],
        **_unenhanced(completions),
    }


def _unenhanced(completions: Sequence[Completion | DocumentCompletion]) -> dict[str, Any]:
    return {
        "unenhanced": [completion.unenhanced for completion in completions],
        "again_in": [completion.again_in for completion in completions],
    }


def _vectors_and_tokens(completions: Sequence[Completion]) -> dict[str, Any]:
    return {
        "vectors": [completion.vector for completion in completions],
        "tokens": [completion.tokens for completion in completions],
    }
