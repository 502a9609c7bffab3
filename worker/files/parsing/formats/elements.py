"""From the elements of HTML to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from selectolax.lexbor import LexborNode

from worker.files.parsing.markdown import Markdown, one_line

NOT_SHOWN = {
    *("audio", "canvas", "head", "iframe", "noscript", "object", "script", "select", "style"),
    *("svg", "template", "video"),
}
BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr"),
    *("li", "main", "nav", "ol", "p", "section", "summary", "table", "tbody", "td", "tfoot"),
    *("th", "thead", "tr", "ul"),
}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
TEXT = "-text"
NOT_IN_A_TABLE = ", ".join((*HEADINGS, "table", "pre"))  # of data

Step = LexborNode | Callable[[], None]


class HtmlWriter:
    """Writes elements in the order of the text. It uses no recursion, so no depth is too deep."""

    def __init__(self, markdown: Markdown) -> None:
        self._markdown = markdown
        self._inline: list[str] = []  # the text of the current block
        self._numbers: list[int | None] = []  # of the lists around it; None without numbers
        self._bullet = ""

    def write(self, root: LexborNode) -> None:
        """Write an element and all in it."""
        steps: list[Step] = [root]
        while steps:
            step = steps.pop()
            if isinstance(step, LexborNode):
                steps.extend(reversed(list(self._enter(step))))
            else:
                step()
        self._end_block()

    def _enter(self, node: LexborNode) -> Iterator[Step]:
        """Begin an element, and yield what comes next: what is in it, and its end."""
        tag = node.tag or ""
        if tag == TEXT:
            self._inline.append(node.text_content or "")
        elif tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._inline.append(f" {node.attributes.get('alt') or ''} ")
        elif tag in HEADINGS:
            self._end_block()
            self._markdown.heading(HEADINGS[tag], inner_text(node))
        elif tag == "pre":
            self._end_block()
            self._markdown.code(node.text(deep=True).strip("\n"))
        elif tag == "table" and node.css_first("tr") and not _is_layout(node):
            self._end_block()
            self._markdown.text(inner_text(node.css_first("caption")))
            self._markdown.table([inner_text(cell) for cell in row] for row in _cells(node))
        elif tag not in NOT_SHOWN:
            yield from self._enter_other(node, tag)

    def _enter_other(self, node: LexborNode, tag: str) -> Iterator[Step]:
        if tag in BLOCKS:
            self._end_block()
        if tag in ("ul", "ol"):
            self._numbers.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._begin_item()
        yield from node.iter(include_text=True)
        if tag in ("ul", "ol"):
            yield self._end_list
        elif tag in BLOCKS:
            yield self._end_block

    def _begin_item(self) -> None:
        number = self._numbers[-1] if self._numbers else None
        if number is None:
            self._bullet = "-"
        else:
            self._numbers[-1] = number + 1
            self._bullet = f"{number + 1}."

    def _end_list(self) -> None:
        self._end_block()
        self._numbers.pop()

    def _end_block(self) -> None:
        """Write the text that has come together as a paragraph, or as an item of a list."""
        lines = (one_line(line) for line in "".join(self._inline).split("\n"))
        text = "\n".join(line for line in lines if line)
        self._inline.clear()
        if not text:
            return
        if self._bullet:
            self._markdown.item(self._bullet, text)
        else:
            self._markdown.text(text)
        self._bullet = ""


def inner_text(node: LexborNode | None) -> str:
    """Return the text in an element, on one line; none without an element."""
    found: list[str] = []
    steps = [node] if node else []
    while steps:
        step = steps.pop()
        if step.tag == TEXT:
            found.append(step.text_content or "")
        elif step.tag not in NOT_SHOWN:
            if step.tag in BLOCKS or step.tag == "br":
                found.append(" ")
            steps.extend(reversed(list(step.iter(include_text=True))))
    return one_line("".join(found))


def _cells(table: LexborNode) -> Iterator[list[LexborNode]]:
    for row in table.css("tr"):
        yield [cell for cell in row.iter() if cell.tag in ("td", "th")]


def _is_layout(table: LexborNode) -> bool:
    """Return whether a table only places what is in it on the page."""
    has_columns = any(len(row) > 1 for row in _cells(table))
    in_cells = (each for each in table.css(NOT_IN_A_TABLE) if each.mem_id != table.mem_id)
    return not has_columns or any(True for _ in in_cells)
