#!/usr/bin/env bash
# For cron: enqueues the rows that have no vector, then embeds all due jobs. Only one run at a time. Each line has a
# timestamp, and the exit code is that of `worker`. Arguments (--table, --column) are passed to both commands.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
. scripts/lib/cron.sh

backfill() { .venv/bin/worker backfill "$@" && .venv/bin/worker process "$@"; }
alone backfill "${BACKFILL_LOCK:-${TMPDIR:-/tmp}/embedding-worker-backfill-$(id -u).lock}" backfill "$@"
