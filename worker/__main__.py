"""The entry point of the command line. Before it imports anything slow, it handles SIGTERM.

As PID 1 of a container, a process gets no signal that it has no handler for: `docker stop` would
wait in vain. A command has its own handlers as soon as it is called: see worker/cli/signals.py.
"""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130  # as in worker/cli/signals.py, whose import takes long


def main() -> None:
    """Run the command line. A SIGTERM ends it at once while it is imported: nothing has begun."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(INTERRUPTED))
    from worker.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
