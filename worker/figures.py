"""Numbers as people read them."""

from __future__ import annotations

import math


def dollars(cost: float | None) -> str:
    """An amount of US dollars, to a hundredth of a cent."""
    if cost is None:
        return "not known"
    if not cost:
        return "$0"
    return "<$0.0001" if cost < 0.0001 else f"${cost:.4f}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 row`, `2 rows`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def rounded_down(percent: float) -> float:
    """Round a percentage down to one decimal: 100 only if it is 100."""
    return math.floor(percent * 10 + 1e-9) / 10 if percent < 100 else 100.0


def milliseconds(count: float) -> str:
    """A time of a request or a wait: `85 ms`, `1.2 s`, `12 min`."""
    if count < 1000:
        return f"{count:.3g} ms"
    seconds = count / 1000
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
