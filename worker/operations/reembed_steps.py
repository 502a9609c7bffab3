"""What can be done with a re-embedding next, and doing it where nobody reads a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Literal

from worker.errors import SettingsError
from worker.operations import reembed
from worker.operations.reembed_stages import Reembedder, ShowIndex, stage_options
from worker.queue import AdminQueue, CallSource, Reembedding, ReembeddingEvent, ReembeddingState
from worker.queue.postgres import PostgresQueue
from worker.reembedding.indexing import IndexProgress
from worker.settings import Settings

Step = Literal["run", "pause", "verify", "swap", "swap_unverified", "roll_back", "finish", "cancel"]

NEXT: Mapping[ReembeddingState, Sequence[Step]] = {
    "filling": ("run", "pause", "cancel"),
    "paused": ("run", "cancel"),
    "indexing": ("run", "cancel"),
    "verifying": ("run", "swap_unverified", "cancel"),
    "ready": ("swap", "verify", "cancel"),
    "swapped": ("finish", "roll_back", "verify"),
    "finished": (),
    "cancelled": (),
}
"""The steps that each state allows; `run` goes on with the stages that are left."""

Say = Callable[[str], None]


def find_by_id(queue: AdminQueue, id: int) -> Reembedding | None:
    """Return a re-embedding, if there is one."""
    return next((each for each in queue.reembeddings() if each.id == id), None)


def checks_of(events: Sequence[ReembeddingEvent]) -> Mapping[str, str]:
    """Return the names and the results of the checks of the latest recorded verification."""
    recorded = [event.figures or {} for event in events]
    found = [figures["checks"] for figures in recorded if "checks" in figures]
    return found[-1] if found else {}


def run_stages(
    queue: PostgresQueue,
    settings: Settings,
    reembedding: Reembedding,
    source: CallSource,
    stop: Event,
    say: Say,
) -> Reembedding:
    """Run the stages that are left, and say which. Returns the re-embedding as it is then."""

    @contextmanager
    def show_index() -> Iterator[ShowIndex]:
        yield lambda progress: say(_of_build(progress))

    stages = Reembedder(
        queue,
        settings,
        stage_options(reembed.config_of(reembedding)),
        source,
        stop,
        on_stage=lambda now: say(now.state),
        show_index=show_index,
    )
    return stages.run(reembedding)


def verify(
    queue: PostgresQueue, settings: Settings, reembedding: Reembedding, source: CallSource
) -> str:
    """Compare the new vectors with their texts and with the old ones. Returns the result in a line.

    Vectors that do not pass are no longer ready.
    """
    options = stage_options(reembed.config_of(reembedding))
    stages = Reembedder(queue, settings, options, source)
    result = stages.verify(reembedding)
    stages.judge(reembedding, result)
    return result.summary


def take(
    queue: PostgresQueue, reembedding: Reembedding, step: Step, source: CallSource, say: Say
) -> Reembedding:
    """Take a step that is one transaction. `say` gets who has a lock that it waits for.

    Raises what the step raises.
    """
    match step:
        case "swap" | "swap_unverified":
            verified = step == "swap"
            return reembed.swap(queue, reembedding, source, verified=verified, on_wait=say)
        case "roll_back":
            return reembed.roll_back(queue, reembedding, source, say)
        case "finish":
            return reembed.finish(queue, reembedding, source, on_wait=say)
        case "cancel":
            return reembed.cancel(queue, reembedding, source, say)
        case _:
            raise SettingsError(f"{step} is not one transaction")


def _of_build(progress: IndexProgress) -> str:
    """How far the build of an index is, in a line."""
    if progress.waits_for:
        return f"indexing: waits for {progress.waits_for}"
    share = "" if progress.fraction is None else f" {progress.fraction:.0%}"
    return f"indexing: {progress.phase or 'begins'}{share}"
