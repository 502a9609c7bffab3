"""The documents in hand: from the claim until all their chunks are stored.

The chunks of a document go the way of jobs: they are packed into requests with those of others, and
a model gets equal ones once. Their vectors are stored as soon as they are there. When the last one
is, the document is completed. So a worker that is killed loses only what was in flight.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from datetime import timedelta
from typing import Protocol

from worker.engine.availability import Availability
from worker.engine.embedding import Outcome
from worker.engine.models import Key, key_of
from worker.engine.writing import (
    RELEASED,
    Failure,
    Release,
    Writer,
    failed,
    rejected,
    unfinished,
    untried,
)
from worker.queue import (
    Chunk,
    ChunkText,
    Completion,
    DocumentCompletion,
    Job,
    LeaseKey,
    Place,
    RefusalReason,
)

# Until no more documents are claimed.
MOST_CHARACTERS = 8_000_000  # of their texts
MOST_WAITING = 400  # documents that have chunks to send
CHARACTERS_IN_FLIGHT = 4_000_000  # of their chunks
CHUNKS_A_TURN = 100  # of one document, until it is the turn of another
MOST_ENHANCED = 40  # jobs or chunks at once: a chat model takes a second or more for each

Ending = Release | Failure | RefusalReason
"""How a document ends that is not completed."""


class SplitText(Protocol):
    """A text that is split into chunks."""

    @property
    def text(self) -> str: ...

    @property
    def places(self) -> Sequence[Place]:
        """The places of the chunks, in order."""

    def chunk_at(self, place: Place) -> ChunkText:
        """Return the text of a chunk, and what is put before it."""


@dataclass(slots=True, eq=False)
class Document:
    """A document in hand. `model` is the full name of its model. `is_trial`: the model could not be
    used, and is tried with one of its chunks."""

    job: Job
    split: InitVar[SplitText]
    model: str
    is_trial: bool
    places: Sequence[Place] = field(init=False)
    waiting: deque[Place] = field(init=False)
    """One place of each chunk that is neither stored nor in flight."""
    in_flight: int = 0
    embedded: int = 0
    tokens: int | None = 0
    cost: float | None = 0.0
    ending: Ending | None = None
    plain: dict[bytes, bytes] = field(default_factory=dict)
    """The hashes of chunks that were stored without enhancement, by the hash with it."""
    unenhanced: str | None = None
    again_in: timedelta | None = None
    _split: SplitText | None = field(init=False)
    """None when no chunk waits, so that a long text is freed."""

    def __post_init__(self, split: SplitText) -> None:
        stored = set(self.job.stored or ())
        self.places = split.places
        chunks = {place.hash: place for place in self.places}
        self.waiting = deque(place for hash_, place in chunks.items() if hash_ not in stored)
        self._split = split if self.waiting else None

    @property
    def is_settled(self) -> bool:
        return not (self.waiting or self.in_flight)

    @property
    def characters(self) -> int:
        """The length of the text as long as it is needed."""
        return len(self._split.text) if self._split else 0

    def take(self, most: int, characters: int) -> list[Chunk]:
        """Return the next chunks, at most `most`; no more once they have `characters` characters.
        They are in flight from now on."""
        chunks: list[Chunk] = []
        while self._split and len(chunks) < most and characters > 0:
            place = self.waiting.popleft()
            chunks.append(Chunk.of(self.job, place, self._split.chunk_at(place)))
            characters -= chunks[-1].size
            if not self.waiting:
                self._split = None
        self.in_flight += len(chunks)
        return chunks

    def add(self, done: Completion) -> None:
        """Count a chunk whose vector is stored now."""
        self.embedded += 1
        if self.tokens is not None:
            self.tokens = None if done.tokens is None else self.tokens + done.tokens
        if self.cost is not None:
            self.cost = None if done.cost is None else self.cost + done.cost
        if done.unenhanced:
            self.plain[done.job.content_hash] = done.job.plain_hash
            self.unenhanced = self.unenhanced or done.unenhanced
            self.again_in = self.again_in or done.again_in

    def end(self, ending: Ending) -> None:
        """Send no more chunks. The document ends when those in flight are back, whose vectors are
        stored: they are paid for. Of several endings, a failure counts, and one for good most."""
        self.waiting.clear()
        self._split = None
        if self.ending is None or _weight(ending) > _weight(self.ending):
            self.ending = ending

    @property
    def completion(self) -> DocumentCompletion:
        places = self.places
        if self.plain:
            places = [replace(at, hash=self.plain.get(at.hash, at.hash)) for at in places]
        return DocumentCompletion(
            self.job,
            places,
            self.embedded,
            self.tokens,
            self.cost,
            self.unenhanced,
            self.again_in,
        )


@dataclass(slots=True)
class Documents:
    """Sends the chunks of documents in turns, and writes what becomes of them."""

    writer: Writer
    availability: Availability
    _in_hand: dict[LeaseKey, Document] = field(default_factory=dict)
    _waiting: dict[LeaseKey, Document] = field(default_factory=dict)
    """Those that have chunks to send, the next one first."""
    _characters_in_flight: int = 0
    """Of chunks."""

    @property
    def count(self) -> int:
        return len(self._in_hand)

    @property
    def have_chunks(self) -> bool:
        """Whether any have chunks to send."""
        return bool(self._waiting)

    @property
    def are_enough(self) -> bool:
        """Whether no more should be claimed now."""
        characters = sum(document.characters for document in self._waiting.values())
        return characters > MOST_CHARACTERS or len(self._waiting) >= MOST_WAITING

    def add(self, documents: Sequence[Document]) -> None:
        """Add documents. Those without new chunks are completed."""
        for document in documents:
            self._in_hand[document.job.lease_key] = document
            if document.waiting:
                self._waiting[document.job.lease_key] = document
        self._settle(documents)

    def feed(self, send: Callable[..., None], most: int) -> bool:
        """Send the next chunks of one target, at most `most`. False if there were none to send."""
        self._end_unusable()
        for document in self._waiting.values():
            job = document.job
            if not self.availability.has_room(job) or self._room <= 0:
                continue
            if not self.availability.error_of(job):
                most = min(most, MOST_ENHANCED) if job.enhancement else most
                send(self._take(_column(job), most), is_trial=False)
                return True
            if not document.in_flight:  # a trial
                send(self._take(_column(job), 1), is_trial=True)
                return True
        return False

    def write(self, chunks: Collection[Job], outcome: Outcome) -> None:
        """Store the vectors of chunks, and complete or end their documents if nothing of them is
        left to do."""
        self._stage(outcome)
        for chunk, refusal in outcome.rejected:
            self._of(chunk).end(_at_its_place(rejected(refusal), chunk))
        for chunk, failure in outcome.failed:
            self._of(chunk).end(_at_its_place(failed(chunk, failure), chunk))
        for chunk in outcome.unfinished:
            self._of(chunk).end(unfinished(outcome))
        for chunk in chunks:
            self._of(chunk).in_flight -= 1
            self._characters_in_flight -= _as_chunk(chunk).size
        self._settle({chunk.lease_key: self._of(chunk) for chunk in chunks}.values())

    def release_waiting(self, release: Release) -> None:
        """Release the documents that have chunks to send, when those in flight are back."""
        self._end({document: release for document in self._waiting.values()})

    def abandon(self) -> None:
        """Let go of all documents, which were released."""
        self._in_hand.clear()
        self._waiting.clear()

    @property
    def _room(self) -> int:
        """How many characters may be sent."""
        return CHARACTERS_IN_FLIGHT - self._characters_in_flight

    def _of(self, chunk: Job) -> Document:
        return self._in_hand[chunk.lease_key]

    def _take(self, column: tuple[int, Key], most: int) -> list[Job]:
        """Take chunks of a column, in turns of its documents."""
        chunks: list[Job] = []
        turns = deque(each for each in self._waiting.values() if _column(each.job) == column)
        while turns and len(chunks) < most and self._room > 0:
            document = turns.popleft()
            taken = document.take(min(CHUNKS_A_TURN, most - len(chunks)), self._room)
            self._characters_in_flight += sum(chunk.size for chunk in taken)
            chunks += taken
            del self._waiting[document.job.lease_key]
            if document.waiting:
                self._waiting[document.job.lease_key] = document
                turns.append(document)
        return chunks

    def _end_unusable(self) -> None:
        """End the documents that were lost meanwhile, or whose model cannot be used."""
        lost = self.writer.leases.lost(document.job for document in self._waiting.values())
        endings: dict[Document, Ending] = {}
        for lease_key, document in self._waiting.items():
            error = self.availability.error_of(document.job)
            if lease_key in lost:
                endings[document] = "lost"
            elif error and not document.is_trial:
                endings[document] = untried(error)
        self._end(endings)

    def _end(self, endings: Mapping[Document, Ending]) -> None:
        for document, ending in endings.items():
            document.end(ending)
        self._settle(endings)

    def _stage(self, outcome: Outcome) -> None:
        lost = self.writer.leases.lost(done.job for done in outcome.completions)
        ours = [done for done in outcome.completions if done.job.lease_key not in lost]
        refused = self.writer.stage(outcome.model, ours)
        self.writer.stats.add_staged(sum(done.job.id not in refused for done in ours))
        for done in outcome.completions:
            document = self._of(done.job)
            if done.job.lease_key in lost:
                document.end("lost")
            elif reason := refused.get(done.job.id):
                document.end(RELEASED.get(reason, reason))
            else:
                document.add(done)

    def _settle(self, documents: Iterable[Document]) -> None:
        """Complete or end the documents that have no chunk to send and none in flight."""
        completed: dict[str, list[DocumentCompletion]] = defaultdict(list)
        ended: dict[Ending, list[Job]] = defaultdict(list)
        for document in documents:
            if not document.waiting:
                self._waiting.pop(document.job.lease_key, None)
            if document.is_settled:
                del self._in_hand[document.job.lease_key]
                if document.is_trial:  # it may not have been sent
                    self.availability.end_trial(document.job)
                if document.ending:
                    ended[document.ending].append(document.job)
                else:
                    completed[document.model].append(document.completion)
        for model, completions in completed.items():
            self.writer.complete_documents(model, completions)
        for ending, jobs in ended.items():
            self._write_ending(ending, jobs)

    def _write_ending(self, ending: Ending, jobs: Sequence[Job]) -> None:
        match ending:
            case Release():
                self.writer.release(jobs, ending)
            case Failure():
                for job in jobs:
                    self.writer.fail(job, ending)
            case reason:
                for job in jobs:
                    self.writer.refuse(job, reason)


def _as_chunk(job: Job) -> Chunk:
    assert isinstance(job, Chunk)
    return job


def _weight(ending: Ending) -> int:
    return 0 if not isinstance(ending, Failure) else 1 if ending.retry_in is not None else 2


def _column(job: Job) -> tuple[int, Key]:
    return job.target_id, key_of(job)


def _at_its_place(failure: Failure, chunk: Job) -> Failure:
    """Return the failure with the place of the chunk."""
    place = _as_chunk(chunk).place
    where = f"characters {place.first_char} to {place.last_char}"
    return replace(failure, reason=f"{where}: {failure.reason}")
