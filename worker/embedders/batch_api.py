"""The interface of a Batch API: texts leave in a file, and vectors come in another one, within a
day and at half the price. `registry.open_batch_api` opens one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Literal, Protocol

from worker.embedders.base import Prompts, RequestLimits, Vectors
from worker.errors import ProviderError

BatchState = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED: frozenset[BatchState] = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The most texts and bytes of a batch."""

    texts: int
    bytes: int


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What a provider says of a batch.

    `total`, `completed` and `failed` count lines. A file is None if there is none, or it would be
    empty. `error_code` and `error_message` tell why a batch failed; `token_limit` is how many
    tokens may be enqueued, if that is why. `tokens` were billed; None if it does not say.
    """

    id: str
    state: BatchState
    total: int
    completed: int
    failed: int
    expires_at: datetime | None
    input_file: str | None
    output_file: str | None
    error_file: str | None
    error_code: str | None
    error_message: str | None
    token_limit: int | None
    tokens: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the batch stays as it is."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one line: its vector, and how many tokens its text took; or its error."""

    custom_id: str
    vector: Vectors | None
    tokens: int | None
    error: ProviderError | None


class BatchResults(Iterator[BatchResult], Protocol):
    """The results in a file, in any order. A line can be missing, or be there twice."""

    skipped: int
    """How many lines could not be read so far."""

    def close(self) -> None:
        """Stop reading before the end."""


class BatchApi(Protocol):
    """The Batch API of one provider, for one model. Used by several threads at once.

    All that send something raise ProviderRefused or Transient.
    """

    provider: str
    """The name of the provider, like `openai`."""

    model: str
    """`provider:model`."""

    prompts: Prompts
    """What `line` puts before texts."""

    price: float | None
    """US dollars for a million tokens in a batch, or None if it is not known."""

    limits: BatchLimits

    count: Callable[[str], int] | None
    """Counts the tokens of a text for this model, exactly; None if only the model can."""

    @property
    def dimensions(self) -> int | None:
        """The width of the vectors, or None until `probe` has found it."""

    @property
    def request_limits(self) -> RequestLimits:
        """The limits of a request, of which that of one text counts here."""

    def probe(self) -> None:
        """Find out what only an answer shows, as `Embedder.probe` does. Call this before `line`."""

    def line(self, custom_id: str, text: str) -> bytes:
        """Return the line of a file for a text, with the prompt of documents in front."""

    def upload(self, file: BinaryIO, token: str) -> str:
        """Send a file of lines, in pieces, and return its name at the provider."""

    def create(self, input_file: str, token: str) -> BatchStatus:
        """Let the provider process a file."""

    def find(self, token: str, since: datetime | None = None) -> BatchStatus | None:
        """Return the batch that was created with `token`, not long before `since`."""

    def find_files(self, token: str) -> list[str]:
        """Return the files that were uploaded with `token`."""

    def status(self, batch: str) -> BatchStatus | None:
        """Return what the provider says of a batch; None if it knows of no such batch."""

    def cancel(self, batch: str) -> None:
        """Let the provider stop processing a batch. Does nothing if it has ended or is gone."""

    def results(self, file: str) -> BatchResults:
        """Read the results in a file, in pieces, from its beginning.

        Raises Transient if it breaks off, also while it is read, and ProviderRefused of the class
        `not_found` if there is no such file.
        """

    def delete_file(self, file: str) -> None:
        """Delete a file. Does nothing if it is gone."""

    def close(self) -> None:
        """Release connections. This is not used again."""
