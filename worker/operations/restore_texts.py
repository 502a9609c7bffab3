"""Restores texts in chunks: they are split again, and their chunks get vectors of a backup."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from typing import Self

from worker.chunking.documents import SplitDocument, split_document
from worker.engine.splitting import estimate_tokens
from worker.operations.opening import opened_model
from worker.operations.session import new_worker_name
from worker.queue import (
    AdminQueue,
    Chunk,
    Claim,
    Completion,
    DocumentCompletion,
    Job,
    Outcome,
    RestoreOutcome,
    Scope,
    StoredRow,
    Target,
)
from worker.settings import Settings

LEASE = timedelta(minutes=10)
OUTCOMES: Mapping[str, Outcome] = {"pending": "locked", "failed": "refused"}
"""By the status of a job that was not claimed; otherwise there is nothing to embed."""
REFUSED: Mapping[str, Outcome] = {"unwritable": "refused", "changed": "stale"}
"""By the reason of a refusal; otherwise another session was in the way."""

Restore = Callable[[Sequence[StoredRow]], list[RestoreOutcome]]
"""Writes vectors to their rows, and returns what became of each."""
Vectors = Mapping[bytes, StoredRow]
"""The chunks of a text in a backup, by their hashes."""


@dataclass(frozen=True, slots=True)
class TextsInChunks:
    """Restores texts of a column in chunks. `count` counts the tokens of a text.

    `whole`: only texts of which no chunk is missing then. Of others, none is written.
    """

    queue: AdminQueue
    target: Target
    dry_run: bool
    count: Callable[[str], int]
    scope: Scope
    whole: bool = False

    @classmethod
    @contextmanager
    def opened(
        cls,
        queue: AdminQueue,
        settings: Settings,
        target: Target,
        dry_run: bool,
        *,
        whole: bool = False,
    ) -> Iterator[Self]:
        """Open what counts tokens, if the size of chunks is one of tokens. It calls no model."""
        scope = Scope(new_worker_name(), LEASE, settings.embedding_model)
        if target.chunk_unit != "tokens":
            yield cls(queue, target, dry_run, estimate_tokens, scope, whole)
            return
        with opened_model(settings, target) as model:
            count = model.embedder.count or estimate_tokens
            yield cls(queue, target, dry_run, count, scope, whole)

    def restore(self, rows: Sequence[StoredRow]) -> list[RestoreOutcome]:
        """Restore whole texts. Returns what became of each."""
        texts = {
            record: {row.content_hash: row for row in chunks}
            for record, chunks in groupby(rows, attrgetter("record_id"))
        }
        placed = self.queue.placed_chunks(self.target, list(texts))
        present = [
            record
            for record, vectors in texts.items()
            if not self.whole and vectors.keys() <= placed[record]
        ]
        found = [RestoreOutcome(record, "present", None) for record in present]
        remaining = [record for record in texts if record not in set(present)]
        while remaining:
            claim = self.queue.claim_records(self.target, remaining, self.scope, dry_run=True)
            handled = remaining[: len(claim.jobs) + claim.settled.total()]
            remaining = remaining[len(handled) :]
            found += self._restore(claim, handled, texts, placed)
        return found

    def _restore(
        self,
        claim: Claim,
        records: Sequence[str],
        texts: Mapping[str, Vectors],
        placed: Mapping[str, set[bytes]],
    ) -> list[RestoreOutcome]:
        """Restore the texts of a claim that was only looked at."""
        jobs = {job.record_id: job for job in claim.jobs}
        found: list[RestoreOutcome] = []
        for record in records:
            outcome: Outcome
            if job := jobs.get(record):
                document = self._split(job)
                outcome = _judged(document, job, texts[record], placed[record])
                is_useful = not self.whole and _missing(document, job, texts[record])
                if (outcome == "restored" or is_useful) and not self.dry_run:
                    outcome = self._write(job, outcome, document, texts[record])
            else:
                outcome = self._unclaimed(record)
            found.append(RestoreOutcome(record, outcome, None))
        return found

    def _unclaimed(self, record: str) -> Outcome:
        """Say why a text was not claimed."""
        claim = self.queue.claim_records(self.target, [record], self.scope, dry_run=True)
        return OUTCOMES.get(next(iter(claim.settled), "pending"), "gone")

    def _split(self, job: Job) -> SplitDocument:
        assert job.chunking is not None
        return split_document(job.content, job.chunking, self.count, job.enhancement)

    def _write(
        self, seen: Job, judged: Outcome, document: SplitDocument, vectors: Vectors
    ) -> Outcome:
        """Claim a text, store its chunks that the backup has, and complete it if these are all.

        Otherwise it is due again, and a worker embeds only the others.
        """
        claim = self.queue.claim_records(self.target, [seen.record_id], self.scope)
        if not claim.jobs:
            return "locked"
        [job] = claim.jobs
        model = next(iter(vectors.values())).model
        if job.content_hash != seen.content_hash:
            self.queue.release([job])
            return "stale"
        staged = _missing(document, job, vectors)
        refusals = self.queue.stage(model, staged) if staged else []
        if not refusals and judged == "restored":
            done = DocumentCompletion(job, document.places, len(staged), 0, 0.0)
            refusals = self.queue.complete_documents(model, [done])
            if not refusals:
                return "restored"
        self.queue.release([job])
        return REFUSED.get(refusals[0].reason, "locked") if refusals else judged


def _judged(document: SplitDocument, job: Job, vectors: Vectors, placed: set[bytes]) -> Outcome:
    """Say what can be done for a text. It is stale if the backup lacks one of its chunks, or what a
    chat model wrote for them."""
    wanted = {place.hash for place in document.places}
    assert job.stored is not None
    if job.enhancement or wanted <= placed or not wanted <= vectors.keys() | set(job.stored):
        return "stale"
    return "restored"


def _missing(document: SplitDocument, job: Job, vectors: Vectors) -> list[Completion]:
    """Return the chunks of a document that are not stored and that the backup has, each once."""
    if job.enhancement:
        return []
    assert job.stored is not None
    places = {place.hash: place for place in document.places if place.hash in vectors}
    return [
        Completion(Chunk.of(job, place, document.chunk_at(place)), vectors[hash_].vector, None)
        for hash_, place in places.items()
        if hash_ not in job.stored
    ]
