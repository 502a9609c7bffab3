"""Embeds texts and checks their vectors: the part that runs without the database."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Event

import numpy as np
import numpy.typing as npt

from worker.embedders.base import Embeddings, Vectors, cost_of, full_model
from worker.embedders.packing import pack
from worker.engine.calls import Calls
from worker.engine.limiter import Stopped
from worker.engine.models import Model
from worker.engine.retry import always, is_rate_limit, never
from worker.errors import ProviderRefused, Rejected, Transient, WorkerError
from worker.queue import Completion, Job, LeaseKey, TextKey

DEFAULT_SHARE = 0.5  # of a text that is too long, if the provider does not say how much fits
CAUTION = 0.95  # of what should fit: tokens are not spread evenly over a text
PROBE_TEXT = "a"  # a text that makes no provider fail
BLAMED_AFTER = 3  # failures of an isolated job, while probes are answered
MOST_REJECTED = 3  # chunks of a document in one request, until its others are not sent
SHORTEST = 100  # characters; the length is not why a text this short is rejected


@dataclass(slots=True)
class Outcome:
    """The results of some jobs. Every job is in one of the four lists.

    `model` is the full name of their model.
    Jobs in `rejected` will be rejected again. Jobs in `failed` made a provider fail that answers
    other requests: they may work later. `error` is why jobs are `unfinished`: the model cannot be
    opened, or the provider is out, or refuses all calls; None if they were not sent, because the
    run was stopped or other chunks of their document were rejected. They are tried again after
    `retry_in`. `requests` and `tokens` count all answers, also unusable ones; `calls` are those
    that were made.
    """

    model: str
    completions: list[Completion] = field(default_factory=list)
    rejected: list[tuple[Job, Rejected]] = field(default_factory=list)
    failed: list[tuple[Job, Transient | ProviderRefused]] = field(default_factory=list)
    unfinished: list[Job] = field(default_factory=list)
    error: WorkerError | None = None
    retry_in: timedelta = timedelta(0)
    requests: int = 0
    tokens: int | None = None
    calls: Calls = field(default_factory=Calls)

    def count(self, embeddings: Embeddings) -> None:
        """Count what an answer cost."""
        self.requests += 1
        if embeddings.tokens is not None:
            self.tokens = (self.tokens or 0) + sum(embeddings.tokens)

    def add(self, other: Outcome) -> None:
        """Add the results of other jobs of the same column and model."""
        self.completions += other.completions
        self.rejected += other.rejected
        self.failed += other.failed
        self.unfinished += other.unfinished
        self.error = self.error or other.error
        self.requests += other.requests
        self.calls.add(other.calls)
        if other.tokens is not None:
            self.tokens = (self.tokens or 0) + other.tokens

    def shared(self, duplicates: Mapping[TextKey, list[Job]]) -> Outcome:
        """Return these results for all jobs with the same texts; only one of each is paid."""
        if not duplicates:
            return self

        def with_duplicates(job: Job) -> list[Job]:
            return [job, *duplicates.get(job.text_key, ())]

        return replace(
            self,
            completions=[
                done if job is done.job else _of_duplicate(done, job)
                for done in self.completions
                for job in with_duplicates(done.job)
            ],
            rejected=[(each, why) for job, why in self.rejected for each in with_duplicates(job)],
            failed=[(each, why) for job, why in self.failed for each in with_duplicates(job)],
            unfinished=[each for job in self.unfinished for each in with_duplicates(job)],
        )


def completion_of(
    job: Job,
    vector: npt.NDArray[np.float32],
    tokens: int | None,
    cost: float | None,
    truncated_to: int | None = None,
) -> Completion:
    """Return the completion of a job, with what its enhancement cost."""
    if job.enhanced:
        truncated_to = truncated_to or job.enhanced.truncated_to
        written = job.enhanced.cost
        cost = None if cost is None or written is None else cost + written
    return Completion(job, vector, tokens, truncated_to, cost)


def _of_duplicate(done: Completion, job: Job) -> Completion:
    """Return the completion of another job with the same text, which was not paid for."""
    if done.job.enhanced:
        job = job.with_enhancement(done.job.enhanced)
    return replace(done, job=job, cost=0.0)


def embed(model: Model, jobs: Sequence[Job], stop: Event, *, is_trial: bool = False) -> Outcome:
    """Embed jobs of one column. A rejected request is halved until the job that causes it is
    isolated: this takes at most 2·⌈log2 n⌉ further requests, and all other jobs get their vectors.

    A request on which the provider fails, or refuses everything, is halved as well, if the provider
    answers others. A trial of a model that could not be used begins with a probe, and ends if that
    fails.
    """
    return _Embedding(model, stop).of(jobs, is_trial)


@dataclass(slots=True)
class _Embedding:
    model: Model
    stop: Event
    outcome: Outcome = field(init=False)
    _waiting: list[Sequence[Job]] = field(default_factory=list)
    _refused_before: dict[TextKey, Rejected] = field(default_factory=dict)
    """Texts that are too long by their token count: they are not sent."""
    _doubted: set[TextKey] = field(default_factory=set)
    _suspects: Counter[TextKey] = field(default_factory=Counter)
    """Jobs of requests that made the provider fail, and how often each did so alone."""
    _rejections: Counter[LeaseKey] = field(default_factory=Counter)
    """How many texts of each job were rejected: a document has many."""
    _given_up: list[Job] = field(default_factory=list)
    _checked_at: float = math.inf
    """When the model was last probed after a failure."""

    def __post_init__(self) -> None:
        self.outcome = Outcome(full_model(self.model.embedder))

    def of(self, jobs: Sequence[Job], is_trial: bool) -> Outcome:
        self._waiting = [jobs]
        try:
            self._check_width(jobs[0])  # before anything is paid for
            self.model.probe(self.stop, never if is_trial else always)
            self._check_width(jobs[0])
            if is_trial:
                self._probe(jobs[0], never)
            self._waiting = self._packed(jobs)
            while self._waiting:
                self._try(self._waiting[0])
        except (Transient, ProviderRefused) as error:
            self.outcome.error = error
            if not self.stop.is_set():
                self.model.fail(error, self._checked_at)
        except Stopped:
            pass
        waiting = [job for request in self._waiting for job in request]
        self.outcome.unfinished = [*self._given_up, *waiting]
        return self.outcome

    def _packed(self, jobs: Sequence[Job]) -> list[Sequence[Job]]:
        """Pack jobs into requests, within the limits that are known by now."""
        embedder = self.model.embedder
        packing = pack(self.model.texts_of(jobs), embedder.request_limits, embedder.count)
        most = embedder.request_limits.tokens_per_text
        for place, tokens in packing.too_long.items():
            cause = f"{embedder.model} takes {most} tokens, and the text has {tokens}"
            refusal = Rejected(cause, error_class="too_long", share=most / tokens)
            self._refused_before[jobs[place].text_key] = refusal
        requests = [*packing.requests, *([place] for place in packing.too_long)]
        return [[jobs[place] for place in request] for request in requests]

    def _try(self, request: Sequence[Job]) -> None:
        """Send the first waiting request, and replace it by the requests that follow from it."""
        try:
            useless = self._send(request)
        except Rejected as refusal:
            self._waiting[:1] = _halves(request)
            if len(request) == 1:
                self._reject(request[0], refusal)
        except (Transient, ProviderRefused) as failure:
            if self.stop.is_set() or not self._answers_others(request[0], failure):
                raise
            self._suspect(request, failure)
        else:
            self._waiting[:1] = self._once_more(useless)

    def _reject(self, job: Job, refusal: Rejected) -> None:
        """Record a rejection. A document of which some chunks were rejected fails anyway, and a
        model that rejects them all would be asked for each of them."""
        self.outcome.rejected.append((job, refusal))
        self._rejections[job.lease_key] += 1
        if self._rejections[job.lease_key] == MOST_REJECTED:
            self._give_up(job.lease_key)

    def _give_up(self, document: LeaseKey) -> None:
        """Send no more chunks of a document."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            others = [job for job in request if job.lease_key != document]
            self._given_up += [job for job in request if job.lease_key == document]
            self._waiting += [others] if others else []

    def _suspect(self, request: Sequence[Job], failure: Transient | ProviderRefused) -> None:
        """Halve a request that makes the provider fail. An isolated job is failed only after
        several failures: one may be chance."""
        if len(request) > 1:
            self._suspects.update({job.text_key: 0 for job in request})
            self._waiting[:1] = _halves(request)
            return
        [job] = request
        self._suspects[job.text_key] += 1
        if self._suspects[job.text_key] >= BLAMED_AFTER:
            self.outcome.failed.append((job, failure))
            del self._waiting[0]

    def _send(self, jobs: Sequence[Job]) -> list[Job]:
        """Complete the jobs that get a vector. Return the jobs whose vector is unusable."""
        texts = [job.content for job in jobs]
        try:
            if jobs[0].text_key in self._refused_before:
                raise self._refused_before[jobs[0].text_key]
            embeddings = self._call(texts, is_suspect=jobs[0].text_key in self._suspects)
        except Rejected as refusal:
            if len(jobs) > 1 or refusal.error_class != "too_long" or not jobs[0].truncate:
                raise
            texts, embeddings = self._embed_beginning(texts[0], refusal)
        self._check_width(jobs[0], embeddings.vectors.shape[1])
        self.model.answered()
        tokens: Sequence[int | None] = embeddings.tokens or [None] * len(jobs)
        usable = are_usable(embeddings.vectors)
        useless = []
        for job, text, vector, count, is_usable in zip(
            jobs, texts, embeddings.vectors, tokens, usable, strict=True
        ):
            if is_usable:
                shortened = len(text) if len(text) < len(job.content) else None
                cost = cost_of(count, self.model.embedder.price)
                done = completion_of(job, vector, count, cost, shortened)
                self.outcome.completions.append(done)
            else:
                useless.append(job)
        return useless

    def _call(self, texts: list[str], *, is_suspect: bool) -> Embeddings:
        retry = is_rate_limit if is_suspect else always
        embeddings = self.model.ask(texts, self.stop, self.outcome.calls, retry)
        self.outcome.count(embeddings)
        return embeddings

    def _embed_beginning(self, text: str, refusal: Rejected) -> tuple[list[str], Embeddings]:
        """Embed the beginning of a text, as much as the model takes. Raises the last rejection."""
        while shorter := beginning_of(text, refusal):
            text = shorter
            try:
                return [text], self._call([text], is_suspect=False)
            except Rejected as another:
                refusal = another
        raise refusal

    def _answers_others(self, job: Job, failure: Transient | ProviderRefused) -> bool:
        """Whether the model answers other requests for the column of a job."""
        self._checked_at = time.monotonic()
        return self.model.answers_others(failure, lambda: self._probe(job, is_rate_limit))

    def _probe(self, job: Job, retry: Callable[[Transient], bool]) -> None:
        """Send the smallest possible request for the column of a job. A rejection is an answer."""
        try:
            embeddings = self.model.ask([PROBE_TEXT], self.stop, self.outcome.calls, retry)
        except Rejected:
            return
        self.outcome.count(embeddings)
        self._check_width(job, embeddings.vectors.shape[1])
        self.model.answered()

    def _once_more(self, useless: list[Job]) -> list[Sequence[Job]]:
        """Return a second request for jobs with an unusable vector, unless it is their second."""
        for job in useless:
            if job.text_key in self._doubted:
                message = f"{job.model} gives a vector of zeros, or one containing NaN or infinity"
                self.outcome.rejected.append((job, Rejected(message, error_class="bad_vector")))
        again = [job for job in useless if job.text_key not in self._doubted]
        self._doubted |= {job.text_key for job in again}
        return [again] if again else []

    def _check_width(self, job: Job, width: int | None = None) -> None:
        embedder = self.model.embedder
        width = width or embedder.dimensions
        if width is not None and job.dimensions is not None and width != job.dimensions:
            raise ProviderRefused(
                f"{embedder.model} gives {width} dimensions, but {job.embedding_column} of"
                f" {job.table_name} holds {job.dimensions}",
                "Watch a column of that width, or give the target another model:"
                " worker watch … --model provider:model.",
                error_class="wrong_width",
                of_the_model=True,
            )


def beginning_of(text: str, refusal: Rejected) -> str | None:
    """Return as much of the beginning of a text as should fit. None: its length is not why it was
    rejected."""
    if refusal.error_class != "too_long" or len(text) <= SHORTEST:
        return None
    return text[: int(len(text) * (refusal.share or DEFAULT_SHARE) * CAUTION)]


def _halves(request: Sequence[Job]) -> list[Sequence[Job]]:
    """Halve a request that failed. Return nothing if it has only one job."""
    middle = len(request) // 2
    return [request[:middle], request[middle:]] if middle else []


def are_usable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which vectors are finite and not zero: pgvector takes a zero vector, but no HNSW index ever
    finds it."""
    return np.logical_and(np.isfinite(vectors).all(axis=1), vectors.any(axis=1))
