#!/usr/bin/env bash
# Runs `worker process` slowly: run-embedding-processor.sh [batch_size] [delay_ms]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup
exec .venv/bin/worker process --batch-size "${1:-5}" --delay-ms "${2:-1000}"
