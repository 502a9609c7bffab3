"""The events of a run: each has a stable name, and figures in stated units.

The names and fields are a contract (docs/operations.md lists them); the sentences are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Level = Literal["debug", "info", "warning"]

EVENTS: dict[str, tuple[Level, str]] = {
    "database_lost": ("warning", "waiting for the database: {cause}"),
    "database_back": ("warning", "the database is back after {seconds:.0f} s"),
    "throttle_changed": ("info", "throttle level {throttle_level}: {cause}"),
    "state_changed": ("debug", "{state}: {cause}"),
    "jobs_claimed": ("debug", "{jobs} jobs of {table}.{column} claimed in {seconds:.3f} s"),
    "request_done": ("debug", "{texts} texts to {model} in {seconds:.3f} s"),
    "batch_done": ("debug", "{jobs} jobs of {table}.{column} in {seconds:.3f} s"),
    "jobs_written": (
        "debug",
        "results of {jobs} jobs of {table}.{column} written in {seconds:.3f} s",
    ),
    "model_unusable": ("warning", "{table}.{column} is not embedded for now: {cause}"),
    "not_enhanced": (
        "warning",
        "{table}.{column}: texts embedded without what {model} writes: {texts}, since {cause}",
    ),
    "provider_stopped": ("warning", "{provider} cannot be used: {cause}"),
    "provider_back": ("info", "{provider} can be used again"),
    "queue_drained": (
        "info",
        "nothing is due: {completed} done, {failed} failed in {seconds:.1f} s",
    ),
    "target_reached": (
        "info",
        "{percent:.1f}% of the rows have their vector, {wanted:g}% were wanted",
    ),
    "failures_exceeded": ("warning", "{failed} jobs have failed (threshold: {threshold})"),
    "minute_passed": ("info", "{completed} done, {failed} failed, {rows_per_second:.1f} rows/s"),
    "folder_scanned": (
        "info",
        "{folder}: {files} files, of them {new} new, {changed} changed and {renamed} renamed;"
        " {missing} missing, {deleted} deleted, in {seconds:.1f} s",
    ),
    "folder_problem": ("warning", "nothing of {folder} is deleted: {cause}"),
    "files_read": ("info", "{read} files read, {failed} cannot be read, in {seconds:.1f} s"),
    "files_progress": (
        "info",
        "{percent:.0f}% of the files are read: {read}, {left} left, {files_per_second:.1f} files/s,"
        " {elapsed:.0f} s elapsed, {remaining:.0f} s remaining",
    ),
    "file_failed": ("info", "{path} cannot be read: {error_class}"),
    "files_interrupted": ("warning", "files are neither scanned nor read for now: {cause}"),
    "vectors_damaged": (
        "warning",
        "of {vectors} vectors of {table}.{column}, {lost} are lost and {overwritten} overwritten",
    ),
    "vectors_repaired": (
        "info",
        "{from_cache} vectors of {table}.{column} are back from the cache and {from_backup} from a"
        " backup; {requeued} texts are to be embedded again, {over_budget} are over the budget",
    ),
    "model_drifted": (
        "warning",
        "the model of {table}.{column} no longer gives the vectors that it gave: cosine"
        " {lowest:.4f}, {gate:.4f} is wanted",
    ),
    "problem_found": ("warning", "{subject}: {cause}"),
    "checks_interrupted": ("warning", "stored vectors are not checked for now: {cause}"),
    "backup_completed": (
        "info",
        "backup {backup}: {rows} vectors in {bytes} bytes at {destination}, in {seconds:.1f} s",
    ),
    "backup_failed": ("warning", "no backup is made at {destination} for now: {cause}"),
    "backups_seen": (
        "debug",
        "last complete backup at {destination}: {completed_at}, failed since: {failures}",
    ),
    "batch_submitted": (
        "info",
        "batch {batch} of {table}.{column} is submitted, texts: {texts}, tokens: about {tokens}",
    ),
    "batch_collected": (
        "info",
        "batch {batch} of {table}.{column} is {state}: {completed} done, {failed} failed,"
        " {stale} stale, {released} released",
    ),
    "batch_failed": ("warning", "batch {batch} of {table}.{column}: {cause}"),
    "batches_seen": ("debug", "{under_way} batches under way, {waiting} jobs wait for one"),
    "batches_interrupted": ("warning", "no batches are served for now: {cause}"),
    "web_started": ("info", "the dashboard and the API are at {url}"),
    "web_failed": ("warning", "a defect of the dashboard or the API: {cause}"),
    "worker_started": ("info", "{worker} started on {host}, pid {pid}, with {model}"),
    "worker_stopped": (
        "info",
        "{worker} stopped after {seconds:.0f} s: {completed} done, {failed} failed",
    ),
    "notification_sent": ("info", "{about} sent by {channel} in {seconds:.1f} s"),
    "notification_failed": ("warning", "could not send {about} by {channel}: {cause}"),
    "traces_off": ("warning", "no traces are sent: {cause} ({hint})"),
    "traces_lost": ("warning", "traces are lost: {cause}"),
    "traces_back": ("info", "traces are sent again"),
    "observer_failed": ("warning", "observer {observer} failed: {cause}"),
}
"""By name: its level, and its sentence with fields in braces."""


def sentence(event: str, fields: Mapping[str, object]) -> str:
    """Return the sentence of an event."""
    return EVENTS[event][1].format(**fields)
