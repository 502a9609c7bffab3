"""The log: one line for each event, for people or for machines.

It uses no logging library: lines are made in one place and go to one stream, so processors, bound
contexts and handlers for other libraries are not needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from threading import Lock
from typing import TextIO

from worker.engine.events import EVENTS, Level
from worker.engine.progress import RunStats
from worker.settings import Settings
from worker.terminal import as_json, write

_RANK: Mapping[str, int] = {"debug": 0, "info": 1, "warning": 2}
_COLOR: Mapping[Level, str] = {"debug": "2", "info": "36", "warning": "33"}


class Log:
    """A Progress that writes each event from `level` on to `stream`. Any thread may call it.

    Lines of `format` json are `{"time", "level", "event", …}` with the fields of the event; those
    of console read `time level event key=value …`. Times are UTC, in ISO 8601.
    """

    def __init__(self, stream: TextIO, format: str, level: str, *, color: bool = False) -> None:
        self._stream = stream
        self._is_json = format == "json"
        self._least = _RANK[level]
        self._color = color
        self._lock = Lock()

    @classmethod
    def of(cls, settings: Settings, stream: TextIO) -> Log:
        """Create the log of these settings; in colour on a terminal, unless NO_COLOR is set."""
        color = stream.isatty() and not os.environ.get("NO_COLOR")
        return cls(stream, settings.worker_log_format, settings.worker_log_level, color=color)

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        level = EVENTS[name][0]
        if _RANK[level] < self._least:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = (self._as_json if self._is_json else self._as_text)(now, level, name, fields)
        with self._lock:
            write(self._stream, line, highlight=(level, _COLOR[level]) if self._color else None)

    def _as_json(self, now: str, level: Level, name: str, fields: Mapping[str, object]) -> str:
        rounded = {key: _rounded(value) for key, value in fields.items()}
        document = {"time": now, "level": level, "event": name, **rounded}
        return as_json(document, encoding=self._stream.encoding)

    def _as_text(self, now: str, level: Level, name: str, fields: Mapping[str, object]) -> str:
        pairs = [f"{key}={_as_word(_rounded(value))}" for key, value in fields.items()]
        return " ".join([now, f"{level:7}", name, *pairs])


def _rounded(value: object) -> object:
    """Round to a thousandth, which is enough for a log."""
    return round(value, 3) if isinstance(value, float) else value


def _as_word(value: object) -> str:
    """Return a value as a word; in JSON quotes if it has spaces, and a dash for None."""
    if value is None:
        return "-"
    word = str(value)
    is_plain = word.isprintable() and not set(' "=') & set(word) and word not in ("", "-")
    return word if is_plain else as_json(word)
