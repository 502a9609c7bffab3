"""All screens, in the order of the menu."""

from __future__ import annotations

from worker.web.screens.base import Screen
from worker.web.screens.failures import FAILURES
from worker.web.screens.job import JOB
from worker.web.screens.jobs import JOBS
from worker.web.screens.overview import OVERVIEW
from worker.web.screens.workers import WORKERS

SCREENS: tuple[Screen, ...] = (OVERVIEW, JOBS, JOB, FAILURES, WORKERS)
