"""How fast long texts become chunks with vectors, what an edit changes, and what memory that takes.

Texts are ASCII, so megabytes are millions of characters here.
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

from benchmarks import documents
from benchmarks.database import NARROW, Database, Server
from benchmarks.queue import OF_LOCAL_MODEL
from benchmarks.report import Figure
from benchmarks.usage import usage
from tests.documents import KINDS, Document, document, edited, edited_at_the_top, text_of
from worker.chunking.options import SplitOptions
from worker.chunking.splitter import split
from worker.queue import ChunkFormat

WORDS = re.compile(r"\S+\s*")
SEED = 20_261_130
SLOWEST = 0.1  # of the limit
MILLION = 1_000_000
CHUNKS_OF_SMALL = 3
LONGEST_SWAP = 500.0  # milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    characters: int = 600_000  # about 300 pages
    edits: int = 60
    tops: int = 20
    odd: int = MILLION  # characters of each odd text
    repetitions: int = 3
    held: tuple[int, ...] = (1, 16)  # millions of characters
    small_documents: int = 2_000  # of 3 chunks
    chunks: int = 5_000  # of a large document
    swaps: int = 5
    whole: tuple[int, int] = (1, 16)  # millions of characters


FULL = Size()
QUICK = Size(
    characters=60_000,
    edits=20,
    tops=3,
    odd=20_000,
    repetitions=1,
    held=(1,),
    small_documents=60,
    chunks=300,
    swaps=2,
    whole=(1, 2),
)


def splitting(server: Server, size: Size) -> Iterator[Figure]:
    """The splitter alone. It needs no database.

    The limit of a rate is a regular expression that finds the words of the same text. The limit of
    the memory is a process that only holds the text.
    """
    for kind in KINDS:
        paragraphs = document(kind, size.characters, SEED)
        text = text_of(kind, paragraphs)
        yield rate(kind, text, KINDS[kind][0], size.repetitions, SLOWEST)
        yield from stability(kind, paragraphs, size)
    for what, text in odd_texts(size.odd):
        format: ChunkFormat = "html" if "<" in what else "markdown"
        yield replace(rate(f"{what}, as {format}", text, format, 1), limits=())
    for millions in size.held:
        yield memory(millions)


def storing(server: Server, size: Size) -> Iterator[Figure]:
    """Documents whose vectors are staged and which are completed over the SQL API, compared with a
    COPY of the same rows."""
    for what, count, chunks in (
        ("small documents", size.small_documents, CHUNKS_OF_SMALL),
        ("a large document", 1, size.chunks),
    ):
        texts = [documents.manual(chunks, SEED + number) for number in range(count)]
        with server.database(NARROW) as database:
            documents.create_tables(database)
            runs = [documents.store(database, texts) for _ in range(size.repetitions)]
        chunks = runs[0].chunks
        megabytes = sum(map(len, texts)) / MILLION
        for unit, amount in (("chunks", chunks), ("documents", count), ("MB", megabytes)):
            yield Figure(
                what=f"storing: {what}, {chunks / count:,.1f} chunks each",
                unit=f"{unit}/s",
                samples=[amount / run.seconds for run in runs],
                limits=[amount / run.copying for run in runs],
            )


def swap(server: Server, size: Size) -> Iterator[Figure]:
    """The passages of a long document are replaced after a sentence was inserted at its top."""
    with server.database(NARROW) as database:
        documents.create_tables(database)
        chunks = documents.store(database, [documents.manual(size.chunks, SEED)]).chunks
        yield from swaps(f"swap: {chunks:,} chunks", database, size)
        documents.index_vectors(database)
        yield from swaps(f"swap: {chunks:,} chunks, HNSW index", database, size)


def swaps(what: str, database: Database, size: Size) -> Iterator[Figure]:
    """Compare with DELETE and COPY of the same places in a bare table."""
    runs = [documents.swap(database, SEED + number) for number in range(size.swaps)]
    times = [run.milliseconds for run in runs]
    yield Figure(what=f"{what}, completing", unit="ms", samples=times, at_most=LONGEST_SWAP)
    bare = [run.bare for run in runs]
    yield Figure(what=f"{what}, against bare places", unit="ms", samples=times, limits=bare)
    waits = [max(run.longest_wait for run in runs)]
    yield Figure(what=f"{what}, longest edit", unit="ms", samples=waits, at_most=LONGEST_SWAP)
    new = [max(run.new for run in runs)]
    yield Figure(what=f"{what}, embedded", unit="chunks", samples=new, at_most=3)


def whole(server: Server, size: Size) -> Iterator[Figure]:
    """A worker with the local model, compared with a process that embeds the same text without a
    database."""
    with server.database(OF_LOCAL_MODEL) as database:
        documents.create_tables(database)
        runs = {each: documents.run_worker(database, each) for each in size.whole}
    for megabytes, run in runs.items():
        yield Figure(
            what=f"whole: {megabytes} MB",
            unit="MB/s",
            samples=[megabytes / run.seconds],
            limits=[megabytes / documents.run_alone(megabytes).seconds],
        )
    short, long = size.whole
    what = f"whole: memory of a worker, {long} MB"
    small, large = [runs[short].peak], [runs[long].peak]
    yield Figure(
        what=f"{what} against {short}", unit="MB", samples=large, limits=small, at_most=1.5
    )
    yield Figure(what=what, unit="MB", samples=large, at_most=200)


GROUPS = {"splitting": splitting, "storing": storing, "swap": swap, "whole": whole}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def rate(
    what: str, text: str, format: ChunkFormat, repetitions: int, at_least: float | None = None
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


def contents(text: str, format: ChunkFormat) -> set[str]:
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
