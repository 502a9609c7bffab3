"""Runs benchmarks, and prints the limit of this machine beside each figure."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks import api, backup, chunks, files, latency, queue, reembedding, rivals, scale, web
from benchmarks.database import server
from benchmarks.report import Figure, Skipped, table, write_json

SUITES = {
    "api": api,
    "backup": backup,
    "chunks": chunks,
    "files": files,
    "latency": latency,
    "queue": queue,
    "reembedding": reembedding,
    "rivals": rivals,
    "scale": scale,
    "web": web,
}


def main() -> None:
    """Run the chosen benchmarks, show progress on stderr, and print the table on stdout."""
    asked = _arguments()
    suite = SUITES[asked.suite]
    figures: list[Figure] = []
    began = time.monotonic()
    with server() as running:
        settings = running.settings()
        try:
            for figure in suite.measure(running, asked.only or suite.GROUPS, quick=asked.quick):
                figures.append(figure)
                _say(f"{time.monotonic() - began:4.0f} s  {figure}")
        except Skipped as reason:
            _say(str(reason))
            return
    sys.stdout.write(table(figures) + "\n")
    cpus, cpu, python = os.cpu_count() or 0, _cpu(), platform.python_version()
    versions = ", ".join(f"{name} {setting}" for name, setting in settings.items())
    sys.stdout.write(f"{versions}; Python {python}; {cpus} cores ({cpu})\n")
    if asked.json:
        run: dict[str, str | int] = {
            "suite": asked.suite,
            "quick": asked.quick,
            "cpus": cpus,
            "cpu": cpu,
            "platform": platform.platform(),
            "python": python,
        }
        write_json(asked.json, run | settings, figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--quick", action="store_true", help="use small sizes, for a short run")
    parser.add_argument(
        "--only", action="append", metavar="GROUP", help="run only this group (repeatable)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples as JSON")
    asked = parser.parse_args()
    unknown = set(asked.only or ()) - set(SUITES[asked.suite].GROUPS)
    if unknown:
        known = ", ".join(SUITES[asked.suite].GROUPS)
        parser.error(f"unknown group {', '.join(sorted(unknown))}; the groups are {known}")
    return asked


def _cpu() -> str:
    """Return the name of the processor; where Linux does not say it, that of its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
