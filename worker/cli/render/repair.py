"""Damaged vectors, and what became of them."""

from __future__ import annotations

from worker.figures import counted, dollars
from worker.operations.repair import Damage, Repaired


def damage_line(name: str, damage: Damage) -> str:
    """Return how much of a column is damaged."""
    found = f"{damage.lost} lost, {damage.overwritten} overwritten" if damage.rows else "all sound"
    return f"{name}: {counted(damage.vectors, 'vector')}, {found}"


def repair_line(repaired: Repaired) -> str:
    """Return where damaged vectors came back from."""
    left = f", {repaired.over_budget} left: over the budget" if repaired.over_budget else ""
    return (
        f"repaired: {repaired.from_cache} from the cache, {repaired.from_backup} from a backup,"
        f" {repaired.requeued} to be embedded again ({dollars(repaired.cost)}){left}"
    )
