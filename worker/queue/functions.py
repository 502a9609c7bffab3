"""The functions of the SQL API that the worker calls, with the exact types of all their arguments.

Another role may have created functions with the names of ours. Postgres prefers the one whose
types fit exactly, so every call gives every argument with its declared type; PostgREST chooses by
the names of the arguments, so every call gives all names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

Signature = Mapping[LiteralString, LiteralString]

_WATCH: Signature = {
    "relation": "regclass",
    "source": "text",
    "embedding_column": "text",
    "model": "text",
    "filter": "text",
    "dimensions": "integer",
    "priority": "smallint",
    "debounce": "interval",
    "on_change": "text",
    "on_too_long": "text",
    "match_function": "boolean",
    "document_prompt": "text",
    "query_prompt": "text",
    "language": "text",
    "chunks": "boolean",
    "context": "text",
    "format": "text",
    "chunk_size": "integer",
    "chunk_unit": "text",
    "max_chunks": "integer",
    "enhance": "text",
    "enhance_prompt": "text",
    "enhance_on_failure": "text",
    "store": "text",
}

_STEP: Signature = {
    "table_name": "text",
    "embedding_column": "text",
    "source": "text",
    "figures": "jsonb",
}

FUNCTIONS: Mapping[LiteralString, Signature] = {
    "add_embedding_folder": {
        "name": "text",
        "kind": "text",
        "location": "text",
        "include": "text[]",
        "exclude": "text[]",
        "host": "text",
    },
    "advance_reembedding": {
        "table_name": "text",
        "embedding_column": "text",
        "expected": "text",
        "next": "text",
        "source": "text",
        "figures": "jsonb",
    },
    "announce_embedding_event": {
        "event": "text",
        "subject": "text",
        "announcement": "uuid",
        "quiet": "interval",
    },
    "backfill_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "batch": "integer",
    },
    "begin_embedding_backup": {
        "destination": "text",
        "worker": "text",
        "lease_for": "interval",
        "every": "interval",
        "only_table": "text",
    },
    "begin_embedding_check": {
        "worker": "text",
        "every": "interval",
        "lease_for": "interval",
        "only_table": "text",
        "only_column": "text",
    },
    "cache_embeddings": {
        "model": "text",
        "hashes": "bytea[]",
        "vectors": "vector[]",
        "tokens": "integer[]",
        "cap_mb": "integer",
    },
    "cache_enhancements": {"keys": "bytea[]", "contents": "text[]", "cap_mb": "integer"},
    "cached_embeddings": {"model": "text", "dimensions": "integer", "hashes": "bytea[]"},
    "cached_enhancements": {"keys": "bytea[]"},
    "cancel_reembedding": _STEP,
    "cast_embeddings": {
        "table_name": "text",
        "embedding_column": "text",
        "after_id": "bigint",
        "batch": "integer",
    },
    "claim_embedding_files": {
        "worker": "text",
        "folders": "uuid[]",
        "batch": "integer",
        "lease_for": "interval",
    },
    "claim_embeddings": {
        "worker": "text",
        "batch": "integer",
        "lease_for": "interval",
        "default_model": "text",
        "only_table": "text",
        "only_column": "text",
        "except_targets": "integer[]",
    },
    "claim_records": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_ids": "text[]",
        "worker": "text",
        "lease_for": "interval",
        "default_model": "text",
        "dry_run": "boolean",
    },
    "complete_embedding_file": {
        "id": "bigint",
        "lease": "uuid",
        "hashes": "bytea[]",
        "content": "text",
        "facts": "jsonb",
    },
    "complete_embeddings": {
        "ids": "bigint[]",
        "leases": "uuid[]",
        "hashes": "bytea[]",
        "vectors": "vector[]",
        "model": "text",
        "tokens": "integer[]",
        "truncated_to": "integer[]",
        "costs": "real[]",
        "unenhanced": "text[]",
        "again_in": "interval[]",
    },
    "complete_documents": {
        "ids": "bigint[]",
        "leases": "uuid[]",
        "hashes": "bytea[]",
        "model": "text",
        "tokens": "integer[]",
        "costs": "real[]",
        "place_ids": "bigint[]",
        "place_hashes": "bytea[]",
        "first_chars": "integer[]",
        "last_chars": "integer[]",
        "pages": "integer[]",
        "heading_paths": "text[]",
        "unenhanced": "text[]",
        "again_in": "interval[]",
    },
    "continue_embedding_check": {
        "target_id": "integer",
        "worker": "text",
        "lease_for": "interval",
        "looked_to": "text",
        "found_so_far": "jsonb",
        "state": "text",
    },
    "control_embeddings": {"desired_state": "text", "worker": "text", "source": "text"},
    "convert_embeddings": {
        "relation": "regclass",
        "embedding_column": "text",
        "kind": "text",
        "source": "text",
        "store": "text",
    },
    "diagnose_embeddings": {},
    "embedding_database_load": {},
    "embedding_has_vector_index": {"watched_table": "text", "embedding_column": "text"},
    "embedding_index_statements": {
        "watched_table": "text",
        "embedding_column": "text",
        "blocks_writers": "boolean",
    },
    "embedding_command": {"worker": "text"},
    "embedding_job": {"id": "bigint"},
    "embedding_overview": {},
    "embedding_passages": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_id": "text",
        "after_position": "integer",
        "max_rows": "integer",
    },
    "embedding_provider_report": {"provider": "text", "error": "text", "hint": "text"},
    "create_embedding_api_key": {
        "name": "text",
        "key_hash": "bytea",
        "scopes": "text[]",
        "requests_per_minute": "integer",
        "expires_in": "interval",
        "source": "text",
    },
    "embedding_api_key": {"key_hash": "bytea"},
    "embedding_match_function": {"watched_table": "text", "embedding_column": "text"},
    "embedding_rate": {"model": "text"},
    "describe_embeddings": {"watched_table": "text", "embedding_column": "text"},
    "embedding_schema_version": {},
    "embedding_stats": {"since": "interval"},
    "embedding_table_name": {"relation": "regclass"},
    "embedding_worker_deregister": {"worker": "text"},
    "embedding_worker_heartbeat": {
        "worker": "text",
        "host": "text",
        "pid": "integer",
        "state": "text",
        "completed": "bigint",
        "failed": "bigint",
        "usage": "jsonb",
        "throttle_level": "text",
        "cause": "text",
        "listens": "boolean",
        "rss_mb": "real",
        "version": "text",
        "cores": "integer",
        "load": "real",
        "cpu_percent": "real",
        "memory_limit_mb": "real",
    },
    "embedding_repair_cost": {},
    "end_embedding_backup": {
        "id": "bigint",
        "worker": "text",
        "rows": "bigint",
        "bytes": "bigint",
        "error": "text",
        "source": "text",
    },
    "end_embedding_check": {
        "target_id": "integer",
        "worker": "text",
        "state": "text",
        "vectors": "bigint",
        "lost": "bigint",
        "overwritten": "bigint",
        "from_cache": "bigint",
        "from_backup": "bigint",
        "requeued": "bigint",
        "over_budget": "bigint",
        "cost": "double precision",
        "source": "text",
    },
    "estimate_embeddings": {
        "default_model": "text",
        "only_table": "text",
        "only_column": "text",
        "missing": "boolean",
        "sample": "integer",
    },
    "export_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "of_chunks": "boolean",
        "after_record": "text",
        "batch": "integer",
    },
    "extend_embedding_backup": {
        "id": "bigint",
        "worker": "text",
        "lease_for": "interval",
        "rows": "bigint",
        "bytes": "bigint",
    },
    "extend_embeddings": {
        "worker": "text",
        "ids": "bigint[]",
        "leases": "uuid[]",
        "lease_for": "interval",
    },
    "embedding_file_ids": {"path_regex": "text", "max_files": "integer"},
    "fail_embeddings": {
        "ids": "bigint[]",
        "leases": "uuid[]",
        "class": "text",
        "message": "text",
        "retry_in": "interval",
    },
    "find_embedding_files": {
        "words": "text",
        "path_regex": "text",
        "folder": "text",
        "states": "text[]",
        "ids": "bigint[]",
        "max_rows": "integer",
    },
    "find_damaged_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "after_record": "text",
        "batch": "integer",
    },
    "finish_embedding_scan": {
        "folder": "uuid",
        "lease": "uuid",
        "files": "bigint",
        "missing": "bigint[]",
        "grace": "interval",
        "skipped": "jsonb",
        "seconds": "real",
        "problem": "text",
    },
    "finish_reembedding": _STEP,
    "list_embedding_audit": {
        "only_table": "text",
        "only_reembedding": "integer",
        "max_rows": "integer",
        "before_id": "bigint",
    },
    "list_embeddings": {
        "statuses": "text[]",
        "only_table": "text",
        "only_column": "text",
        "max_rows": "integer",
        "preview_characters": "integer",
    },
    "missing_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_ids": "text[]",
    },
    "poll_embeddings": {
        "worker": "text",
        "default_model": "text",
        "only_table": "text",
        "only_column": "text",
        "except_targets": "integer[]",
    },
    "page_embedding_files": {
        "only_folder": "text",
        "only_state": "text",
        "before_id": "bigint",
        "max_rows": "integer",
    },
    "page_embeddings": {
        "only_status": "text",
        "only_table": "text",
        "only_column": "text",
        "only_error_class": "text",
        "only_record": "text",
        "after_cursor": "text",
        "max_rows": "integer",
    },
    "pause_reembedding": _STEP,
    "placed_chunks": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_ids": "text[]",
    },
    "preview_watch_embeddings": {**_WATCH, "default_model": "text"},
    "known_embedding_files": {"folder": "uuid", "after_id": "bigint", "batch": "integer"},
    "record_embedding_audit": {
        "event": "text",
        "table_name": "text",
        "embedding_column": "text",
        "source": "text",
        "figures": "jsonb",
    },
    "record_embedding_backup_check": {"destination": "text", "name": "text", "problem": "text"},
    "record_embedding_files": {
        "folder": "uuid",
        "lease": "uuid",
        "lease_for": "interval",
        "ids": "bigint[]",
        "paths": "text[]",
        "sizes": "bigint[]",
        "modified": "timestamp with time zone[]",
        "stamps": "text[]",
        "versions": "text[]",
    },
    "recheck_embeddings": {
        "only_table": "text",
        "only_column": "text",
        "after_id": "bigint",
        "batch": "integer",
        "dry_run": "boolean",
    },
    "release_embeddings": {
        "ids": "bigint[]",
        "leases": "uuid[]",
        "retry_in": "interval",
        "reason": "text",
        "class": "text",
        "embedded": "boolean",
    },
    "reembedding_progress": {"id": "integer"},
    "reembedding_usage": {"id": "integer"},
    "remove_embedding_folder": {"name": "text"},
    "rename_reembedded": {"table_name": "text", "embedding_column": "text", "source": "text"},
    "reprocess_embeddings": {
        "pattern": "text",
        "only_table": "text",
        "only_column": "text",
        "after_id": "bigint",
        "batch": "integer",
        "dry_run": "boolean",
        "source": "text",
    },
    "requeue_damaged_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_ids": "text[]",
        "cost": "double precision",
    },
    "requeue_embeddings": {
        "only_status": "text",
        "only_table": "text",
        "only_column": "text",
        "only_record": "text",
        "only_error_class": "text",
        "after_id": "bigint",
        "batch": "integer",
        "failed_before": "timestamp with time zone",
        "source": "text",
        "only_ids": "bigint[]",
    },
    "restore_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_ids": "text[]",
        "hashes": "bytea[]",
        "vectors": "vector[]",
        "model": "text",
        "tokens": "integer[]",
        "costs": "real[]",
        "truncated_to": "integer[]",
        "unenhanced": "text[]",
        "overwrite": "boolean",
        "dry_run": "boolean",
    },
    "resume_reembedding": _STEP,
    "reveal_embedding_passage": {
        "watched_table": "text",
        "embedding_column": "text",
        "record_id": "text",
        "at_position": "integer",
        "source": "text",
    },
    "reveal_embedding_text": {"id": "bigint", "source": "text"},
    "rollback_reembedding": _STEP,
    "sample_embeddings": {"sample": "integer"},
    "sample_vectors": {
        "watched_table": "text",
        "embedding_column": "text",
        "sample": "integer",
        "record_ids": "text[]",
    },
    "revoke_embedding_api_key": {"name": "text", "source": "text"},
    "search_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "query": "vector",
        "matches": "integer",
        "model": "text",
        "query_text": "text",
        "full_text_weight": "double precision",
        "rrf_k": "integer",
        "filter": "jsonb",
        "exact": "boolean",
        "per_document": "integer",
    },
    "set_embedding_goal": {
        "watched_table": "text",
        "embedding_column": "text",
        "percent": "real",
        "source": "text",
    },
    "stage_chunks": {
        "ids": "bigint[]",
        "leases": "uuid[]",
        "hashes": "bytea[]",
        "contents": "text[]",
        "contexts": "text[]",
        "vectors": "vector[]",
        "model": "text",
    },
    "start_embedding_scan": {"folder": "uuid", "lease_for": "interval"},
    "start_reembedding": {
        "relation": "regclass",
        "embedding_column": "text",
        "model": "text",
        "dimensions": "integer",
        "document_prompt": "text",
        "query_prompt": "text",
        "config": "jsonb",
        "source": "text",
    },
    "swap_reembedding": _STEP,
    "unwatch_embeddings": {"watched_table": "text", "embedding_column": "text", "source": "text"},
    "verify_embeddings": {
        "watched_table": "text",
        "embedding_column": "text",
        "of_chunks": "boolean",
        "after_record": "text",
        "batch": "integer",
        "width": "integer",
        "usual_length": "double precision",
        "tolerance": "double precision",
    },
    "watch_embeddings": {**_WATCH, "audit_source": "text"},
}

STATEMENT_TIMEOUTS: dict[str, str] = {"reprocess_embeddings": "5s", "requeue_embeddings": "5s"}
"""Timeouts of calls over a connection: only the Data API takes them from the function itself."""

# Arguments that always have the same value.
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "announce_embedding_event": {"quiet": "15 minutes"},
    "estimate_embeddings": {"sample": 200},
    "list_embeddings": {"preview_characters": 200},
    "preview_watch_embeddings": {"priority": None, "debounce": None, "on_change": None},
    "sample_embeddings": {"sample": 100},
    "watch_embeddings": {"priority": None, "debounce": None, "on_change": None},
}

_FOUND_BY_SEARCH_PATH = ("text", "uuid", "bytea", "jsonb", "regclass")


def arguments_of(function: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a function by name, in the order of its declaration."""
    arguments = {**_FIXED.get(function, {}), **given}
    signature = FUNCTIONS[function]
    if arguments.keys() != signature.keys():
        raise TypeError(f"{function} takes {', '.join(signature)}, not {', '.join(arguments)}")
    return {name: arguments[name] for name in signature}


def call(function: LiteralString) -> LiteralString:
    """Return the call of a function, with a named placeholder for each argument."""
    arguments = [placeholder(name, type_) for name, type_ in FUNCTIONS[function].items()]
    return f"public.{function}({', '.join(arguments)})"


def typed(type_: LiteralString) -> LiteralString:
    """Return a type by a name that means the same on every search path."""
    return f"pg_catalog.{type_}" if type_.removesuffix("[]") in _FOUND_BY_SEARCH_PATH else type_


def placeholder(name: LiteralString, type_: LiteralString) -> LiteralString:
    """Return a named placeholder for a value of this type."""
    if type_.startswith("vector"):
        # It is sent with its type, which may be in any schema; as binary: as text it costs sixty
        # times as much.
        return f"%({name})b"
    return f"%({name})s::{typed(type_)}"
