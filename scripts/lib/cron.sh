# Shared by the scripts for cron, which source it: one run at a time, and a timestamp before each line.

# alone NAME LOCK COMMAND…: runs the command unless another run of this name is going on.
alone() {
    local name=$1 lock=$2
    shift 2
    exec 9>"$lock"
    if ! flock --nonblock 9; then
        echo "another $name is still running: nothing done" | stamped
        exit 0
    fi
    "$@" 2>&1 9>&- | stamped
}

stamped() { while IFS= read -r line; do printf '%(%Y-%m-%dT%H:%M:%S%z)T %s\n' -1 "$line"; done; }
