"""`worker verify --repair`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial

from worker.cli.console import ProgressLine, confirmed, out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.render.repair import damage_line, repair_line
from worker.cli.render.text import name_of
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.errors import SettingsError
from worker.operations.integrity import CheckedColumn, Interrupted, repair_column
from worker.operations.repair import Damage, why_no_backup
from worker.operations.session import open_queue, select
from worker.queue import Target


def repair(
    table: str | None, column: str | None, budget: float | None, yes: bool, as_json: bool
) -> int:
    """Repair the damaged vectors of watched columns. Return the exit code."""
    settings = load_settings(asks_model=True)
    no_backup = cache(partial(why_no_backup, settings))
    progress = ProgressLine()
    results: list[CheckedColumn] = []
    with open_queue(settings) as queue, stopped_by_signals("this range") as stop:

        def attend(took: float) -> bool:
            progress.say("comparing vectors with what was written")
            return not stop.is_set()

        for target in select(queue, table, column).targets:
            try:
                results.append(
                    repair_column(
                        queue,
                        settings,
                        target,
                        budget=budget,
                        agree=partial(_agreed, target, yes, no_backup),
                        attend=attend,
                        source="cli",
                    )
                )
            except Interrupted:
                say("interrupted: the same command begins again")
                return INTERRUPTED
    _print(results, as_json)
    return int(any(result.repaired and result.repaired.over_budget for result in results))


def _agreed(
    target: Target, yes: bool, why_no_backup: Callable[[], str | None], damage: Damage
) -> bool:
    """Ask before vectors are written. Raises SettingsError if nobody can answer."""
    reason = why_no_backup()
    if yes:
        if reason:
            say(f"note: {reason}", "hint: BACKUP_TO says where backups are")
        return True
    found = damage_line(name_of(target), damage)
    if confirmed(f"{found}{f'; {reason}' if reason else ''}. Repair them?"):
        return True
    raise SettingsError(
        f"{found}; a repair writes vectors, and may embed texts again", "Add --yes to confirm."
    )


def _print(results: list[CheckedColumn], as_json: bool) -> None:
    if as_json:
        out_json(
            [
                {"column": name_of(result.target)}
                | asdict(result.damage)
                | {"repaired": result.repaired and asdict(result.repaired)}
                for result in results
            ]
        )
        return
    for result in results:
        out(damage_line(name_of(result.target), result.damage))
        if result.repaired:
            out(f"  {repair_line(result.repaired)}")
    if any(result.repaired and result.repaired.requeued for result in results):
        say("hint: `worker process`, or a running worker, embeds them again")
