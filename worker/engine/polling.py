"""How often a waiting worker polls, where no notification tells it that a job is due."""

from __future__ import annotations

SHORTEST_INTERVAL = 0.1  # seconds
LONGEST_INTERVAL = 1.0  # seconds
PART_OF_IDLE_TIME = 1 / 240  # 0.25 s after a minute without work, 1 s after four
TIMES_THE_CALL = 2  # so that slow polls take a third of the time at most
JITTER = 0.25  # so that workers that became idle together do not poll together


def poll_interval(idle: float, took: float, chance: float) -> float:
    """Return for how many seconds to wait before the next poll.

    `idle`: seconds without work. `took`: seconds that the previous poll took. `chance`: a random
    number from 0 to 1.
    """
    interval = min(max(idle * PART_OF_IDLE_TIME, SHORTEST_INTERVAL), LONGEST_INTERVAL)
    return max(interval, took * TIMES_THE_CALL) * (1 + JITTER * chance)
