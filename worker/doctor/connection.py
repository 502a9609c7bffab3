"""What an open connection, or the failure to get one, tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from worker.errors import SchemaError, Unreachable, WorkerError
from worker.queue import AdminQueue, Finding

TOLERANCE = 5.0  # seconds between two clocks
BROWSER_ROLES = ("anon", "authenticated", "authenticator")


def what_is_wrong(problem: WorkerError) -> Finding:
    """What kept us from looking further."""
    if isinstance(problem, SchemaError):
        return Finding("problem", "schema", "database", problem.cause, problem.hint)
    if isinstance(problem, Unreachable):
        if "no encryption" in problem.cause or "SSL connection is required" in problem.cause:
            # the words of Postgres and of Supabase's pooler, which come with no code of their own
            return Finding(
                "problem",
                "ssl_required",
                "database",
                problem.cause,
                "Add sslmode=require to DATABASE_URL; or pg_hba.conf does not let this host in.",
            )
        return Finding("problem", "connection", "database", problem.cause, problem.hint)
    return Finding("problem", "access", "database", problem.cause, problem.hint)


def findings_of_session(queue: AdminQueue) -> Iterator[Finding]:
    """Who we are to the database, and what we may do there."""
    session = queue.session()
    if session is None:
        return  # over the Data API there is none
    yield Finding(
        "ok", "connection", session.role, f"Postgres {session.server_version} answers", None
    )
    if session.role in BROWSER_ROLES:
        yield Finding(
            "problem",
            "wrong_role",
            session.role,
            "that is the role of an app's users",
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
            "The worker does without. For SQL of your own:"
            f' alter role {session.role} set search_path = "$user", public, extensions;',
        )


def findings_of_commands(queue: AdminQueue) -> Iterator[Finding]:
    """Which workers are paused."""
    for command in queue.commands():
        if command.desired_state != "work":
            one = "" if command.is_for_all else f" --worker {command.worker}"
            yield Finding(
                "warning",
                "paused",
                "all workers" if command.is_for_all else command.worker,
                f"`worker {command.desired_state}` is in force since"
                f" {command.since:%Y-%m-%d %H:%M} UTC",
                f"Run `worker resume{one}`.",
            )


def findings_of_clock(
    queue: AdminQueue, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[Finding]:
    """Whether the clocks of this host and of the database agree, but for the way in between."""
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
            "Leases go by the database's. Keys and certificates do not: set it by NTP.",
        )
