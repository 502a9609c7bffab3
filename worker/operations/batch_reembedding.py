"""Re-embedding for programs: one object from the configuration to the verified vectors."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

from worker.errors import SettingsError
from worker.operations import reembed, reembed_start
from worker.operations.reembed_stages import Reembedder, stage_options
from worker.operations.session import open_database
from worker.queue import Reembedding
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.settings import Settings
from worker.verification.result import Verification


class BatchReembeddingSystem:
    """Re-embeds a column as a configuration says. The database holds the state, so a new object
    goes on where another one ended, also after it was killed.

    `settings` are those of the environment unless they are given.
    """

    def __init__(self, config: EmbeddingMigrationConfig, settings: Settings | None = None) -> None:
        self.config = config
        self.settings = settings or Settings.from_environment()
        self.stop = Event()

    async def run_reembedding_process(self) -> Reembedding:
        """Begin, or go on, until the new vectors are ready to serve. Returns the re-embedding; its
        `state` is `ready`, or `problem` says why not.

        Runs in another thread. If the task is cancelled, requests in flight are finished. Raises
        WorkerError.
        """
        self.stop.clear()
        running = asyncio.create_task(asyncio.to_thread(self._run))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.stop.set()
            with suppress(Exception):
                await running
            raise

    def verify_migration(self) -> Verification:
        """Compare the new vectors with their texts and with the old ones. Raises WorkerError.

        The state becomes `ready` or `verifying` by the result, unless they serve already.
        """
        with open_database(self.settings) as queue:
            found, stages = self._find(queue), Reembedder(queue, self.settings)
            result = stages.verify(found)
            stages.judge(found, result)
            return result

    def retry_failed(self) -> int:
        """Make the jobs that failed pending again. Returns how many. Raises WorkerError."""
        with open_database(self.settings) as queue:
            return reembed.retry_failed(queue, self._find(queue))

    retry_failed_tools = retry_failed

    def load_checkpoint(self) -> dict[str, Any]:
        """Return the state as the database has it: the checkpoint file is for people only.

        Raises SettingsError if nothing has begun.
        """
        with open_database(self.settings) as queue:
            return checkpoint_of(queue, self._find(queue))

    def save_checkpoint(self) -> None:
        """Write the state to the checkpoint file, if the configuration names one."""
        with open_database(self.settings) as queue:
            self._save(queue, self._find(queue))

    def _run(self) -> Reembedding:
        with open_database(self.settings) as queue:
            found = reembed.find_open(queue, self.config.source_collection)
            if found:
                reembed.check_same(found, self.config)
                found = reembed.resume(queue, found)
            else:
                found = reembed_start.start(
                    queue, reembed_start.plan_start(queue, self.settings, self.config)
                )
            stages = Reembedder(
                queue,
                self.settings,
                stage_options(self.config),
                stop=self.stop,
                on_stage=lambda now: self._save(queue, now),
            )
            found = stages.run(found)
            self._save(queue, found)
            return found

    def _find(self, queue: PostgresQueue) -> Reembedding:
        """Return the re-embedding that is open. Raises SettingsError if there is none."""
        found = reembed.find_open(queue, self.config.source_collection)
        if found is None:
            raise SettingsError(
                f"column {self.config.source_collection} is not re-embedded",
                "Call run_reembedding_process first.",
            )
        return found

    def _save(self, queue: PostgresQueue, reembedding: Reembedding) -> None:
        if self.config.checkpoint_file:
            write_checkpoint(Path(self.config.checkpoint_file), checkpoint_of(queue, reembedding))


def checkpoint_of(queue: PostgresQueue, reembedding: Reembedding) -> dict[str, Any]:
    """Return the state of a re-embedding and how far it is."""
    progress = queue.reembedding_progress(reembedding)
    return {**asdict(reembedding), "progress": asdict(progress)}


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises SettingsError if that fails."""
    content = json.dumps(checkpoint, indent=2, default=str, ensure_ascii=False)
    unfinished = Path(f"{path}.tmp")
    try:
        unfinished.write_text(f"{content}\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as problem:
        unfinished.unlink(missing_ok=True)
        raise SettingsError(
            f"cannot write {path}: {problem.strerror}", "Give a file in a folder that exists."
        ) from None
