"""Runs `python -m ARGUMENTS` and prints the most memory it ever had, in bytes.

In a process of its own, and a small one: on Linux a child begins with the peak of its parent.
"""

from __future__ import annotations

import resource
import subprocess
import sys

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def main() -> int:
    done = subprocess.run([sys.executable, "-m", *sys.argv[1:]], stdout=sys.stderr, check=False)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sys.stdout.write(f"{peak * UNIT}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
