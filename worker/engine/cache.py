"""The cache of vectors in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.embedders.base import full_model
from worker.engine.embedding import completion_of
from worker.engine.models import Model
from worker.queue import Completion, Job, Queue


@dataclass(frozen=True, slots=True)
class VectorCache:
    """The vectors of earlier texts, up to `cap_mb`; zero turns the cache off."""

    queue: Queue
    cap_mb: int

    def find(self, model: Model, jobs: Sequence[Job]) -> list[Completion]:
        """Return completions, at no cost, for the jobs of one column whose vector is cached."""
        width = model.embedder.dimensions or (jobs[0].dimensions if jobs else None)
        if not (self.cap_mb and jobs and width):
            return []
        name = full_model(model.embedder)
        found = self.queue.cached(name, width, [job.vector_key for job in jobs])
        return [
            completion_of(job, *found[key], cost=0.0)
            for job in jobs
            if (key := job.vector_key) in found
        ]

    def keep(self, model: str, completions: Sequence[Completion]) -> None:
        """Store vectors of a model, even if they cannot be written: they are paid for."""
        if self.cap_mb and completions:
            self.queue.cache(model, completions, self.cap_mb)
