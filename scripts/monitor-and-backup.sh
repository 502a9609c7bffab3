#!/usr/bin/env bash
# For cron: repairs damaged vectors, then makes a backup and deletes old ones. Only one run at a time. Each line has a
# timestamp, and the exit code is not 0 if one of the two failed. Settings: BACKUP_TO, BACKUP_KEEP, REPAIR_BUDGET.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
. scripts/lib/cron.sh

# A backup is made in any case. It holds no damaged vector, and deletes no older one while there is much damage.
monitor_and_backup() {
    local code=0
    .venv/bin/worker verify --repair --yes --repair-budget "${REPAIR_BUDGET:-1}" || code=$?
    .venv/bin/worker backup --keep "${BACKUP_KEEP:-7d}" || code=$?
    return "$code"
}
alone backup "${BACKUP_LOCK:-${TMPDIR:-/tmp}/embedding-worker-backup-$(id -u).lock}" monitor_and_backup
