"""The processes that parse files for a worker."""

from __future__ import annotations

from pathlib import Path
from queue import LifoQueue

from worker.files.parsing.options import ParseOptions
from worker.files.parsing.process import CHILD, ParserProcess
from worker.files.parsing.results import ParsedFile


class ParserPool:
    """Parses files in child processes. Several threads may use it at once.

    A process is started when a file needs one, and again after it has crashed.
    """

    def __init__(self, options: ParseOptions, module: str = CHILD) -> None:
        self._processes = [ParserProcess(options, module) for _ in range(options.workers)]
        # The process that was used last is used first, so only as many are started as are needed.
        self._idle: LifoQueue[ParserProcess] = LifoQueue()
        for process in self._processes:
            self._idle.put(process)

    def parse(self, path: Path, name: str) -> ParsedFile:
        """Return the text of the file at `path`, whose name is `name`.

        Waits for a process that is free. Raises ParseFailure if the file has no text that can be
        read, OSError if the file itself cannot be read now, SettingsError if no process can be
        started, and ParserClosed if the pool is closed.
        """
        process = self._idle.get()
        try:
            return process.parse(path, name)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes. For a file that one of them parses, `parse` raises ParserClosed."""
        for process in self._processes:
            process.kill()
        for process in [self._idle.get() for _ in self._processes]:
            process.end()
            self._idle.put(process)
