"""What `worker doctor` finds, looked for now and then in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock, Thread
from typing import NamedTuple

from worker.queue import Finding

INTERVAL = 60.0  # seconds


class Examined(NamedTuple):
    """What was found, and when."""

    at: datetime
    findings: list[Finding]

    @property
    def troubles(self) -> list[Finding]:
        """What somebody should look at, the worst first. The pages show pauses themselves."""
        found = [each for each in self.findings if each.level in ("problem", "warning")]
        return sorted(
            (each for each in found if each.check != "paused"),
            key=lambda finding: finding.level != "problem",
        )


@dataclass(slots=True)
class Checkup:
    """The latest findings. They are looked for while somebody wants them, at most once an INTERVAL
    in a process, and nobody waits for them."""

    clock: Callable[[], float] = time.monotonic
    _examined: Examined | None = None
    _is_due_at: float = float("-inf")
    _is_running: bool = False
    _lock: Lock = field(default_factory=Lock)

    def latest(self, examine: Callable[[], list[Finding]]) -> Examined | None:
        """Return what was found last, None before the first time; `examine` if it is time."""
        with self._lock:
            if not self._is_running and self.clock() >= self._is_due_at:
                self._is_running = True
                Thread(target=self._run, args=(examine,), name="checkup", daemon=True).start()
            return self._examined

    def _run(self, examine: Callable[[], list[Finding]]) -> None:
        try:
            findings = examine()
        except Exception as error:  # a defect: its message may hold what is in the database
            cause = f"a defect: {type(error).__name__}"
            findings = [Finding("problem", "defect", "worker doctor", cause, None)]
        with self._lock:
            self._examined = Examined(datetime.now(UTC), findings)
            self._is_due_at = self.clock() + INTERVAL
            self._is_running = False
