"""The blocks of commands in the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
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


def blocks(page: str, section: str | None = None) -> list[Block]:
    """The blocks of a page, or of a section with this heading."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    begin, end = 0, len(text)
    if section:
        [found] = re.finditer(rf"^## {re.escape(section)}\n.*?(?=^## |\Z)", text, re.M | re.S)
        begin, end = found.span()
    return [
        Block(page, text[: fence.start()].count("\n") + 1, fence[2], _without(fence[1], fence[3]))
        for fence in FENCE.finditer(text, begin, end)
        if fence[2] in ("console", "sh")
    ]


def _without(indent: str, text: str) -> str:
    return re.sub(rf"^{indent}", "", text, flags=re.M)


def worker_commands(text: str) -> Iterator[list[str]]:
    """The words of each `worker …` in a command of a shell, without that."""
    words: list[str] = []
    for token in [*_tokens(text), ";"]:
        if set(token) <= set(";&|()\n"):
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words[:1] == ["worker"]:
                yield words[1:]
            words = []
        else:
            words.append(token)


def _tokens(text: str) -> Iterator[str]:
    """The words and operators of a shell, without redirections and comments."""
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


def assert_shows(step: Step, stdout: str, stderr: str) -> None:
    """The lines on the page are printed, in this order on each stream; figures may differ.

    Between two lines of stdout nothing is left out without a `…`; of stderr, anything may be.
    """
    printed = {"stdout": _figures(stdout), "stderr": _figures(stderr)}
    at = {"stdout": 0, "stderr": 0}
    may_skip = False
    for line in step.shown:
        if line.strip() == LEFT_OUT:
            may_skip = True
            continue
        stream, position = _find(line, printed, at)
        assert stream, f"not printed: {line}\n{stdout}{stderr}"
        left_out = printed["stdout"][at["stdout"] : position] if stream == "stdout" else []
        assert may_skip or not left_out, f"not shown: {left_out}"
        at[stream] = position + 1
        may_skip = may_skip and stream == "stderr"
    rest = printed["stdout"][at["stdout"] :]
    assert may_skip or not rest or not step.shown, f"not shown: {rest}"


def _find(line: str, printed: dict[str, list[str]], at: dict[str, int]) -> tuple[str, int]:
    pattern = ".*".join(map(re.escape, _figure(line).split(LEFT_OUT)))
    for stream, lines in printed.items():
        for position in range(at[stream], len(lines)):
            if re.fullmatch(pattern, lines[position]):
                return stream, position
    return "", 0


def _figures(text: str) -> list[str]:
    return [_figure(line) for line in text.splitlines()]


def _figure(line: str) -> str:
    """A line with all figures, times and widths of columns alike."""
    line = re.sub(r"(\b<?\d+(\.\d+)? (d|h|min|s|ms)\b ?)+", "0 s ", line)
    line = re.sub(r"\d+(\.\d+)?", "0", line)
    return re.sub(r"[ █─]+", " ", line).strip()
