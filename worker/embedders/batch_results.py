"""Reads the results of a batch from a file at the provider, line by line."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from worker.embedders.answers import extract_message, read_json
from worker.embedders.batch_api import BatchResult
from worker.embedders.connection import READ_LENGTH, Connection
from worker.errors import ProviderError, ProviderRefused, Rejected, Transient

if TYPE_CHECKING:
    from worker.embedders.openai import OpenAIEmbedder

MOST_BYTES_OF_A_LINE = 2**20  # a vector of 8192 numbers in JSON is a fifth
MOST_BYTES_OF_A_FILE = 2**33  # 50,000 such vectors
MOST_OF_AN_ID = 64  # characters
ENDED_BEFORE = {"batch_expired": "timed_out", "batch_cancelled": "overloaded"}


class OpenAIResults(Iterator[BatchResult]):
    """The results in a file of the Batch API, which `embedder` knows how to read."""

    def __init__(self, embedder: OpenAIEmbedder, connection: Connection, file: str) -> None:
        self.skipped = 0
        self._embedder = embedder
        self._connection = connection
        self._lines = self._read_lines(file)

    def __next__(self) -> BatchResult:
        for line in self._lines:
            if result := self._result(line):
                return result
            self.skipped += 1
        raise StopIteration

    def close(self) -> None:
        """Stop reading. Done by itself at the end, and after an error."""
        self._lines.close()

    def _read_lines(self, file: str) -> Generator[bytes, None, None]:
        try:
            with closing(self._connection.download(file)) as pieces:
                for line in split_lines(self._bounded(pieces)):
                    if line.strip():
                        yield line
        except Rejected as rejection:
            raise ProviderRefused(rejection.cause) from None
        except ProviderRefused as refusal:
            if refusal.error_class == "not_found":
                refusal.hint = "The results are gone, or they belong to another key or address."
            raise

    def _bounded(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        left = MOST_BYTES_OF_A_FILE
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise self._connection.unusable(f"a file of more than {MOST_BYTES_OF_A_FILE} bytes")
            yield piece

    def _result(self, line: bytes) -> BatchResult | None:
        """Read a line; None if it is none of a batch."""
        if len(line) > MOST_BYTES_OF_A_LINE:
            return None
        try:
            fields = read_json(line)
        except ValueError:
            return None
        match fields:
            case {"custom_id": str(custom_id)} if 0 < len(custom_id) <= MOST_OF_AN_ID:
                try:
                    return self._connection.decode(lambda: self._result_for(custom_id, fields))
                except Transient as unusable:
                    return BatchResult(custom_id, None, None, unusable)
        return None

    def _result_for(self, custom_id: str, fields: Mapping[str, object]) -> BatchResult:
        """Read what became of a text. Raises ValueError, or another error, if it is not told."""
        match fields:
            case {"response": {"status_code": int(status), "body": body}} if 200 <= status < 300:
                found = self._embedder.read(body, [1])
                tokens = found.tokens[0] if found.tokens else None
                return BatchResult(custom_id, found.vectors[0], tokens, None)
            case {"response": {"status_code": int(status), "body": body}}:
                told = body.get("error", body) if isinstance(body, dict) else body
                error = self._connection.failure(status, told, {})
            case {"error": dict(told)} if told:
                error = self._without_status(told)
            case _:
                raise ValueError(f"neither a response nor an error in {extract_message(fields)}")
        return BatchResult(custom_id, None, None, error)

    def _without_status(self, told: Mapping[str, object]) -> ProviderError:
        """Translate an error of the batch itself. It passes, unless the text is too long."""
        judged = self._connection.failure(400, told, {})
        if judged.error_class == "too_long":
            return judged
        code, words = str(told.get("code") or "")[:MOST_OF_AN_ID], extract_message(told)
        cause = f"{self._connection.host} did not embed it: {words} ({code or 'no code'})"
        return Transient(
            self._connection.one_line(cause[:READ_LENGTH]),
            error_class=ENDED_BEFORE.get(code, "provider_error"),
        )


def split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Split the content of a file into lines. Of one that is too long, a part is kept, which is too
    long as well."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        rest = rest[: MOST_BYTES_OF_A_LINE + 1]
    if rest:
        yield rest
