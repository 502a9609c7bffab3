"""How far everything is, on one screen of plain text: shared by `status` and `monitor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from worker.cli.console import name_of, one_line
from worker.cli.progress import span
from worker.queue import (
    Failure,
    OperatorQueue,
    ProviderTrouble,
    QueueProgress,
    TargetStatus,
    WorkerSeen,
)

SILENT_AFTER = 120.0  # seconds; a worker speaks at least every thirty
BAR = 20  # characters


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the queue says of itself at a moment."""

    columns: list[TargetStatus]
    failures: list[Failure]
    providers: list[ProviderTrouble]
    progress: QueueProgress
    workers: list[WorkerSeen]
    at: datetime

    @classmethod
    def of(cls, queue: OperatorQueue) -> Snapshot:
        """Raises what the queue raises."""
        return cls(
            columns=queue.status(),
            failures=queue.failures(),
            providers=queue.providers(),
            progress=queue.progress(),
            workers=queue.workers(),
            at=queue.clock(),
        )

    def as_json(self) -> dict[str, object]:
        """docs/cli.md is the contract."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "failures": [asdict(failure) for failure in self.failures],
            "providers": [asdict(provider) for provider in self.providers],
            "progress": asdict(self.progress),
            "workers": [asdict(worker) for worker in self.workers],
        }

    def age(self, since: datetime) -> float:
        """Seconds, by the clock of the database."""
        return max((self.at - since).total_seconds(), 0.0)

    def is_silent(self, worker: WorkerSeen) -> bool:
        """Whether it was killed, or cannot be heard."""
        return self.age(worker.seen_at) > SILENT_AFTER


def columns_of(snapshot: Snapshot, width: int) -> list[str]:
    """Two lines for each watched column: its name and coverage, and its counts."""
    lines = []
    for column in snapshot.columns:
        name = one_line(name_of(column), width - BAR - 9)
        lines.append(f"{name.ljust(width - BAR - 9)}  {_bar(column.coverage)}")
        lines.append(f"  {', '.join(_counts(snapshot, column))}")
    return lines


def _bar(coverage: float | None) -> str:
    if coverage is None:
        return "-".rjust(BAR + 7)
    full = int(coverage * BAR / 100)
    return f"{'█' * full}{'░' * (BAR - full)} {coverage:5.1f}%"


def _counts(snapshot: Snapshot, column: TargetStatus) -> list[str]:
    counts = [f"{column.completed} completed"]
    for name in ("pending", "processing", "failed", "skipped"):
        if count := getattr(column, name):
            counts.append(f"{count} {name}")
    if column.oldest_due:
        counts.append(f"due for {span(snapshot.age(column.oldest_due))}")
    if not column.enabled:
        counts.append("not enabled")
    return counts


def pace_of(progress: QueueProgress) -> str:
    """One line: how fast all workers are, since when, and until when."""
    rate = progress.rows_per_second
    return ", ".join(
        (
            "unknown rows/s" if rate is None else f"{rate:.1f} rows/s",
            f"{_span(progress.elapsed_seconds)} elapsed",
            f"{_span(progress.eta_seconds)} remaining",
        )
    )


def _span(seconds: float | None) -> str:
    return "unknown" if seconds is None else span(seconds)


def workers_of(snapshot: Snapshot, width: int) -> list[str]:
    """A line for each worker, under a head; one line if there is none."""
    if not snapshot.workers:
        return ["no worker is at work"]
    name_width = min(max(len("worker"), *(len(known.worker) for known in snapshot.workers)), 30)
    lines = [f"{'worker'.ljust(name_width)}  state     memory   seen ago  cause"]
    for known in snapshot.workers:
        state = "silent" if snapshot.is_silent(known) else known.state
        memory = "-" if known.rss_mb is None else f"{known.rss_mb:.0f} MB"
        line = (
            f"{one_line(known.worker, name_width).ljust(name_width)}  {state:8}  {memory:>7}"
            f"  {span(snapshot.age(known.seen_at)):>8}  {_cause(known)}"
        )
        lines.append(cut(line, width))
    return lines


def _cause(known: WorkerSeen) -> str:
    return " ".join(filter(None, ["thin:" if known.gear == "thin" else "", known.cause or ""]))


def cut(line: str, width: int) -> str:
    """A line cut to a width, with its spaces as they are."""
    return line.rstrip() if len(line) <= width else line[: width - 1].rstrip() + "…"


def troubles_of(snapshot: Snapshot, width: int) -> list[str]:
    """What somebody has to do something about: columns set aside, and providers out of use."""
    lines = []
    for column in snapshot.columns:
        if column.problem:
            lines.append(one_line(f"set aside: {name_of(column)}: {column.problem}", width))
            lines.append("hint: mend the table, then run `worker watch` for it again")
    for provider in snapshot.providers:
        since = provider.since.astimezone()
        told = f"stopped: {provider.provider} since {since:%Y-%m-%d %H:%M}: {provider.trouble}"
        lines.append(one_line(told, width))
        if provider.hint:
            lines.append(one_line(f"hint: {provider.hint}", width))
    return lines


def failures_of(failures: Sequence[Failure], width: int) -> list[str]:
    """A line for each column and class of failure, under a head."""
    if not failures:
        return []
    classes = [failure.error_class or "-" for failure in failures]
    wide = max(len("class"), *map(len, classes))
    names = [one_line(name_of(failure), 30) for failure in failures]
    wide_names = max(len("column"), *map(len, names))
    lines = [f"failed  {'class'.ljust(wide)}  {'column'.ljust(wide_names)}  latest reason"]
    for failure, error_class, name in zip(failures, classes, names, strict=True):
        head = f"{failure.failed:6}  {error_class.ljust(wide)}  {name.ljust(wide_names)}  "
        lines.append(head + one_line(failure.latest_message, max(width - len(head), 10)))
    return lines
