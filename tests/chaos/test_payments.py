"""Rows that cannot be written while workers run: nobody pays for them again and again."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from tests.acceptance.conftest import Start, fill, statuses
from tests.chaos.conftest import CountingServer, wrong_vectors
from tests.conftest import Database, eventually, rows, value
from tests.integration.jobs import SQLSTATES

WORKERS = 3
LONG = 150.0  # seconds


@pytest.mark.timeout(300)
def test_rows_that_somebody_holds_are_embedded_once_and_only_when_they_are_free(
    notes: Database,
    connect: Callable[[], Database],
    start: Start,
    openai: CountingServer,
    with_openai: dict[str, str],
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    count, passes = (1000, 6) if full else (200, 2)  # 2 s, 4 s, 8 s … between them
    fill(notes, count)
    held = {body for (body,) in rows(notes, "select body from notes where id % 10 = 0")}
    writer = connect()
    writer.execute("begin; update notes set id = id where id % 10 = 0")
    workers = [start("run", **with_openai) for _ in range(WORKERS)]
    try:
        openai.wait_for_texts(count - len(held))
        passed_over = "select min(passed_over) from embedding_queue where status <> 'completed'"
        eventually(lambda: value(notes, passed_over) >= passes, within=LONG)
        assert not held & openai.times_asked().keys()
        writer.execute("rollback")
        openai.wait_for_texts(count)
        eventually(lambda: statuses(notes) == {"completed": count}, within=LONG)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
    for worker in workers:
        assert worker.wait() == 0
    assert wrong_vectors(notes) == []
    assert set(openai.times_asked().values()) == {1}
    record_property("locked rows", f"{len(held)} held for {passes} claims, each embedded once")


@pytest.mark.timeout(300)
def test_a_trigger_that_raises_any_error_over_some_rows_stops_no_worker_and_no_other_row(
    notes: Database,
    start: Start,
    openai: CountingServer,
    with_openai: dict[str, str],
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    count = 3000 if full else 300
    dice = random.Random(3)
    fill(notes, count)
    poison = dice.sample(range(1, count + 1), count // 10)
    notes.execute("create table poison (id bigint primary key, state text)")
    for place, record in enumerate(poison):
        state = SQLSTATES[place % len(SQLSTATES)]
        notes.execute("insert into poison values (%s, %s)", [record, state])
    notes.execute(
        """
        create function refuse() returns trigger language plpgsql as $$
        declare found text := (select state from public.poison where id = new.id);
        begin
            if found is not null then
                raise exception 'poison' using errcode = found;
            end if;
            return new;
        end $$;
        create trigger refuse before update on notes for each row execute function refuse()
        """
    )
    workers = [
        start("process", "--json", "--batch-size", "20", **with_openai) for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.wait()
        assert worker.returncode in (0, 1), "whether a row failed that it had"

    assert statuses(notes) == {"completed": count - len(poison), "failed": len(poison)}
    assert rows(
        notes,
        "select distinct error_class, error_message ~ 'in function .*refuse' from embedding_queue"
        " where status = 'failed'",
    ) == [("unwritable", True)]
    assert sorted(wrong_vectors(notes)) == sorted(poison), "and those have none"
    assert value(notes, "select problem from embedding_targets") is None
    assert set(openai.times_asked().values()) == {1}
    record_property("poison", f"{len(poison)} of {count} rows failed, each text embedded once")
