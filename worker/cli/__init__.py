"""The command line. The only room that prints, and that ends the process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

import worker
from worker.cli import (
    control,
    demo,
    doctor,
    jobs,
    migrate,
    monitor,
    process,
    psql,
    queue,
    recheck,
    run,
    search,
    stats,
    status,
    targets,
)
from worker.cli.console import out, report, say
from worker.cli.examples import EXAMPLES
from worker.errors import SettingsError, WorkerError
from worker.terminal import prepare_streams

# What the parser raises. typer has click within from some version on, and exports this class alone.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """Every error ends here: a line of cause, a line with a hint, and the exit code of its kind."""

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
    epilog="Exit codes: 0 all done, 1 some jobs failed, 2 wrong usage or settings, 3 schema"
    " missing or of another version, 4 provider refused, 5 paused, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Keeps pgvector columns in step with text."""
    if version:
        out(f"embedding-worker {worker.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(*context.get_help().splitlines())
        raise typer.Exit(SettingsError.exit_code)


def _first_paragraph(command: Callable[..., object]) -> str:
    return " ".join((command.__doc__ or "").partition("\n\n")[0].split())


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
    psql.psql,
    demo.demo,
):
    name = command.__name__.rstrip("_")
    app.command(
        name,
        short_help=_first_paragraph(command),
        # \b: the lines below stay as they are
        epilog="\n".join(["Examples:", "", "\b", *(f"  {line}" for line in EXAMPLES[name])]),
        context_settings=psql.TAKES_ANYTHING if command is psql.psql else None,
    )(_guarded(command))


def main() -> None:
    """Run the command line. It exits with the codes that docs/cli.md lists."""
    prepare_streams()
    try:
        code = app(standalone_mode=False)
    except UsageError as problem:
        code = _report_usage(problem)
    sys.exit(code)


def _report_usage(problem: Any) -> int:
    """Usage of the command, what is wrong with what was typed, and where the flags are listed."""
    context = problem.ctx
    hint = None
    if context:
        say(*context.get_usage().splitlines())
        hint = f"`{context.command_path} --help` shows what it takes."
    report(SettingsError(problem.format_message(), hint))
    return SettingsError.exit_code
