"""Who may call the API, and how often: keys of apps, tokens of operators and of users."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, NamedTuple, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request

from worker.operations.api_keys import PREFIX, find_key
from worker.operations.callers import Callers
from worker.queue import KeyScope
from worker.web.access import Access, Role
from worker.web.guard import address_of
from worker.web.queues import Queues

KNOWN_FOR = 10.0  # seconds: a key that was revoked is refused after them
MOST_KNOWN = 10_000  # keys and users
MINUTE = 60.0  # seconds
REQUESTS_OF_A_USER = 120  # a minute
ALL: frozenset[KeyScope] = frozenset(get_args(KeyScope))
OF_ROLES: dict[Role, frozenset[KeyScope]] = {"admin": ALL, "reader": frozenset({"status"})}
TRY_AGAIN = {"retry-after": "60"}

Kind = Literal["key", "operator", "user"]


class Permit(NamedTuple):
    """What who calls may do. `token` is that of a user, who searches in their own name."""

    name: str
    kind: Kind
    scopes: frozenset[KeyScope]
    requests_per_minute: int | None = None
    token: str | None = None


@dataclass(slots=True)
class RateLimit:
    """Requests of a minute that moves on: those of the minute before count less and less."""

    minute: int = 0
    before: int = 0
    now: int = 0

    def take(self, most: int, at: float) -> bool:
        """Count a request. False if it is one too many, and is not counted."""
        minute, share = int(at // MINUTE), (at % MINUTE) / MINUTE
        if minute != self.minute:
            self.before = self.now if minute == self.minute + 1 else 0
            self.minute, self.now = minute, 0
        if self.before * (1 - share) + self.now + 1 > most:
            return False
        self.now += 1
        return True


@dataclass(slots=True)
class Permits:
    """Finds out what a request may do by the token in its header `Authorization`."""

    access: Access
    queues: Queues
    callers: Callers
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[str, tuple[Permit, float]] = field(default_factory=OrderedDict)
    """By token, with the time until which it is believed."""
    _rates: OrderedDict[str, RateLimit] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def require(self, request: Request, scope: KeyScope) -> Permit:
        """Return what a request may do.

        Raises HTTPException if it has no valid token, a token without the scope, or is one of too
        many; CallerRefused for the token of a user that is not valid, and what the database raises.
        """
        permit = self.identify(request)
        if scope not in permit.scopes:
            raise HTTPException(403, f"This token has no scope `{scope}`.")
        if permit.requests_per_minute is not None and not self._take(permit):
            cause = f"More than {permit.requests_per_minute} requests within a minute."
            raise HTTPException(429, cause, TRY_AGAIN)
        return permit

    def identify(self, request: Request) -> Permit:
        """Return what a request may do, without counting it. Raises as `require`."""
        token = _token_of(request)
        with self._lock:
            permit, until = self._known.get(token, (None, 0.0))
        if permit and self.clock() < until:
            return permit
        permit = self._look_up(token, address_of(request))
        with self._lock:
            self._known[token] = permit, self.clock() + KNOWN_FOR
            self._known.move_to_end(token)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return permit

    def _look_up(self, token: str, address: str) -> Permit:
        if token.startswith(PREFIX):
            return self._of_key(token)
        if token.count(".") == 2:
            return self._of_user(token)
        return self._of_operator(token, address)

    def _of_key(self, token: str) -> Permit:
        with self.queues.lent() as queue:
            key = find_key(queue, token)
        if key is None:
            raise HTTPException(401, "This key is not valid, or was revoked.")
        return Permit(key.name, "key", frozenset(key.scopes), key.requests_per_minute)

    def _of_user(self, token: str) -> Permit:
        user = self.callers.check(token)
        return Permit(user, "user", frozenset({"search"}), REQUESTS_OF_A_USER, token)

    def _of_operator(self, token: str, address: str) -> Permit:
        attempts, who = self.access.attempts, f"app {address}"  # which locks no person out
        if attempts.are_too_many(who):
            raise HTTPException(429, "Too many wrong tokens. Wait a minute.", TRY_AGAIN)
        role = self.access.role_of_token(token)
        if role is None:
            attempts.fail(who)
            raise HTTPException(401, "This token is not valid.")
        return Permit(role, "operator", OF_ROLES[role])

    def _take(self, permit: Permit) -> bool:
        assert permit.requests_per_minute is not None
        with self._lock:
            name = f"{permit.kind} {permit.name}"
            rate = self._rates.setdefault(name, RateLimit())
            self._rates.move_to_end(name)
            while len(self._rates) > MOST_KNOWN:
                self._rates.popitem(last=False)
            return rate.take(permit.requests_per_minute, self.clock())


def _token_of(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise HTTPException(
            401,
            "Send a key: `Authorization: Bearer ew_…`. `worker keys create` makes one.",
            {"www-authenticate": "Bearer"},
        )
    return token.strip()
