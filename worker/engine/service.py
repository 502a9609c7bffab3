"""The long-running worker: it works while jobs are due, waits while none are, and follows commands.

While it waits, a notification wakes it, if notifications reach it. Otherwise it polls: often soon
after it has worked, then less often. From time to time it also tries to claim, for jobs that it
learned of in neither way. After a long wait it sleeps: it closes its models to free memory.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.engine.pipeline import Pipeline
from worker.engine.polling import poll_interval
from worker.engine.throttling import ThrottleDecision
from worker.host import release_memory
from worker.queue import Command, DesiredState, Queue, Scope, WorkerState

FIRST_LOOK = 0.05  # seconds from the end of work to the first look: an attempt to claim
LAST_LOOK = 5.0  # seconds between two looks at most; the interval doubles until then
LOOK_ASLEEP = 30.0  # the same, for a sleeping worker
SOON = 0.1  # seconds; a worker that looks this often need not be woken
COMMAND_KNOWN_FOR = 0.5  # seconds, so that a worker follows a command within one second
SLICE = 0.5  # seconds between two checks of signals and heartbeat, while it listens
# Work that people are notified of when it ends; shorter work is routine.
MANY_JOBS = 1000
LONG_SPELL = 60.0  # seconds

COMMANDED: dict[DesiredState, str] = {
    "pause": "paused; run `worker resume`",
    "sleep": "asleep; run `worker wake`",
}


@dataclass(slots=True)
class CommandThrottle:
    """A Throttle that follows the commands for this worker. It reads them twice a second."""

    queue: Queue
    scope: Scope
    latest: Command = field(default_factory=Command)
    _on_change: Callable[[Command], None] = lambda command: None
    _known_until: float = 0.0

    def __call__(self) -> ThrottleDecision:
        if time.monotonic() >= self._known_until:
            self.follow(self.queue.command(self.scope))
        desired_state = self.latest.desired_state
        return ThrottleDecision(
            "full" if desired_state == "work" else "paused", COMMANDED.get(desired_state)
        )

    def follow(self, command: Command) -> None:
        """Follow a command that was just read."""
        before, self.latest = self.latest, command
        self._known_until = time.monotonic() + COMMAND_KNOWN_FOR
        if command != before:
            self._on_change(command)

    def on_change(self, call: Callable[[Command], None]) -> None:
        """Call `call` with each command that differs from the one before."""
        self._on_change = call

    def ask_again(self) -> None:
        """Read the command again at the next call."""
        self._known_until = 0.0


@dataclass(slots=True)
class Service:
    """Runs `pipeline` until its `stop` is set. It sleeps after `sleep_after` seconds without work.

    `commands` must be one of the throttles of the pipeline.
    """

    pipeline: Pipeline
    commands: CommandThrottle
    sleep_after: float
    _look: float = FIRST_LOOK
    _rested_since: float = field(default_factory=time.monotonic)
    _command: Command = field(default_factory=Command)
    _counted: tuple[int, int] = (0, 0)
    """Jobs completed and failed when the queue was last drained."""

    def run(self) -> None:
        """Work and rest in turns. Raises what `Pipeline.drain` raises."""
        self.commands.on_change(self._on_command)
        with self.pipeline.attended(retries=True):
            while not self.pipeline.stop.is_set():
                before = self.pipeline.stats.settled
                self.pipeline.work()
                if self.pipeline.stats.settled != before:
                    self._look, self._rested_since = FIRST_LOOK, time.monotonic()
                self._rest()

    def _rest(self) -> None:
        """Wait until there may be something to do."""
        if self.commands.latest != self._command:  # a second `wake` in a row also wakes
            self._command, self._rested_since = self.commands.latest, time.monotonic()
        activity, (state, cause) = self.pipeline.activity, self._state()
        is_waiting_for_another = state == "waiting" and cause != activity.cause
        if state != activity.state or is_waiting_for_another:
            self._enter(state, cause)  # and check again: earlier notifications were missed
            return
        began = time.monotonic()
        woken = self._wait(LOOK_ASLEEP if activity.state == "asleep" else self._look)
        self.pipeline.stats.add_rest(time.monotonic() - began)
        self._look = FIRST_LOOK if woken else min(2 * self._look, LAST_LOOK)

    def _state(self) -> tuple[WorkerState, str]:
        """Return the state to be in, and its cause."""
        if self._command.desired_state == "sleep":
            return "asleep", COMMANDED["sleep"]
        rested = time.monotonic() - self._rested_since
        decision = self.pipeline.decision
        cause = decision.cause if decision.level == "paused" else None
        waits_for = self.pipeline.waits_for
        if rested >= self.sleep_after and not waits_for:
            return "asleep", cause or f"nothing to do for {rested:.0f} s"
        if cause:
            return "paused", cause
        if self._look > SOON or self.pipeline.activity.state != "working":
            return "waiting", waits_for or "nothing is due"
        return "working", "there may be more"

    def _enter(self, state: WorkerState, cause: str) -> None:
        if state == "waiting" and self.pipeline.activity.state == "working":
            self._report_if_drained()
        if state == "asleep":
            self.pipeline.unload()
            release_memory()
        self.pipeline.listen()
        self.pipeline.enter(state, cause)

    def _report_if_drained(self) -> None:
        stats = self.pipeline.stats
        completed, failed = self._counted
        self._counted = stats.completed, stats.failed
        seconds = time.monotonic() - self.pipeline.activity.since
        is_worth_it = stats.completed - completed >= MANY_JOBS or seconds >= LONG_SPELL
        if is_worth_it and not self.pipeline.errors:
            self.pipeline.progress.event(
                "queue_drained",
                completed=stats.completed - completed,
                failed=stats.failed - failed,
                seconds=seconds,
            )

    def _wait(self, seconds: float) -> bool:
        """Wait for a notification, a due job, a command or the end.

        Return whether to look soon again after the next look.
        """
        until = time.monotonic() + seconds
        listens = self.pipeline.activity.listens
        return self._listen(until) if listens else self._poll(until)

    def _listen(self, until: float) -> bool:
        """Wait for a notification. Return whether one came, or may have been missed."""
        queue, stop = self.pipeline.retrying_queue, self.pipeline.stop
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            # a new connection does not listen yet
            if not self.pipeline.listen() or queue.wait(min(left, SLICE)):
                self.commands.ask_again()
                return True
            self.pipeline.beat()
        return False

    def _poll(self, until: float) -> bool:
        """Poll for a due job or a new command. Return whether there is a new command."""
        took = 0.0
        while (left := until - time.monotonic()) > 0:
            interval = poll_interval(self._idle, took, random.random())
            if self.pipeline.stop.wait(min(interval, left)) or interval >= left:
                break
            began = time.monotonic()
            command, is_due = self.pipeline.poll()
            took = time.monotonic() - began
            self.commands.follow(command)
            if command != self._command:
                return True
            if is_due and self.pipeline.decision.level != "paused":
                break
        return False

    @property
    def _idle(self) -> float:
        """For how many seconds there was no work; infinite while it claims nothing, or sleeps."""
        is_waiting = self.pipeline.activity.state in ("working", "waiting")
        return time.monotonic() - self._rested_since if is_waiting else math.inf

    def _on_command(self, command: Command) -> None:
        if command.desired_state == "work":  # the operator may have repaired what was wrong
            self.pipeline.retry_now()
