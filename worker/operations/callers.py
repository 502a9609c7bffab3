"""Searches in the name of who has a token of Supabase, so that row level security holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import jwt

from worker.errors import CallerRefused, SettingsError
from worker.operations.session import worker_name
from worker.queue import AdminQueue, Caller, CallerRole, Match, MatchFunction
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.queue.data_api import DataApiCallers

SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
AUDIENCE = "authenticated"
LOG_IN = "Log in again, and send the new access token."


class Callers:
    """Searches by the Data API, which checks the token, if the settings name a project; else over
    the connection, after a check with the secret of the project. Several threads may use it."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.supabase_jwt_secret
        self._api: DataApiCallers | None = None
        if settings.supabase_url and settings.supabase_service_role_key:
            from worker.queue.data_api import DataApiCallers  # takes a second to import

            self._api = DataApiCallers(
                settings.supabase_url, settings.supabase_service_role_key, worker_name()
            )

    def check(self, token: str) -> str:
        """Return who has a token, before anything is done for them: the id of a user, or of nobody.

        Raises what `search` raises.
        """
        if not SHAPE.fullmatch(token):
            raise CallerRefused("the token is no JSON web token", LOG_IN)
        if self._secret:
            return str(caller_of(token, self._secret).claims.get("sub") or "anon")
        if not self._api:
            raise _cannot_check()
        self._api.check(token)
        claims = jwt.decode(token, options={"verify_signature": False})  # it was verified there
        return str(claims.get("sub") or "anon")

    def search(
        self,
        queue: AdminQueue,
        token: str,
        function: MatchFunction,
        arguments: Mapping[str, Any],
    ) -> list[Match]:
        """Search by a match function, with the rights of who has this token.

        Raises CallerRefused if the token is not valid, or its owner may not do that, and
        SettingsError if tokens cannot be checked.
        """
        if not SHAPE.fullmatch(token):
            raise CallerRefused("the token is no JSON web token", LOG_IN)
        if self._api:
            return self._api.search(token, function, arguments)
        if not self._secret or not isinstance(queue, PostgresQueue):
            raise _cannot_check()
        return queue.search_as(caller_of(token, self._secret), function, arguments)

    def close(self) -> None:
        """Close the connection to the Data API, if there is one."""
        if self._api:
            self._api.close()


def _cannot_check() -> SettingsError:
    return SettingsError(
        "tokens of users cannot be checked",
        "Set SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY, or SUPABASE_JWT_SECRET.",
    )


def caller_of(token: str, secret: str) -> Caller:
    """Return who has a token that was signed with `secret`, for as long as it is valid.

    Raises CallerRefused. A key of the project for browsers is such a token too, of nobody.
    """
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            options={"require": ["exp", "role"], "verify_aud": False},
        )
    except jwt.ExpiredSignatureError:
        raise CallerRefused("the token has expired", LOG_IN) from None
    except jwt.InvalidTokenError as problem:
        raise CallerRefused(f"the token is not valid: {type(problem).__name__}", LOG_IN) from None
    role: CallerRole | None = next(
        (role for role in get_args(CallerRole) if role == claims["role"]), None
    )
    if role is None:
        raise CallerRefused("the token is of no user", "Send the access token of a user.")
    audiences = claims.get("aud", [])
    audiences = [audiences] if isinstance(audiences, str) else audiences
    if role == "authenticated" and AUDIENCE not in audiences:
        raise CallerRefused("the token is for another audience", LOG_IN)
    return Caller(role, claims)
