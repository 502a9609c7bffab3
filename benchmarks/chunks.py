"""How fast long texts become chunks, how many chunks an edit changes, and what memory that takes.

The limit of a rate is a regular expression that finds the words of the same text. The limit of the
memory is a process that only holds the text. A text is in the memory of Python with one byte for
each character of ASCII, so megabytes are millions of characters here.
"""

from __future__ import annotations

import base64
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from statistics import median, quantiles

from benchmarks.database import Server
from benchmarks.report import Figure
from benchmarks.usage import usage
from tests.documents import KINDS, Document, document, edited, edited_at_the_top, text_of
from worker.chunking.options import Format, SplitOptions
from worker.chunking.splitter import split

WORDS = re.compile(r"\S+\s*")
SEED = 20_261_130
SLOWEST = 0.1  # of the limit
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    characters: int = 600_000  # about 300 pages
    edits: int = 60
    tops: int = 20
    odd: int = MILLION  # characters of each odd text
    repetitions: int = 3
    held: tuple[int, ...] = (1, 16)  # millions of characters


FULL = Size()
QUICK = Size(characters=60_000, edits=20, tops=3, odd=20_000, repetitions=1, held=(1,))


def splitting(server: Server, size: Size) -> Iterator[Figure]:
    """The splitter alone. It needs no database."""
    for kind in KINDS:
        paragraphs = document(kind, size.characters, SEED)
        text = text_of(kind, paragraphs)
        yield rate(kind, text, KINDS[kind][0], size.repetitions, SLOWEST)
        yield from stability(kind, paragraphs, size)
    for what, text in odd_texts(size.odd):
        format: Format = "html" if "<" in what else "markdown"
        yield replace(rate(f"{what}, as {format}", text, format, 1), limits=())
    for millions in size.held:
        yield memory(millions)


GROUPS = {"splitting": splitting}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def rate(
    what: str, text: str, format: Format, repetitions: int, at_least: float | None = None
) -> Figure:
    """Measure in CPU time, because the limit takes much less time than other programs."""
    samples, limits = [], []
    for _ in range(repetitions):
        began = time.process_time()
        WORDS.findall(text)
        found = time.process_time()
        contents(text, format)
        limits.append(len(text) / MILLION / (found - began))
        samples.append(len(text) / MILLION / (time.process_time() - found))
    return Figure(what=what, unit="MB/s", samples=samples, limits=limits, at_least=at_least)


def stability(kind: str, paragraphs: Document, size: Size) -> Iterator[Figure]:
    """Count the chunks that are new after an edit of one paragraph, or a new one at the top."""
    random = Random(SEED)

    def chunks(given: Document) -> set[str]:
        return contents(text_of(kind, given), KINDS[kind][0])

    before = chunks(paragraphs)
    new = [len(chunks(edited(kind, paragraphs, random)) - before) for _ in range(size.edits)]
    top = [
        len(chunks(edited_at_the_top(kind, paragraphs, random)) - before) for _ in range(size.tops)
    ]
    for name, found, most in (
        ("an edit: median", median(new), 1),
        ("an edit: p95", quantiles(new, n=20, method="inclusive")[-1], 4),
        ("an edit: max", max(new), 8),
        ("a paragraph at the top: max", max(top), 3),
    ):
        yield Figure(what=f"{kind}, new after {name}", unit="chunks", samples=[found], at_most=most)


def contents(text: str, format: Format) -> set[str]:
    chunks = split(text, SplitOptions(format=format))
    return {text[chunk.first_char : chunk.last_char] for chunk in chunks}


def odd_texts(characters: int) -> Iterator[tuple[str, str]]:
    """Yield texts that nobody writes, and that take the most time."""
    random = Random(SEED)
    yield "Chinese, no punctuation", "".join(random.choices(CHINESE, k=characters))
    yield "base64", base64.b64encode(random.randbytes(characters * 3 // 4)).decode()
    noise = random.randbytes(characters).replace(b"\0", b"")
    yield "random bytes", noise.decode("latin-1")
    for piece in ODD_PIECES:
        yield f"{piece!a} repeated", piece * (characters // len(piece)) + "."


CHINESE = [chr(code) for code in range(0x4E00, 0x9FFF)]
FLAG, ACCENT = "\U0001f1e9\U0001f1ea", "\u0301"
ODD_PIECES = [
    *["a", " ", "\n", "a ", ". ", "#", "#\n", "a\n=\n", "```\n", "---\n", "|", "|\n", "\r\n"],
    *["<div>", "<h1>", "<h1></h1>", '<a "', "<!--", "<script>", FLAG, ACCENT, f" {ACCENT}"],
]


def memory(millions: int) -> Figure:
    def peak(task: str) -> float:
        return usage([sys.executable, "-m", "benchmarks.chunks", task, str(millions)], {}).peak

    return Figure(
        what=f"memory of a process that splits {millions} MB",
        unit="MB",
        samples=[peak("split")],
        limits=[peak("hold")],
        at_most=1.2,
    )


def main() -> None:
    """Hold a text of so many megabytes, and perhaps split it: a process for `memory`."""
    task, millions = sys.argv[1:]
    text = text_of("Markdown", document("Markdown", MILLION, SEED)) * int(millions)
    if task == "split":
        for _ in split(text):
            pass


if __name__ == "__main__":
    main()
