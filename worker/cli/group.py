"""The groups of commands. A command is imported only when it is used."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import UserDict
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from worker.cli.catalog import CATALOG, GROUPS, Entry
from worker.cli.console import report
from worker.cli.signals import INTERRUPTED, ended_by_signals
from worker.errors import WorkerError

TAKES_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}


class Commands(UserDict[str, Any]):
    """The commands of a group by name, and the groups in it. Each is imported when it is looked up
    for the first time. `prefix`: what the catalog has before their names."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        names = (name.removeprefix(prefix) for name in CATALOG if name.startswith(prefix))
        super().__init__(dict.fromkeys(name.partition(" ")[0] for name in names))

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            self.data[name] = self._open(name)
        return self.data[name]

    def _open(self, name: str) -> Any:
        path = self.prefix + name
        if path not in GROUPS:
            return _imported(name, CATALOG[path])
        summary = summary_of(path)
        own = _imported(name, CATALOG[path]) if path in CATALOG else None
        return CommandGroup(f"{path} ", own, name=name, help=summary, short_help=summary)


class CommandGroup(TyperGroup):
    """The commands of the catalog whose names begin with `prefix`, in its order.

    `own`: the command that runs if none of them is given.
    """

    def __init__(self, prefix: str = "", own: Any = None, **attributes: Any) -> None:
        names = {"help_option_names": ["-h", "--help"]}
        if own:
            attributes |= {
                "help": own.help,
                "epilog": own.epilog,
                "params": own.params,
                "callback": self._run_own,
                "invoke_without_command": True,
            }
        super().__init__(**{"rich_markup_mode": None, "context_settings": names} | attributes)
        self.prefix = prefix
        self.commands = Commands(prefix)
        self._own = own
        self._invoked: Any = None

    def invoke(self, ctx: Any) -> Any:
        self._invoked = ctx
        return super().invoke(ctx)

    def _run_own(self, **options: Any) -> None:
        """Run the command of the group itself, unless one of its commands follows."""
        context = self._invoked
        if context.invoked_subcommand is None:
            self._own.callback(**options)
        elif any("COMMANDLINE" in str(context.get_parameter_source(name)) for name in options):
            context.fail(f"Write the options after `{context.invoked_subcommand}`.")

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(self.prefix + name)) for name in self.commands])


def summary_of(path: str) -> str:
    """Return what a command or a group does, in a sentence."""
    return GROUPS[path] if path in GROUPS else CATALOG[path].summary


def _imported(name: str, entry: Entry) -> Any:
    module, function = entry.home.split(":")
    command = getattr(import_module(f"worker.cli.commands.{module}"), function)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(
        name,
        short_help=entry.summary,
        # \b: the lines below stay as they are
        epilog="\n".join(["Examples:", "", "\b", *(f"  {line}" for line in entry.examples)]),
        context_settings=TAKES_ANYTHING if entry.takes_anything else None,
    )(_guarded(command))
    return typer.main.get_command(alone)


def _guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """Report an error of the command with its cause and hint, and exit with its code."""

    @wraps(command)
    def guarded(*args: object, **options: object) -> None:
        try:
            with ended_by_signals([signal.SIGTERM]):  # until a command has its own handlers
                code = command(*args, **options) or 0
        except WorkerError as problem:
            report(problem)
            code = problem.exit_code
        except KeyboardInterrupt:
            code = INTERRUPTED
        if threading.active_count() > 1:
            # Exit at once: a thread that waits for a model would delay a normal exit.
            sys.stdout.flush()
            os._exit(code)
        raise typer.Exit(code)

    return guarded
