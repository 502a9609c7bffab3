"""Somebody who reads a page of the documentation, and types what it shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from tests.conftest import Database
from tests.documentation import Block, Step, assert_shows, blocks, is_run
from tests.nasty_files import pdf
from tests.shell import Shell

INSTALLED = "pip() { :; }"  # everything is: tests/acceptance/test_wheel.py is about that
ANSWER = "[y/N] y"
EXIT_CODE = "echo $?"

AGREED = "What both sides agree on.\n" * 40
END = "Either side may end the contract with three months' notice to the end of a quarter.\n" * 8
CONTRACT = pdf(f"Work\n{AGREED}", f"Pay\n{AGREED}", AGREED, f"Notice period\n{END}")
"""A file of which pages tell: handbook/hr/contract.pdf."""


class Reader:
    """Reads sections of a page block by block, and types what they show.

    Blocks that no test runs are left out. SQL is read only with a database to run it in.
    """

    def __init__(self, shell: Shell, page: str, *sections: str, db: Database | None = None) -> None:
        languages = ["console", "sh", *(["sql"] if db else [])]
        self._blocks = deque(
            block
            for section in sections or (None,)
            for block in blocks(page, section, languages)
            if is_run(block)
        )
        self._shell = shell
        self._db = db
        self.places: dict[str, str] = {}
        """What the page shows, and what is here in its place."""

    def types(self, begin: str, unless: str = "", ends_with: int = 0, within: float = 0) -> str:
        """Type the next block, which begins with these words, and compare what is printed.

        Its last command ends with this code, the others with 0, unless the page shows another one.
        What is shown may take so many seconds, in which a command is typed again. Returns what the
        last command prints.
        """
        block = self._blocks.popleft()
        assert block.begins_with(begin), f"{block}: not {begin}"
        if self._db and block.language == "sql":
            self._db.execute(self._here(block.steps()[0]).command.encode())
            return ""
        *_, last = [
            self._type(block, self._here(step), code, unless, within)
            for step, code in with_exit_codes(block.steps(), ends_with)
        ]
        return last

    def _type(self, block: Block, step: Step, code: int, unless: str, within: float) -> str:
        until = time.monotonic() + within
        answer = "y" if any(line.endswith(ANSWER) for line in step.shown) else None
        while True:
            done = self._shell.run(f"{INSTALLED}; {step.command}", answer=answer)
            assert done.returncode == code, f"{block}: {done.stdout}{done.stderr}"
            said = done.stderr.replace(ANSWER.removesuffix("y"), f"{ANSWER}\n")
            try:
                assert_shows(step, done.stdout, said, unless)
                return done.stdout
            except AssertionError as problem:
                problem.add_note(f"{block}: {step.command}")
                if time.monotonic() > until:
                    raise

    def _here(self, step: Step) -> Step:
        command, *shown = (step.command, *step.shown)
        for there, here in self.places.items():
            command = command.replace(there, here)
            shown = [line.replace(there, here) for line in shown]
        return Step(command, tuple(shown))

    def ends(self) -> bool:
        return not self._blocks


def with_exit_codes(steps: Sequence[Step], last: int) -> list[tuple[Step, int]]:
    """The steps and how each ends: the last one with this code, or as `echo $?` below it shows."""
    shown = {
        number - 1: int(step.shown[0])
        for number, step in enumerate(steps)
        if step.command == EXIT_CODE
    }
    return [
        (step, shown.get(number, last if number == len(steps) - 1 else 0))
        for number, step in enumerate(steps)
        if step.command != EXIT_CODE
    ]


def prepare(shell: Shell, *commands: str) -> None:
    """What the page does not show."""
    for command in commands:
        done = shell.run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
