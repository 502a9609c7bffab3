"""The options of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.engine.providers import ProviderLimits

TEXTS_A_REQUEST = 100


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options that a person may set for one run.

    `batch_size` jobs are claimed and embedded at once; if it is None, a request holds at most
    TEXTS_A_REQUEST, and more jobs are claimed at once, which is cheaper. With a `delay` (seconds)
    batches go one at a time. The run ends after `limit` jobs. When it is stopped, requests have
    `grace` seconds to end. If `cache_mb` is above zero, vectors are looked up in the database
    before a model is called, and kept there; so is what chat models write, up to
    `enhancement_cache_mb`.
    """

    batch_size: int | None = None
    delay: float = 0.0
    limit: int | None = None
    grace: float = 20.0
    limits: ProviderLimits = field(default_factory=ProviderLimits)
    cache_mb: int = 0
    enhancement_cache_mb: int = 0

    @property
    def texts_a_request(self) -> int:
        """The most texts that one request holds."""
        return self.batch_size or TEXTS_A_REQUEST
