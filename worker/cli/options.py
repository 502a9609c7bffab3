"""The arguments and options of all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.queue import ChunkFormat, ChunkUnit, FileState, OnFailure, Store, VectorKind
from worker.reembedding.config import WantedStore
from worker.settings import LONGEST_DELAY, MOST_AT_ONCE

# Options of several commands

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Column = Annotated[str | None, typer.Option(metavar="COLUMN", help="Only this embedding column.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Estimate rows, tokens, requests, cost and time without calling the provider.",
    ),
]
Table = Annotated[str | None, typer.Option(metavar="TABLE", help="Only this table.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]

# process, run

BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        metavar="N",
        help="Jobs to claim and embed at once (env: EMBEDDING_BATCH_SIZE; default: requests of"
        " up to 100 texts).",
    ),
]
DelayMs = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=LONGEST_DELAY,
        metavar="MILLISECONDS",
        help="Wait after each batch; batches then run one at a time (env: EMBEDDING_DELAY_MS;"
        " default: 0, batches overlap).",
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, metavar="DOLLARS", help="Stop after spending this many US dollars."),
]
MaxMinutes = Annotated[
    float | None, typer.Option(min=0, metavar="MINUTES", help="Stop after this many minutes.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        metavar="PORT",
        help="Serve metrics for Prometheus at this port (env: WORKER_METRICS_PORT; default: none).",
    ),
]
MostJobs = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Stop after this many jobs.")
]
ServesWeb = Annotated[
    bool, typer.Option("--serve", help="Serve the dashboard and the HTTP API as well.")
]
WebAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Where to listen (env: WORKER_WEB_ADDRESS; default: 127.0.0.1:8080).",
    ),
]
NotifyCommand = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Run this shell command for each notification (env: NOTIFY_COMMAND).",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="PERCENT", help="Stop when this share of rows has vectors, like 50%."),
]

# requeue, backfill, recheck, list, reprocess

BackfillBatch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, max=100_000, metavar="N", help="Rows to enqueue in one transaction."
    ),
]
BatchApi = Annotated[
    bool,
    typer.Option(
        "--batch-api",
        help="Embed them by the Batch API of OpenAI: at half the price, within a day.",
    ),
]
BatchDetach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Only submit batches: running workers, or the same command, collect them."
    ),
]
BatchMaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        min=0,
        metavar="DOLLARS",
        help="For one column: submit no more batches than cost this many US dollars.",
    ),
]
CountOnly = Annotated[
    bool, typer.Option("--dry-run", help="Count what differs, and change nothing.")
]
ErrorClass = Annotated[
    str | None, typer.Option(metavar="CLASS", help="Requeue jobs that failed for this reason.")
]
Everything = Annotated[
    bool, typer.Option("--all", help="Requeue jobs of every status: embeds everything again.")
]
JobsShown = Annotated[
    int, typer.Option("--limit", min=1, max=1000, metavar="N", help="How many to show.")
]
Pattern = Annotated[
    str,
    typer.Argument(
        metavar="PATTERN",
        help="A pattern with * and ? for the whole text or id, or ~REGEX.",
    ),
]
RecordId = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Requeue the job of this record, whatever its status."),
]
RequeueFailed = Annotated[bool, typer.Option("--failed", help="Requeue failed jobs.")]
ShowFailed = Annotated[bool, typer.Option("--failed", help="Show failed jobs.")]
ShowPending = Annotated[bool, typer.Option("--pending", help="Show pending jobs.")]
ShowProcessing = Annotated[
    bool, typer.Option("--processing", help="Show jobs that a worker has claimed.")
]

# status, monitor, stats, pause, resume, sleep, wake

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="Exit with 1 if this holds, like 'oldest_due > 5m'. May be given several times.",
    ),
]
Interval = Annotated[
    float,
    typer.Option(
        min=0.1, max=3600, metavar="SECONDS", help="Seconds between two queries of the database."
    ),
]
Since = Annotated[
    str, typer.Option(metavar="DURATION", help="How far back, like 30m, 24h or 7d (the maximum).")
]
Worker = Annotated[
    str | None,
    typer.Option(
        "--worker", metavar="WORKER", help="Only this worker, by its name in `worker status`."
    ),
]

# watch, unwatch

AgreeToDrop = Annotated[
    bool, typer.Option("--yes", help="Do not ask before a side table or the chunks are dropped.")
]
Adopt = Annotated[
    str | None,
    typer.Option(
        "--adopt",
        metavar="MODEL",
        help="The provider:model that made the vectors that are there. A sample is compared.",
    ),
]
AgreeToEmbed = Annotated[
    bool, typer.Option("--yes", help="Do not ask before rows are embedded again.")
]
AsMigration = Annotated[
    bool, typer.Option("--sql", help="Print a migration to commit, and change nothing.")
]
Chunks = Annotated[
    bool,
    typer.Option("--chunks", help="Embed the text in chunks, which a search finds one by one."),
]
ChunkSize = Annotated[
    int | None,
    typer.Option(
        min=50, max=100_000, metavar="N", help="The longest chunk (default: 1250, or 300 tokens)."
    ),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE",
        help="A column like the title, or an SQL expression, to put before each chunk.",
    ),
]
CreateColumn = Annotated[
    bool,
    typer.Option("--create-column", help="Add the vector column, as wide as the model."),
]
StoredIn = Annotated[
    Store | None,
    typer.Option(
        "--store",
        help="Where the vectors are: in a column of the table (default), or in a side table, which"
        " is made beside it.",
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option(min=1, help="Ask the model for vectors of this width, shorter than its own."),
]
DocumentPrompt = Annotated[
    str | None,
    typer.Option(
        metavar="PROMPT",
        help="What the model gets before each text: a text, `none`, or `default`, what the model"
        " was trained with (default: `default`).",
    ),
]
EmbeddingColumn = Annotated[
    str, typer.Option("--column", metavar="COLUMN", help="The vector column.")
]
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="SQL",
        help="An SQL condition: embed only rows for which it is true.",
    ),
]
FormatOfText = Annotated[
    ChunkFormat | None,
    typer.Option("--format", help="Where the text can be cut (default: markdown)."),
]
Hybrid = Annotated[
    bool | None,
    typer.Option(
        "--hybrid/--no-hybrid",
        help="Let searches use the words of the text as well, and build the index for that.",
    ),
]
Enhance = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A chat model, like openai:gpt-4o-mini or ollama:gemma3:12b, that writes more context"
        " for each chunk, or a description that is embedded instead of the text. `none` ends it.",
    ),
]
EnhanceOnFailure = Annotated[
    OnFailure | None,
    typer.Option(
        help="Where the chat model fails: `wait` for it (the default), or embed the text as it is"
        " (`raw`), and try again later.",
    ),
]
EnhancePrompt = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        help="A file with the instructions for the chat model. An empty one: the default.",
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="LANGUAGE",
        help="The text search configuration for the words, like german or simple; implies"
        " --hybrid (default: english).",
    ),
]
MatchFunction = Annotated[
    bool | None,
    typer.Option(
        "--match-function/--no-match-function",
        help="Create a function match_TABLE with which apps search the column.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="provider:model (default: the model of its vectors, or the worker's EMBEDDING_MODEL).",
    ),
]
MostChunks = Annotated[
    int | None,
    typer.Option(
        "--max-chunks",
        min=1,
        max=1_000_000,
        metavar="N",
        help="A text of more chunks fails (default: 20000).",
    ),
]
NoFilter = Annotated[
    bool, typer.Option("--no-filter", help="Remove the filter of a watched column.")
]
QueryPrompt = Annotated[
    str | None,
    typer.Option(
        metavar="PROMPT",
        help="What the model gets before the words of a search: a text, `none`, or `default`.",
    ),
]
Source = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE",
        help="The column to embed, or an SQL expression over the row. May be given several"
        " times: the texts are joined by an empty line. Required the first time.",
    ),
]
SizeIn = Annotated[
    ChunkUnit | None,
    typer.Option("--chunk-unit", help="What --chunk-size counts (default: characters)."),
]
TableName = Annotated[
    str, typer.Argument(metavar="TABLE", help="The table, with its schema if it is not public.")
]
Truncate = Annotated[
    bool | None,
    typer.Option(
        "--truncate/--no-truncate",
        help="Embed as much of the beginning of a text as the model takes"
        " (default: a text that is too long fails).",
    ),
]

# index

AsStatements = Annotated[
    bool, typer.Option("--sql", help="Print the statements for psql, and build nothing.")
]
LikeColumn = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="COLUMN",
        help="Build what this column of the table has: the same kind, options and condition"
        " (default: hnsw for the cosine distance).",
    ),
]
Rebuild = Annotated[
    bool, typer.Option("--rebuild", help="Build an index again that is there and valid.")
]

# reembed

AgreeToCancel = Annotated[
    bool, typer.Option("--yes", help="Do not ask before the new vectors are dropped.")
]
AgreeToConvert = Annotated[
    bool, typer.Option("--yes", help="Do not ask before a column with all vectors is added.")
]
AgreeToFinish = Annotated[
    bool, typer.Option("--yes", help="Do not ask before the old vectors are dropped.")
]
AgreeToStart = Annotated[
    bool, typer.Option("--yes", help="Do not ask before all texts are embedded again.")
]
ComparedBy = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        metavar="FILE",
        help="Queries to compare old and new vectors by, as for `worker evaluate`.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A file of `worker reembed create-config`."),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="Only begin: running workers fill the new vectors."),
]
NamedColumn = Annotated[
    str, typer.Argument(metavar="TABLE.COLUMN", help="The column, as `worker targets` shows it.")
]
NewModel = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="The new model, provider:model.")
]
NewWidth = Annotated[
    int | None,
    typer.Option(
        "--dimensions",
        min=1,
        max=4000,
        metavar="N",
        help="The width of the new vectors (default: as many as the model gives).",
    ),
]
OpenColumn = Annotated[
    str | None,
    typer.Argument(
        metavar="[TABLE.COLUMN]", help="The column; not needed if only one is re-embedded."
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what it finds and estimates, and begin nothing."),
]
RenameColumn = Annotated[
    bool, typer.Option("--rename", help="Give the new column the name of the old one.")
]
NewStore = Annotated[
    WantedStore | None,
    typer.Option(
        "--store",
        help="Put the new vectors into a column of the table, or into a side table (default: auto,"
        " which decides that).",
    ),
]
ConvertedStore = Annotated[
    Store | None,
    typer.Option(
        "--store",
        help="Put the vectors into a column of the table, or into a side table (default: as they"
        " are).",
    ),
]
VectorType = Annotated[
    VectorKind,
    typer.Option("--to", help="halfvec takes half of the space; vector is the usual type."),
]
Unverified = Annotated[
    bool, typer.Option("--no-verify", help="Swap although the new vectors are not verified.")
]

# search

ByBoth = Annotated[
    bool,
    typer.Option(
        "--hybrid", help="By vectors and words (the default for a column with a language)."
    ),
]
ByVectors = Annotated[bool, typer.Option("--vector", help="By vectors only.")]
ByWords = Annotated[bool, typer.Option("--text", help="By words only, without a model.")]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Show the score, and the places that it is made of."),
]
PassagesPerDocument = Annotated[
    int,
    typer.Option(
        min=1,
        max=1000,
        metavar="N",
        help="How many passages of one text to show, where texts are in chunks.",
    ),
]
RerankedBy = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        metavar="PROVIDER:MODEL",
        help="Let this reranker, like cohere:rerank-v4.0-fast, put the best 50 rows in order.",
    ),
]
RowsShown = Annotated[
    int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="How many rows to show.")
]
Words = Annotated[str, typer.Argument(metavar="WORDS", help="The text to search for.")]

# files

AddedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="provider:model for the texts of all folders, with the first one (default: the"
        " worker's EMBEDDING_MODEL).",
    ),
]
AgreeToRemove = Annotated[
    bool, typer.Option("--yes", help="Do not ask before the files are removed from the database.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave out what fits this pattern, like 'drafts/**'. May be given several times.",
    ),
]
FilePattern = Annotated[
    str | None,
    typer.Option(
        "--file", metavar="PATTERN", help="Only files whose paths fit this pattern, like '*.pdf'."
    ),
]
FilesLanguage = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="LANGUAGE",
        help="The text search configuration for the words, like english: searches then use words"
        " as well.",
    ),
]
FileStateShown = Annotated[
    FileState | None, typer.Option("--state", help="Show files in this state.")
]
FileWords = Annotated[
    str | None,
    typer.Argument(metavar="[WORDS]", help="Words in the path, the title or the author."),
]
FolderLocation = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A directory of this host, s3://BUCKET/PREFIX, or storage://BUCKET/PREFIX for"
        " Supabase Storage.",
    ),
]
FolderName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Its name (default: its last part).")
]
FolderNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Folders, by name or path (default: all)."),
]
FolderOnly = Annotated[
    str | None, typer.Option("--folder", metavar="NAME", help="Only this folder.")
]
FolderToRemove = Annotated[
    str, typer.Argument(metavar="NAME", help="The folder, by its name or its path.")
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only files that fit this pattern, like '**/*.{md,pdf}'. May be given several times.",
    ),
]
ShowFailedFiles = Annotated[
    bool, typer.Option("--failed", help="Show files that cannot be read or embedded.")
]
ShowPendingFiles = Annotated[
    bool, typer.Option("--pending", help="Show files that are not searchable yet.")
]

# evaluate

Baseline = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The output of an earlier `worker evaluate --json`, to compare this one with.",
    ),
]
Cutoff = Annotated[
    int,
    typer.Option("--k", min=1, max=1000, metavar="N", help="Measure the first N rows found."),
]
FullTextWeight = Annotated[
    float,
    typer.Option(
        min=0, max=100, metavar="WEIGHT", help="How much words count in the hybrid search."
    ),
]
Qrels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The judgments, as lines of TREC: query id, 0, record id, grade."
    ),
]
Queries = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="The queries, as JSON lines with the ids of relevant rows; with --qrels also as lines"
        " of an id, a tab and a text.",
    ),
]

# verify

Against = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Another watched column of the table, to compare this one with."
    ),
]
ComparedQueries = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        metavar="FILE",
        help="Queries to compare both columns by, with or without judgments: as for"
        " `worker evaluate`.",
    ),
]
AnyTableName = Annotated[
    str | None,
    typer.Argument(
        metavar="TABLE",
        help="The table, with its schema if it is not public. Without it: every watched column.",
    ),
]
ReportFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Also write a report: HTML or Markdown by the name, .html or .md. May be repeated.",
    ),
]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Repair lost and overwritten vectors: from the cache, from a backup, or by embedding"
        " their texts again.",
    ),
]
RepairBudget = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="DOLLARS",
        help="US dollars that embedding texts again may cost, for each column (default: no limit).",
    ),
]
SampleSize = Annotated[
    int,
    typer.Option(
        "--sample", min=1, max=1000, metavar="N", help="How many texts to embed again, at random."
    ),
]

# backup

BackupEvery = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Make a backup this often, like 4h (env: BACKUP_EVERY; default: none).",
    ),
]
BackupName = Annotated[
    str,
    typer.Argument(metavar="BACKUP", help="The name of a backup, or `latest` for the last one."),
]
BackupTo = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="DESTINATION",
        help="Where backups are: a directory, s3://BUCKET/PREFIX or storage://BUCKET/PREFIX"
        " (env: BACKUP_TO; default: backups).",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="AGE",
        help="Delete backups that are older, like 7d; never the last good one of a column"
        " (env: BACKUP_KEEP).",
    ),
]

# restore

BackupToRestore = Annotated[
    str,
    typer.Argument(
        metavar="BACKUP",
        help="The name of a backup, or `latest` for the last complete one.",
    ),
]
OnlyRecord = Annotated[
    str | None,
    typer.Option("--record", metavar="ID", help="Only this record of --table."),
]
OverwriteVectors = Annotated[
    bool,
    typer.Option("--overwrite", help="Also replace other vectors of the same texts and model."),
]
RestoreDryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Count what would be restored, and write nothing."),
]

# migrate, init, psql

CopyTo = Annotated[
    Path | None,
    typer.Option(
        "--copy-to",
        metavar="PATH",
        help="Copy the missing migrations into a Supabase project, and apply nothing.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite copies that differ from this worker's."),
]
ProjectFolder = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="The folder of a Supabase project, which contains supabase/."
    ),
]
PsqlArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGUMENT", help="Arguments for psql, like -c 'select 1'."),
]
ShowStatus = Annotated[
    bool, typer.Option("--status", help="Show what is applied, and change nothing.")
]
WithCron = Annotated[
    bool,
    typer.Option("--with-cron", help="Also copy the scheduled jobs of pg_cron."),
]

# keys


KeyName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The name of the key: the app that has it."),
]
KeyScopes = Annotated[
    list[str],
    typer.Option(
        "--scope",
        metavar="SCOPE",
        help="What the key may do: embed, search or status; may be given several times.",
    ),
]
RequestsPerMinute = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=1_000_000, help="Its rate limit (default: none)."),
]
ExpiresIn = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="How long it is valid, like 90d (default: for ever)."),
]

# batches

AllBatches = Annotated[
    bool, typer.Option("--all", help="Also those that ended more than a day ago.")
]
BatchId = Annotated[
    int,
    typer.Argument(metavar="ID", help="The number of the batch, as `worker batches list` shows."),
]
BatchIds = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID", help="The numbers of batches that are under way."),
]
CancelWaiting = Annotated[
    bool,
    typer.Option("--waiting", help="The jobs that wait for a batch: embed them the ordinary way."),
]
