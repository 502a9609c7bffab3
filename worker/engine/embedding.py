"""From jobs to checked vectors: the part of the work that runs beside the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from worker.embedders import Embedder, Embeddings
from worker.engine.retry import with_retries
from worker.errors import ProviderRefused, Rejected, Transient, WorkerError
from worker.queue import Completion, Job, JobId

HALVED_IF_UNTOLD = 0.5  # what is tried of a text that is too long, if nobody says how much fits
CAUTION = 0.95  # of what should fit: tokens are not spread evenly over a text
BEYOND_SUSPICION = "a"  # a text over which no provider fails
SHORTEST = 100  # characters; a text refused at this length is not refused for its length


@dataclass(slots=True)
class Outcome:
    """What became of a batch. Every job is in one of the four lists.

    `rejected` will be refused again. `failed` made a provider fail that is there: it may work
    another time. `trouble` is why the unfinished ones are unfinished: the provider is
    out, or refuses all calls.
    """

    completions: list[Completion] = field(default_factory=list)
    rejected: list[tuple[Job, Rejected]] = field(default_factory=list)
    failed: list[tuple[Job, Transient]] = field(default_factory=list)
    unfinished: list[Job] = field(default_factory=list)
    trouble: Transient | ProviderRefused | None = None


def embed(embedder: Embedder, jobs: Sequence[Job], stop: Event) -> Outcome:
    """Embed jobs of one column. A request that is refused is halved until the guilty job stands
    alone: it costs at most 2·⌈log2 n⌉ further requests, and none of its neighbours.

    So is a request over which the provider has an internal error, if it has none over a text that
    is beyond suspicion: otherwise it is out.
    """
    outcome = Outcome()
    most = embedder.caps.items
    requests = [jobs[i : i + most] for i in range(0, len(jobs), most)]
    patient = True
    doubted: set[JobId] = set()
    while requests:
        request = requests.pop(0)
        try:
            useless = _embed_request(embedder, request, outcome, stop, patient)
            patient = True
            outcome.rejected += [(job, _bad_vector(job)) for job in useless if job.id in doubted]
            requests[:0] = _once_more([job for job in useless if job.id not in doubted], doubted)
        except Rejected as refusal:
            if len(request) == 1:
                outcome.rejected.append((request[0], refusal))
            else:
                requests[:0] = _halves(request)
        except Transient as failure:
            if stop.is_set() or not (failure.of_the_input and _answers(embedder)):
                return _interrupted(outcome, [request, *requests], failure)
            patient = False  # it has been
            if len(request) == 1:
                outcome.failed.append((request[0], failure))
            else:
                requests[:0] = _halves(request)
        except ProviderRefused as refusal:
            return _interrupted(outcome, [request, *requests], refusal)
    return outcome


def _answers(embedder: Embedder) -> bool:
    """Whether the provider is there at all."""
    try:
        embedder.embed([BEYOND_SUSPICION])
    except WorkerError:
        return False
    return True


def _once_more(useless: list[Job], doubted: set[JobId]) -> list[Sequence[Job]]:
    """A second request for jobs whose vector nobody can use: it may have been a slip."""
    doubted |= {job.id for job in useless}
    return [useless] if useless else []


def _bad_vector(job: Job) -> Rejected:
    message = f"{job.model} gives a vector of zeros, or with numbers that are none"
    return Rejected(message, error_class="bad_vector")


def _halves(request: Sequence[Job]) -> list[Sequence[Job]]:
    middle = len(request) // 2
    return [request[:middle], request[middle:]]


def _interrupted(
    outcome: Outcome, requests: Sequence[Sequence[Job]], trouble: Transient | ProviderRefused
) -> Outcome:
    outcome.trouble = trouble
    outcome.unfinished = [job for request in requests for job in request]
    return outcome


def _embed_request(
    embedder: Embedder, jobs: Sequence[Job], outcome: Outcome, stop: Event, patient: bool
) -> list[Job]:
    """Complete what got a vector. Returns the jobs whose vector nobody can use."""
    if embedder.dimensions is not None:
        _check_width(embedder, jobs[0], embedder.dimensions)  # before it is paid for
    texts = [job.content for job in jobs]
    try:
        embeddings = _call(embedder, texts, stop, patient)
    except Rejected as refusal:
        if len(jobs) > 1 or refusal.error_class != "too_long" or not jobs[0].truncate:
            raise
        texts, embeddings = _embed_beginning(embedder, texts[0], refusal, stop)
    _check_width(embedder, jobs[0], embeddings.vectors.shape[1])
    if len(embeddings.vectors) != len(jobs):
        raise Transient(f"{embedder.model} gave {len(embeddings.vectors)} vectors for {len(jobs)}")
    tokens: Sequence[int | None] = embeddings.tokens or [None] * len(jobs)
    useless = []
    for job, text, vector, count in zip(jobs, texts, embeddings.vectors, tokens, strict=True):
        # pgvector takes a zero vector, but no HNSW index ever finds it.
        if np.isfinite(vector).all() and vector.any():
            shortened = len(text) if len(text) < len(job.content) else None
            outcome.completions.append(Completion(job, vector, count, shortened))
        else:
            useless.append(job)
    return useless


def _call(embedder: Embedder, texts: list[str], stop: Event, patient: bool = True) -> Embeddings:
    return with_retries(lambda: embedder.embed(texts), stop) if patient else embedder.embed(texts)


def _embed_beginning(
    embedder: Embedder, text: str, refusal: Rejected, stop: Event
) -> tuple[list[str], Embeddings]:
    """As much of the beginning of a text as the model takes. Raises the last refusal."""
    while refusal.error_class == "too_long" and len(text) > SHORTEST:
        text = text[: int(len(text) * (refusal.share or HALVED_IF_UNTOLD) * CAUTION)]
        try:
            return [text], _call(embedder, [text], stop)
        except Rejected as another:
            refusal = another
    raise refusal


def _check_width(embedder: Embedder, job: Job, width: int) -> None:
    if job.dimensions is not None and width != job.dimensions:
        raise ProviderRefused(
            f"{embedder.model} gives {width} dimensions, but {job.embedding_column} of"
            f" {job.table_name} holds {job.dimensions}",
            "Watch a column of that width, or give the target another model:"
            " worker watch … --model provider:model.",
        )
