"""Where chunks of Markdown, HTML, code and plain text may end, and what should stay whole.

No pattern here takes more than linear time: each is possessive or bounded where it repeats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import unescape

from worker.chunking.outline import LONGEST_PATH, Mark
from worker.queue import ChunkFormat

LONGEST_LINE = 10_000  # characters: of a longer line, only these are looked at
LONGEST_HEADING = 1_000  # characters of HTML
BETWEEN = 200  # characters of tags between a heading of HTML and what follows it


@dataclass(frozen=True, slots=True)
class Rules:
    """A chunk may end where a pattern of `breaks` ends, and the first of them is the strongest.

    If a pattern has groups, they are the indentation of the next line and the word that begins a
    definition there: the less indentation the better, then a definition. `marks` finds headings,
    before which a chunk ends best, and what should stay whole, in order.
    """

    breaks: tuple[re.Pattern[str], ...]
    marks: Callable[[str], Iterator[Mark]]


DEFINITION = (
    r"((?:@|(?:abstract|async|class|const|def|defn|enum|export|fn|func|function|impl|interface"
    r"|module|namespace|private|protected|pub|public|static|struct|sub|template|trait|type)\b))?"
)
PAGE = re.compile(r"\f++(?:[ \t\r\f]*+\n)*+")
BLANK_LINES = re.compile(r"\n(?:[ \t\r]*+\n)++")
STOPS = ".!?…؟۔।॥።։"  # noqa: RUF001
WIDE_STOPS = "。！？．｡"  # noqa: RUF001
CLOSING = r"""[\])}"'’”»」』）】*_`]{0,4}"""  # noqa: RUF001
SENTENCE = re.compile(rf"[{STOPS}]{CLOSING}\s++(?![a-z])|[{WIDE_STOPS}]{CLOSING}\s*+")
LINE = re.compile(r"\n")
CLAUSE = re.compile(rf"[,;:–—{STOPS}]\s++|[，、；：]")  # noqa: RUF001
SPACE = re.compile(r"\s++|\u200b")
UNINDENTED_BLANK = re.compile(rf"\n(?:[ \t\r]*+\n)++(?=([ \t]*+){DEFINITION})")
UNINDENTED_LINE = re.compile(rf"\n(?=([ \t]*+)(?![\s)\]}}]){DEFINITION})")
BLOCK_NAMES = (
    "address|article|aside|blockquote|body|center|dd|details|dialog|div|dl|dt|fieldset|figcaption"
    "|figure|footer|form|h[1-6]|head|header|hr|html|legend|li|main|nav|ol|p|pre|section|summary"
    "|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
BLOCK = re.compile(rf"(?=<(?:{BLOCK_NAMES})[\s/>])|</(?:{BLOCK_NAMES})\s*+>\s*+", re.IGNORECASE)

IN_PROSE = (SENTENCE, LINE, CLAUSE, SPACE)

VISIBLE = re.compile(r"\S")
FRONT_MATTER = re.compile(
    r"---[ \t]*+\r?\n(?=[^\s-])(?:[^\n]*+\n){1,100}?(?:---|\.\.\.)[ \t]*+\r?(?:\n|\Z)"
)
FENCE = re.compile(r" {0,3}(`{3,}+(?=[^`]*\Z)|~{3,}+)")
ATX = re.compile(r" {0,3}(#{1,6})(?=\s|\Z)")
UNDERLINE = re.compile(r" {0,3}(?:=++|-++)\s*\Z")
PARAGRAPH = re.compile(r" {0,3}(?![-*+>#]\s|\d{1,9}[.)]\s|>)\S")
TOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|textarea)(?=[\s/>]).*?(?:</\1\s*+>|\Z)"
    r"""|<[/!?]?(?:h([1-6])(?=[\s/>])|[a-z])(?:[^'"<>]|"[^"]*+"|'[^']*+')*+>""",
    re.DOTALL | re.IGNORECASE,
)
HEADING_TAG = re.compile(r"<(/?)h[1-6](?=[\s/>])[^<>]*+>", re.IGNORECASE)
TAG = re.compile(r"<[^<>]*+>")
INVISIBLE = re.compile(r"(?:\s|<[^<>]*+>)*+")


def no_marks(_text: str) -> Iterator[Mark]:
    """Plain text and code have none."""
    return iter(())


def markdown_marks(text: str) -> Iterator[Mark]:
    """Yield headings, fenced code blocks, rows of tables and front matter."""
    front_matter = FRONT_MATTER.match(text)
    if front_matter:
        yield Mark(0, front_matter.end())
    lines = _lines(text, front_matter.end() if front_matter else 0)
    paragraph: int | None = None  # where the current one begins
    above = ""
    in_table = False
    for first, last, line in lines:
        if fence := FENCE.match(line):
            yield Mark(first, _end_of_fence(fence[1], lines, len(text)))
            paragraph, in_table = None, False
        elif hashes := ATX.match(line):
            yield _heading(text, first, last, len(hashes[1]), _title(line[hashes.end() :]))
            paragraph, in_table = None, False
        elif paragraph is not None and UNDERLINE.match(line):
            title = text[paragraph : min(first, paragraph + LONGEST_HEADING)]
            yield _heading(text, paragraph, last, 1 if "=" in line else 2, title)
            paragraph = None
        elif paragraph is not None and "|" in above and _is_delimiter_row(line):
            yield Mark(first - len(above), first, joined=True)
            yield Mark(first, last, joined=True)
            paragraph, in_table = None, True
        elif not line.strip():
            paragraph, in_table = None, False
        elif in_table:
            yield Mark(first, last)
        elif paragraph is None and PARAGRAPH.match(line):
            paragraph = first
        above = line


def html_marks(text: str) -> Iterator[Mark]:
    """Yield headings, tags, comments, scripts and style sheets."""
    covered = 0
    for token in TOKEN.finditer(text):
        heading = _html_heading(text, token) if token[2] else None
        if heading:
            yield heading
            covered = heading.last
        elif token.start() >= covered:
            yield Mark(*token.span())


def _lines(text: str, first: int) -> Iterator[tuple[int, int, str]]:
    """Yield where each line begins and ends, and the line."""
    while first < len(text):
        last = text.find("\n", first) + 1 or len(text)
        yield first, last, text[first : min(last, first + LONGEST_LINE)]
        first = last


def _end_of_fence(opening: str, lines: Iterator[tuple[int, int, str]], end: int) -> int:
    """Read lines up to the end of a fenced code block: if it is not closed, that of the text."""
    closing = re.compile(rf" {{0,3}}{opening[0]}{{{len(opening)},}}+[ \t\r]*+\n?\Z")
    return next((last for _, last, line in lines if closing.match(line)), end)


def _is_delimiter_row(line: str) -> bool:
    return "|" in line and "-" in line and not line.strip("|:- \t\r\n")


def _title(given: str) -> str:
    """Return the title of an ATX heading, without the number signs that may close it."""
    bare = given.strip()
    without = bare.rstrip("#")
    return without if not without or without[-1].isspace() else bare


def _heading(text: str, first: int, last: int, level: int, title: str) -> Mark:
    """Return the mark of a heading, which is joined to what follows it."""
    visible = VISIBLE.search(text, last)
    end = visible.start() if visible else len(text)
    return Mark(first, end, True, level, " ".join(title.split())[:LONGEST_PATH])


def _html_heading(text: str, tag: re.Match[str]) -> Mark | None:
    """Return the heading that a tag opens, if it is also closed."""
    closing = HEADING_TAG.search(text, tag.end(), tag.end() + LONGEST_HEADING)
    if text[tag.start() + 1] == "/" or not closing or not closing[1]:
        return None
    end = INVISIBLE.match(text, closing.end(), closing.end() + BETWEEN)
    title = unescape(TAG.sub("", text[tag.end() : closing.start()]))
    return _heading(text, tag.start(), end.end() if end else closing.end(), int(tag[2]), title)


CODE = Rules((PAGE, UNINDENTED_BLANK, UNINDENTED_LINE, CLAUSE, SPACE), no_marks)
RULES: Mapping[ChunkFormat, Rules] = {
    "markdown": Rules((PAGE, BLANK_LINES, *IN_PROSE), markdown_marks),
    "text": Rules((PAGE, BLANK_LINES, *IN_PROSE), no_marks),
    "html": Rules((PAGE, BLOCK, BLANK_LINES, *IN_PROSE), html_marks),
    "code": CODE,
}
