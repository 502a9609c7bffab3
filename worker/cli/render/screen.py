"""Renders a snapshot of the queue as lines of text that fit a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from worker.cli.render.tables import aligned
from worker.cli.render.text import block_bar, cut, name_of, one_line
from worker.durations import SECONDS, format_duration
from worker.figures import counted, rounded_down
from worker.operations.status import StatusSnapshot, count_missing
from worker.queue import (
    Check,
    Failure,
    KnownBackup,
    StandingCommand,
    StoppedProvider,
    TargetStatus,
    WorkerStatus,
)

BAR = 6  # cells
LONGEST_REASON = 100
WHOLE = 70  # cells, for all figures of a column
MOST_IMPORTANT = (0, 1, 4, 6)  # on a narrow terminal: column, pending, failed, coverage


@dataclass(frozen=True, slots=True)
class Section:
    """Lines that belong together. Some `items`, each of one or more lines, may be left out."""

    head: list[str]
    items: list[list[str]]
    foot: list[str] = field(default_factory=list)

    def lines(self, most: int) -> list[str]:
        """Return the lines of at most `most` items, and how many more there are."""
        shown, left = self.items, 0
        if len(self.items) > most:
            shown, left = self.items[: most - 1], len(self.items) - most + 1
        more = [f"… and {left} more"] if left else []
        return [*self.head, *(line for item in shown for line in item), *more, *self.foot]


def render_sections(snapshot: StatusSnapshot, width: int) -> list[Section]:
    """Render a snapshot in lines of at most `width` cells, the most important section last."""
    sections = [Section([], [[cut(_speed(snapshot), width)]])] if snapshot.columns else []
    if snapshot.columns:
        sections.insert(0, _columns(snapshot, width))
    if snapshot.workers:
        sections.append(_workers(snapshot, width))
    if suspended := [column for column in snapshot.columns if column.problem]:
        sections.append(_suspended(suspended, width))
    if snapshot.failures:
        sections.append(_failures(snapshot.failures, width))
    if snapshot.providers:
        sections.append(_providers(snapshot.providers, width))
    if snapshot.damaged:
        sections.append(Section([], [[cut(_damaged(each), width)] for each in snapshot.damaged]))
    if snapshot.latest_backup:
        line = _backup(snapshot, snapshot.latest_backup)
        sections.append(Section([], [[cut(line, width)]]))
    if snapshot.batches or snapshot.batch_backfills:
        sections.append(Section([], [[cut(line, width)] for line in _batches(snapshot)]))
    if snapshot.pauses:
        sections.append(_pauses(snapshot.pauses, width))
    return sections


def fitted(sections: Sequence[Section], height: int | None) -> list[str]:
    """Return the lines of all sections, separated by blank lines, with as many items as fit."""
    whole = [len(section.items) for section in sections]
    if height is None:
        return _joined(sections, whole)
    most = [1] * len(sections)
    growing = list(range(len(sections)))
    while growing:
        for number in list(growing):
            most[number] += 1
            if most[number] > whole[number] or len(_joined(sections, most)) > height:
                most[number] -= 1
                growing.remove(number)
    return _joined(sections, most)[:height]


def missing_rows(columns: Iterable[TargetStatus]) -> Iterator[str]:
    """Yield a line for each column with rows that are not in the queue."""
    for column in columns:
        if missing := count_missing(column):
            rows = counted(missing, "row") if column.rows_exact else f"about {missing} rows"
            yield f"{name_of(column)} has {rows} outside the queue; run `worker backfill`"


def age(since: datetime, now: datetime) -> str:
    """Format how long ago a time was, in the largest unit that is not zero."""
    seconds = max(int((now - since).total_seconds()), 0)
    for unit in "dhm":
        if seconds >= SECONDS[unit]:
            return f"{seconds // SECONDS[unit]}{unit}"
    return f"{seconds}s"


def _joined(sections: Sequence[Section], most: Sequence[int]) -> list[str]:
    blocks = [section.lines(each) for section, each in zip(sections, most, strict=True)]
    return [line for block in blocks for line in ["", *block]][1:]


def _columns(snapshot: StatusSnapshot, width: int) -> Section:
    """Columns with work left come first, so that they are not cut off."""
    columns = sorted(snapshot.columns, key=_is_at_rest)
    heads = ["column", "pending", "active", "done", "failed", "skipped", "coverage", "due"]
    rows = [
        [
            name_of(column),
            column.pending,
            column.processing,
            column.completed,
            column.failed,
            column.skipped,
            _coverage(column),
            column.oldest_due and age(column.oldest_due, snapshot.at),
        ]
        for column in columns
    ]
    if any(column.passages is not None for column in columns):
        heads.append("passages")
        for row, column in zip(rows, columns, strict=True):
            row.append(_passages(column))
    shown = range(len(heads)) if width >= WHOLE else MOST_IMPORTANT
    table = _table(
        [heads[i] for i in shown], [[row[i] for i in shown] for row in rows], width, yielding=0
    )
    return replace(table, foot=[cut(f"hint: {line}", width) for line in missing_rows(columns)])


def _coverage(column: TargetStatus) -> str | None:
    if column.coverage is None:
        return None
    about = "" if column.rows_exact else "~"
    return f"{block_bar(column.coverage, BAR)} {f'{about}{rounded_down(column.coverage)}%':>6}"


def _passages(column: TargetStatus) -> str | None:
    about = "" if column.passages_exact else "~"
    return None if column.passages is None else f"{about}{column.passages}"


def _is_at_rest(column: TargetStatus) -> bool:
    return not (column.pending or column.processing or column.failed or column.problem)


def _speed(snapshot: StatusSnapshot) -> str:
    progress = snapshot.progress
    rate = "unknown" if progress.rows_per_second is None else f"{progress.rows_per_second:g}"
    silent = sum(map(snapshot.is_silent, snapshot.workers))
    workers = f"{len(snapshot.workers) - silent}" + (f" and {silent} silent" if silent else "")
    return (
        f"rows/s: {rate}  elapsed: {_span(progress.elapsed_seconds)}"
        f"  ETA: {_span(progress.eta_seconds)}  workers: {workers}"
    )


def _span(seconds: float | None) -> str:
    return "unknown" if seconds is None else format_duration(seconds)


def _workers(snapshot: StatusSnapshot, width: int) -> Section:
    """Silent workers come last. The host is shown if a name does not begin with it."""
    heads = ["worker", "state", "memory", "seen", "cause"]
    workers = sorted(snapshot.workers, key=snapshot.is_silent)
    rows = [
        [
            worker.worker,
            "silent" if snapshot.is_silent(worker) else worker.state,
            None if worker.rss_mb is None else f"{worker.rss_mb:.0f} MB",
            f"{age(worker.seen_at, snapshot.at)} ago",
            _cause(worker),
        ]
        for worker in workers
    ]
    if not all(worker.worker.startswith(worker.host) for worker in workers):
        heads.insert(1, "host")
        for row, worker in zip(rows, workers, strict=True):
            row.insert(1, worker.host)
    return _table(heads, rows, width)


def _cause(worker: WorkerStatus) -> str:
    throttle_level = "slow" if worker.throttle_level == "slow" else None
    return ": ".join(filter(None, (throttle_level, worker.cause and one_line(worker.cause, 100))))


def _suspended(columns: list[TargetStatus], width: int) -> Section:
    return Section(
        [],
        [
            [cut(f"suspended: {name_of(column)}: {one_line(column.problem or '', 160)}", width)]
            for column in columns
        ],
        [cut("hint: fix the table, then run `worker watch` for the column again", width)],
    )


def _failures(failures: list[Failure], width: int) -> Section:
    heads = ["failed", "class", "column", "latest reason"]
    rows = [
        (
            failure.failed,
            failure.error_class,
            name_of(failure),
            one_line(failure.latest_message, LONGEST_REASON),
        )
        for failure in failures
    ]
    return _table(heads, rows, width)


def _providers(providers: list[StoppedProvider], width: int) -> Section:
    return Section([], [[cut(line, width) for line in _stopped(each)] for each in providers])


def _damaged(check: Check) -> str:
    """Say how many vectors of a column are damaged, and what repairs them."""
    return (
        f"damaged: {check.left} of {check.vectors} vectors of {one_line(name_of(check), 80)};"
        " `worker verify --repair` repairs them"
    )


def _backup(snapshot: StatusSnapshot, latest: KnownBackup) -> str:
    """Say when the last backup was made, and whether there was none since that should be."""
    complete = snapshot.last_complete_backup
    line = "backup: none is complete"
    if complete and complete.finished_at:
        line = f"backup: {age(complete.finished_at, snapshot.at)} ago, {complete.rows} vectors"
    if latest.failures:
        times = "once" if latest.failures == 1 else f"{latest.failures} times"
        return f"{line}; failed {times} since: {one_line(latest.error_message or '', 160)}"
    if latest.state == "running":
        return f"{line}; one is being made: {latest.rows} vectors so far"
    return f"{line}, at {one_line(latest.destination, 160)}"


def _batches(snapshot: StatusSnapshot) -> Iterator[str]:
    """Say how much is under way in batches, and what waits for one."""
    if snapshot.batches:
        texts = sum(batch.texts or 0 for batch in snapshot.batches)
        oldest = min(batch.created_at for batch in snapshot.batches)
        yield (
            f"batches: {len(snapshot.batches)} under way with {counted(texts, 'text')},"
            f" the oldest since {age(oldest, snapshot.at)}"
        )
    for backfill in snapshot.batch_backfills:
        line = f"batches: {counted(backfill.waiting, 'job')} of {name_of(backfill)} waiting for one"
        if backfill.is_over_budget:
            line += "; --max-cost leaves no room: give more, or `worker batches cancel --waiting`"
        elif backfill.error_message:
            line += f"; {one_line(backfill.error_message, 160)}"
        yield line


def _pauses(pauses: list[StandingCommand], width: int) -> Section:
    return Section([], [[cut(line, width) for line in _paused(each)] for each in pauses])


def _paused(command: StandingCommand) -> Iterator[str]:
    state, hint = {"pause": ("paused", "resume"), "sleep": ("asleep", "wake")}[
        command.desired_state
    ]
    since = f"since {command.since.astimezone():%Y-%m-%d %H:%M}"
    if command.is_for_all:
        yield f"{state}: all workers {since}, and those that start later"
        yield f"hint: `worker {hint}` lets them continue"
    else:
        name = one_line(command.worker, 80)
        yield f"{state}: {name} {since}"
        yield f"hint: `worker {hint} --worker {name}` lets it continue"


def _stopped(provider: StoppedProvider) -> Iterator[str]:
    since = provider.since.astimezone()
    name, error = one_line(provider.provider, 40), one_line(provider.error, 160)
    yield f"stopped: {name} since {since:%Y-%m-%d %H:%M}: {error}"
    if provider.hint:
        yield f"hint: {one_line(provider.hint, 160)}"


def _table(
    heads: list[str], rows: Sequence[Sequence[object]], width: int, yielding: int = -1
) -> Section:
    head, *lines = aligned(heads, rows, width, yielding)
    return Section([head], [[line] for line in lines])
