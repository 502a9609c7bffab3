"""The overview: whether all is well, and the switches for all workers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.errors import SettingsError
from worker.operations.coverage import outlook
from worker.operations.diagnosis import diagnose_database
from worker.operations.stats import stats
from worker.operations.status import count_missing, status
from worker.queue import DesiredState, Finding, Stats
from worker.web.screens.base import Action, Done, Look, Screen
from worker.web.services import Services

MOST_WORKERS = 20  # on the card; the others are on their own screen
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def load(look: Look) -> Mapping[str, Any]:
    """Read a snapshot of the queue, its columns and its workers."""
    snapshot = status(look.queue)
    examined = look.services.checkup.latest(lambda: _examine(look.services))
    return {
        "snapshot": snapshot,
        "columns": [
            (column, outlook(snapshot, column), count_missing(column))
            for column in snapshot.columns
        ],
        "failed": sum(column.failed for column in snapshot.columns),
        "silent": sum(map(snapshot.is_silent, snapshot.workers)),
        "hosts": sorted(snapshot.workers, key=snapshot.is_silent)[:MOST_WORKERS],
        "hours": _hours_of_a_day(snapshot.at, stats(look.queue, DAY)),
        "examined": examined,
        "troubles": examined.troubles if examined else [],
    }


def _hours_of_a_day(now: datetime, done: Stats) -> list[Mapping[str, Any]]:
    """Return the jobs of each hour of the last day, none included; the running hour is the last."""
    known = {datetime.fromisoformat(each["hour"]): each for each in done.hours}
    running = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return [
        {"completed": 0, "failed": 0} | known.get(hour, {}) | {"hour": hour}
        for hour in (running - HOUR * ago for ago in reversed(range(24)))
    ]


def _examine(services: Services) -> list[Finding]:
    return diagnose_database(services.settings, services.queues.lent)


def _command(desired_state: DesiredState, notice: str) -> Action:
    """Return the button that sends a command to all workers."""

    def press(look: Look) -> Done:
        look.queue.control(desired_state, source=look.source)
        return Done(look.back("/"), notice)

    return Action(f"/workers/all/{desired_state}", press)


def _set_goal(look: Look) -> Done:
    """Set the coverage that is wanted of a column; nothing removes it."""
    table, column = look.watched
    if table is None or column is None:
        raise SettingsError("no column is named")
    look.queue.set_goal(look.queue.target(table, column), _percent(look), source=look.source)
    return Done("/", "goal")


def _percent(look: Look) -> float | None:
    given = look.value("percent")
    if given is None:
        return None
    try:
        percent = float(given)
    except ValueError:
        percent = 0
    if not 0 < percent <= 100:
        raise SettingsError(f"not a percentage: {given[:40]}", "Give a number above 0, up to 100.")
    return percent


def _cancel(look: Look) -> Done:
    id = look.number("id") or 0
    was_running = look.services.tasks.cancel(id)
    return Done(look.back("/"), "cancelled" if was_running else "ended", id)


OVERVIEW = Screen(
    name="overview",
    path="/",
    title="Overview",
    label="Overview",
    load=load,
    actions=(
        _command("work", "resumed"),
        _command("pause", "paused"),
        _command("sleep", "asleep"),
        Action("/goals/set", _set_goal),
        Action("/tasks/cancel", _cancel),
    ),
)
