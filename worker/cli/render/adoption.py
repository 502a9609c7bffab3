"""What became of a column that another tool has filled."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from worker.cli.console import out, say
from worker.cli.render.text import name_of
from worker.figures import counted, dollars
from worker.operations.adoption import Adoption
from worker.terminal import printable


def adoption_as_json(adoption: Adoption) -> dict[str, Any]:
    """The result as JSON: the column, and what became of its vectors."""
    figures = asdict(adoption)
    del figures["target"]
    sample = adoption.sample
    return {
        "target": asdict(adoption.target),
        "adoption": figures | {"sample": dict(sample.figures) if sample else None},
    }


def print_adoption(adoption: Adoption) -> None:
    """Print how many vectors were adopted, and what remains to be done."""
    if adoption.sample:
        figures = adoption.sample.figures
        spent = "" if adoption.tokens is None else f"{counted(adoption.tokens, 'token')}, "
        out(
            f"Compared: {figures['compared']} vectors, the lowest cosine is {figures['lowest']}"
            f" ({figures['gate']} is needed); {spent}{dollars(adoption.cost)}"
        )
    out(f"Adopted: {adoption.adopted}", f"Pending: {adoption.pending}")
    name = name_of(adoption.target)
    if adoption.left_alone:
        say(
            printable(
                f"note: vectors of {name} that belong to no text were left alone:"
                f" {adoption.left_alone}. `worker verify` lists them."
            )
        )
    if adoption.locked:
        say(
            f"note: rows that another session holds: {adoption.locked}",
            "hint: The same command goes on with them.",
        )
    elif adoption.pending:
        say("hint: to embed the pending rows, run `worker process`")
