"""The Batch APIs that this worker can use, each opened once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.embedders.batch_api import BatchApi
from worker.errors import WorkerError

OpenBatchApi = Callable[[str, int | None, str | None], BatchApi]
"""Opens the Batch API of a model for a width and a document prompt (None: its own)."""
Key = tuple[str, int | None, str | None]


@dataclass(slots=True)
class BatchApis:
    """Opens them at their first use. One that cannot be opened is not tried again: this worker
    lacks a key, and leaves its batches to others."""

    open_api: OpenBatchApi
    _opened: dict[Key, BatchApi | WorkerError] = field(default_factory=dict)

    def of(self, model: str, width: int | None, prompt: str | None) -> BatchApi | None:
        """Return the API of a model; None: this worker cannot use it."""
        key = model, width, prompt
        if key not in self._opened:
            try:
                self._opened[key] = self.open_api(*key)
            except WorkerError as error:
                self._opened[key] = error
        found = self._opened[key]
        return None if isinstance(found, WorkerError) else found

    def of_full(self, full_model: str) -> BatchApi | None:
        """Return the API of a full name, which includes the prompt, to read its results."""
        model, has_prompt, prompt = full_model.partition("#")
        return self.of(model, None, prompt if has_prompt else None)

    def close(self) -> None:
        for api in self._opened.values():
            if not isinstance(api, WorkerError):
                api.close()
        self._opened.clear()
