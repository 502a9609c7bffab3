"""A connection to a server that speaks JSON over HTTP. A request returns an answer, or raises an
error with a hint.

OpenAI's client provides connections, proxies and timeouts. Its decoder and its retries are not
used: the decoder is several times slower than ours, and retries are the task of the engine. No
answer is trusted: `http_client` limits its time and its size, and any other error in it becomes a
`bad_answer`.
"""

from __future__ import annotations

import re
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from io import SEEK_END
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    HttpxBinaryResponseContent,
    Omit,
)

from worker.embedders.answers import extract_message, number_in, read_json
from worker.embedders.base import A_LETTER, Embeddings, Role
from worker.embedders.http_client import BoundedClient, Signer, Unusable, find_reason
from worker.embedders.limits import seconds_to_wait
from worker.errors import (
    ProviderError,
    ProviderRefused,
    Rejected,
    SettingsError,
    Transient,
)

Content = TypeVar("Content")

CLOSING_SECONDS = 10.0  # at most; it waits for no server
LONGEST_ANSWER = 3  # times the timeout: a server that sends single bytes slowly never times out
SLOWEST_UPLOAD = 100_000  # bytes a second
PIECE = 2**20  # bytes of a file; each must come within the time of an answer
LINE_LENGTH = 300
READ_LENGTH = 20_000  # only the beginning of a long answer is searched for a message
# Keys: known by their prefix, by their header, or by asterisks that hide their middle.
# The repetitions have limits, or the search would be quadratic.
KEY_SHAPES = r"\bsk-[\w.*…-]*[\w*]|\bBearer\s+[\w.~+/=-]{16,}|[^\s*]{0,64}\*{3,}[\w-]{0,64}"

ABOUT_THE_TEXTS = {400, 413, 422}
PASSING = {408: "timed_out", 409: "overloaded", 424: "provider_error", 425: "overloaded"}
NO_CREDIT = {"insufficient_quota", "billing_not_active"}  # with 429, as for a rate limit

TOO_LONG = {
    *("context_length_exceeded", "string_above_max_length"),
    "exceed_context_size_error",  # llama.cpp
}
TOO_LARGE = {"max_tokens_per_request"}
# For errors without a code: the messages of the providers, with both numbers if they are given.
TOO_LONG_WORDS = [
    re.compile(words)
    for words in (
        # OpenAI, vLLM
        r"maximum context length is (?P<limit>\d+) tokens(?:\D*(?P<length>\d+)(?: input)? tokens)?",
        r"must have less than (?P<limit>\d+) tokens\. Given: (?P<length>\d+)",  # TEI
        r"input length exceeds the context length",  # Ollama
        r"should have at most \d+ characters",  # Infinity
        r"does not fit into the model's context window of (?P<limit>\d+) tokens",  # Voyage
        r"has (?P<length>\d+) tokens, exceeding max (?P<limit>\d+) tokens",  # Mistral
        r"Input length (?P<length>\d+) exceeds maximum allowed token size (?P<limit>\d+)",  # NVIDIA
        r"too many tokens: ",  # Cohere
        # Bedrock: Titan, and Cohere's models, whose limit is one of characters
        r"Max input tokens: (?P<limit>\d+), request input token count: (?P<length>\d+)",
        r"expected maxLength: (?P<limit>\d+), actual: (?P<length>\d+)",
        r"Input is too long for requested model",
        r"loaded with context length of only",  # chat models in LM Studio
    )
]
TOO_LARGE_WORDS = re.compile(
    r"batch size|length limit|too large|tokens per request|maximum request size"
    r"|should have at most \d+ items"
    r"|max allowed tokens per submitted batch"  # Voyage
    r"|split into more batches|Too many tokens in batch"  # Mistral
    r"|can contain at most \d+ items"  # Jina
    r"|at most \d+ requests can be in one batch|payload size exceeds the limit",  # Gemini
    re.IGNORECASE,
)
UNSUPPORTED = {"unsupported_value", "unsupported_parameter"}
UNSUPPORTED_WORDS = re.compile(
    r"Unsupported (?:value|parameter): '(\w+)'"  # OpenAI, through a server that leaves out codes
    r"|don't support (\w+)=|does not support parameters: \['(\w+)'"  # LiteLLM
)
# Gemini answers 400 for a key that is not valid.
WRONG_KEY_WORDS = re.compile(r"API key (not valid|expired)\b")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a server, with status 2xx."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Hints:
    """Hints that name the setting of the address and, if the server needs one, that of the key."""

    address: str
    key: str | None

    def for_status(self, status: int) -> str:
        """Return the hint for an answer with this status."""
        match status:
            case 401 if self.key:
                return f"Check {self.key}, then start again."
            case 403 if self.key:
                return f"Check that the key in {self.key} may use this model, then start again."
            case 404:
                return self.for_the_model()
        return f"Check {self.address}, and any proxy in between, then start again."

    def for_the_model(self) -> str:
        """Return the hint for a model that does not exist, or cannot embed."""
        return f"Check the name of the model, and {self.address}, then start again."


@dataclass(slots=True)
class Connection:
    """Sends any number of requests at once to the server at `base_url`, with the key if there is
    one: as a bearer token, or in the header `key_header`. `sign` changes each request before it is
    sent.

    Raises SettingsError if a header cannot hold the key, the address is not valid, or the
    environment names proxies that cannot be used.
    """

    base_url: str
    key: str | None = field(repr=False)
    timeout: float
    hints: Hints
    key_header: str | None = None
    sign: Signer | None = field(default=None, repr=False)
    host: str = field(init=False)
    _http: BoundedClient = field(init=False, repr=False)
    _client: AsyncOpenAI = field(init=False, repr=False)
    _headers: dict[str, str | Omit] = field(init=False, repr=False)
    _secrets: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.key and not re.fullmatch(r"[!-~]+", self.key):
            raise SettingsError(
                f"{self.hints.key} holds a space or a character that is not ASCII",
                "Copy the key again, without quotation marks or line breaks.",
            )
        self._http = BoundedClient(self.base_url, self.sign)
        try:
            self._client = AsyncOpenAI(
                api_key=self.key or "none",
                base_url=self.base_url,
                timeout=self.timeout,
                max_retries=0,
                organization="",
                project="",
                http_client=self._http,
            )
        except Exception:  # its message may repeat a password
            raise SettingsError(
                "the address of the model's server is not valid",
                f"Check {self.hints.address}: it looks like https://host:port/path without spaces.",
            ) from None
        self.host = self._client.base_url.netloc.decode("ascii")
        # The client needs a key. If it is for no bearer token, the header that it makes is removed.
        self._headers = {} if self.key and not self.key_header else {"Authorization": Omit()}
        if self.key and self.key_header:
            self._headers[self.key_header] = self.key
        self._secrets = _secrets(self.key, unquote(urlsplit(self.base_url).password or ""))

    def post(self, path: str, body: object, timeout: float | None = None) -> Reply:
        """Send `body` as JSON. Raises ProviderRefused, Transient or Rejected."""
        seconds = timeout or self.timeout
        return self._reply(
            self._client.post(
                path,
                body=body,
                cast_to=HttpxBinaryResponseContent,
                options={"timeout": seconds, "headers": self._headers},
            ),
            seconds,
        )

    def get(self, path: str, query: Mapping[str, object] | None = None) -> object:
        """Return the JSON at a path or an address of this server. Raises as `post` does."""
        options: Any = {"headers": self._headers, "params": query or {}}
        request = self._client.get(path, cast_to=HttpxBinaryResponseContent, options=options)
        reply = self._reply(request, self.timeout)
        return self.decode(lambda: read_json(reply.content))

    def delete(self, path: str) -> None:
        """Delete what is at a path. Raises as `post` does."""
        request = self._client.delete(
            path, cast_to=HttpxBinaryResponseContent, options={"headers": self._headers}
        )
        self._reply(request, self.timeout)

    def upload(self, path: str, fields: object, name: str, file: BinaryIO) -> Reply:
        """Send a file with some fields as a form, in pieces. Raises as `post` does."""
        size = file.seek(0, SEEK_END)
        request = self._client.post(
            path,
            body=fields,
            files={"file": (name, file)},
            cast_to=HttpxBinaryResponseContent,
            options={"headers": {"Content-Type": "multipart/form-data", **self._headers}},
        )
        return self._reply(request, self.timeout, size / SLOWEST_UPLOAD)

    def download(self, file: str) -> Generator[bytes, None, None]:
        """Read the content of the file `file` of OpenAI's API in pieces. Raises as `post` does."""
        whole = LONGEST_ANSWER * self.timeout
        opening = self._client.files.with_streaming_response.content(
            file, extra_headers=self._headers, timeout=whole
        )
        with self._translated(whole, whole):
            answer = self._http.run(opening.__aenter__(), whole)
        try:
            pieces = answer.iter_bytes(PIECE)
            while piece := self._next(pieces, whole):
                yield piece
        finally:
            self._http.start(opening.__aexit__(None, None, None))

    def _next(self, pieces: AsyncIterator[bytes], seconds: float) -> bytes:
        try:
            return self._http.run(anext(pieces, b""), seconds)
        except TimeoutError:
            raise self._timed_out(seconds) from None
        except Exception as problem:
            raise self._unreachable(find_reason(problem) or type(problem).__name__) from None

    def _reply(
        self,
        request: Coroutine[Any, Any, HttpxBinaryResponseContent],
        seconds: float,
        more: float = 0.0,
    ) -> Reply:
        """Wait for an answer, and for `more` seconds where the request itself takes long."""
        whole = LONGEST_ANSWER * seconds + more
        with self._translated(whole, seconds):
            answer = self._http.run(request, whole)
        return Reply(answer.content, answer.response.headers)

    @contextmanager
    def _translated(self, whole: float, seconds: float) -> Iterator[None]:
        """Translate errors of the client about an answer, which may take `whole` seconds, and
        `seconds` of them without data."""
        # `from None`: the client's own message repeats the answer with its secrets.
        try:
            yield
        except APIStatusError as error:
            raise self.decode(partial(self._failure, error)) from None
        except APITimeoutError:
            raise self._timed_out(seconds) from None
        except TimeoutError:
            raise self._timed_out(whole) from None
        except APIConnectionError as error:
            raise self._unreachable(find_reason(error)) from None
        except Unusable as problem:
            raise self.unusable(str(problem)) from None
        except Exception as problem:  # any error of the client about the bytes that it received
            raise self.unusable(type(problem).__name__) from None

    def _timed_out(self, seconds: float) -> Transient:
        cause = f"{self.host} did not answer within {seconds:g} s"
        return Transient(cause, error_class="timed_out", of_the_input=True)

    def _unreachable(self, reason: str) -> Transient:
        cause = self.one_line(f"the connection to {self.host} failed: {reason}")
        return Transient(cause, error_class="unreachable")

    def probe(self, embed: Callable[[Sequence[str], Role], Embeddings]) -> Embeddings:
        """Embed one letter. A rejection of it is about the model, not about a text."""
        try:
            return embed([A_LETTER], "document")
        except Rejected as refusal:
            hint = self.hints.for_the_model()
            raise ProviderRefused(refusal.cause, hint, of_the_model=True) from None

    def decode(self, read: Callable[[], Content]) -> Content:
        """Return what `read` returns for an answer. Raises Transient if it fails in any way."""
        try:
            return read()
        except ValueError as problem:
            raise self.unusable(str(problem)) from None
        except Exception as problem:  # endless nesting, numbers out of range, no memory
            raise self.unusable(type(problem).__name__) from None

    def unusable(self, what: str) -> Transient:
        """The error for an unusable answer."""
        cause = self.one_line(f"{self.host} sent an unusable answer: {what}")
        return Transient(cause, error_class="bad_answer", of_the_input=True)

    def one_line(self, text: str) -> str:
        """Return `text` on one line, without secrets and unprintable characters."""
        text = self._secrets.sub("[redacted]", text[:READ_LENGTH])
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 1] + "…"

    def close(self) -> None:
        """Close all connections."""
        with suppress(TimeoutError):
            self._http.run(self._client.close(), CLOSING_SECONDS)

    def _failure(self, error: APIStatusError) -> ProviderError:
        """Translate an answer into an error with a hint."""
        if error.response.has_redirect_location:
            return self._redirected(error)
        return self.failure(error.status_code, error.body, error.response.headers)

    def failure(self, status: int, body: object, headers: Mapping[str, str]) -> ProviderError:
        """Translate the status of an answer, and what its body says of the error, into an error
        with a hint."""
        codes, words = _codes(body), extract_message(body)[:READ_LENGTH]
        cause = self.one_line(f"{self.host} answered {status}: {words or 'no message'}")
        status = self._meaning(status, words, headers)
        if status == 429 and codes & NO_CREDIT:
            hint = "Check the credit and limits of the account, then start again."
            return ProviderRefused(cause, hint, error_class="out_of_credit")
        if status in ABOUT_THE_TEXTS or (status == 429 and words.startswith("Request too large")):
            refusal = _rejection(status, codes, words, cause)
            refusal.unsupported = _unsupported_field(body, codes, words)
            return refusal
        if status in PASSING or status == 429 or not 400 <= status < 500:
            return _passing(status, cause, seconds_to_wait(headers, words))
        classes = {401: "unauthorized", 403: "unauthorized", 404: "not_found"}
        return ProviderRefused(
            cause,
            self.hints.for_status(status),
            error_class=classes.get(status, "refused"),
            of_the_model=status == 404 or "model_not_found" in codes,
        )

    def _meaning(self, status: int, words: str, headers: Mapping[str, str]) -> int:
        """Return the status that an answer should have."""
        return 401 if status == 400 and WRONG_KEY_WORDS.match(words) else status

    def _redirected(self, error: APIStatusError) -> ProviderRefused:
        location = error.response.headers.get("location", "")
        target = urlsplit(urljoin(str(error.request.url), location))
        # Without a user, password or query, any of which may be a secret.
        where = f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}"
        return ProviderRefused(
            self.one_line(f"{self.host} answered {error.status_code}: it redirects to {where}"),
            f"Texts and keys are sent to no other address. If that is the right one, correct"
            f" {self.hints.address}, then start again.",
        )


def _passing(status: int, cause: str, wait: float | None) -> Transient:
    error_class = {429: "rate_limited", 503: "overloaded", 504: "timed_out", 529: "overloaded"}.get(
        status, PASSING.get(status, "provider_error")
    )
    return Transient(
        cause, error_class=error_class, retry_after=wait, of_the_input=status in (424, 500)
    )


def _rejection(status: int, codes: set[str], words: str, cause: str) -> Rejected:
    found = (pattern.search(words) for pattern in TOO_LONG_WORDS)
    too_long = next((numbers for numbers in found if numbers), None)
    if codes & TOO_LARGE or not (codes & TOO_LONG or too_long):
        too_large = codes & TOO_LARGE or status == 413 or TOO_LARGE_WORDS.search(words)
        return Rejected(cause, error_class="too_large" if too_large else "rejected")
    share = _share_that_fits(too_long.groupdict()) if too_long else None
    return Rejected(cause, error_class="too_long", share=share)


def _unsupported_field(body: object, codes: set[str], words: str) -> str | None:
    match body:
        case {"param": str(name)} if codes & UNSUPPORTED:
            return name
    found = UNSUPPORTED_WORDS.search(words)
    return next(filter(None, found.groups()), None) if found else None


def _share_that_fits(numbers: Mapping[str, str | None]) -> float | None:
    """The share of a text that fits, if the provider reports the limit and the length."""
    limit, length = number_in(numbers.get("limit")), number_in(numbers.get("length"))
    return limit / length if limit and length and limit < length else None


def _codes(body: object) -> set[str]:
    fields = body if isinstance(body, dict) else {}
    return {code for code in (fields.get("code"), fields.get("type")) if isinstance(code, str)}


def _secrets(key: str | None, password: str) -> re.Pattern[str]:
    shapes = [re.escape(secret) for secret in (key, password) if secret]
    if key:
        shapes.append(f"(?i:{sha256(key.encode()).hexdigest()})")  # LiteLLM repeats it
    if key and len(key) >= 12:  # servers shorten a key in different ways, but keep its beginning
        shapes.append(re.escape(key[:8]) + r"(?:[\w.*…-]*[\w*])?")
    return re.compile("|".join([*shapes, KEY_SHAPES]))
