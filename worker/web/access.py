"""Who may do what: the tokens of operators, and the cookie that stands for one."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_urlsafe
from threading import Lock
from typing import Literal

from worker.settings import Settings

Role = Literal["admin", "reader"]
"""What a token is good for: everything, or only looking."""

COOKIE = "worker_session"
SESSION = 12 * 3600  # seconds
ATTEMPTS = 10  # wrong tokens a minute, of one who tries
ATTEMPTS_OF_ALL = 1000  # … and of all
MINUTE = 60.0  # seconds


@dataclass(slots=True)
class Attempts:
    """Limits how often a wrong token may be given: by each, so that nobody locks another out."""

    clock: Callable[[], float] = time.monotonic
    _failed: list[tuple[float, str]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def are_too_many(self, who: str) -> bool:
        """Return whether `who` has failed too often within the last minute to try again now."""
        with self._lock:
            since = self.clock() - MINUTE
            self._failed = [(at, by) for at, by in self._failed if at > since]
            of_who = sum(by == who for _, by in self._failed)
            return of_who >= ATTEMPTS or len(self._failed) >= ATTEMPTS_OF_ALL

    def fail(self, who: str) -> None:
        """Count an attempt that failed."""
        with self._lock:
            self._failed.append((self.clock(), who))


@dataclass(slots=True)
class Access:
    """The tokens, and the cookies that are made of them.

    A cookie says its role and its end, signed with the token of that role: it holds in every
    replica with this token, and ends with the token.
    """

    tokens: Mapping[Role, str] = field(repr=False)
    attempts: Attempts = field(default_factory=Attempts)
    clock: Callable[[], float] = time.time

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """The access that the settings name; without a token, one is made up."""
        tokens: dict[Role, str] = {"admin": settings.worker_web_token or token_urlsafe(24)}
        if settings.worker_web_read_token:
            tokens["reader"] = settings.worker_web_read_token
        return cls(tokens)

    def role_of_token(self, given: str) -> Role | None:
        """Return the role of a token; None if it is none."""
        found: Role | None = None
        for role, token in self.tokens.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given.encode(), token.encode()):
                found = role
        return found

    def cookie_of(self, role: Role) -> str:
        """Return the value of a new cookie."""
        until = int(self.clock()) + SESSION
        return f"{role}.{until}.{self._signature(role, until)}"

    def role_of_cookie(self, given: str) -> Role | None:
        """Return the role of a cookie; None if it was not made here, or has ended."""
        name, _, rest = given.partition(".")
        until, _, signature = rest.partition(".")
        for role in self.tokens:
            if name == role and until.isascii() and until.isdigit() and len(until) < 12:
                is_ours = hmac.compare_digest(
                    signature.encode(), self._signature(role, int(until)).encode()
                )
                return role if is_ours and int(until) > self.clock() else None
        return None

    def _signature(self, role: Role, until: int) -> str:
        token = self.tokens[role].encode()
        return hmac.new(token, f"worker-session {role} {until}".encode(), "sha256").hexdigest()
