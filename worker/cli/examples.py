"""The examples at the end of the help of each command. A test parses every one."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "process": (
        "worker process",
        "worker process --table docs --limit 1000",
        "worker process --dry-run",
        "worker process --until 50% --max-cost 2.50",
    ),
    "run": ("worker run", "worker run --metrics-port 9400"),
    "requeue": (
        "worker requeue --failed",
        "worker requeue --error-class too_long --table docs",
        "worker requeue --id 42 --table docs",
        "worker requeue --all --table docs --yes",
    ),
    "status": (
        "worker status",
        "worker status --fail-if 'oldest_due > 5m'",
        "worker status --json",
    ),
    "monitor": ("worker monitor", "worker monitor --interval 5"),
    "backfill": ("worker backfill", "worker backfill --table docs --dry-run"),
    "list": ("worker list --failed", "worker list --pending --table docs --limit 50"),
    "reprocess": (
        "worker reprocess '*invoice*'",
        "worker reprocess '~(?i)outage|drill' --table docs --yes",
    ),
    "recheck": ("worker recheck --dry-run", "worker recheck --table docs"),
    "stats": ("worker stats", "worker stats --since 7d"),
    "pause": ("worker pause", "worker pause --worker db1:4711:9f3c2a"),
    "resume": ("worker resume",),
    "sleep": ("worker sleep",),
    "wake": ("worker wake",),
    "watch": (
        "worker watch docs --source body --column embedding --create-column",
        "worker watch docs --source title --source body --column embedding",
        "worker watch docs --source body --column embedding --filter 'deleted_at is null' --sql",
    ),
    "unwatch": ("worker unwatch docs --column embedding",),
    "targets": ("worker targets", "worker targets --json"),
    "search": ('worker search "how do I get my money back" --table docs',),
    "doctor": ("worker doctor", "worker doctor --json"),
    "init": ("worker init", "worker init ../my-project --with-cron"),
    "migrate": ("worker migrate", "worker migrate --status"),
    "psql": ("worker psql", "worker psql -c 'select * from embedding_status'"),
    "demo": ("worker demo",),
}
