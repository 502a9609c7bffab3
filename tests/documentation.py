"""The blocks of commands in the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from tests.conftest import REPOSITORY

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md")))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
HEADING_OR_FENCE = re.compile(rf"^#+ (?P<title>[^\n]*)$|{FENCE.pattern}", re.M | re.S)
LEFT_OUT = "…"
NEEDS_A_CLUSTER = "needs a cluster: tests/deploy/test_kubernetes.py builds what is applied"
OF_A_PLATFORM = "needs an account: tests/deploy/test_platforms.py reads the file"
NOT_RUN = {
    ("docs/apps.md", "supabase secrets set"): (
        "needs an account: tests/acceptance/test_apps.py runs the function"
    ),
    ("docs/cli.md", "worker requeue --failed\n^C"): (
        "needs a hand at the keys: tests/acceptance/test_batches.py sends the signal"
    ),
    ("docs/deployment.md", "Kubernetes"): NEEDS_A_CLUSTER,
    ("docs/deployment.md", "The dashboard and the API"): NEEDS_A_CLUSTER,
    ("docs/deployment.md", "Jobs by the clock"): NEEDS_A_CLUSTER,
    ("docs/deployment.md", "systemd"): (
        "needs a host whose services it may change: tests/deploy/test_unit_file.py reads the unit"
    ),
    ("docs/deployment.md", "cron"): (
        "needs a host with cron: tests/acceptance/test_scripts.py runs what the crontab starts"
    ),
    ("docs/deployment.md", "pg_cron"): (
        "needs the extension: tests/integration/test_pg_cron.py runs the file on its schema"
    ),
    ("docs/deployment.md", "GitHub Actions"): (
        "needs an account: tests/deploy/test_workflows.py reads the workflow"
    ),
    ("docs/deployment.md", "Fly"): OF_A_PLATFORM,
    ("docs/deployment.md", "Railway"): OF_A_PLATFORM,
    ("docs/deployment.md", "Supabase Edge Function"): (
        "needs an account: tests/acceptance/test_callers.py runs the function"
    ),
    ("docs/performance.md", "scripts/bench"): (
        "takes hours: tests/acceptance/test_benchmarks.py runs short ones"
    ),
}
"""Blocks that no test runs, by their section or what they begin with, and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """What is between two fences: `console` has prompts and output, the others have neither."""

    page: str
    section: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def begins_with(self, words: str) -> bool:
        return self.text.removeprefix("$ ").startswith(words)

    def is_about(self, what: str) -> bool:
        """Whether that is its section, its language, or what it begins with."""
        return what in (self.section, self.language) or self.begins_with(what)

    def steps(self) -> list[Step]:
        if self.language != "console":
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
    """The blocks in these languages of a page, or of what is between a heading and the next."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    title = ""
    titles, found = [], []
    for each in HEADING_OR_FENCE.finditer(text):
        if each["title"]:
            title = each["title"]
            titles.append(title)
        elif each[3] in languages and section in (None, title):
            line = text[: each.start()].count("\n") + 1
            found.append(Block(page, title, line, each[3], _without(each[2], each[4])))
    assert section is None or titles.count(section) == 1, f"{page}: {section}"
    return found


def is_run(block: Block) -> bool:
    """Whether a test is to run a block."""
    return not any(page == block.page and block.is_about(what) for page, what in NOT_RUN)


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
