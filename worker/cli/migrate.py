"""`worker migrate`, and `worker init`: the schema into a database, or into a project's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.console import counted, out, out_table, say
from worker.cli.session import database, load_settings
from worker.database.migrations import History, Migration, migrations, scheduled, shipped
from worker.database.project import as_in_project, copy_into
from worker.errors import SettingsError
from worker.queue.postgres import PostgresQueue

PROJECT = "The folder of a Supabase project, which has a folder supabase."


def migrate(
    status: Annotated[
        bool, typer.Option("--status", help="Show what is applied, and change nothing.")
    ] = False,
    copy_to: Annotated[
        Path | None,
        typer.Option(
            "--copy-to",
            metavar="PATH",
            help="Copy the missing migrations into a Supabase project, and apply nothing.",
        ),
    ] = None,
) -> None:
    """Apply the missing migrations to the database."""
    if copy_to:
        _copy(copy_to, migrations(), overwrite=False)
        return
    with database(load_settings()) as queue:
        if status:
            _print_status(queue.applied_migrations())
            return
        count = apply_migrations(queue)
        queue.check_schema()
    say(
        f"{counted(count, 'migration')} applied"
        if count
        else "nothing to apply: the schema is up to date"
    )


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help=PROJECT)] = Path(),
    with_cron: Annotated[
        bool,
        typer.Option("--with-cron", help="Also copy the scheduled jobs of pg_cron."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite copies that differ from this worker's."),
    ] = False,
) -> None:
    """Copy the migrations and settings of this worker into a Supabase project."""
    dotenv = path / ".env"
    _copy(path, [*migrations(), *([scheduled()] if with_cron else [])], overwrite=force)
    with _of_a_project():
        added = _add_variables(dotenv)
        exposed = _others_may_read(dotenv)
    if added:
        out(str(dotenv))
    say(
        f"{counted(added, 'setting')} added to {dotenv}, as comments"
        if added
        else f"{dotenv} has them all"
    )
    if exposed:
        say(f"warning: others may read {dotenv}", f"hint: chmod 600 {dotenv}")


def apply_migrations(queue: PostgresQueue) -> int:
    """Apply what the history lacks, each in a transaction of its own. Returns how many.

    In a project that has copies, the history is to have their versions: then `supabase db push`
    knows them, whoever applied them.
    """
    history = queue.applied_migrations()
    count = 0
    for ours, copied in zip(migrations(), as_in_project(Path(), migrations()), strict=True):
        applied = ours.version_in(history)
        if not applied:
            queue.apply(copied)
            out(f"{copied.version}_{copied.name}")
            count += 1
        elif copied != ours:
            queue.reenter(applied, copied)
    return count


def _print_status(history: History) -> None:
    out_table(
        ["version", "name", "applied"],
        [
            (applied or migration.version, migration.name, "yes" if applied else "no")
            for migration in migrations()
            for applied in [migration.version_in(history)]
        ],
    )


def _copy(project: Path, wanted: Sequence[Migration], overwrite: bool) -> None:
    with _of_a_project():
        copied = copy_into(project, wanted, overwrite)
    for file in copied:
        out(str(file))
    say(
        f"{counted(len(copied), 'migration')} copied"
        if copied
        else "nothing to copy: all are there"
    )


@contextmanager
def _of_a_project() -> Iterator[None]:
    """What is wrong with somebody's files, as an error of theirs."""
    try:
        yield
    except OSError as problem:
        raise SettingsError(
            f"{problem.filename}: {problem.strerror}", "Mend it, then run this again."
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(
            "a file of this project is not written in UTF-8", "Save .env as UTF-8."
        ) from None


def _as_secret(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _others_may_read(file: Path) -> bool:
    return os.name == "posix" and bool(file.stat().st_mode & 0o077)


def _add_variables(dotenv: Path) -> int:
    """Append to a `.env` each variable that it does not mention, as .env.example has it."""
    before = dotenv.read_text(encoding="utf-8") if dotenv.exists() else ""
    example = shipped(".env.example").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"^[\s#]*(?:export\s+)?(\w+)\s*=", before, re.M))
    lacking = [
        entry
        for entry, variable in re.findall(r"^((?:# .*\n)+# (\w+)=.*\n)", example, re.M)
        if variable not in mentioned
    ]
    if lacking:
        gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
        # It will hold secrets: a new file is for its owner alone, from the first moment on.
        with open(dotenv, "a", encoding="utf-8", opener=_as_secret) as file:
            file.write(gap + "\n".join(lacking))
    return len(lacking)
