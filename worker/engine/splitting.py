"""Splits claimed documents into chunks, and takes them in hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from worker.embedders.base import with_prompt
from worker.embedders.packing import size_of, tokens_at_most
from worker.engine.dispatching import Dispatcher
from worker.engine.documents import Document, Documents, SplitText
from worker.engine.in_flight import wait_for_result
from worker.engine.writing import Failure, Writer
from worker.queue import Chunking, Enhancement, Job

CountTokens = Callable[[str], int]
Split = Callable[[str, Chunking, CountTokens, Enhancement | None], SplitText]
"""Splits the content of a job. It need not go on after one more chunk than is allowed."""


@dataclass(frozen=True, slots=True)
class Splitter:
    """Splits documents in another thread, since a long one takes seconds."""

    split: Split
    dispatcher: Dispatcher
    documents: Documents
    writer: Writer
    attend: Callable[[], object]
    """Called while waiting: sends the heartbeat, and writes the results of other documents."""

    def take_up(self, jobs: list[Job]) -> None:
        """Split the documents of one target. They are in hand until all their chunks are stored."""
        jobs, is_trial = self.dispatcher.admit(jobs)
        if not jobs:
            return
        first = jobs[0]
        count: CountTokens = estimate_tokens
        prompt = first.document_prompt
        if prompt is None or _in_tokens(first):
            model = self.dispatcher.open(jobs)
            if not model:
                return
            count, prompt = model.embedder.count or count, model.embedder.prompts.document
        documents = []
        for job, result in zip(jobs, self._split_all(jobs, count), strict=True):
            if isinstance(result, Failure):
                self.writer.fail(job, result)
            else:
                full_model = with_prompt(job.model, prompt)
                documents.append(Document(job, result, full_model, is_trial))
        if not documents:
            self.dispatcher.availability.end_trial(first)
        self.documents.add(documents)

    def _split_all(self, jobs: Sequence[Job], count: CountTokens) -> list[SplitText | Failure]:
        pool = ThreadPoolExecutor(1, "split")
        try:
            splitting = pool.submit(lambda: [self._split(job, count) for job in jobs])
            return wait_for_result(splitting, self.attend)
        finally:
            pool.shutdown(wait=False)

    def _split(self, job: Job, count: CountTokens) -> SplitText | Failure:
        """Split a document. From then on only the result holds its text."""
        chunking = job.chunking
        assert chunking is not None
        try:
            result = self.split(_taken_from(job), chunking, count, job.enhancement)
        except Exception as error:  # its message may repeat the text
            cause = f"the text cannot be split: {type(error).__name__}"
            return Failure("not_split", cause)
        if len(result.places) > chunking.most:
            return Failure(
                "too_many_chunks",
                f"the text has more than {chunking.most} chunks: allow more by max_chunks of its"
                " target (worker watch … --max-chunks), or make them larger (--chunk-size)",
            )
        return result


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too high than too low: for models that cannot count."""
    return tokens_at_most(size_of(text))


def _taken_from(job: Job) -> str:
    content, job.content = job.content, ""
    return content


def _in_tokens(job: Job) -> bool:
    return job.chunking is not None and job.chunking.unit == "tokens"
