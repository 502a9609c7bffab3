"""A child process that parses files, seen from the worker: it is started, asked and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any

import worker
from worker.errors import ParseFailure, SettingsError
from worker.files.parsing.options import ParseOptions
from worker.files.parsing.protocol import BadMessage, receive, send
from worker.files.parsing.results import HINTS, ParsedFile, failure
from worker.files.parsing.source import BYTES_PER_CHARACTER

CHILD = "worker.files.parsing.child"
MOST_FILES = 200  # after which a process is replaced, so that what it leaks ends with it
SECONDS_TO_START = 60.0
# What Python needs to run. Keys and passwords of the worker's environment are not passed on.
PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "SYSTEMROOT")
# What a child process runs. It finds the same package as this process, wherever that comes from.
PROGRAM = """
import sys
folder, module, options = sys.argv[1:]
if folder not in sys.path:
    sys.path.insert(0, folder)
from importlib import import_module
import_module(module).main(options)
"""


class ParserClosed(Exception):
    """The pool was closed while a file was parsed, which says nothing about the file."""


class ParserProcess:
    """Parses one file at a time. Only `kill` may be called from another thread meanwhile."""

    def __init__(self, options: ParseOptions, module: str = CHILD) -> None:
        self._options = options
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._files = 0
        self._timed_out = False
        self._killed = False

    def parse(self, path: Path, name: str) -> ParsedFile:
        """Return the text of a file.

        Raises ParseFailure, OSError if the file cannot be read, SettingsError if the process cannot
        be started, and ParserClosed.
        """
        if self._process and (self._files >= MOST_FILES or self._process.poll() is not None):
            self.end()
        was_used = self._process is not None
        try:
            return self._attempt(path, name)
        except ParseFailure as error:
            if error.error_class != "parse_killed" or not was_used:
                raise
        # An earlier file may have damaged the process. A new one tells which file is the cause.
        return self._attempt(path, name)

    def kill(self) -> None:
        """End the process, and whatever file it parses, for good."""
        self._killed = True
        if process := self._process:
            process.kill()

    def end(self) -> int:
        """End the process; a later file gets a new one. Return its exit status."""
        process, self._process = self._process, None
        if not process:
            return 0
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with suppress(OSError):  # what was not sent
                    pipe.close()
        return process.wait()

    def _attempt(self, path: Path, name: str) -> ParsedFile:
        process = self._process or self._start()
        # The name of a file may be of any bytes.
        request = {"path": os.fsencode(path.absolute()).decode("latin-1"), "name": name}
        self._files += 1
        try:
            with self._clock(self._options.seconds):
                header, content = self._ask(process, request)
            parsed = _parsed(header, content, path)
        except (EOFError, BadMessage) as error:
            raise self._why_it_ended(error) from None
        except ParseFailure as error:
            if error.error_class == "too_large":
                self.end()  # it may have taken a lot of memory
            raise
        if self._timed_out:
            self.end()  # just after the answer
        return parsed

    def _ask(
        self, process: subprocess.Popen[bytes], request: dict[str, str] | None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request, if any, and wait for the answer."""
        assert process.stdin
        assert process.stdout
        if request:
            with suppress(BrokenPipeError):  # it has ended, as its answer will show
                send(process.stdin, request)
        return receive(process.stdout, self._options.most_characters * BYTES_PER_CHARACTER)

    def _start(self) -> subprocess.Popen[bytes]:
        self._check_not_killed()
        self._files = 0
        try:
            self._process = process = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a parser may print a part of a file
                env=_environment(),
                start_new_session=True,  # so that Ctrl-C ends the worker, and the worker ends this
            )
            with self._clock(SECONDS_TO_START):
                self._ask(process, None)
        except (EOFError, BadMessage, OSError):
            self.end()
            self._check_not_killed()
            raise SettingsError(
                "the process that parses files does not start",
                f"Give it more memory than {self._options.memory_mb} MB, and check that this user"
                " may start processes.",
            ) from None
        return process

    def _command(self) -> list[str]:
        folder = str(Path(worker.__file__).parents[1])
        options = json.dumps(asdict(self._options))
        return [sys.executable, "-P", "-c", PROGRAM, folder, self._module, options]

    @contextmanager
    def _clock(self, seconds: float) -> Iterator[None]:
        """Kill the process if the block takes longer than `seconds`."""
        self._timed_out = False
        self._check_not_killed()
        timer = Timer(seconds, self._time_out)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _time_out(self) -> None:
        self._timed_out = True
        if process := self._process:
            process.kill()

    def _check_not_killed(self) -> None:
        if self._killed:
            self.end()
            raise ParserClosed

    def _why_it_ended(self, error: Exception) -> ParseFailure:
        """End the process, and return the error of the file that it parsed.

        Raises ParserClosed if the worker ended it.
        """
        status = self.end()
        self._check_not_killed()
        if self._timed_out or -status == getattr(signal, "SIGXCPU", None):
            return failure("parse_timed_out", f"it took more than {self._options.seconds:g} s")
        if isinstance(error, BadMessage):
            return failure("parse_killed", "its parser gave an answer that cannot be used")
        if status >= 0:
            return failure("parse_killed", f"its parser ended with status {status}")
        return failure("parse_killed", f"its parser was ended by {signal.Signals(-status).name}")


def _environment() -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed_on | {
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # it may write no files
        "MALLOC_ARENA_MAX": "1",  # each thread would reserve 64 MB of the address space
    }


def _parsed(header: dict[str, Any], content: bytes, path: Path) -> ParsedFile:
    """Return the file that an answer describes, or raise its error.

    Raises BadMessage if the answer is none: the process may have been taken over by a file.
    """
    match header:
        case {"failed": str(error_class), "cause": str(cause), "hint": str(hint)}:
            if error_class in HINTS:
                raise ParseFailure(cause, hint, error_class=error_class)
        case {"errno": int(number)}:
            raise OSError(number, os.strerror(number), str(path))
        case {
            "mime": str(mime),
            "title": str() | None as title,
            "author": str() | None as author,
            "pages": int() | None as pages,
            "encoding": str() | None as encoding,
        }:
            with suppress(UnicodeDecodeError):
                return ParsedFile(
                    content=content.decode(),
                    mime=mime,
                    title=title,
                    author=author,
                    pages=pages,
                    encoding=encoding,
                )
    raise BadMessage
