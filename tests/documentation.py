"""The blocks of commands in the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from tests.conftest import REPOSITORY

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md")))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
LEFT_OUT = "…"


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """What is between two fences: `console` has prompts and output, `sh` has neither."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def steps(self) -> list[Step]:
        if self.language == "sh":
            return [Step(self.text, ())]
        return [_step(part) for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]]


def _step(text: str) -> Step:
    """Split what follows a prompt: the command ends with its line, unless a quote is still open."""
    lines = text.splitlines()
    for end in range(1, len(lines) + 1):
        command = "\n".join(lines[:end])
        if is_complete(command):
            return Step(command, tuple(lines[end:]))
    raise ValueError(f"this command has no end: {text}")


def is_complete(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith("\\")


def blocks(
    page: str, section: str | None = None, languages: Collection[str] = ("console", "sh")
) -> list[Block]:
    """The blocks in these languages of a page, or of a section with this heading."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    begin, end = 0, len(text)
    if section:
        heading = rf"^##+ {re.escape(section)}\n.*?(?=^##|\Z)"
        [found] = re.finditer(heading, text, re.M | re.S)
        begin, end = found.span()
    return [
        Block(page, text[: fence.start()].count("\n") + 1, fence[2], _without(fence[1], fence[3]))
        for fence in FENCE.finditer(text, begin, end)
        if fence[2] in languages
    ]


def _without(indent: str, text: str) -> str:
    return re.sub(rf"^{indent}", "", text, flags=re.M)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a line of a shell, assignments in front of it among them."""
    words: list[str] = []
    for token in [*_tokens(text), ";"]:
        if not set(token) <= set(";&|()\n"):
            words.append(token)
        elif words:
            yield words
            words = []


def _tokens(text: str) -> Iterator[str]:
    """Words and operators, without redirections and comments."""
    joined = text.replace("\\\n", " ")
    lexer = shlex.shlex(joined, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    tokens = iter(lexer)
    for token in tokens:
        if set(token) <= set("<>"):
            next(tokens, None)
        else:
            yield token


# What is shown and what is printed


def assert_shows(step: Step, stdout: str, stderr: str, unless: str = "") -> None:
    """The lines on the page are printed, on stdout with nothing else; figures may differ.

    A line `…` stands for any lines, and within a line for any words. Not all of stderr need be
    shown. Lines that match `unless` depend on what is in the database, and are not compared.
    """
    printed, said = _lines(stdout.splitlines(), unless), _lines(stderr.splitlines(), unless)
    expected = []
    for line in _lines(step.shown, unless):
        words = ".*".join(map(re.escape, line.split(LEFT_OUT)))
        if line == LEFT_OUT:
            expected.append(r"(?:.*\n)*?")
        elif any(re.fullmatch(words, each) for each in printed):
            expected.append(words + r"\n")
        else:
            assert any(re.fullmatch(words, each) for each in said), (
                f"not printed: {line}\n{stdout}{stderr}"
            )
    if step.shown:
        on_stdout = "".join(f"{line}\n" for line in printed)
        assert re.fullmatch("".join(expected), on_stdout), f"not as shown:\n{stdout}"


def _lines(lines: Iterable[str], unless: str) -> list[str]:
    """Lines as they are compared, without empty ones."""
    kept = (line for line in lines if not (unless and re.match(unless, line)))
    return [figure for line in kept if (figure := _figure(line))]


def _figure(line: str) -> str:
    """A line with all figures, times, units of size and widths of columns alike."""
    line = re.sub(r"<?\$?\d+([.,]\d+)*", "0", line)
    line = re.sub(r"\b0 (d|h|min|s|ms)\b( 0 (d|h|min|s|ms)\b)*", "0 s", line)
    line = re.sub(r"\b0 (kB|KB|MB|GB)\b", "0 MB", line)
    line = re.sub(r"-{2,}", "--", line)
    return re.sub(r"[ █░─]+", " ", line).strip()
