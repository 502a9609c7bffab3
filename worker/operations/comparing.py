"""Embeds the texts of stored vectors again, and compares. A paid model charges for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Event
from uuid import UUID

from worker.embedders.base import Vectors, cost_of, full_model
from worker.engine.embedding import Outcome, embed
from worker.engine.models import Model
from worker.operations.opening import ModelKey, opened_by_key
from worker.queue import Job, JobId, StoredVector
from worker.settings import Settings
from worker.verification.comparison import (
    CANARIES,
    Comparison,
    cosine,
    lowest_cosine,
    share_of_length,
)


@dataclass(slots=True)
class SampledModel:
    """A model that embeds the texts of a sample again.

    `spent`: the tokens and the cost of that. `full_name` and `width` are known after a comparison.
    """

    settings: Settings
    key: ModelKey
    spent: tuple[int | None, float | None] = (0, 0.0)
    full_name: str = ""
    width: int = 0

    def compare(self, stored: Sequence[StoredVector]) -> Comparison:
        """Embed texts again. Raises what the model raises if it cannot be called."""
        with opened_by_key(self.settings, self.key) as model:
            first = self._vectors(model, CANARIES)
            texts = [each.content or "" for each in stored]
            now = self._vectors(model, [*CANARIES, *texts])  # another request, or several
            self.full_name = full_model(model.embedder)
        self.width = len(first[CANARIES[0]])
        floor = lowest_cosine(*([made[text] for text in CANARIES] for made in (first, now)))
        again = [(each, now[each.content]) for each in stored if each.content in now]
        return Comparison(
            floor,
            {each.record_id: cosine(each.vector, vector) for each, vector in again},
            len(stored) - len(again),
            {each.record_id: share_of_length(each.vector, vector) for each, vector in again},
        )

    def _vectors(self, model: Model, texts: Sequence[str]) -> dict[str | None, Vectors]:
        """Embed texts as documents, except those that the model rejects."""
        distinct = list(dict.fromkeys(texts))
        jobs = [self._job(model, place, text) for place, text in enumerate(distinct)]
        outcome = embed(model, jobs, Event())
        self._count(model, outcome)
        if outcome.error:
            raise outcome.error
        return {done.job.content: done.vector for done in outcome.completions}

    def _job(self, model: Model, place: int, text: str) -> Job:
        """Return a text as the engine embeds it. It is in no queue, so it has no lease."""
        return Job(
            id=JobId(place),
            target_id=0,
            table_name="",
            record_id="",
            embedding_column="",
            content=text,
            content_hash=sha256(text.encode("utf-8", "surrogatepass")).digest(),
            lease=UUID(int=place),
            model=model.embedder.model,
            dimensions=self.key.width,
            document_prompt=self.key.document_prompt,
        )

    def _count(self, model: Model, outcome: Outcome) -> None:
        """Add what a request cost."""
        tokens, cost = self.spent
        paid = cost_of(outcome.tokens, model.embedder.price)
        self.spent = (
            None if tokens is None or outcome.tokens is None else tokens + outcome.tokens,
            None if cost is None or paid is None else cost + paid,
        )
