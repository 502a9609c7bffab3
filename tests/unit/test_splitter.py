"""Texts into chunks: nothing lost, nothing too long, nothing cut that should stay whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from typing import get_args
from zlib import crc32

import pytest
import regex

from tests.conftest import rest_in_full
from tests.documents import KINDS, code, document, prose, sentence, text_of
from worker.chunking.options import SplitOptions
from worker.chunking.splitter import SPLITTER_VERSION, Chunk, split
from worker.errors import SettingsError
from worker.queue import ChunkFormat

SIZE = 1250  # the default
SEED = 20_261_130

FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
CLUSTERS = [
    "e\u0301",
    "\r\n",
    FAMILY,
    "\N{THUMBS UP SIGN}\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "\u1112\u1161\u11ab",  # Hangul in three letters
    "क्षि",
    "o" + "\u0302\u0323" * 4,
]
PIECES = [
    *[
        "a",
        "word ",
        "Sentence. ",
        "。",
        "\uff0c",
        "中",
        "\n",
        "\n\n",
        "\t",
        " ",
        "\f",
        "\ud83d",
        "\u200d",
    ],
    *[
        "# ",
        "## b\n",
        "===\n",
        "---\n",
        "```\n",
        "~~~~\n",
        "| a | b |\n",
        "|---|---|\n",
        "- ",
        "> ",
    ],
    *[
        "<p>",
        "</p>",
        "<h1>",
        "</h1>",
        "<a title='>'>",
        "<!--",
        "-->",
        "<script>",
        '"',
        "'",
        "&amp;",
    ],
    *["def f():\n", "    x = 1\n", "}\n", "\x00", "\x1c", "\u0600", "\xa0", "\u2028"],
    *CLUSTERS,
]

formats = pytest.mark.parametrize("format", get_args(ChunkFormat))


def contents(text: str, chunks: list[Chunk]) -> list[str]:
    return [text[chunk.first_char : chunk.last_char] for chunk in chunks]


def split_up(text: str, format: ChunkFormat = "markdown", size: int = SIZE) -> list[str]:
    """The contents of the chunks of a text."""
    return contents(text, list(split(text, SplitOptions(format=format, chunk_size=size))))


def soup(random: Random, pieces: list[str], length: int) -> str:
    """Pieces in any order, some of them many times in a row."""
    made: list[str] = []
    while len(made) < length:
        made += [random.choice(pieces)] * random.choice([1, 1, 1, 1, 2, 5, 60])
    return "".join(made)


def soups(count: int) -> Iterator[tuple[str, int]]:
    """Texts, each with a size of its chunks."""
    random = Random(SEED)
    for _ in range(count):
        some = random.sample(PIECES, random.randint(1, len(PIECES)))
        yield soup(random, some, random.choice([1, 20, 100, 300])), random.choice([16, 40, 300])


# -- any text


@formats
def test_the_chunks_of_any_text_are_the_text_and_none_is_too_long(format: ChunkFormat) -> None:
    for text, size in soups(40):
        options = SplitOptions(format=format, chunk_size=size)
        chunks = list(split(text, options))
        assert "".join(contents(text, chunks)) == ("" if text.isspace() else text)
        assert all(before.last_char == after.first_char for before, after in pairwise(chunks))
        assert all(0 < chunk.last_char - chunk.first_char <= size for chunk in chunks)
        assert [chunk.blank for chunk in chunks] == [c.isspace() for c in contents(text, chunks)]
        assert list(split(text, options)) == chunks


@formats
def test_no_chunk_of_any_text_ends_in_a_character_that_fits_in_a_chunk(format: ChunkFormat) -> None:
    for text, size in soups(40):
        chunks = list(split(text, SplitOptions(format=format, chunk_size=size)))
        ends = {chunk.last_char for chunk in chunks}
        for cluster in regex.finditer(r"\X", text):
            if len(cluster[0]) <= size:
                assert not ends & set(range(cluster.start() + 1, cluster.end())), cluster[0]


@pytest.mark.parametrize("cluster", CLUSTERS, ids=ascii)
def test_what_people_see_as_one_character_stays_whole(cluster: str) -> None:
    for size in range(16, 32):
        chunks = split_up(cluster * 100, "text", size)
        assert all(chunk == cluster * (len(chunk) // len(cluster)) for chunk in chunks[:-1])


def test_an_endless_character_is_cut() -> None:
    text = "before " + "z" + "\u0301" * 5000 + " behind"
    assert max(map(len, split_up(text))) == SIZE
    assert "".join(split_up(text)) == text


@formats
def test_endless_texts_are_split(format: ChunkFormat) -> None:
    random = Random(SEED)
    chinese = "".join(chr(random.randrange(0x4E00, 0x9FFF)) for _ in range(9_000))
    repeated = [
        "a",
        "#",
        "#\n",
        "```\n",
        "|",
        "|\n",
        "<div>",
        "<h1>",
        '<a "',
        "<!--",
        "a\n=\n",
        "\f",
    ]
    for text in [chinese, *(piece * (9_000 // len(piece)) + "." for piece in repeated)]:
        chunks = split_up(text, format)
        assert "".join(chunks) == text
        # The least size is 0.4 of the largest, if nothing has to stay whole.
        assert len(chunks) <= len(text) / (0.4 * SIZE) + 1


def test_the_same_version_makes_the_same_chunks() -> None:
    # If this fails, vectors that exist belong to other chunks: change SPLITTER_VERSION.
    ends = [
        [chunk.last_char for chunk in split(text, SplitOptions(format=format))]
        for kind, (format, _, _) in KINDS.items()
        for text in [text_of(kind, document(kind, 20_000, SEED))]
    ]
    assert {SPLITTER_VERSION: crc32(str(ends).encode())} == {1: 17767538}


# -- where a chunk ends


def test_a_chunk_ends_at_the_strongest_break_in_its_range() -> None:
    random = Random(SEED)
    breaks = ["\n# H\n", "\f", "\n\n", ". ", "\n", ", ", " "]
    for strong, weak in pairwise(breaks):
        filler = "".join("X" * 10 + weak for _ in range(100))
        at = random.randrange(520, 620)
        text = filler[:at] + "Y" + strong + "Z" + filler
        first = split_up(text)[0]
        assert first.rstrip(" .,\n\f").endswith("Y"), (strong, weak, first[-30:])


def test_code_ends_before_the_line_with_the_least_indentation() -> None:
    body = "".join(f"    value_{line} = {line}.\n\n" for line in range(20))
    text = "".join(f"def name_{number}():\n{body}\n" for number in range(10))
    assert all(chunk.startswith("def ") for chunk in split_up(text, "code"))


def test_code_ends_before_a_definition_rather_than_another_line() -> None:
    statements = "".join(f"x{line} = {line}\n\n" for line in range(110))
    text = statements + "class Found:\n    pass\n\n" + statements
    assert any(chunk.startswith("class Found") for chunk in split_up(text, "code"))


def test_html_ends_at_blocks_and_never_in_a_tag() -> None:
    random = Random(SEED)
    text = "".join(
        f'<div><p title="A > b. C">{prose(random)} <b class="x. Y">c</b></p></div>'
        for _ in range(30)
    )
    chunks = split_up(text, "html", 600)
    ends = [len("".join(chunks[:number])) for number in range(1, len(chunks))]
    tags = [tag.span() for tag in regex.finditer(r"""<(?:[^"<>]|"[^"]*")*>""", text)]
    assert not [end for end in ends if any(first < end < last for first, last in tags)]
    assert all("<div>" not in chunk[5:] or len(chunk) > 240 for chunk in chunks)
    assert sum(chunk.startswith("<") for chunk in chunks) > len(chunks) / 2


def test_html_without_blocks_is_not_cut_in_a_tag() -> None:
    text = "".join(f'<i title="A > B. C, d {number}">word</i>' for number in range(300))
    tags = [tag.span() for tag in regex.finditer(r"""<(?:[^"<>]|"[^"]*")*>""", text)]
    for chunk in split(text, SplitOptions(format="html", chunk_size=100)):
        assert not any(first < chunk.last_char < last for first, last in tags)


# -- what stays whole


def blocks(random: Random) -> Iterator[tuple[str, str]]:
    """Blocks of Markdown, each with its kind."""
    for _ in range(60):
        kind = random.choice(["prose", "heading", "fence", "table"])
        if kind == "heading":
            title = sentence(random)[:30].strip(" .?!,") or "T"
            underlined = f"{title}\n{random.choice(['===', '---'])}"
            yield kind, random.choice([f"## {title}", f"# {title} #", underlined])
        elif kind == "fence":
            mark = random.choice(["```", "~~~", "`````", "  ~~~~"])
            lines = [code(random), "", "# no heading", "| a |", ""] * random.randint(1, 4)
            yield kind, "\n".join([mark, *lines, mark])
        elif kind == "table":
            rows = [f"| {prose(random)} | b |" for _ in range(random.randint(1, 5))]
            yield kind, "\n".join(["| a | b |", "|:--|---|", *rows])
        else:
            yield kind, prose(random)


@pytest.mark.parametrize("seed", range(12))
def test_fences_and_rows_stay_whole_and_headings_stay_with_their_text(seed: int) -> None:
    random = Random(seed)
    made = list(blocks(random))
    text = "\n\n".join(block for _, block in made)
    size = random.choice([400, 800, SIZE])
    chunks = list(split(text, SplitOptions(chunk_size=size)))
    ends = {chunk.last_char for chunk in chunks[:-1]}
    first = 0
    for (kind, block), (following, _) in pairwise([*made, ("end", "")]):
        rows = block.split("\n") if kind == "table" else [block]
        for row in rows:
            if kind in ("fence", "table") and len(row) <= size:
                assert not ends & set(range(first + 1, first + len(row))), row
            first += len(row) + 1
        first += 1
        if kind == "heading" and following == "prose":
            assert not ends & set(range(first - len(block), first + 1)), block


def test_a_fence_that_just_fits_gets_a_chunk_of_its_own() -> None:
    fence = "```\n" + "word. Word, word\n" * 73 + "```\n"
    assert SIZE - len(fence) < 20
    text = f"A short text.\n\n{fence}\nAnother text."
    assert split_up(text) == ["A short text.\n\n", fence + "\n", "Another text."]


def test_a_fence_with_its_heading_gets_the_next_chunk() -> None:
    fence = "~~~\n" + "word. Word, word\n" * 72 + "~~~\n"
    text = f"A short text.\n\n# Heading\n\n{fence}"
    assert split_up(text) == ["A short text.\n\n", f"# Heading\n\n{fence}"]


def test_a_fence_that_is_not_closed_ends_with_the_text() -> None:
    text = "```\n" + "# no heading\n\n" * 300
    assert {chunk.heading_path for chunk in split(text)} == {""}


def test_a_long_fence_is_cut_between_lines() -> None:
    text = "```\n" + "some. Words, of a line\n" * 300 + "```\n"
    assert all(chunk.endswith("\n") for chunk in split_up(text))


@pytest.mark.parametrize("before", [0, 100, *range(480, 510), 900])
def test_a_heading_stays_with_the_beginning_of_a_long_fence(before: int) -> None:
    heading = "# Heading\n\n"
    text = "x" * before + "\n\n" + heading + "```\n" + "words of a line\n" * 300 + "```\n"
    assert not any(chunk.endswith(heading) for chunk in split_up(text))


# -- headings and pages


@pytest.mark.parametrize(
    ("format", "text", "path"),
    [
        ("markdown", "# A\n\n## B ##\n\n{}", "A > B"),
        ("markdown", "# A\n## B\n# C #\n{}", "C"),
        ("markdown", "A\n===\n\nB and\nc\n---\n{}", "A > B and c"),
        ("markdown", "#\tA\r\n\r\n### `b` > c#\r\n\r\n{}", "A > `b` > c#"),
        ("markdown", "# A\n\n```\n# B\n~~~\n```` \n\n{}", "A"),
        ("markdown", "# A\n\n````\n```\n# B\n````\n\n{}", "A"),
        ("markdown", "# A\n\n#hashtag\n\n    # code\n\n- item\n---\n\n{}", "A"),
        ("markdown", "---\ntitle: x\n---\n\n# A\n\n{}", "A"),
        ("markdown", "---\n\nA\n---\n\n{}", "A"),
        ("markdown", "| a |\n|---|\n| b |\n---\n\n{}", ""),
        ("html", "<h1>A</h1><H2 id=x>B &amp;\n <i>c</i></H2>{}", "A > B & c"),
        ("html", "<h1>A</h1><!-- <h2>B</h2> --><script>'<h2>C</h2>'</script><header>{}", "A"),
        ("html", "<h1>A<h2>B</h2><p>{}", "B"),
        ("text", "# A\n\n{}", ""),
        ("code", "# A\n\n{}", ""),
    ],
)
def test_a_chunk_has_the_headings_above_it(format: ChunkFormat, text: str, path: str) -> None:
    chunks = list(split(text.format("Some words. " * 300), SplitOptions(format=format)))
    assert chunks[-1].heading_path == path


def test_a_chunk_that_begins_with_a_heading_has_it_in_its_path() -> None:
    text = "\n\n".join(f"# H{number}\n\n{'Some words. ' * 60}" for number in range(9))
    paths = [chunk.heading_path for chunk in split(text, SplitOptions(chunk_size=900))]
    assert paths == [f"H{number}" for number in range(9)]


def test_a_path_is_short() -> None:
    text = "".join(f"{'#' * level} {str(level) * 110}\n\n" for level in range(1, 6)) + "a. " * 999
    path = list(split(text))[-1].heading_path
    assert path == f"{'4' * 110} > {'5' * 110}"
    assert len(list(split("# " + "a" * 5000 + "\n\nb"))[-1].heading_path) == 300


@formats
def test_a_page_ends_at_a_form_feed(format: ChunkFormat) -> None:
    random = Random(SEED)
    text = "\f".join(prose(random).ljust(600) + "\n\n" + sentence(random) for _ in range(20))
    chunks = list(split(text, SplitOptions(format=format)))
    assert all(chunk.page == 1 + text.count("\f", 0, chunk.first_char) for chunk in chunks)
    assert sum(text[chunk.first_char - 1] == "\f" for chunk in chunks) > 10
    assert {chunk.page for chunk in split(text.replace("\f", "\n"))} == {None}


# -- white space


@pytest.mark.parametrize("text", ["", " ", "\n" * 5000, "\f \r\n"], ids=ascii)
def test_a_text_of_white_space_has_no_chunks(text: str) -> None:
    assert not list(split(text))


@formats
def test_white_space_belongs_to_the_chunk_before_it(format: ChunkFormat) -> None:
    text = "\n\n".join("Some words. " * 60 + "\n" * 200 for _ in range(9))
    chunks = list(split(text, SplitOptions(format=format)))
    assert not any(chunk.blank for chunk in chunks)
    assert all(not content[0].isspace() for content in contents(text, chunks))


def test_chunks_of_white_space_alone_are_marked() -> None:
    text = "Some words." + "\n" * 6000 + "Other words." + " " * 3000
    chunks = list(split(text))
    assert sum(chunk.blank for chunk in chunks) >= 5
    shown = [content for content in contents(text, chunks) if not content.isspace()]
    assert [content.strip() for content in shown] == ["Some words.", "Other words."]


# -- tokens


def words(text: str) -> int:
    return len(text.split())


def pairs(text: str) -> int:
    """A part of a text can have more tokens than the whole."""
    return len(text) - sum(text.count(pair) for pair in ("or", "th", "ab"))


def at_the_end(text: str) -> int:
    return 500 if "." in text else 1


@pytest.mark.parametrize("count", rest_in_full([words, pairs, at_the_end, len], first=6))
@formats
def test_no_chunk_has_too_many_tokens(format: ChunkFormat, count: Callable[[str], int]) -> None:
    for kind in KINDS:
        text = text_of(kind, document(kind, 8_000, SEED))
        options = SplitOptions(
            format=format, chunk_size=100, chunk_unit="tokens", count_tokens=count
        )
        found = contents(text, list(split(text, options)))
        assert "".join(found) == text
        assert all(count(content) <= 100 or len(content) == 1 for content in found)


def test_chunks_use_the_tokens_they_may_have() -> None:
    text = text_of("prose", document("prose", 60_000, SEED))
    options = SplitOptions(chunk_size=200, chunk_unit="tokens", count_tokens=words)
    found = contents(text, list(split(text, options)))
    assert sum(map(words, found)) / len(found) > 100


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"format": "pdf"}, "unknown format: `pdf`"),
        ({"chunk_unit": "words"}, "unknown unit: `words`"),
        ({"chunk_size": 15}, "the chunk size is too small: 15"),
        ({"chunk_unit": "tokens"}, "the tokens of this model cannot be counted"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, str], cause: str) -> None:
    with pytest.raises(SettingsError, match=cause) as refused:
        SplitOptions(**options)  # type: ignore[arg-type]
    assert refused.value.hint
