"""What `worker status` and `worker monitor` show, and how much of it there is room for."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len

from tests.unit.test_batch_limits import BACKFILL, BATCH
from worker.cli.render.monitor import render_screen, sparkline
from worker.cli.render.screen import age, fitted, render_sections
from worker.cli.render.styled import tinted
from worker.cli.render.text import block_bar
from worker.operations.history import History, Throughput
from worker.operations.status import StatusSnapshot
from worker.queue import (
    Check,
    DatabaseLoad,
    Failure,
    KnownBackup,
    QueueProgress,
    RecentWork,
    StandingCommand,
    StoppedProvider,
    TargetStatus,
    WorkerStatus,
)

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


COLUMN = TargetStatus(
    table_name="notes",
    embedding_column="embedding",
    model=None,
    enabled=True,
    problem=None,
    rows=100,
    rows_exact=True,
    pending=0,
    processing=0,
    completed=100,
    failed=0,
    skipped=0,
    coverage=100.0,
    coverage_goal=None,
    passages=None,
    chunks=None,
    passages_exact=None,
    due=0,
    oldest_due=None,
    due_exact=True,
)
WORKER = WorkerStatus(
    worker="host:1:abcdef",
    host="host",
    pid=1,
    state="working",
    throttle_level="full",
    cause=None,
    rss_mb=211.6,
    completed=100,
    failed=0,
    started_at=ago(900),
    seen_at=ago(5),
)
FAILURE = Failure("notes", "embedding", "rejected", 3, "it was refused " * 20, ago(60))
LOOK = StatusSnapshot(
    at=NOW,
    columns=[COLUMN],
    progress=QueueProgress(0, None, None, None),
    workers=[],
    failures=[],
    providers=[],
    commands=[],
    backups=[],
    checks=[],
    reembeddings=[],
    database=DatabaseLoad(),
    recent=RecentWork(0, 0, 0, 0, 0.0, None, None, None, None),
    completed_today=0,
    cost_today=0.0,
)
FULL = replace(
    LOOK,
    columns=[replace(COLUMN, table_name=f"table_{i:02}", failed=1_000_000 * i) for i in range(20)],
    workers=[replace(WORKER, worker=f"host:{i}:abcdef", cause="paused " * 20) for i in range(10)],
    failures=[FAILURE] * 10,
    providers=[StoppedProvider(f"p{i}", "401 " * 50, "Mend it.", NOW, NOW) for i in range(3)],
    progress=QueueProgress(10**7, 12345.6, 86_399, 86_399),
)
HOSTILE = "a\x1b[31m\x9b2Jb\nc\x07[red]d[/red]\u202e"


def shown(snapshot: StatusSnapshot, width: int = 80, height: int | None = None) -> list[str]:
    return fitted(render_sections(snapshot, width), height)


@pytest.mark.parametrize("height", [5, 12, 24, 60])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_however_much_there_is(width: int, height: int) -> None:
    history = History()
    history.snapshot = FULL
    history.rates.extend([1.0] * 240)
    history.waits.extend([86_399.0] * 240)
    for lines in (shown(FULL, width, height), render_screen(history, width, height)):
        assert len(lines) <= height
        assert max(map(cell_len, lines)) <= width


def test_what_is_cut_is_counted() -> None:
    lines = shown(FULL, 80, 24)
    columns = [line for line in lines if line.startswith("table_")]
    workers = [line for line in lines if line.startswith("host:")]
    assert f"… and {20 - len(columns)} more" in lines
    assert f"… and {10 - len(workers)} more" in lines
    whole = shown(FULL)
    assert sum(line.startswith("table_") for line in whole) == 20
    assert not any(line.startswith("… and") for line in whole)


def test_columns_with_something_left_to_do_are_not_those_cut() -> None:
    busy = replace(COLUMN, table_name="zebras", pending=3, due=3, oldest_due=ago(200))
    columns = [replace(COLUMN, table_name=f"table_{i:02}") for i in range(20)]
    first = shown(replace(LOOK, columns=[*columns, busy]), 80, 10)[1]
    assert first.split() == [
        *["zebras.embedding", "3", "0", "100", "0", "0", "██████", "100.0%", "3m"],
    ]


def test_what_is_not_known_is_unknown() -> None:
    assert shown(LOOK)[-1] == "rows/s: unknown  elapsed: unknown  ETA: unknown  workers: 0"


def test_how_fast_it_goes() -> None:
    progress = QueueProgress(500, 12.5, 725, 40)
    workers = [WORKER, replace(WORKER, worker="host:2:abcdef", seen_at=ago(121))]
    lines = shown(replace(LOOK, progress=progress, workers=workers))
    assert lines[3:] == [
        "rows/s: 12.5  elapsed: 12 min 5 s  ETA: 40 s  workers: 1 and 1 silent",
        "",
        "worker         state    memory  seen    cause",
        "host:1:abcdef  working  212 MB  5s ago",
        "host:2:abcdef  silent   212 MB  2m ago",
    ]


def test_the_host_is_told_where_the_name_of_the_worker_does_not() -> None:
    slow = replace(WORKER, worker="embedder", throttle_level="slow", cause="load 9.1")
    lines = shown(replace(LOOK, workers=[slow]))
    assert lines[-2].split() == ["worker", "host", "state", "memory", "seen", "cause"]
    assert lines[-1].split() == [
        *["embedder", "host", "working", "212", "MB", "5s", "ago", "slow:", "load", "9.1"],
    ]


def test_nothing_from_the_database_reaches_the_terminal_raw() -> None:
    snapshot = replace(
        LOOK,
        columns=[replace(COLUMN, table_name=HOSTILE, problem=HOSTILE)],
        workers=[replace(WORKER, worker=HOSTILE, host=HOSTILE, cause=HOSTILE)],
        failures=[Failure(HOSTILE, HOSTILE, HOSTILE, 3, HOSTILE, NOW)],
        providers=[StoppedProvider(HOSTILE, HOSTILE, HOSTILE, NOW, NOW)],
        commands=[StandingCommand(HOSTILE, "pause", NOW)],
    )
    for lines in (shown(snapshot, 300), [tinted(line).plain for line in shown(snapshot, 300)]):
        text = "".join(lines)
        assert "[red]d[/red]" in text
        assert not any(sign in text for sign in "\x1b\x9b\n\x07\u202e")


def test_a_narrow_window_has_what_matters_most() -> None:
    failing = replace(COLUMN, pending=7, failed=3, coverage=88.88)
    head, line, *_ = shown(replace(LOOK, columns=[failing]), 44)
    assert head.split() == ["column", "pending", "failed", "coverage"]
    assert line.split() == ["notes.embedding", "7", "3", "█████▎", "88.8%"]


def test_orders_to_pause_are_the_last_lines() -> None:
    commands = [
        StandingCommand("*", "pause", NOW),
        StandingCommand("host:1:abcdef", "sleep", NOW),
        StandingCommand("host:2:abcdef", "work", NOW),
    ]
    *_, all_paused, resume, one_asleep, wake = shown(replace(LOOK, commands=commands), 100)
    assert re.fullmatch(r"paused: all workers since .*, and those that start later", all_paused)
    assert resume == "hint: `worker resume` lets them continue"
    assert one_asleep.startswith("asleep: host:1:abcdef since ")
    assert wake == "hint: `worker wake --worker host:1:abcdef` lets it continue"


@pytest.mark.parametrize(
    ("rows", "exact", "jobs", "hint"),
    [
        (100, True, 100, None),
        (
            101,
            True,
            100,
            "hint: notes.embedding has 1 row outside the queue; run `worker backfill`",
        ),
        (105_000, False, 100_000, None),
        (None, True, 0, None),
        (
            200_000,
            False,
            0,
            "hint: notes.embedding has about 200000 rows outside the queue; run `worker backfill`",
        ),
    ],
)
def test_rows_outside_the_queue_are_counted(
    rows: int | None, exact: bool, jobs: int, hint: str | None
) -> None:
    column = replace(COLUMN, rows=rows, rows_exact=exact, completed=jobs, coverage=None)
    lines = shown(replace(LOOK, columns=[column]), 100)
    assert [line for line in lines if line.startswith("hint: ")] == ([hint] if hint else [])


def test_wide_characters_keep_the_columns_in_line() -> None:
    wide = replace(COLUMN, table_name="文書の一覧表")
    _, first, second, *_ = shown(replace(LOOK, columns=[COLUMN, wide]))
    assert cell_len(first) == cell_len(second)


def test_passages_are_shown_if_a_column_has_any() -> None:
    few = replace(COLUMN, table_name="few", passages=0, chunks=4, passages_exact=True)
    many = replace(few, table_name="many", passages=2_000_000, passages_exact=False)
    head, *lines = shown(replace(LOOK, columns=[COLUMN, few, many]))[:4]
    assert head.split()[-1] == "passages"
    assert [line.split()[-1] for line in lines] == ["-", "0", "~2000000"]
    assert "passages" not in shown(LOOK)[0]


@pytest.mark.parametrize(
    ("percent", "blocks"),
    [(0, "░░░░░░"), (2, "░░░░░░"), (50, "███░░░"), (99.9, "█████▉"), (100, "██████")],
)
def test_a_bar_is_full_at_a_hundred_and_only_then(percent: float, blocks: str) -> None:
    assert block_bar(percent, 6) == blocks


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0s"), (59, "59s"), (60, "1m"), (7_300, "2h"), (180_000, "2d")]
)
def test_an_age_is_in_its_largest_unit(seconds: int, text: str) -> None:
    assert age(ago(seconds), NOW) == text


# Backups


def backup(**changes: Any) -> KnownBackup:
    made = KnownBackup(
        id=1,
        destination="s3://safe/vectors",
        name="2026-11-24T10-00-00Z",
        only_table=None,
        state="complete",
        worker="h:1:abc",
        started_at=ago(7300),
        finished_at=ago(7200),
        lease_expires_at=None,
        rows=120_000,
        bytes=160_000_000,
        failures=0,
        error_message=None,
        checked_at=None,
        problem=None,
    )
    return replace(made, **changes)


FAILED = backup(
    id=2, state="failed", finished_at=ago(60), rows=5, failures=4, error_message="no route\nto host"
)


@pytest.mark.parametrize(
    ("backups", "line"),
    [
        ([backup()], "backup: 2h ago, 120000 vectors, at s3://safe/vectors"),
        ([backup(), backup(id=2, only_table="docs", rows=3, finished_at=ago(9))], "backup: 2h ago"),
        ([backup(), FAILED], "backup: 2h ago, 120000 vectors; failed 4 times since: no route to"),
        ([replace(FAILED, failures=1)], "backup: none is complete; failed once since: no route"),
        (
            [backup(), backup(id=2, state="running", finished_at=None, rows=700)],
            "backup: 2h ago, 120000 vectors; one is being made: 700 vectors so far",
        ),
    ],
)
def test_a_line_says_how_old_the_last_backup_is(backups: list[KnownBackup], line: str) -> None:
    [shown_line] = [
        shown_line
        for shown_line in shown(replace(LOOK, backups=backups), 120)
        if shown_line.startswith("backup: ")
    ]
    assert shown_line.startswith(line)


def test_without_backups_there_is_no_line() -> None:
    assert not any(line.startswith("backup") for line in shown(LOOK))


def test_the_figures_of_backups() -> None:
    figures = replace(LOOK, backups=[backup(), FAILED]).figures()
    assert (figures["backup_age"], figures["failed_backups"]) == (7200, 4)


# Batches


def test_lines_say_what_is_under_way_in_batches_and_what_waits_for_one() -> None:
    under_way = [replace(BATCH, texts=50_000, created_at=ago(10_900)), BATCH]
    refused = replace(BACKFILL, waiting=1, error_message="HTTP 401: no such key")
    over = replace(BACKFILL, waiting=7, max_cost=1.0, committed=1.0)
    snapshot = replace(LOOK, batches=under_way, batch_backfills=[refused, over])
    assert [line for line in shown(snapshot, 160) if line.startswith("batches: ")] == [
        "batches: 2 under way with 50001 texts, the oldest since 3h",
        "batches: 1 job of docs.embedding waiting for one; HTTP 401: no such key",
        "batches: 7 jobs of docs.embedding waiting for one; --max-cost leaves no room: give more,"
        " or `worker batches cancel --waiting`",
    ]
    assert not any(line.startswith("batches") for line in shown(LOOK))


# Checks


def check(**changes: Any) -> Check:
    found = Check(
        target_id=1,
        table_name="docs",
        embedding_column="embedding",
        state="repaired",
        vectors=2000,
        lost=150,
        overwritten=50,
        checked_at=ago(60),
        from_cache=0,
        from_backup=0,
        requeued=0,
        over_budget=0,
        started_at=None,
        looked_to=None,
        found_so_far={},
        worker=None,
        lease_expires_at=None,
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("found", "left"),
    [(check(), 0), (check(state="waiting"), 200), (check(over_budget=7), 7)],
)
def test_damage_that_is_left_is_shown(found: Check, left: int) -> None:
    look = replace(LOOK, checks=[found])
    lines = [line for line in shown(look, 120) if line.startswith("damaged: ")]
    assert lines == (
        [
            f"damaged: {left} of 2000 vectors of docs.embedding; `worker verify --repair` repairs"
            " them"
        ]
        if left
        else []
    )
    assert look.figures()["damaged_vectors"] == left


# The figures


def test_the_figures_of_nothing() -> None:
    assert LOOK.figures() == {
        "oldest_due": 0,
        "due": 0,
        "pending": 0,
        "failed": 0,
        "coverage": 100.0,
        "workers": 0,
        "silent_workers": 0,
        "rows_per_second": None,
        "stopped_providers": 0,
        "backup_age": None,
        "failed_backups": 0,
        "damaged_vectors": 0,
    }


def test_the_figures_of_columns_and_workers() -> None:
    columns = [
        replace(COLUMN, failed=2, coverage=80.0, due=4, oldest_due=ago(70)),
        replace(COLUMN, failed=3, due=3, oldest_due=ago(400)),
        replace(COLUMN, coverage=None),
    ]
    workers = [WORKER, WORKER, replace(WORKER, seen_at=ago(300))]
    progress = QueueProgress(9, 3.5, 60, 2)
    figures = replace(LOOK, columns=columns, workers=workers, progress=progress).figures()
    assert list(figures.values()) == [400, 7, 9, 5, 80.0, 2, 1, 3.5, 0, None, 0, 0]


# The history


def test_throughput_is_measured_from_heartbeat_to_heartbeat() -> None:
    throughput = Throughput()
    other = replace(WORKER, worker="host:2:abcdef")
    assert throughput.after(replace(LOOK, workers=[WORKER, other])) is None
    later = replace(WORKER, seen_at=NOW, completed=140, failed=10)
    for _ in range(3):  # nothing new is no sign of standing still
        assert throughput.after(replace(LOOK, workers=[later, other])) == 10.0
    silent = replace(later, seen_at=ago(200))
    assert throughput.after(replace(LOOK, workers=[silent, other])) is None
    assert throughput.after(LOOK) == 0


def test_a_sparkline_has_a_gap_where_nothing_is_known() -> None:
    assert sparkline([0, 1, None, 3.5, 7]) == "▁▂ ▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([None]) == " "
