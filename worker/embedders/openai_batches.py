"""The Batch API of OpenAI.

A batch is found again by the token in its metadata, and a file by the token in its name: nothing is
lost if a worker dies before it knows what the provider calls them. A file that is left over expires
by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

from worker.embedders.answers import counted, extract_message, read_json
from worker.embedders.base import RequestLimits
from worker.embedders.batch_api import BatchLimits, BatchState, BatchStatus
from worker.embedders.batch_results import OpenAIResults
from worker.embedders.connection import Connection
from worker.errors import ProviderError, ProviderRefused, Rejected

if TYPE_CHECKING:
    from worker.embedders.openai import OpenAIEmbedder

ENDPOINT = "/v1/embeddings"
LIMITS = BatchLimits(texts=50_000, bytes=200_000_000)
# How long files are kept at the provider: the longest time that OpenAI allows.
KEPT = {"anchor": "created_at", "seconds": 30 * 86_400}
PAGE = 100  # batches
PAGE_OF_FILES = 1000
MOST_PAGES = 1000
CLOCKS_DIFFER = timedelta(days=1)  # at most, those of a provider and a database

STATES: tuple[BatchState, ...] = get_args(BatchState)
ID = re.compile(r"[A-Za-z0-9][\w.:=+-]{0,511}", re.ASCII)
MOST_OF_A_CODE = 100  # characters
LATEST = 2**33  # seconds since 1970
TOO_MANY_TOKENS = "token_limit_exceeded"
TOKEN_LIMIT = re.compile(r"Limit: ([\d,]{1,15}) enqueued tokens")
# JSON allows these in a text, and some programs take them for the end of a line.
LINE_BREAKS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}


class OpenAIBatchApi:
    """The Batch API for the model of `embedder`, over its connection."""

    limits = LIMITS

    def __init__(self, embedder: OpenAIEmbedder, connection: Connection) -> None:
        self.provider = embedder.provider
        self.model = embedder.model
        self.prompts = embedder.prompts
        self.price = None if embedder.price is None else embedder.price / 2
        self.count = embedder.count
        self._embedder = embedder
        self._connection = connection

    @property
    def dimensions(self) -> int | None:
        return self._embedder.dimensions

    @property
    def request_limits(self) -> RequestLimits:
        return self._embedder.request_limits

    def probe(self) -> None:
        self._embedder.probe()

    def line(self, custom_id: str, text: str) -> bytes:
        body = self._embedder.body(self._embedder.prompted([text], "document"), "document")
        request = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
        line = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
        return (line if line.isascii() else line.translate(LINE_BREAKS)).encode() + b"\n"

    def upload(self, file: BinaryIO, token: str) -> str:
        fields = {"purpose": "batch", "expires_after": KEPT}
        try:
            with _about_no_text():
                reply = self._connection.upload("/files", fields, _file_name(token), file)
        except ProviderRefused as refusal:
            if refusal.error_class == "not_found":
                refusal.hint = (
                    "This server may have no Batch API: backfill without --batch-api, or check"
                    f" {self._connection.hints.address}."
                )
            raise
        return self._connection.decode(lambda: _id_in(read_json(reply.content)))

    def create(self, input_file: str, token: str) -> BatchStatus:
        body = {
            "input_file_id": input_file,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {"embedding_worker": token},
            "output_expires_after": KEPT,
        }
        with _about_no_text():
            reply = self._connection.post("/batches", body)
        return self._connection.decode(lambda: self._read_status(read_json(reply.content)))

    def find(self, token: str, since: datetime | None = None) -> BatchStatus | None:
        earliest = (since - CLOCKS_DIFFER).timestamp() if since else 0.0
        for page in self._pages("/batches", {"limit": PAGE}):
            for item in page:
                match item:
                    case {"metadata": {"embedding_worker": str(found)}} if found == token:
                        return self._connection.decode(partial(self._read_status, item))
            if all(_created(item) < earliest for item in page):
                return None
        return None

    def find_files(self, token: str) -> list[str]:
        query = {"purpose": "batch", "order": "desc", "limit": PAGE_OF_FILES}
        return [
            self._connection.decode(partial(_id_in, item))
            for page in self._pages("/files", query)
            for item in page
            if item.get("filename") == _file_name(token)
        ]

    def status(self, batch: str) -> BatchStatus | None:
        try:
            with _about_no_text():
                answer = self._connection.get(f"/batches/{batch}")
        except ProviderRefused as refusal:
            if refusal.error_class != "not_found":
                raise
            next(self._pages("/batches", {"limit": 1}))  # raises if the address is wrong
            return None
        return self._connection.decode(lambda: self._read_status(answer))

    def cancel(self, batch: str) -> None:
        try:
            with _about_no_text():
                self._connection.post(f"/batches/{batch}/cancel", {})
        except ProviderError:
            status = self.status(batch)
            if status and not status.has_ended and status.state != "cancelling":
                raise

    def results(self, file: str) -> OpenAIResults:
        return OpenAIResults(self._embedder, self._connection, file)

    def delete_file(self, file: str) -> None:
        try:
            with _about_no_text():
                self._connection.delete(f"/files/{file}")
        except ProviderRefused as refusal:
            if refusal.error_class != "not_found":
                raise

    def close(self) -> None:
        self._embedder.close()

    def _pages(self, path: str, query: Mapping[str, object]) -> Iterator[list[dict[str, Any]]]:
        """Read a list. Raises Transient if it does not end."""
        cursor: dict[str, object] = {}
        for _ in range(MOST_PAGES):
            with _about_no_text():
                answer = self._connection.get(path, {**query, **cursor})
            page, has_more = self._connection.decode(partial(_page_in, answer))
            yield page
            if not page or not has_more:
                return
            cursor = {"after": self._connection.decode(partial(_id_in, page[-1]))}
        raise self._connection.unusable(f"a list of more than {MOST_PAGES} pages")

    def _read_status(self, answer: object) -> BatchStatus:
        fields = answer if isinstance(answer, dict) else {}
        state = next((state for state in STATES if state == fields.get("status")), None)
        if state is None:
            raise ValueError(f"no batch in {extract_message(answer)}")
        counts = fields.get("request_counts")
        counts = counts if isinstance(counts, dict) else {}
        usage = fields.get("usage")
        code, message = _error_in(fields)
        limit = TOKEN_LIMIT.search(message) if code == TOO_MANY_TOKENS else None
        return BatchStatus(
            id=_id_in(fields),
            state=state,
            total=counted(counts.get("total")) or 0,
            completed=counted(counts.get("completed")) or 0,
            failed=counted(counts.get("failed")) or 0,
            expires_at=_moment_in(fields.get("expires_at")),
            input_file=_file_in(fields, "input_file_id"),
            output_file=_file_in(fields, "output_file_id"),
            error_file=_file_in(fields, "error_file_id"),
            error_code=self._connection.one_line(code)[:MOST_OF_A_CODE] or None,
            error_message=self._connection.one_line(message) or None,
            token_limit=int(limit[1].replace(",", "") or 0) or None if limit else None,
            tokens=counted(usage.get("total_tokens")) if isinstance(usage, dict) else None,
        )


@contextmanager
def _about_no_text() -> Iterator[None]:
    """Make a rejection a refusal: a request about batches and files has no text to blame."""
    try:
        yield
    except Rejected as rejection:
        hint = "The message tells what the provider does not accept."
        raise ProviderRefused(rejection.cause, hint) from None


def _file_name(token: str) -> str:
    return f"embedding-worker-{token}.jsonl"


def _id_in(fields: object) -> str:
    """Return the id of a batch or a file. Raises ValueError without one that can be in a path."""
    match fields:
        case {"id": str(name)} if ID.fullmatch(name):
            return name
    raise ValueError(f"no usable id in {extract_message(fields)}")


def _file_in(fields: Mapping[str, object], name: str) -> str | None:
    given = fields.get(name)
    return _id_in({"id": given}) if given else None


def _moment_in(given: object) -> datetime | None:
    if isinstance(given, int) and 0 < given < LATEST:
        return datetime.fromtimestamp(given, UTC)
    return None


def _page_in(answer: object) -> tuple[list[dict[str, Any]], bool]:
    """Return the items of a page, and whether more follow."""
    match answer:
        case {"data": list(items), **others}:
            return [item for item in items if isinstance(item, dict)], bool(others.get("has_more"))
    raise ValueError(f"no list `data` in {extract_message(answer)}")


def _created(item: Mapping[str, object]) -> float:
    moment = item.get("created_at")
    return moment if isinstance(moment, int) else float("inf")


def _error_in(fields: Mapping[str, object]) -> tuple[str, str]:
    """Return the code and the message of why a batch failed; that it has too many tokens counts
    first. Empty if it did not fail."""
    match fields.get("errors"):
        case {"data": list(items)}:
            errors = [item for item in items if isinstance(item, dict)]
        case _:
            return "", ""
    errors.sort(key=lambda error: error.get("code") != TOO_MANY_TOKENS)
    code, message = (errors[0].get(name) for name in ("code", "message")) if errors else ("", "")
    return str(code or ""), str(message or "")
