"""`worker demo`: the whole path once, on a Postgres of its own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from worker.cli.console import out, say
from worker.cli.migrate import apply_migrations
from worker.cli.process import drain
from worker.cli.search import find, print_matches
from worker.cli.session import database, demo_settings, scope_of
from worker.cli.summary import exit_code, print_summary
from worker.engine.pipeline import Pace
from worker.queue.embedded import POSTGRES_VERSION, default_data_dir
from worker.queue.migrations import seed

SEARCHES = (
    ("summaries", "content_embedding", "shipments are delayed"),
    ("summaries", "content_embedding", "we were charged twice"),
    ("sessions", "title_embedding", "disaster recovery"),
)


def demo() -> int:
    """Embed some sample text and search it. Needs no account, no key and no server."""
    settings = demo_settings()
    data_dir = settings.worker_data_dir or default_data_dir()
    say(f"An embedded Postgres {POSTGRES_VERSION} with pgvector; its data lies in {data_dir}\n")
    with database(settings) as queue:
        say("1. The migrations")
        if not apply_migrations(queue):
            say("(applied before)")
        say("\n2. The sample tables: 33 sessions and 22 summaries, watched by triggers")
        queue.run_script(seed())
        scope = scope_of(queue, settings, None, None)
        if not queue.count_due(scope):
            say("(embedded before: made pending again, to be embedded once more)")
            for table in ("sessions", "summaries"):
                queue.requeue(status=None, table=table)
        say("\n3. worker process")
        pipeline = drain(queue, settings, scope, Pace())
        print_summary(pipeline, as_json=False)
        say("\n4. Searches")
        for table, column, words in SEARCHES:
            out(f'\n"{words}" in {table}, nearest first:')
            target = queue.target(table, column)
            print_matches(find(queue, settings, target, words, limit=3))
    worker = _how_it_was_called()
    say(
        "\nTry next:\n"
        f'  {worker} search "the mobile program keeps crashing" --table summaries\n'
        f"  {worker} status\n"
        f"  {worker} watch sessions --source title --column title_embedding --sql"
    )
    return exit_code(pipeline)


def _how_it_was_called() -> str:
    if shutil.which("worker"):
        return "worker"
    called = Path(sys.argv[0])
    return "python -m worker" if called.name == "__main__.py" else os.path.relpath(called)
