"""The command line: the only package that prints and that ends the process."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import worker
from worker.cli.console import out, report, say
from worker.cli.group import CommandGroup
from worker.errors import SettingsError
from worker.host import return_large_blocks
from worker.terminal import prepare_streams

# The error that the parser raises. Newer versions of typer vendor click, and export this alone.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="worker",
    cls=CommandGroup,
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


def main() -> None:
    """Run the command line. It exits with the codes that docs/cli.md lists."""
    prepare_streams()
    return_large_blocks()
    try:
        code = app(standalone_mode=False)
    except UsageError as problem:
        code = _report_usage(problem)
    sys.exit(code)


def _report_usage(problem: Any) -> int:
    """Print the usage of the command, the error, and where the options are listed."""
    context = problem.ctx
    hint = None
    if context:
        say(*context.get_usage().splitlines())
        hint = f"`{context.command_path} --help` shows its options."
    cause = problem.format_message().replace(": Value error, ", ": ")  # words of Typer's pydantic
    report(SettingsError(cause, hint))
    return SettingsError.exit_code
