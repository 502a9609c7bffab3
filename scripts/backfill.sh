#!/usr/bin/env bash
# For cron: enqueues the rows that have no vector, then embeds all due jobs. Only one run at a time. Each line has a
# timestamp, and the exit code is that of `worker`. Arguments (--table, --column) are passed to both commands.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup

exec 9>"${BACKFILL_LOCK:-${TMPDIR:-/tmp}/embedding-worker-backfill-$(id -u).lock}"
stamped() { while IFS= read -r line; do printf '%(%Y-%m-%dT%H:%M:%S%z)T %s\n' -1 "$line"; done; }
if ! flock --nonblock 9; then
    echo "another backfill is still running: nothing done" | stamped
    exit 0
fi
{ .venv/bin/worker backfill "$@" && .venv/bin/worker process "$@"; } 2>&1 9>&- | stamped
