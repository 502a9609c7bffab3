"""The result of a verification: its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

Status = Literal["ok", "note", "problem"]
Figure = int | float | None


@dataclass(frozen=True, slots=True)
class Check:
    """A check of a column. `cause` and `cure` are None if it is ok.

    `conclusive`: False if it could not be made, because the model or the database did not answer.
    `record_ids`: up to ten of the rows concerned; chunks are named by the key and their hash.
    """

    name: str
    status: Status = "ok"
    figures: Mapping[str, Figure] = field(default_factory=dict)
    cause: str | None = None
    cure: str | None = None
    record_ids: Sequence[str] = ()
    conclusive: bool = True

    @classmethod
    def not_made(cls, name: str, cause: str, cure: str | None) -> Self:
        """Return a check that could not be made."""
        return cls(name, "note", {}, f"not checked: {cause}", cure, conclusive=False)


@dataclass(frozen=True, slots=True)
class Verification:
    """The checks of a watched column, and of another one (`against`), if it was compared with that.

    `passed`: no check found a problem, and all of them could be made. `tokens` and `cost` (US
    dollars) are those of the texts that were embedded again; None: not known.
    """

    column: str
    model: str | None
    against: str | None
    passed: bool
    checks: Sequence[Check]
    tokens: int | None
    cost: float | None

    @classmethod
    def of(
        cls,
        column: str,
        model: str | None,
        against: str | None,
        checks: Sequence[Check],
        spent: tuple[int | None, float | None],
    ) -> Self:
        """Return the result of some checks, for the tokens and the cost that they took."""
        passed = all(check.status != "problem" and check.conclusive for check in checks)
        return cls(column, model, against, passed, list(checks), *spent)

    @property
    def summary(self) -> str:
        """The result in one line."""
        problems = sum(check.status == "problem" for check in self.checks)
        if problems:
            return f"not passed: {_counted(problems)} of {len(self.checks)} found a problem"
        if not self.passed:
            names = [check.name for check in self.checks if not check.conclusive]
            return f"not passed: not checked: {', '.join(names)}"
        return f"passed: {_counted(len(self.checks))}"


def _counted(checks: int) -> str:
    return "1 check" if checks == 1 else f"{checks} checks"
