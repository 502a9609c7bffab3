"""The command line. The only room that prints, and that ends the process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import wraps

import typer

from worker.cli import (
    control,
    demo,
    doctor,
    jobs,
    migrate,
    monitor,
    process,
    queue,
    recheck,
    run,
    search,
    stats,
    status,
    targets,
)
from worker.cli.console import report
from worker.errors import WorkerError


def _guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """Every error ends here: one line of cause, one of cure, and the exit code of its kind."""

    @wraps(command)
    def guarded(*args: object, **options: object) -> None:
        try:
            code = command(*args, **options) or 0
        except WorkerError as problem:
            report(problem)
            code = problem.exit_code
        except KeyboardInterrupt:
            code = 130
        if threading.active_count() > 1:
            # At once: a thread that waits for a model would hold up an orderly exit.
            sys.stdout.flush()
            os._exit(code)
        raise typer.Exit(code)

    return guarded


app = typer.Typer(
    name="worker",
    help="Keeps pgvector columns in step with text.",
    epilog="Exit codes: 0 all done, 1 some jobs failed, 2 wrong usage or settings, 3 schema"
    " missing or of another version, 4 provider refused, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    process.process,
    run.run,
    queue.requeue,
    status.status,
    monitor.monitor,
    queue.backfill,
    jobs.list_,
    jobs.reprocess,
    recheck.recheck,
    stats.stats,
    control.pause,
    control.resume,
    control.sleep,
    control.wake,
    targets.watch,
    targets.unwatch,
    targets.targets,
    search.search,
    doctor.doctor,
    migrate.init,
    migrate.migrate,
    demo.demo,
):
    app.command(command.__name__.rstrip("_"))(_guarded(command))


def main() -> None:
    """Run the command line. It exits with the codes that docs/cli.md lists."""
    app()
