"""Re-embeddings: all of them, and the start of one with its preflight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker.errors import WorkerError
from worker.operations import reembed, reembed_start
from worker.operations.reembed_start import StartPlan
from worker.operations.reembed_steps import run_stages
from worker.operations.session import connected
from worker.queue import AdminQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.web.screens.base import (
    Action,
    Done,
    Look,
    Screen,
    cut,
    names_of_columns,
    refuse_reader,
    waiting_for_a_model,
)
from worker.web.tasks import Task

PATH = "/reembeddings"
FIELDS = ("column", "model", "dimensions", "store", "document_prompt", "query_prompt")


def load(look: Look) -> Mapping[str, Any]:
    """Read the re-embeddings, the latest first, with the progress of those that go on."""
    before = look.number("before")
    known = [each for each in look.queue.reembeddings()[::-1] if before is None or each.id < before]
    found, last = cut(known)
    return {
        "found": [(each, _progress(look.queue, each)) for each in found],
        "next": last and last.id,
        "is_first": before is None,
        "lacks_connection": lacks_connection(look),
    }


def lacks_connection(look: Look) -> WorkerError | None:
    """Why nothing can be changed from here; None: it can."""
    try:
        connected(look.queue)
    except WorkerError as error:
        return error
    return None


def title_of(named: str) -> str:
    """The title of the task that runs the stages of a column: there is one at a time."""
    return f"Re-embedding of {named}"


def _load_new(look: Look) -> Mapping[str, Any]:
    """Make the preflight of what was asked for: it calls the new model once."""
    plan, problem = _preflight(look) if look.value("model") else (None, None)
    given = {name: look.values.get(name, "") for name in FIELDS}
    lacks = lacks_connection(look)
    return {
        "columns": names_of_columns(look.queue),
        "given": given,
        "plan": plan,
        "problem": problem,
        "lacks_connection": lacks,
    }


def _preflight(look: Look) -> tuple[StartPlan | None, WorkerError | None]:
    try:
        refuse_reader(look.role)
        queue = connected(look.queue)
        with waiting_for_a_model():
            return reembed_start.plan_start(queue, look.services.settings, _config(look)), None
    except WorkerError as error:
        return None, error


def _config(look: Look) -> EmbeddingMigrationConfig:
    """Return what a form asks for. Raises SettingsError."""
    asked = {
        "source_collection": look.values.get("column", ""),
        "model": look.values.get("model", "").strip(),
        "dimensions": look.number("dimensions"),
        "store": look.value("store") or "auto",
        "document_prompt": look.value("document_prompt"),
        "query_prompt": look.value("query_prompt"),
    }
    return EmbeddingMigrationConfig.parse(json.dumps(asked))


def _start(look: Look) -> Done:
    """Begin a re-embedding and run its stages, as a task."""
    config, settings, source = _config(look), look.services.settings, look.source
    connected(look.queue)
    target = reembed.find_column(look.queue, config.source_collection)

    def work(queue: AdminQueue, task: Task) -> None:
        database = connected(queue)
        task.go_on("preflight")
        plan = reembed_start.plan_start(database, settings, config)
        begun = reembed_start.start(database, plan, source, task.go_on)
        ended = run_stages(database, settings, begun, source, task.stop, task.say)
        task.say(": ".join(filter(None, [ended.state, ended.problem])))

    return look.start(title_of(target.public_name), work, PATH)


def _progress(queue: AdminQueue, each: Any) -> Any:
    return queue.reembedding_progress(each) if each.ended_at is None else None


REEMBEDDINGS = Screen(
    name="reembeddings", path=PATH, title="Re-embeddings", label="Re-embedding", load=load
)
NEW_REEMBEDDING = Screen(
    name="new_reembedding",
    path=f"{PATH}/new",
    title="New re-embedding",
    load=_load_new,
    actions=(Action(f"{PATH}/start", _start),),
    is_live=False,
)
