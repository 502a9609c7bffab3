"""The worker that stays: works while there is something to do, rests while there is not, and obeys.

At rest it is woken by a notification where those can reach it, and looks for itself otherwise: soon
after it has worked, then ever more seldom. After a long rest it sleeps: it gives its memory back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.engine.gear import Verdict
from worker.engine.pipeline import Pipeline
from worker.host import give_back_memory
from worker.queue import Order, Queue, Scope, Wish, WorkerState

FIRST_LOOK = 0.05  # seconds after work, until the queue is looked at again
LAST_LOOK = 5.0  # seconds between two looks at most; they double until then
LOOK_ASLEEP = 30.0  # the same, of a worker that sleeps and would be woken
SOON = 0.1  # seconds; who looks that often needs nobody to wake him
ORDER_KNOWN_FOR = 0.5  # seconds, so that an order is obeyed within one
SLICE = 0.5  # seconds between two looks at signals and heartbeat
# A spell of work that people are told of when it ends; shorter ones are everyday.
MANY_JOBS = 1000
LONG_SPELL = 60.0  # seconds

ORDERED: dict[Wish, str] = {"pause": "paused by an order", "sleep": "sent to sleep by an order"}


@dataclass(slots=True)
class Orders:
    """What this worker was told to do, looked up every so often. A Governor."""

    queue: Queue
    scope: Scope
    latest: Order = field(default_factory=Order)
    on_change: Callable[[Order], None] = lambda order: None
    """Called with each order that is another than the one before."""
    _known_until: float = 0.0

    def __call__(self) -> Verdict:
        now = time.monotonic()
        if now >= self._known_until:
            before, self.latest = self.latest, self.queue.order(self.scope)
            self._known_until = now + ORDER_KNOWN_FOR
            if self.latest != before:
                self.on_change(self.latest)
        wish = self.latest.wish
        return Verdict("full" if wish == "work" else "hold", ORDERED.get(wish))

    def ask_again(self) -> None:
        """There may be another."""
        self._known_until = 0.0


@dataclass(slots=True)
class Service:
    """Runs `pipeline` until its `stop` is set. It sleeps after `sleep_after` seconds without work.

    `orders` must have a say in the gear of the pipeline.
    """

    pipeline: Pipeline
    orders: Orders
    sleep_after: float
    _look: float = FIRST_LOOK
    _rested_since: float = field(default_factory=time.monotonic)
    _order: Order = field(default_factory=Order)
    _counted: tuple[int, int] = (0, 0)
    """Completed and failed when the queue was drained last."""

    def run(self) -> None:
        """Work and rest in turns. Raises what `Pipeline.drain` raises."""
        self.pipeline.retries = True
        self.orders.on_change = self._on_order
        with self.pipeline.attended():
            while not self.pipeline.stop.is_set():
                before = self.pipeline.tally.settled
                self.pipeline.work()
                if self.pipeline.tally.settled != before:
                    self._look, self._rested_since = FIRST_LOOK, time.monotonic()
                self._rest()

    def _rest(self) -> None:
        """Until there may be something to do."""
        if self.orders.latest != self._order:  # also the second `wake` in a row wakes
            self._order, self._rested_since = self.orders.latest, time.monotonic()
        state, cause = self._state()
        is_waiting_for_another = state == "waiting" and cause != self.pipeline.cause
        if state != self.pipeline.state or is_waiting_for_another:
            self._enter(state, cause)  # and look once more: what came before was told to nobody
            return
        began = time.monotonic()
        woken = self._wait(LOOK_ASLEEP if self._sleeps_lightly else self._look)
        self.pipeline.tally.rested += time.monotonic() - began
        self._look = FIRST_LOOK if woken else min(2 * self._look, LAST_LOOK)

    def _state(self) -> tuple[WorkerState, str]:
        """What it should be doing, and why."""
        if self._order.wish == "sleep":
            return "asleep", ORDERED["sleep"]
        rested = time.monotonic() - self._rested_since
        verdict = self.pipeline.verdict
        cause = verdict.cause if verdict.gear == "hold" else None
        waits_for = self.pipeline.waits_for
        if rested >= self.sleep_after and not waits_for:
            return "asleep", cause or f"nothing to do for {rested:.0f} s"
        if cause:
            return "paused", cause
        if self._look > SOON or self.pipeline.state != "working":
            return "waiting", waits_for or "nothing is due"
        return "working", "there may be more"

    def _enter(self, state: WorkerState, cause: str) -> None:
        if state == "waiting" and self.pipeline.state == "working":
            self._tell_if_drained()
        if state == "asleep":
            self.pipeline.unload()
            give_back_memory()
        self._listens()
        self.pipeline.enter(state, cause)

    def _tell_if_drained(self) -> None:
        tally = self.pipeline.tally
        completed, failed = self._counted
        self._counted = tally.completed, tally.failed
        seconds = time.monotonic() - self.pipeline.since
        is_worth_it = tally.completed - completed >= MANY_JOBS or seconds >= LONG_SPELL
        if is_worth_it and not self.pipeline.troubles:
            self.pipeline.progress.event(
                "queue_drained",
                completed=tally.completed - completed,
                failed=tally.failed - failed,
                seconds=seconds,
            )

    @property
    def _sleeps_lightly(self) -> bool:
        """Whether it sleeps, and a notification would wake it."""
        return self.pipeline.state == "asleep" and self.pipeline.listens

    def _wait(self, seconds: float) -> bool:
        """Wait for a notification, another order or the end. True if there is reason to look."""
        queue, stop = self.pipeline.patient_queue, self.pipeline.stop
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            if not self.pipeline.listens:
                stop.wait(min(left, SLICE))
                queue.until_answered(self.orders)
                if self.orders.latest != self._order:
                    return True
            # a connection that was lost listens no more
            elif not self._listens() or queue.wait(min(left, SLICE)):
                self.orders.ask_again()
                return True
            self.pipeline.beat()
        return False

    def _listens(self) -> bool:
        self.pipeline.listens = self.pipeline.patient_queue.listen()
        return self.pipeline.listens

    def _on_order(self, order: Order) -> None:
        if order.wish == "work":  # the operator may have repaired what was wrong
            self.pipeline.retry_now()
