"""How a run goes about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.engine.models import ProviderLimits

TEXTS_A_REQUEST = 100


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run goes about it: how many jobs are claimed and embedded at once (None: a request
    holds TEXTS_A_REQUEST at most, and more is claimed at once, since that is cheaper).

    With a `delay` (seconds) batches go one at a time. `limit` is the most jobs that are taken up in
    all. Once the run is to stop, its requests have `grace` seconds to end. Vectors are looked up in
    the database first, and kept there, if `cache_mb` is above zero.
    """

    batch_size: int | None = None
    delay: float = 0.0
    limit: int | None = None
    grace: float = 20.0
    limits: ProviderLimits = field(default_factory=ProviderLimits)
    cache_mb: int = 0

    @property
    def texts_a_request(self) -> int:
        """The most texts that one request holds."""
        return self.batch_size or TEXTS_A_REQUEST
