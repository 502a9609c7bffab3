"""All screens, in the order of the menu."""

from __future__ import annotations

from worker.web.screens.audit import AUDIT
from worker.web.screens.backups import BACKUPS
from worker.web.screens.base import Screen
from worker.web.screens.documents import DOCUMENTS
from worker.web.screens.failures import FAILURES
from worker.web.screens.files import FILES
from worker.web.screens.job import JOB
from worker.web.screens.jobs import JOBS
from worker.web.screens.overview import OVERVIEW
from worker.web.screens.passages import PASSAGES
from worker.web.screens.reembedding import REEMBEDDING
from worker.web.screens.reembeddings import NEW_REEMBEDDING, REEMBEDDINGS
from worker.web.screens.search import SEARCH
from worker.web.screens.workers import WORKERS

SCREENS: tuple[Screen, ...] = (
    OVERVIEW,
    JOBS,
    JOB,
    FAILURES,
    WORKERS,
    DOCUMENTS,
    PASSAGES,
    FILES,
    REEMBEDDINGS,
    NEW_REEMBEDDING,
    REEMBEDDING,
    BACKUPS,
    SEARCH,
    AUDIT,
)
