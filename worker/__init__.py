"""A worker that keeps pgvector columns in step with text.

docs/python.md describes the names that can be imported from here: the Python API. Each is loaded
when it is used for the first time, so `import worker` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.engine.progress import Progress as Progress
    from worker.errors import WorkerError as WorkerError
    from worker.evaluation.judgments import JudgedQuery as JudgedQuery
    from worker.evaluation.judgments import read_queries as read_queries
    from worker.operations.adoption import adopt as adopt
    from worker.operations.backfill import backfill as backfill
    from worker.operations.backfill import recheck as recheck
    from worker.operations.batch_backfill import backfill_by_batches as backfill_by_batches
    from worker.operations.batch_reembedding import BatchReembeddingSystem as BatchReembeddingSystem
    from worker.operations.diagnosis import diagnose as diagnose
    from worker.operations.estimate import estimate as estimate
    from worker.operations.evaluate import evaluate as evaluate
    from worker.operations.indexing import build_index as build_index
    from worker.operations.jobs import list_jobs as list_jobs
    from worker.operations.jobs import reprocess as reprocess
    from worker.operations.jobs import requeue as requeue
    from worker.operations.migrating import migrate as migrate
    from worker.operations.processing import process as process
    from worker.operations.processing import run_options as run_options
    from worker.operations.reranking import rerank as rerank
    from worker.operations.search import embed_query as embed_query
    from worker.operations.search import search as search
    from worker.operations.serving import run_service as run_service
    from worker.operations.session import open_database as open_database
    from worker.operations.session import open_queue as open_queue
    from worker.operations.stats import stats as stats
    from worker.operations.status import status as status
    from worker.operations.stop_conditions import StopConditions as StopConditions
    from worker.operations.verify import verify as verify
    from worker.operations.watching import unwatch as unwatch
    from worker.operations.watching import watch as watch
    from worker.reembedding.config import EmbeddingMigrationConfig as EmbeddingMigrationConfig
    from worker.settings import Settings as Settings

__version__ = "0.1.0"

_HOMES = {
    "BatchReembeddingSystem": "operations.batch_reembedding",
    "EmbeddingMigrationConfig": "reembedding.config",
    "JudgedQuery": "evaluation.judgments",
    "Progress": "engine.progress",
    "Settings": "settings",
    "StopConditions": "operations.stop_conditions",
    "WorkerError": "errors",
    "adopt": "operations.adoption",
    "backfill": "operations.backfill",
    "backfill_by_batches": "operations.batch_backfill",
    "build_index": "operations.indexing",
    "diagnose": "operations.diagnosis",
    "embed_query": "operations.search",
    "estimate": "operations.estimate",
    "evaluate": "operations.evaluate",
    "list_jobs": "operations.jobs",
    "migrate": "operations.migrating",
    "open_database": "operations.session",
    "open_queue": "operations.session",
    "process": "operations.processing",
    "read_queries": "evaluation.judgments",
    "recheck": "operations.backfill",
    "reprocess": "operations.jobs",
    "requeue": "operations.jobs",
    "rerank": "operations.reranking",
    "run_options": "operations.processing",
    "run_service": "operations.serving",
    "search": "operations.search",
    "stats": "operations.stats",
    "status": "operations.status",
    "unwatch": "operations.watching",
    "verify": "operations.verify",
    "watch": "operations.watching",
}

__all__ = list(_HOMES)

if not TYPE_CHECKING:  # otherwise every name would exist for a type checker

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"worker.{_HOMES[name]}"), name)
