"""Who calls the HTTP API in their own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CallerRole = Literal["anon", "authenticated"]
"""The roles that a caller can have: row level security binds both."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The role of a caller, and the claims of the token, which row level security reads."""

    role: CallerRole
    claims: Mapping[str, Any]
