"""Runs `python -m ARGUMENTS` and prints its peak memory, in bytes.

This is a small process of its own, because on Linux a child starts with the peak of its parent.
"""

from __future__ import annotations

import resource
import subprocess
import sys

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


def main() -> int:
    done = subprocess.run([sys.executable, "-m", *sys.argv[1:]], stdout=sys.stderr, check=False)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sys.stdout.write(f"{peak * UNIT}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
