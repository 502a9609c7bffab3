"""From jobs to checked vectors: the part of the work that runs beside the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from worker.embedders import Embedder
from worker.engine.retry import with_retries
from worker.errors import ProviderRefused, Rejected, Transient
from worker.queue import Completion, Job


@dataclass(slots=True)
class Outcome:
    """What became of a batch. Every job is in one of the three lists.

    `trouble` is why the unfinished ones are unfinished: the provider is out, or refuses all calls.
    """

    completions: list[Completion] = field(default_factory=list)
    rejected: list[tuple[Job, Rejected]] = field(default_factory=list)
    unfinished: list[Job] = field(default_factory=list)
    trouble: Transient | ProviderRefused | None = None


def embed(embedder: Embedder, jobs: Sequence[Job], stop: Event) -> Outcome:
    """Embed jobs of one column. A request that is refused is halved until the guilty job stands
    alone: it costs at most 2·⌈log2 n⌉ further requests, and none of its neighbours."""
    outcome = Outcome()
    requests = [jobs[i : i + embedder.max_items] for i in range(0, len(jobs), embedder.max_items)]
    while requests:
        request = requests.pop(0)
        try:
            _embed_request(embedder, request, outcome, stop)
        except Rejected as refusal:
            if len(request) == 1:
                outcome.rejected.append((request[0], refusal))
            else:
                middle = len(request) // 2
                requests[:0] = [request[:middle], request[middle:]]
        except (Transient, ProviderRefused) as trouble:
            outcome.trouble = trouble
            outcome.unfinished = [job for rest in (request, *requests) for job in rest]
            break
    return outcome


def _embed_request(embedder: Embedder, jobs: Sequence[Job], outcome: Outcome, stop: Event) -> None:
    texts = [job.content for job in jobs]
    if embedder.dimensions is not None:
        _check_width(embedder, jobs[0], embedder.dimensions)  # before it is paid for
    embeddings = with_retries(lambda: embedder.embed(texts), stop)
    _check_width(embedder, jobs[0], embeddings.vectors.shape[1])
    if len(embeddings.vectors) != len(jobs):
        raise Transient(f"{embedder.model} gave {len(embeddings.vectors)} vectors for {len(jobs)}")
    tokens: Sequence[int | None] = embeddings.tokens or [None] * len(jobs)
    for job, vector, count in zip(jobs, embeddings.vectors, tokens, strict=True):
        # pgvector takes a zero vector, but no HNSW index ever finds it.
        if np.isfinite(vector).all() and vector.any():
            outcome.completions.append(Completion(job, vector, count))
        else:
            message = f"{embedder.model} gave a vector of zeros, or with numbers that are none"
            outcome.rejected.append((job, Rejected(message, error_class="bad_vector")))


def _check_width(embedder: Embedder, job: Job, width: int) -> None:
    if job.dimensions is not None and width != job.dimensions:
        raise ProviderRefused(
            f"{embedder.model} gives {width} dimensions, but {job.embedding_column} of"
            f" {job.table_name} holds {job.dimensions}",
            "Watch a column of that width, or give the target another model:"
            " worker watch … --model provider:model.",
        )
