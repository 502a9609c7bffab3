"""The command that builds the vector index of a column: `index`."""

from __future__ import annotations

from worker.cli.console import out, say
from worker.cli.environment import load_settings
from worker.cli.options import AsStatements, EmbeddingColumn, LikeColumn, Rebuild, TableName
from worker.cli.render.indexing import script_without_session, show_build
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.operations import indexing
from worker.operations.session import open_database
from worker.queue.postgres import PostgresQueue
from worker.reembedding.indexing import MOST_MEMORY_KB, IndexPlan, IndexRequest


def index(
    table: TableName,
    column: EmbeddingColumn = "embedding",
    rebuild: Rebuild = False,
    like: LikeColumn = None,
    sql: AsStatements = False,
) -> int:
    """Build the vector index of a watched column, while readers and writers go on."""
    request = IndexRequest(table, column, like, rebuild)
    with open_database(load_settings()) as queue:
        plan = indexing.plan_build(queue, request)
        if not plan.statements:
            say("the index is there and valid; `--rebuild` builds it again")
            out(*([] if sql else [f"Present: {plan.present}"]))
            return 0
        if sql:
            out(*plan.script)
            return 0
        return _build(queue, request, plan)


def _build(queue: PostgresQueue, request: IndexRequest, plan: IndexPlan) -> int:
    with script_without_session():
        indexing.check_session(queue, plan)
    _warn_of_memory(plan)
    with (
        stopped_by_signals("the cancellation of the build") as stop,
        show_build() as on_progress,
    ):
        result = indexing.build_index(
            queue,
            request.table,
            request.column,
            like=request.like,
            rebuild=request.rebuild,
            stop=stop,
            on_progress=on_progress,
        )
    if result.outcome == "interrupted":
        for name in result.leftovers:
            say(f"open transactions kept the invalid index {name} from being dropped")
        say("interrupted: the same command begins again, and drops what is left")
        return INTERRUPTED
    out(f"{result.outcome.capitalize()}: {result.index}")
    return 0


def _warn_of_memory(plan: IndexPlan) -> None:
    if plan.needed_kb > MOST_MEMORY_KB and "maintenance_work_mem" in plan.settings:
        say(
            f"the build would like {plan.needed_kb / 2**20:.1f} GB of memory and gets 1 GB, so it"
            " takes longer",
            "hint: if the server has that much to spare, set maintenance_work_mem for your role",
        )
