"""Checks of an open connection, or of the failure to open one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from worker.errors import SchemaError, Unreachable, WorkerError
from worker.queue import AdminQueue, Finding

TOLERANCE = 5.0  # seconds between two clocks
BROWSER_ROLES = ("anon", "authenticated", "authenticator")


def explain_failure(problem: WorkerError) -> Finding:
    """The finding for an error that ended the checks."""
    if isinstance(problem, SchemaError):
        return Finding("problem", "schema", "database", problem.cause, problem.hint)
    if isinstance(problem, Unreachable):
        if "no encryption" in problem.cause or "SSL connection is required" in problem.cause:
            # the messages of Postgres and of Supabase's pooler, which have no code of their own
            return Finding(
                "problem",
                "ssl_required",
                "database",
                problem.cause,
                "Add sslmode=require to DATABASE_URL; or pg_hba.conf does not allow this host.",
            )
        return Finding("problem", "connection", "database", problem.cause, problem.hint)
    return Finding("problem", "access", "database", problem.cause, problem.hint)


def inspect_session(queue: AdminQueue) -> Iterator[Finding]:
    """Check the role of the session, and its rights."""
    session = queue.session()
    if session is None:
        return  # the Data API has no session
    yield Finding(
        "ok", "connection", session.role, f"Postgres {session.server_version} answers", None
    )
    if session.role in BROWSER_ROLES:
        yield Finding(
            "problem",
            "wrong_role",
            session.role,
            "this is the role of an app's users",
            "Connect as embedding_worker, as service_role, or as the owner of the tables.",
        )
    elif session.may_work is False:
        yield Finding(
            "problem",
            "missing_grants",
            session.role,
            "this role may not claim jobs",
            f"As the owner: grant embedding_worker to {session.role};",
        )
    if session.finds_vector is False:
        yield Finding(
            "note",
            "search_path",
            session.role,
            "the schema of the extension vector is not on its search_path",
            "The worker does not need it. For your own SQL:"
            f' alter role {session.role} set search_path = "$user", public, extensions;',
        )


def inspect_schema(queue: AdminQueue) -> Finding:
    """Compare the schema with this worker. Raises SchemaError if they do not work together."""
    newer = queue.check_schema()
    if newer == 0:
        return Finding("ok", "schema", "database", "it has the schema of this worker", None)
    return Finding(
        "note",
        "schema",
        "database",
        f"its schema is one version {'newer' if newer > 0 else 'older'} than this worker's,"
        " with which it works",
        "Upgrade this worker next." if newer > 0 else "Apply the migrations: worker migrate.",
    )


def inspect_commands(queue: AdminQueue) -> Iterator[Finding]:
    """Yield a finding for each pause in force."""
    for command in queue.commands():
        if command.desired_state != "work":
            one = "" if command.is_for_all else f" --worker {command.worker}"
            yield Finding(
                "warning",
                "paused",
                "all workers" if command.is_for_all else command.worker,
                f"`worker {command.desired_state}` has been in force since"
                f" {command.since:%Y-%m-%d %H:%M} UTC",
                f"Run `worker resume{one}`.",
            )


def inspect_clock(
    queue: AdminQueue, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[Finding]:
    """Compare the clocks of this host and of the database, apart from the network delay."""
    before = now()
    theirs = queue.clock()
    after = now()
    ahead = max((theirs - after).total_seconds(), (before - theirs).total_seconds())
    if ahead > TOLERANCE:
        yield Finding(
            "warning",
            "clock_skew",
            "this host",
            f"its clock and that of the database are {ahead:.0f} s apart",
            "Leases use the clock of the database, keys and certificates do not: use NTP.",
        )
