"""Keys move from row to row while workers are killed: each vector stays with its text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import LiteralString

import psycopg
import pytest

from tests.acceptance.conftest import statuses
from tests.chaos.conftest import wait_until_due
from tests.chaos.test_race import Drainer, Racer, differing
from tests.conftest import Database, rows, value

LISTS = 3
LENGTH = 12
WORKERS = 3
MOVES: dict[str, LiteralString] = {
    "down": "update notes set place = place + 1 where list = %(list)s",
    "up": "update notes set place = place - 1 where list = %(list)s",
    "reverse": "update notes set place = -place where list = %(list)s",
    "swap": "update notes set place = case place when %(a)s then %(b)s else %(a)s end"
    " where list = %(list)s and place in (%(a)s, %(b)s)",
    "swap and edit": "update notes set body = %(body)s || place,"
    " place = case place when %(a)s then %(b)s else %(a)s end"
    " where list = %(list)s and place in (%(a)s, %(b)s)",
    "edit": "update notes set body = %(body)s where list = %(list)s and place = %(a)s",
    "insert at the top": "with moved as (update notes set place = place + 1 where list = %(list)s)"
    " insert into notes (list, place, body)"
    " select %(list)s, min(place), %(body)s from notes where list = %(list)s",
    "replace": "with gone as"
    " (delete from notes where list = %(list)s and place = %(a)s returning list, place)"
    " insert into notes (list, place, body) select list, place, %(body)s from gone",
    "delete and close up": "with gone as"
    " (delete from notes where list = %(list)s and place = %(a)s)"
    " update notes set place = place - 1 where list = %(list)s and place > %(a)s",
}


@pytest.fixture
def notes(db: Database) -> Database:
    db.execute(
        "create table notes (id bigint generated always as identity, list integer, place integer,"
        " body text, deleted_at timestamptz, primary key (list, place) deferrable)"
    )
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")
    db.execute(
        "insert into notes (list, place, body) select list, place, 'note ' || list || '.' || place"
        " from generate_series(1, %s) list, generate_series(1, %s) place",
        [LISTS, LENGTH],
    )
    return db


@pytest.mark.timeout(300)
def test_no_vector_differs_from_its_text_after_keys_have_moved_without_pause(
    notes: Database,
    database_url: str,
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    moves = race(database_url, *((60.0, 30) if full else (4.0, 2)))
    unfinished: LiteralString = (
        "select exists (select from embedding_queue where status in ('pending', 'processing'))"
    )
    with Drainer(database_url) as drainer:
        while value(notes, unfinished):
            wait_until_due(notes)
            drainer.drain()
    assert statuses(notes).keys() == {"completed"}
    assert differing(notes) == []
    assert rows(notes, "select record_id from embedding_queue order by 1") == rows(
        notes, "select jsonb_build_array(list, place)::text from notes order by 1"
    )
    deadlocks: LiteralString = (
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    assert value(notes, deadlocks) == 0
    assert moves.keys() == MOVES.keys()
    record_property("moving keys", f"{moves.total()} moves")


def race(url: str, seconds: float, kills: int) -> Counter[str]:
    """How often there was each kind of move."""
    over = Event()
    with ThreadPoolExecutor(LISTS) as pool:
        try:
            workers = [Racer(url) for _ in range(WORKERS)]
            for worker in workers:
                worker.wait_until_ready()
            movers = [pool.submit(move, url, over, number) for number in range(1, LISTS + 1)]
            for _ in range(kills):
                over.wait(seconds / (kills + 1))  # the length of the race
                workers.pop(0).kill()
                workers.append(Racer(url))
            over.wait(seconds / (kills + 1))
        finally:
            over.set()
        moves = sum((mover.result() for mover in movers), Counter[str]())
        for worker in workers:
            worker.end()
    return moves


def move(url: str, over: Event, number: int) -> Counter[str]:
    """Move the rows of one list until the race is over, one statement a transaction."""
    dice = random.Random(number)
    moves = Counter[str]()
    with psycopg.connect(url, autocommit=True) as connection:
        while not over.is_set():
            first, last, length = connection.execute(
                "select min(place), max(place), count(*) from notes where list = %s", [number]
            ).fetchall()[0]
            kind = dice.choice(list(MOVES))
            if kind == "delete and close up" and length < LENGTH:
                continue
            if kind == "insert at the top" and length > LENGTH:
                continue
            places = dice.sample(range(first, last + 1), 2)
            connection.execute(
                MOVES[kind],
                {
                    "list": number,
                    "a": places[0],
                    "b": places[1],
                    "body": f"{number} wrote {moves.total()}",
                },
            )
            moves[kind] += 1
    return moves
