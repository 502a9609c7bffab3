"""Splits a text into chunks that stay the same when another part of the text is edited.

Each chunk ends at the strongest break between its least and its largest size: a heading, a page, a
blank line, the end of a sentence, a line, a clause, a space, any character. Between equally strong
ones, a hash of the characters around each decides, not the place where the chunk begins. So the
ends are the same again within a few chunks after an edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from worker.chunking.formats import CODE, RULES, VISIBLE, Rules
from worker.chunking.options import SplitOptions
from worker.chunking.outline import Outline
from worker.chunking.window import Breaks, Window

SPLITTER_VERSION = 1
"""Changes whenever the same text may get other chunks. It is part of the hash of a chunk."""

LEAST = 0.4  # of the largest size


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: its content is `text[first_char:last_char]`.

    `heading_path`: the headings above its first visible character, as `A > B`. `page`: 1 + the form
    feeds before the chunk; None if the text has no form feed. `blank`: the chunk has only white
    space, so it needs no vector.
    """

    first_char: int
    last_char: int
    heading_path: str
    page: int | None
    blank: bool


def split(text: str, options: SplitOptions | None = None) -> Iterator[Chunk]:
    """Yield the chunks of a text. Their contents, one after another, are the text.

    The exception is a text that has only white space: it has no chunks. White space at the end of a
    text belongs to its last chunk if there is room for all of it.
    """
    options = options or SplitOptions()
    rules = RULES[options.format]
    outline = Outline(rules.marks(text))
    content_end = _end_of_content(text)
    has_pages = "\f" in text
    first, page = 0, 1
    while content_end and first < len(text):
        limit = content_end if first < content_end else len(text)
        last = _end_of_chunk(text, first, limit, options, rules, outline)
        if last == content_end and options.fits(text, first, len(text)):
            last = len(text)
        visible = VISIBLE.search(text, first, last)
        path = outline.path(visible.start() if visible else first)
        yield Chunk(first, last, path, page if has_pages else None, visible is None)
        page += text.count("\f", first, last)
        first = last


def _end_of_content(text: str) -> int:
    """Return where the white space at the end of a text begins."""
    end = len(text)
    while end and text[end - 1].isspace():
        end -= 1
    return end


def _end_of_chunk(
    text: str, first: int, limit: int, options: SplitOptions, rules: Rules, outline: Outline
) -> int:
    """Return the end of the chunk that begins at `first`: at most `limit`."""
    high = options.reach(text, first, limit)
    outline.advance(first, high)
    while high < limit:
        low = first + max(1, int((high - first) * LEAST))
        last = _best_break(Window(text, first, low, high), options, rules, outline)
        if last == first + 1 or options.fits(text, first, last):
            return last
        # A part of a text can have more tokens than the whole.
        high = first + max(1, (last - first) * 9 // 10)
    return limit


def _best_break(window: Window, options: SplitOptions, rules: Rules, outline: Outline) -> int:
    """Return the strongest break that leaves everything whole that fits in a chunk."""

    def allowed(position: int) -> bool:
        return outline.mark_over(position) is None and window.cuts_no_cluster(position)

    outline.advance(window.first, window.seen)
    headings: Breaks = dict.fromkeys(outline.headings(window.first + 1, window.seen), ())
    kinds = chain([headings], map(window.matches, rules.breaks))
    best = window.strongest(kinds, allowed)
    return _break_without_choice(window, options, outline) if best is None else best


def _break_without_choice(window: Window, options: SplitOptions, outline: Outline) -> int:
    """Return a break if something that should stay whole is everywhere in the window.

    If it fits in a chunk, it gets the next one, with the heading before it if both fit. Otherwise
    it is cut, like code, and an endless cluster anywhere.
    """
    whole = outline.mark_over(window.high)
    if whole and options.fits(window.text, whole.first, whole.last):
        for position in (outline.allowed_before(whole.first), whole.first, whole.last):
            if position > window.first and window.cuts_no_cluster(position):
                return position
    if whole:
        window = replace(window, low=max(window.low, whole.first + 1))
    best = window.strongest(map(window.matches, CODE.breaks), window.cuts_no_cluster)
    if best is None:
        best = max(window.cluster_ends, default=window.high)
    return best
