"""The commands: their purpose, their module and examples. A test parses every example.

The help of `worker` is built from this alone, so it imports no command.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A command. `home` is its module in `worker.cli.commands`, and its function there.

    `summary` is the first paragraph of its help.
    """

    home: str
    summary: str
    examples: tuple[str, ...]
    takes_anything: bool = False
    """Whether unknown arguments and options are passed on."""


GROUPS: dict[str, str] = {
    "backup": "Back up the vectors of watched columns, and manage the backups.",
    "batches": "Show and cancel the batches of `worker backfill --batch-api`.",
    "files": "Make folders of files searchable.",
    "keys": "Let apps call the HTTP API, each with a key of its own.",
    "reembed": "Give a column another model, with no downtime and a way back.",
}
"""Groups of commands, and what they are for. Their commands are below, as `group command`; a group
that is a command as well is below by its own name."""

CATALOG: dict[str, Entry] = {
    "process": Entry(
        "runs:process",
        "Embed all due jobs, print a summary, and exit.",
        (
            "worker process",
            "worker process --table docs --limit 1000",
            "worker process --dry-run",
            "worker process --until 50% --max-cost 2.50",
        ),
    ),
    "run": Entry(
        "runs:run",
        "Embed jobs as they become due, until stopped.",
        ("worker run", "worker run --metrics-port 9400", "worker run --serve"),
    ),
    "serve": Entry(
        "serve:serve",
        "Serve the dashboard and the HTTP API, until stopped.",
        ("worker serve", "worker serve --address 127.0.0.1:9000"),
    ),
    "requeue": Entry(
        "jobs:requeue",
        "Make jobs pending again, so that they are embedded again.",
        (
            "worker requeue --failed",
            "worker requeue --error-class too_long --table docs",
            "worker requeue --id 42 --table docs",
            "worker requeue --all --table docs --yes",
        ),
    ),
    "status": Entry(
        "status:status",
        "Show the progress of every column, the workers, and what failed.",
        ("worker status", "worker status --fail-if 'oldest_due > 5m'", "worker status --json"),
    ),
    "monitor": Entry(
        "status:monitor",
        "Show live status until q is pressed.",
        ("worker monitor", "worker monitor --interval 5"),
    ),
    "backfill": Entry(
        "jobs:backfill",
        "Enqueue the rows that lack a vector. If interrupted, the next call continues.",
        (
            "worker backfill",
            "worker backfill --table docs --dry-run",
            "worker backfill --table docs --batch-api --max-cost 50",
        ),
    ),
    "batches list": Entry(
        "batches:list_batches",
        "List the batches that are under way or have ended lately, and what waits for one.",
        ("worker batches list", "worker batches list --all --json"),
    ),
    "batches show": Entry(
        "batches:show",
        "Show all that is known of a batch.",
        ("worker batches show 12", "worker batches show 12 --json"),
    ),
    "batches cancel": Entry(
        "batches:cancel",
        "Cancel batches: what is done of them is written, the rest is embedded the ordinary way.",
        (
            "worker batches cancel 12 13",
            "worker batches cancel --waiting --table docs --yes",
        ),
    ),
    "list": Entry(
        "jobs:list_jobs",
        "List unfinished jobs, each with the beginning of its text.",
        ("worker list --failed", "worker list --pending --table docs --limit 50"),
    ),
    "reprocess": Entry(
        "jobs:reprocess",
        "Embed again the records whose text or id matches a pattern.",
        ("worker reprocess '*invoice*'", "worker reprocess '~(?i)outage|drill' --table docs --yes"),
    ),
    "recheck": Entry(
        "jobs:recheck",
        "Enqueue the texts that changed without a write to their row.",
        ("worker recheck --dry-run", "worker recheck --table docs"),
    ),
    "stats": Entry(
        "status:stats",
        "Show recent work: how much, how fast, at what cost, and what failed.",
        ("worker stats", "worker stats --since 7d"),
    ),
    "audit": Entry(
        "audit:audit",
        "List who did what to columns, jobs, vectors and workers, when, and from where.",
        ("worker audit", "worker audit --table docs --limit 100 --json"),
    ),
    "pause": Entry(
        "control:pause",
        "Pause workers: they finish their current jobs and claim no more until `worker resume`.",
        ("worker pause", "worker pause --worker db1:4711:9f3c2a"),
    ),
    "resume": Entry(
        "control:resume",
        "Resume paused or sleeping workers.",
        ("worker resume",),
    ),
    "sleep": Entry(
        "control:sleep",
        "Pause workers and unload their models until `worker wake`.",
        ("worker sleep",),
    ),
    "wake": Entry(
        "control:wake",
        "Resume sleeping or paused workers, like `worker resume`.",
        ("worker wake",),
    ),
    "watch": Entry(
        "targets:watch",
        "Keep a vector column in step with the text of its row.",
        (
            "worker watch docs --source title --source body --create-column",
            "worker watch docs --source body --store table",
            "worker watch docs --source body --chunks --context title --hybrid",
            "worker watch docs --source body --create-column --filter 'deleted_at is null' --sql",
        ),
    ),
    "unwatch": Entry(
        "targets:unwatch",
        "Stop keeping a column in step. Its vectors stay; a side table and chunks are dropped.",
        ("worker unwatch docs --column embedding",),
    ),
    "index": Entry(
        "index:index",
        "Build the vector index of a watched column, while readers and writers go on.",
        (
            "worker index docs",
            "worker index docs --column embedding_2 --like embedding",
            "worker index docs --rebuild",
        ),
    ),
    "targets": Entry(
        "targets:targets",
        "List the watched columns.",
        ("worker targets", "worker targets --json"),
    ),
    "convert": Entry(
        "reembed:convert",
        "Give the vectors of a column another type, without calling the model.",
        ("worker convert docs.embedding --to halfvec",),
    ),
    "reembed create-config": Entry(
        "reembed:create_config",
        "Print a configuration with all its keys.",
        ("worker reembed create-config",),
    ),
    "reembed start": Entry(
        "reembed:start",
        "Fill a second column or a side table with vectors of another model, index and verify it.",
        (
            "worker reembed start docs.embedding --model openai:text-embedding-3-large",
            "worker reembed start docs.embedding --model ollama:bge-m3 --detach --yes",
            "worker reembed start docs.embedding --config reembed.json",
        ),
    ),
    "reembed status": Entry(
        "reembed:status",
        "Show the state of re-embeddings, and what to do next.",
        ("worker reembed status", "worker reembed status docs.embedding --json"),
    ),
    "reembed pause": Entry(
        "reembed:pause",
        "Stop filling the new vectors. Edits are queued meanwhile.",
        ("worker reembed pause docs.embedding",),
    ),
    "reembed resume": Entry(
        "reembed:resume",
        "Go on with what is left, also after a pause or a crash.",
        ("worker reembed resume", "worker reembed resume docs.embedding --detach"),
    ),
    "reembed verify": Entry(
        "reembed:verify",
        "Compare the new vectors with their texts and with the old ones.",
        ("worker reembed verify", "worker reembed verify docs.embedding --queries queries.jsonl"),
    ),
    "reembed retry-failed": Entry(
        "reembed:retry_failed",
        "Make the failed jobs of the new vectors pending again.",
        ("worker reembed retry-failed docs.embedding",),
    ),
    "reembed swap": Entry(
        "reembed:swap",
        "Let the new vectors serve searches, at once and without a lock on the table.",
        ("worker reembed swap docs.embedding",),
    ),
    "reembed rollback": Entry(
        "reembed:rollback",
        "Let the old vectors serve again, which were kept in step.",
        ("worker reembed rollback docs.embedding",),
    ),
    "reembed cleanup": Entry(
        "reembed:cleanup",
        "Drop the old vectors after a swap. There is no way back from it.",
        ("worker reembed cleanup docs.embedding --rename --yes",),
    ),
    "reembed cancel": Entry(
        "reembed:cancel",
        "Drop the new vectors before a swap, and keep the old ones.",
        ("worker reembed cancel docs.embedding --yes",),
    ),
    "files add": Entry(
        "files:add",
        "Make the files of a directory or a bucket searchable.",
        (
            "worker files add ~/handbook --include '**/*.{md,pdf,docx}' --exclude 'drafts/**'",
            "worker files add s3://my-bucket/reports --name reports",
        ),
    ),
    "files list": Entry(
        "files:list_files",
        "List files with their states, and why a file is not searchable.",
        (
            "worker files list --failed",
            "worker files list 'notice period' --file '*.pdf'",
            "worker files list --folder handbook --json",
        ),
    ),
    "files folders": Entry(
        "files:folders",
        "List the folders, and what was wrong with their last scans.",
        ("worker files folders", "worker files folders --json"),
    ),
    "files scan": Entry(
        "files:scan",
        "Compare the folders of this host with the files that are known, and record what differs.",
        ("worker files scan", "worker files scan handbook --json"),
    ),
    "files remove": Entry(
        "files:remove",
        "Remove a folder from the searches. Its files themselves stay.",
        ("worker files remove ~/handbook", "worker files remove handbook --yes"),
    ),
    "search": Entry(
        "search:search",
        "Show the rows nearest in meaning, with their cosine distance: 0 the same, 1 unrelated.",
        (
            'worker search "how do I get my money back" --table docs',
            'worker search "error E-4711" --text --explain',
            'worker search "when is it refunded" --table manuals --per-document 3',
            "worker search 'notice period' --file '*.pdf'",
        ),
    ),
    "evaluate": Entry(
        "evaluate:evaluate",
        "Measure how well searches find the rows that people judged relevant.",
        (
            "worker evaluate --queries queries.jsonl --table docs",
            "worker evaluate --queries topics.tsv --qrels qrels.txt --table docs --k 20",
        ),
    ),
    "verify": Entry(
        "verify:verify",
        "Check the vectors of watched columns: all rows, and a sample against the model.",
        (
            "worker verify",
            "worker verify --repair --repair-budget 1",
            "worker verify docs --column embedding_2 --against embedding --report report.html",
        ),
    ),
    "backup": Entry(
        "backup:backup",
        "Back up the vectors of watched columns, and manage the backups.",
        (
            "worker backup",
            "worker backup --to s3://my-bucket/vectors --keep 7d",
            "worker backup --table docs --json",
        ),
    ),
    "backup list": Entry(
        "backup:list_backups",
        "List the backups at a destination, the newest first.",
        ("worker backup list", "worker backup list --to s3://my-bucket/vectors --json"),
    ),
    "backup check": Entry(
        "backup:check",
        "Read all of a backup, and report what is not as it was written.",
        ("worker backup check", "worker backup check 2026-11-30T17-35-02Z --json"),
    ),
    "backup prune": Entry(
        "backup:prune",
        "Delete old backups and unfinished ones; never the last good backup of a column.",
        ("worker backup prune --keep 7d",),
    ),
    "restore": Entry(
        "restore:restore",
        "Restore vectors from a backup, without calling the model.",
        (
            "worker restore latest --dry-run",
            "worker restore 2026-11-30T17-35-02Z --to s3://my-bucket/vectors",
            "worker restore latest --table docs --record 42",
        ),
    ),
    "keys create": Entry(
        "keys:create",
        "Create a key for an app, and print it. It is shown once: only its hash is stored.",
        (
            "worker keys create my-app --scope embed",
            "worker keys create shop --scope search --requests-per-minute 600 --expires-in 90d",
        ),
    ),
    "keys list": Entry(
        "keys:list_keys",
        "List the keys of apps, without the keys themselves.",
        ("worker keys list", "worker keys list --json"),
    ),
    "keys revoke": Entry(
        "keys:revoke",
        "Revoke a key for good. Servers refuse it within seconds.",
        ("worker keys revoke my-app",),
    ),
    "doctor": Entry(
        "database:doctor",
        "Check connection, schema, columns and models, and print how to fix what is wrong.",
        ("worker doctor", "worker doctor --json"),
    ),
    "init": Entry(
        "database:init",
        "Copy the migrations and settings of this worker into a Supabase project.",
        ("worker init", "worker init ../my-project --with-cron"),
    ),
    "migrate": Entry(
        "database:migrate",
        "Apply the missing migrations to the database.",
        ("worker migrate", "worker migrate --status"),
    ),
    "psql": Entry(
        "database:psql",
        "Open psql on the database in DATABASE_URL, or else on the embedded one.",
        ("worker psql", "worker psql -c 'select * from embedding_status'"),
        takes_anything=True,
    ),
    "demo": Entry(
        "demo:demo",
        "Embed sample texts and search them, without an account, a key or a server.",
        ("worker demo",),
    ),
}
