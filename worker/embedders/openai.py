"""`openai:…`: OpenAI's embeddings API, and the servers that speak its dialect.

The client is used for its connections only. Its own decoder is several times slower than the one
here, hands on answers that lack items or have them out of order, and fails on a garbled one with
whatever Python error comes first. Its retries are off: waiting is the business of the engine.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Omit,
    OpenAI,
    omit,
)

from worker.embedders import Embeddings, Vectors
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient, WorkerError
from worker.settings import Settings

BASE_URL = "https://api.openai.com/v1"
WIDTHS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
SHORTENED_ON_REQUEST = "text-embedding-3-"

CURES = {
    401: "Check OPENAI_API_KEY, then start again.",
    403: "Check that the key in OPENAI_API_KEY may use this model, then start again.",
    404: "Check the name of the model, and OPENAI_BASE_URL if it is set, then start again.",
}
OTHER_CURE = "Check OPENAI_BASE_URL, and what stands between here and there, then start again."
ABOUT_THE_TEXTS = {400, 413, 422}
PASSING = {408, 409, 424, 425, 429}
NO_CREDIT = {"insufficient_quota", "billing_not_active"}  # with 429, as for a rate limit
TOO_LONG = {"context_length_exceeded", "string_above_max_length", "max_tokens_per_request"}
# The one answer told by its words: OpenAI sends it with no code, and vLLM copied the sentence.
TOO_LONG_SENTENCE = re.compile(r"maximum context length is (\d+) tokens(?:\D*(\d+) tokens)?")

LINE_LENGTH = 300
READ_LENGTH = 20_000  # of an answer of megabytes, only the beginning is searched for a line
# By their prefix, by the header they travel in, and with their middle hidden behind asterisks.
# The repetitions have limits, or the search would be quadratic.
KEY_SHAPES = r"\bsk-[\w.*…-]*[\w*]|\bBearer\s+[\w.~+/=-]{16,}|[^\s*]{0,64}\*{3,}[\w-]{0,64}"


class OpenAIEmbedder:
    """The model `name`, at the width of the column if the model can be asked for a smaller one.

    Raises SettingsError if there is no usable key, and no server that might do without.
    """

    max_items = 2048
    concurrency = 8

    def __init__(self, name: str, dimensions: int | None, settings: Settings) -> None:
        self.model = f"openai:{name}"
        self.dimensions = WIDTHS.get(name)
        self._name = name
        self._dimensions_to_send: int | Omit = omit
        # A width above the native one is not sent: every text would be rejected for it, where
        # comparing `dimensions` with the column tells once what is wrong.
        if name.startswith(SHORTENED_ON_REQUEST) and dimensions and self.dimensions:
            self.dimensions = min(dimensions, self.dimensions)
            if self.dimensions != WIDTHS[name]:
                self._dimensions_to_send = self.dimensions
        self._timeout = settings.embedding_timeout_seconds
        self._client = _open_client(settings)
        self._host = self._client.base_url.netloc.decode("ascii")
        self._secrets = _secrets(settings.openai_api_key)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        # A lone surrogate, which only the command line can hold, has no UTF-8 and becomes `?`.
        encoded = [text.encode("utf-8", "replace") for text in texts]
        try:
            answer = self._client.embeddings.with_raw_response.create(
                model=self._name,
                input=[text.decode() for text in encoded],
                dimensions=self._dimensions_to_send,
                encoding_format="base64",
            )
        # `from None`: the client's own message repeats the answer before secrets are taken out.
        except APIStatusError as error:
            raise self._failure(error) from None
        except APITimeoutError:
            raise Transient(f"{self._host} did not answer within {self._timeout:g} s") from None
        except APIConnectionError as error:
            cause = f"the connection to {self._host} failed: {error.__cause__ or error}"
            raise Transient(self._one_line(cause)) from None
        return self._decoded(answer.content, [len(text) for text in encoded])

    def close(self) -> None:
        self._client.close()

    def _failure(self, error: APIStatusError) -> WorkerError:
        """The error that says what to do about this answer, by its status and code."""
        status, codes, words = error.status_code, _codes(error.body), _words(error.body)
        cause = self._one_line(f"{self._host} answered {status}: {words or 'without a word'}")
        if status == 429 and codes & NO_CREDIT:
            return ProviderRefused(
                cause, "Look after the credit and limits of the account, then start again."
            )
        if status in PASSING or not 400 <= status < 500:
            wait = _retry_after(error.response.headers)
            return Transient(cause, retry_after=wait, of_the_input=status == 500)
        if status in ABOUT_THE_TEXTS:
            numbers = TOO_LONG_SENTENCE.search(words)
            too_long = codes & TOO_LONG or numbers
            share = _share_that_fits(numbers) if numbers else None
            error_class = "too_long" if too_long else "rejected"
            return Rejected(cause, error_class=error_class, share=share)
        return ProviderRefused(cause, CURES.get(status, OTHER_CURE))

    def _decoded(self, content: bytes, lengths: Sequence[int]) -> Embeddings:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            words = content.decode("utf-8", "replace") or "nothing at all"
            raise self._unusable(f"not JSON: {words}") from None
        match answer:
            case {"error": error} if error:
                raise self._unusable(f"an error with status 200: {_words(error)}")
            case {"data": list(items)}:
                usage = answer.get("usage")
            case _:
                raise self._unusable(f"no list `data` in {_words(answer)}")
        try:
            vectors = _vectors(items, len(lengths))
        except (ValueError, TypeError, OverflowError) as problem:
            raise self._unusable(str(problem)) from None
        return Embeddings(vectors, _shares(usage, lengths))

    def _unusable(self, what: str) -> Transient:
        return Transient(self._one_line(f"{self._host} sent an unusable answer: {what}"))

    def _one_line(self, text: str) -> str:
        """`text` without secrets, and with nothing that a terminal or Postgres would stumble on."""
        text = self._secrets.sub("[redacted]", text[:READ_LENGTH])
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 1] + "…"


def _open_client(settings: Settings) -> OpenAI:
    key = settings.openai_api_key
    if not key and not settings.openai_base_url:
        raise SettingsError(
            "OPENAI_API_KEY is not set",
            "Set it, or set OPENAI_BASE_URL to a server that needs no key.",
        )
    if key and not re.fullmatch(r"[!-~]+", key):
        raise SettingsError(
            "OPENAI_API_KEY holds a space or a character that is not ASCII",
            "Copy the key again, without quotation marks or line breaks.",
        )
    return OpenAI(
        api_key=key or "none",
        base_url=settings.openai_base_url or BASE_URL,
        timeout=settings.embedding_timeout_seconds,
        max_retries=0,
    )


def _secrets(key: str | None) -> re.Pattern[str]:
    shapes = [KEY_SHAPES]
    if key:
        shapes.insert(0, re.escape(key))
    if key and len(key) >= 12:  # its beginning is what servers repeat of a key, however they cut it
        shapes.insert(1, re.escape(key[:8]) + r"(?:[\w.*…-]*[\w*])?")
    return re.compile("|".join(shapes))


def _words(body: object) -> str:
    """What a provider said, out of the shapes in which they say it."""
    match body:
        case None:
            return ""
        case str(words) | {"message": str(words)} | {"detail": str(words)}:
            return words
        case _:
            return json.dumps(body)


def _codes(body: object) -> set[str]:
    fields = body if isinstance(body, dict) else {}
    return {code for code in (fields.get("code"), fields.get("type")) if isinstance(code, str)}


def _share_that_fits(numbers: re.Match[str]) -> float | None:
    """What part of a text fits, where a provider says how long it may be and how long it is."""
    limit, length = numbers.groups()
    if length is None or int(length) <= int(limit):
        return None
    return int(limit) / int(length)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds from now the provider asks to be left alone, if it says so legibly."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    given = headers.get("retry-after", "")
    seconds = _number(given)
    if seconds is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return None
    if moment.tzinfo is None:  # how Python reads `-0000`
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _number(given: str) -> float | None:
    try:
        number = float(given)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _vectors(items: Sequence[object], count: int) -> Vectors:
    """The vectors of `count` texts in their order. Raises ValueError if that is not what is sent.

    What the numbers are is not looked at.
    """
    if len(items) != count:
        raise ValueError(f"{len(items)} vectors for {count} texts")
    rows: dict[int, Vectors] = {}
    for item in items:
        match item:
            case {"index": int(index), "embedding": str() | list() as embedding}:
                rows[index] = _vector(embedding)
            case _:
                raise ValueError("an item without `index` or `embedding`")
    if rows.keys() != set(range(count)):
        raise ValueError(f"indexes other than 0 to {count - 1}, each once")
    shapes = {row.shape for row in rows.values()}
    if len(shapes) != 1 or any(row.ndim != 1 or not len(row) for row in rows.values()):
        raise ValueError("vectors of different widths, or of none")
    return np.stack([rows[index] for index in range(count)]).astype(np.float32, copy=False)


def _vector(embedding: str | list[Any]) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    with np.errstate(over="ignore"):  # what a float32 cannot hold becomes infinite
        return np.asarray(embedding, dtype=np.float32)


def _shares(usage: object, lengths: Sequence[int]) -> list[int] | None:
    """The tokens of each text: those of the request, shared out by length without a remainder."""
    match usage:
        case {"total_tokens": int(tokens)} | {"prompt_tokens": int(tokens)} if tokens >= 0:
            whole = max(sum(lengths), 1)
        case _:
            return None
    marks = [(2 * tokens * upto + whole) // (2 * whole) for upto in accumulate(lengths, initial=0)]
    return [after - before for before, after in pairwise(marks)]
