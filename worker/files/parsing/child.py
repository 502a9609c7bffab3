"""The process that parses files: one after another, as the worker asks for them.

It ends when the worker does, because the pipe between them is closed then.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from worker.errors import ParseFailure
from worker.files.parsing.confinement import confine, end_this_process, limit_cpu_time
from worker.files.parsing.decoding import without_surrogates
from worker.files.parsing.detection import FORMATS, detect
from worker.files.parsing.languages import LANGUAGES
from worker.files.parsing.options import ParseOptions
from worker.files.parsing.protocol import receive, send
from worker.files.parsing.results import failure
from worker.files.parsing.source import Extracted, Source, too_long, too_many_bytes

LONGEST_PROPERTY = 500  # characters of a title or an author
# Errors of a disk or of the network below it, which say nothing about the file.
UNREADABLE = {
    *(errno.EIO, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENXIO),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENOTDIR),
}


def main(given: str) -> None:
    """Answer requests until the worker closes the pipe. The options are given as JSON."""
    options = ParseOptions(**json.loads(given))
    requests, answers = _take_pipes()
    confine(options)
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_read_requests, args=(requests, asked), daemon=True).start()
    send(answers, {})
    while True:
        request = asked.get()
        limit_cpu_time(options)
        path = os.fsdecode(request["path"].encode("latin-1"))
        source = Source(Path(path), request["name"], options)
        send(answers, *_answer(source))


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return the pipes of this process, and close them to everything else that may print."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    return requests, answers


def _read_requests(requests: IO[bytes], asked: SimpleQueue[dict[str, Any]]) -> None:
    try:
        while True:
            asked.put(receive(requests)[0])
    except EOFError:
        end_this_process()


def _answer(source: Source) -> tuple[dict[str, Any], bytes]:
    """Return what `send` needs to answer a request."""
    try:
        return parse(source)
    except ParseFailure as error:
        return {"failed": error.error_class, "cause": error.cause, "hint": error.hint}, b""
    except OSError as error:
        return {"errno": error.errno}, b""


def parse(source: Source) -> tuple[dict[str, Any], bytes]:
    """Return what is known about a file, and its text in UTF-8.

    Raises ParseFailure, or OSError if the file cannot be read.
    """
    _check_file(source)
    try:
        return _read(source)
    except ParseFailure:
        raise
    except BaseException as error:  # such as a panic of a parser in Rust
        raise _error_of_the_parser(error, source.options) from None


def _read(source: Source) -> tuple[dict[str, Any], bytes]:
    name = detect(source)
    module = import_module(f"worker.files.parsing.formats.{FORMATS[name].module}")
    extracted: Extracted = module.read(source)
    content = without_surrogates(extracted.content)
    if len(content) > source.options.most_characters:
        raise too_long(source.options.most_characters)
    if not content.strip():
        raise failure("no_text", "it has no text")
    return _header(extracted, name, source), content.encode()


def _check_file(source: Source) -> None:
    status = os.stat(source.path)
    if not stat.S_ISREG(status.st_mode):
        raise failure("unsupported", "it is not a regular file", "Exclude it.")
    if status.st_size > source.options.most_bytes:
        raise too_many_bytes(source.options.most_bytes)
    if not status.st_size:
        raise failure("no_text", "it is empty", "Write something into it, or exclude it.")


def _error_of_the_parser(error: BaseException, options: ParseOptions) -> Exception:
    """Return the error of a file whose parser failed in a way of its own."""
    match error:
        case OSError() if error.errno in UNREADABLE:
            return error
        case ModuleNotFoundError():
            return failure(
                "unsupported",
                f"the package `{error.name}` is not installed",
                "Install it with: pip install 'embedding-worker[files]'",
            )
        case MemoryError():
            return failure(
                "too_large",
                f"its parser needs more than {options.memory_mb} MB",
                "Split the file into smaller ones, or allow its parser more memory.",
            )
        case RecursionError():
            return failure("too_large", "its parts are nested too deeply")
    return failure("damaged", f"its content cannot be read ({type(error).__name__})")


def _header(extracted: Extracted, name: str, source: Source) -> dict[str, Any]:
    mime = FORMATS[name].mime
    return {
        "mime": f"text/x-{LANGUAGES[source.suffix]}" if name == "code" else mime,
        "title": _property(extracted.title),
        "author": _property(extracted.author),
        "pages": extracted.pages,
        "encoding": extracted.encoding,
    }


def _property(text: str | None) -> str | None:
    """Return a title or an author on one line; None if there is no text in it."""
    return without_surrogates(" ".join((text or "").split())[:LONGEST_PROPERTY]) or None
