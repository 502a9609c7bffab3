"""Turns errors into answers: a page for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from worker.errors import (
    Busy,
    CallerRefused,
    DatabaseError,
    ProviderRefused,
    Rejected,
    SchemaError,
    SettingsError,
    Transient,
    Unreachable,
    WorkerError,
)

STATUS: tuple[tuple[type[WorkerError], int], ...] = (
    (SettingsError, 400),
    (Unreachable, 503),
    (Busy, 503),
    (SchemaError, 503),
    (Rejected, 400),
    (Transient, 503),
    (ProviderRefused, 502),
    (WorkerError, 500),
)
"""The status of an answer for an error; the first that fits."""
BAD_VALUE = "SQLSTATE 22"  # the class of errors in what was given, as a number out of range
RETRY_AFTER = "5"  # seconds

Problem = tuple[int, str, str | None]
"""Status, cause and hint."""


def exception_handlers(
    page: Callable[..., str], on_defect: Callable[[str], None]
) -> Mapping[Any, Callable[[Request, Exception], Response]]:
    """Return the handlers for all errors. `page` renders the template of a problem, and `on_defect`
    gets the kind of an error that nobody expected."""

    def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if not isinstance(error, HTTPException | WorkerError):
            on_defect(type(error).__name__)
        if wants_page(request):
            status, cause, hint = problem
            content = page("problem.html", status=status, cause=cause, hint=hint)
            return HTMLResponse(content, status, headers_of(error, status))
        return as_json(problem, headers_of(error, problem[0]))

    return {HTTPException: answer, WorkerError: answer, Exception: answer}


def problem_of(error: Exception) -> Problem:
    """Return status, cause and hint of an error."""
    if isinstance(error, HTTPException):
        return error.status_code, error.detail, None
    if isinstance(error, CallerRefused):
        return (403 if error.is_known else 401), error.cause, error.hint
    if isinstance(error, DatabaseError) and BAD_VALUE in error.cause:
        return 400, error.cause, error.hint
    if isinstance(error, WorkerError):
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        return status, error.cause, error.hint
    return 500, f"a defect: {type(error).__name__}", None  # its message may hold a text


def as_json(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem in the shape in which OpenAI's API has them, with its hint."""
    status, cause, hint = problem
    error = {"message": cause, "hint": hint, "type": _type_of(status), "code": None, "param": None}
    return JSONResponse({"error": error}, status, headers)


def headers_of(error: Exception, status: int) -> dict[str, str]:
    """Return the headers of an answer for an error."""
    headers = dict(getattr(error, "headers", None) or {})
    if status in (429, 503):
        headers.setdefault("retry-after", RETRY_AFTER)
    return headers


def wants_page(request: Request) -> bool:
    """Whether a person reads the answer."""
    return "text/html" in request.headers.get("accept", "")


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status in (401, 403):
        return "authentication_error"
    return "invalid_request_error" if status < 500 else "server_error"
