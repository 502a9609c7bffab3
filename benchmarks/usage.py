"""What a command uses: its peak memory and its CPU time.

The command runs below a small process of its own (this module), because on Linux a child starts
with the peak of its parent.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
MEGABYTE = 1e6
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


@dataclass(frozen=True, slots=True)
class Usage:
    """Peak memory in megabytes, and CPU time in seconds."""

    peak: float
    cpu: float


def usage(command: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command to its end, in a folder without a .env. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.usage", *command],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return Usage(**json.loads(done.stdout))


def main() -> int:
    done = subprocess.run(sys.argv[1:], stdout=sys.stderr, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"peak": used.ru_maxrss * UNIT / MEGABYTE, "cpu": used.ru_utime + used.ru_stime}
    sys.stdout.write(json.dumps(found) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
