"""Colours and live screens. They add no information to the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.terminal import printable

__all__ = ["Console", "live_screen", "show", "tinted"]

TINTS = {
    r"[▏▎▍▌▋▊▉█]+": "green",
    r"^\s*(column|worker|failed)  ?.*(due|cause|reason)$": "bold",
    r"\bsilent\b|^(stopped|suspended|paused|asleep): ": "yellow",
    r"^… and \d+ more$": "dim",
}


def tinted(line: str) -> Text:
    """Colour a line of a status screen."""
    text = Text(line, no_wrap=True, overflow="crop")
    for pattern, style in TINTS.items():
        text.highlight_regex(re.compile(pattern), style)
    return text


def show(console: Console, text: Text) -> None:
    """Print a coloured line on a terminal."""
    console.print(_cleaned(text), crop=False, soft_wrap=True)


@contextmanager
def live_screen(console: Console) -> Iterator[Callable[[Iterable[str]], None]]:
    """Yield a function that replaces the lines of the whole screen."""
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def redraw(lines: Iterable[str]) -> None:
            live.update(Group(*(_cleaned(tinted(line)) for line in lines)), refresh=True)

        yield redraw


def _cleaned(text: Text) -> Text:
    text.plain = printable(text.plain)
    return text
