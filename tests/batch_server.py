"""A stand-in for the Batch API of OpenAI, as documented, with its faults.

    with BatchServer() as server:
        server.fates.append(EXPIRED_HALF_WAY)               # what becomes of the next batch
        server.results_are(shuffled, twice)                 # how the lines of a file come
        server.faults_at["POST /batches"].append(cut_short) # created, but the answer is lost
        …
        assert server.left_over() == []
        assert set(server.paid.values()) == {1}

    python -m tests.batch_server --seconds 5                # prints its address and key as JSON

A batch is processed when somebody has looked at it `looks` times and `seconds` have passed, unless
`is_holding`. Its vectors are those of the ordinary API, which is here as well. Each text that was
embedded counts in `paid`, and in `paid_in_full` where it came to the ordinary API. Where a request
of a batch is a fault, its key in `faults_at` and `refusals` is in ROUTES.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.http_server import Answer, Fault, Request, as_json, tokens_in
from tests.openai_server import OpenAIServer

MOST_LINES = 50_000
MOST_BYTES = 200 * 2**20
MOST_METADATA = 512  # characters of a value
COUNTS = ("total", "completed", "failed")
ENDED = ("completed", "failed", "expired", "cancelled")
ROUTES = {
    "POST /files": r"/files",
    "GET /files": r"/files",
    "GET /files/content": r"/files/(?P<id>[^/]+)/content",
    "DELETE /files/id": r"/files/(?P<id>[^/]+)",
    "POST /batches": r"/batches",
    "GET /batches": r"/batches",
    "GET /batches/id": r"/batches/(?P<id>[^/]+)",
    "POST /batches/cancel": r"/batches/(?P<id>[^/]+)/cancel",
}
EXPIRED_LINE = "This request could not be executed before the completion window expired."
CANCELLED_LINE = "This request was not executed because the batch was cancelled."


@dataclass(frozen=True)
class Fate:
    """What becomes of a batch: its last state, and the share of its lines that is done by then. The
    others are in the error file, unless they are `missing`. `code` and `message` are of a failed
    one."""

    state: Literal["completed", "failed", "expired", "cancelled"] = "completed"
    share: float = 1.0
    missing: bool = False
    code: str = ""
    message: str = ""


COMPLETED = Fate()
EXPIRED_HALF_WAY = Fate("expired", share=0.5)
CANCELLED_HALF_WAY = Fate("cancelled", share=0.5)
NOTHING_DONE = Fate("cancelled", share=0.0)
INVALID = Fate(
    "failed", code="invalid_json_line", message="This line is not parseable as valid JSON."
)

Lines = list[bytes]
Change = Callable[[Lines], Lines]
"""Changes the lines of a file of results."""


def shuffled(lines: Lines) -> Lines:
    return random.Random(1).sample(lines, len(lines))


def twice(lines: Lines) -> Lines:
    return lines + lines


def with_foreign_names(lines: Lines) -> Lines:
    """Put lines in front whose custom_id nobody has sent."""
    names = [
        "9" * 40,
        "9" * 18,
        "9" * 19,
        "0",
        "-1",
        "1e3",
        "\uff11\uff12",
        "\u00b2",
        "all",
        " 1",
        "",
    ]
    foreign = [json.loads(line) | {"custom_id": name} for line in lines[:1] for name in names]
    return [json.dumps(line).encode() + b"\n" for line in foreign] + lines


def without_every(nth: int) -> Change:
    """Leave out the first line, and each nth after it."""
    return lambda lines: [line for place, line in enumerate(lines) if place % nth]


def broken_every(nth: int) -> Change:
    """Leave out the second half of the first line, and of each nth after it."""
    return lambda lines: [
        line if place % nth else line[: len(line) // 2] for place, line in enumerate(lines)
    ]


def bad_gateway(due: Answer) -> Answer:
    return Answer(502, b"<html><h1>502 Bad Gateway</h1></html>", {"content-type": "text/html"})


def slowly(seconds: float) -> Fault:
    def fault(due: Answer) -> Answer:
        time.sleep(seconds)
        return due

    return fault


def first(act: Callable[[], object]) -> Fault:
    """Do something when the request has its effect, and before it is answered."""

    def fault(due: Answer) -> Answer:
        act()
        return due

    return fault


@dataclass(slots=True)
class File:
    id: str
    name: str
    purpose: str
    path: Path
    created: int

    def as_fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.path.stat().st_size,
            "created_at": self.created,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(slots=True)
class Batch:
    id: str
    input_file: str
    metadata: dict[str, str]
    fate: Fate
    created: float = field(default_factory=time.time)
    state: str = "validating"
    looks: int = 0
    lists_to_skip: int = 0
    tokens: int = 0
    billed: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    output_file: str | None = None
    error_file: str | None = None
    error: dict[str, Any] | None = None

    def as_fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
            "status": self.state,
            "input_file_id": self.input_file,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "errors": {"object": "list", "data": [self.error]} if self.error else None,
            "created_at": int(self.created),
            "expires_at": int(self.created) + 86_400,
            "request_counts": self.counts,
            "metadata": self.metadata,
            "usage": None if self.billed is None else {"total_tokens": self.billed},
        }


class BatchServer(OpenAIServer):
    """The API at `base_url`. The attributes can be changed while it runs."""

    prefix = "/v1"
    endpoint = "/v1/embeddings"

    def __init__(self, api_key: str = "sk-test-Zk3vQ8mW1xT6yB0cR5nHd7Lp") -> None:
        super().__init__(api_key)
        self.looks = 1
        self.seconds = 0.0
        self.is_holding = False
        self.fates: deque[Fate] = deque()
        """Each is for one batch, in the order in which they are created."""
        self.token_limit: int | None = None
        """Of all batches that have not ended together."""
        self.lists_late = 0
        """How many lists of batches do not have a new batch yet."""
        self.faults_at: defaultdict[str, deque[Fault]] = defaultdict(deque)
        """As `faults`, for requests of one route, which have had their effect."""
        self.refusals: defaultdict[str, deque[Fault]] = defaultdict(deque)
        """Requests of a route that have no effect."""
        self.line_answer: Callable[[str], Answer | None] = lambda text: None
        """What a line with this text gets instead of its vector."""
        self.paid: Counter[str] = Counter()
        self.paid_in_full: Counter[str] = Counter()
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self._changes: Sequence[Change] = ()
        self._numbers = count(1)
        self._folder = TemporaryDirectory(prefix="batch-server-")
        self._changing = threading.RLock()

    @property
    def base_url(self) -> str:
        return f"{self.root}{self.prefix}"

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._folder.cleanup()

    # For tests

    def results_are(self, *changes: Change) -> None:
        """Change the lines of all files of results from now on."""
        self._changes = changes

    def left_over(self) -> list[str]:
        """What a client that is done has not cleaned up: files, and batches that have not ended."""
        under_way = [batch.id for batch in self.batches.values() if batch.state not in ENDED]
        return [*self.files, *under_way]

    def forget(self, batch: str) -> None:
        """Know nothing of a batch any more."""
        with self._changing:
            del self.batches[batch]

    def report(self) -> dict[str, Any]:
        """What there is, and what was paid for."""
        return {
            "texts": len(self.paid),
            "paid_again": self.paid.total() - len(self.paid),
            "paid_in_full": self.paid_in_full.total(),
            "left_over": self.left_over(),
            "batches": Counter(batch.state for batch in self.batches.values()),
        }

    # The API

    def read(self, content: bytes) -> dict[str, Any]:
        if content.startswith(b"--"):
            return _read_form(content)
        return super().read(content) if content else {}

    def answer(self, request: Request) -> Answer | None:
        answer = super().answer(request)
        fault = answer and self._next(self.faults_at, self._route(request)[0])
        return fault(answer) if answer and fault else answer

    def due(self, request: Request) -> Answer:
        route, name = self._route(request)
        if urlsplit(request.path).path == "/report":
            return Answer(200, as_json(self.report()))
        if not route:
            return self._ordinary(request)
        if wrong_key := self._wrong_key(request):
            return wrong_key
        if refused := self._next(self.refusals, route):
            return refused(Answer(200, b"")) or bad_gateway(Answer(200, b""))
        with self._changing:
            answer = self._answer(route, name, request)
        if route == "GET /batches/id" and answer.status == 200:
            return self._look(self.batches[name])
        return answer

    def _next(self, faults: dict[str, deque[Fault]], route: str) -> Fault | None:
        with self._changing:
            return faults[route].popleft() if faults[route] else None

    def _route(self, request: Request) -> tuple[str, str]:
        """Return the route of a request, and the id in it; empty if it is none of ours."""
        path = urlsplit(request.path).path
        for route, shape in ROUTES.items():
            found = re.fullmatch(self.prefix + shape, path)
            if found and route.startswith(f"{request.method} "):
                return route, found.groupdict().get("id", "")
        return "", ""

    def _ordinary(self, request: Request) -> Answer:
        answer = super().due(request)
        if answer.status == 200:
            self.paid_in_full.update(request.texts)
        return answer

    def _answer(self, route: str, name: str, request: Request) -> Answer:
        query = {key: values[0] for key, values in parse_qs(urlsplit(request.path).query).items()}
        match route:
            case "POST /files":
                return self._upload(request.body)
            case "GET /files":
                files = [file.as_fields() for file in self.files.values()]
                return _page(
                    [f for f in files if query.get("purpose", "batch") == f["purpose"]], query
                )
            case "POST /batches":
                return self._create(request.body)
            case "GET /batches":
                return self._list(query)
        if route in ("GET /files/content", "DELETE /files/id"):
            file = self.files.get(name)
            if file is None:
                return self._no_such_file(name)
            if route == "GET /files/content":
                return Answer(200, file.path.read_bytes(), {"content-type": "application/jsonl"})
            self.files.pop(name).path.unlink()
            return Answer(200, as_json({"id": name, "object": "file", "deleted": True}))
        batch = self.batches.get(name)
        if batch is None:
            return self._no_such_batch(name)
        if route == "POST /batches/cancel":
            if batch.state in ENDED:
                return refusal(409, f"Cannot cancel a batch with status '{batch.state}'.")
            batch.state = "cancelling"
        return Answer(200, as_json(batch.as_fields()))

    def _upload(self, form: dict[str, Any]) -> Answer:
        if form.get("purpose") != "batch" or not form.get("filename", "").endswith(".jsonl"):
            return refusal(400, "Invalid file format for Batch API. Must be .jsonl")
        if len(form["file"]) > MOST_BYTES:
            return refusal(413, "The file is larger than 200 MB.")
        return Answer(
            200, as_json(self._store(form["filename"], "batch", form.pop("file")).as_fields())
        )

    def _store(self, name: str, purpose: str, content: bytes) -> File:
        number = f"file-{next(self._numbers):024x}"
        path = Path(self._folder.name, number)
        path.write_bytes(content)
        self.files[number] = File(number, name, purpose, path, int(time.time()))
        return self.files[number]

    def _create(self, body: dict[str, Any]) -> Answer:
        if body.get("endpoint") != self.endpoint or body.get("completion_window") != "24h":
            return refusal(400, "Invalid value for 'endpoint' or 'completion_window'.")
        metadata = body.get("metadata") or {}
        if len(metadata) > 16 or any(len(value) > MOST_METADATA for value in metadata.values()):
            return refusal(400, "Invalid 'metadata'.", param="metadata")
        file = self.files.get(body.get("input_file_id", ""))
        if file is None or file.purpose != "batch":
            return refusal(400, "Invalid 'input_file_id': there is no such file of a batch.")
        batch = Batch(
            f"batch_{next(self._numbers):024x}",
            file.id,
            metadata,
            self.fates.popleft() if self.fates else COMPLETED,
            lists_to_skip=self.lists_late,
        )
        self.batches[batch.id] = batch
        return Answer(200, as_json(batch.as_fields()))

    def _list(self, query: dict[str, str]) -> Answer:
        shown = [batch for batch in self.batches.values() if not batch.lists_to_skip]
        for batch in self.batches.values():
            batch.lists_to_skip = max(batch.lists_to_skip - 1, 0)
        return _page([batch.as_fields() for batch in shown], query)

    # What becomes of a batch

    def _look(self, batch: Batch) -> Answer:
        with self._changing:
            batch.looks += 1
            if batch.state == "validating":
                self._validate(batch)
            is_done = batch.looks >= self.looks and time.time() >= batch.created + self.seconds
            is_processed = batch.state == "cancelling" or (
                batch.state == "in_progress" and is_done and not self.is_holding
            )
            if batch.state == "cancelling" and batch.fate.state != "cancelled":
                batch.fate = NOTHING_DONE
            if is_processed:
                batch.state = "finalizing"
        if is_processed:
            self._process(batch)
        return Answer(200, as_json(batch.as_fields()))

    def _validate(self, batch: Batch) -> None:
        lines = self._input(batch)
        error = self._invalid(lines)
        batch.counts["total"] = len(lines)
        batch.tokens = sum(tokens_in(text) for line in lines for text in _texts(line))
        enqueued = sum(each.tokens for each in self.batches.values() if each.state not in ENDED)
        if self.token_limit is not None and enqueued > self.token_limit:
            model = lines[0]["body"]["model"]
            error = (
                "token_limit_exceeded",
                f"Enqueued token limit reached for {model} in organization org-x. Limit:"
                f" {self.token_limit:,} enqueued tokens. Please try again once some in_progress"
                " batches have been completed.",
            )
        if batch.fate.state == "failed":
            error = (batch.fate.code, batch.fate.message)
        batch.state = "failed" if error else "in_progress"
        if error:
            batch.error = {"code": error[0], "message": error[1], "param": None, "line": None}

    def _input(self, batch: Batch) -> list[dict[str, Any]]:
        file = self.files.get(batch.input_file)
        return [json.loads(line) for line in file.path.read_bytes().splitlines()] if file else []

    def _invalid(self, lines: list[dict[str, Any]]) -> tuple[str, str] | None:
        if not lines:
            return "empty_file", "The input file is empty."
        if len(lines) > MOST_LINES:
            return "too_many_tasks", f"The input file has more than {MOST_LINES} requests."
        if len({line["custom_id"] for line in lines}) < len(lines):
            return "duplicate_custom_id", "A custom_id is used by more than one request."
        if any(line["url"] != self.endpoint or line["method"] != "POST" for line in lines):
            return "mismatched_url", "A url does not match the endpoint of the batch."
        if len({line["body"]["model"] for line in lines}) > 1:
            return "mismatched_model", "All requests of a batch must have the same model."
        return None

    def _process(self, batch: Batch) -> None:
        lines, fate = self._input(batch), batch.fate
        done = lines[: round(len(lines) * fate.share)]
        results = [self._result(line) for line in done]
        billed = [line for line, (ok, _) in zip(done, results, strict=True) if ok]
        output = [line for ok, line in results if ok]
        errors = [line for ok, line in results if not ok]
        if not fate.missing:
            errors += [_not_done(line, fate.state) for line in lines[len(done) :]]
        for change in self._changes:
            output, errors = change(output), change(errors)
        with self._changing:
            batch.output_file = self._store_results(batch, "output", output)
            batch.error_file = self._store_results(batch, "error", errors)
            batch.billed = sum(tokens_in(text) for line in billed for text in _texts(line))
            batch.counts |= {"completed": len(output), "failed": len(errors)}
            batch.state = fate.state

    def _result(self, line: dict[str, Any]) -> tuple[bool, bytes]:
        """Return whether a line of input succeeds, and its line in a file of results."""
        [text] = _texts(line) or [""]
        answer = self.line_answer(text) or self._embed(line["body"])
        is_done = answer.status == 200
        if is_done:
            self.paid[text] += 1
        number = f"{next(self._numbers):032x}"
        # The body is JSON already.
        head = {"id": f"batch_req_{number}", "custom_id": line["custom_id"]}
        response = f'{{"status_code": {answer.status}, "request_id": "{number}", "body": '.encode()
        return is_done, b'%b, "response": %b%b}, "error": null}\n' % (
            as_json(head)[:-1],
            response,
            answer.body,
        )

    def _embed(self, body: dict[str, Any]) -> Answer:
        headers = {"authorization": f"Bearer {self.api_key}"}
        return OpenAIServer.due(self, Request("/v1/embeddings", headers, body))

    def _store_results(self, batch: Batch, kind: str, lines: Lines) -> str | None:
        name = f"{batch.id}_{kind}.jsonl"
        return self._store(name, "batch_output", b"".join(lines)).id if lines else None

    def _no_such_file(self, name: str) -> Answer:
        return refusal(404, f"No such File object: {name}", param="id")

    def _no_such_batch(self, name: str) -> Answer:
        return refusal(404, f"No batch found with id '{name}'.")


def refusal(status: int, message: str, param: str | None = None) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return Answer(status, as_json({"error": error}))


def line_error(status: int, message: str, code: str | None = None) -> Answer:
    """What a line gets that fails by itself; for `line_answer`."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Answer(status, as_json({"error": error}))


def _texts(line: dict[str, Any]) -> list[str]:
    given = line["body"].get("input", [])
    return [given] if isinstance(given, str) else given


def _not_done(line: dict[str, Any], state: str) -> bytes:
    words = EXPIRED_LINE if state == "expired" else CANCELLED_LINE
    error = {"code": f"batch_{state}", "message": words}
    return as_json({"custom_id": line["custom_id"], "response": None, "error": error}) + b"\n"


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> Answer:
    """A page of a list, the newest first."""
    items = items[::-1]
    if "after" in query:
        names = [item["id"] for item in items]
        if query["after"] not in names:
            return refusal(404, f"There is no {query['after']}.", param="after")
        items = items[names.index(query["after"]) + 1 :]
    limit = int(query.get("limit", "20"))
    body = {"object": "list", "data": items[:limit], "has_more": len(items) > limit}
    return Answer(200, as_json(body))


def _read_form(content: bytes) -> dict[str, Any]:
    """The fields of a form, with the content of its file as `file`, and its name as `filename`."""
    boundary, _, rest = content.partition(b"\r\n")
    form: dict[str, Any] = {}
    for part in rest.split(b"\r\n" + boundary):
        head, _, value = part.lstrip(b"\r\n").partition(b"\r\n\r\n")
        found = re.search(rb'name="([^"]*)"(?:; filename="([^"]*)")?', head)
        if found and found[2] is not None:
            form |= {"filename": found[2].decode(), "file": value}
        elif found:
            form[found[1].decode()] = value.decode()
    return form


def main() -> None:
    options = argparse.ArgumentParser(description="Serve a stand-in for the Batch API.")
    options.add_argument("--looks", type=int, default=1)
    options.add_argument("--seconds", type=float, default=0.0)
    options.add_argument("--token-limit", type=int)
    given = options.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with BatchServer() as server:
        server.looks, server.seconds = given.looks, given.seconds
        server.token_limit = given.token_limit
        address = {"root": server.root, "base_url": server.base_url, "api_key": server.api_key}
        sys.stdout.write(json.dumps(address) + "\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
