"""Texts of chat models that are known already: what goes in, what comes out, how much stays."""

from __future__ import annotations

from hashlib import sha256
from typing import LiteralString

import pytest

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.tables import Connect, refusal
from worker.queue import AdminQueue

ROOMY = 64  # MiB
SIZE: LiteralString = (
    "select coalesce(sum((octet_length(content) * 4 / 3 + 512 + 1023) / 1024), 0)::integer"
    "  from embedding_enhancements"
)


def key_of(text: str) -> bytes:
    return sha256(text.encode()).digest()


def put(queue: AdminQueue, *texts: str, cap_mb: int = ROOMY) -> None:
    queue.cache_enhancements({key_of(text): text for text in texts}, cap_mb)


def get(queue: AdminQueue, *texts: str) -> list[str]:
    """Those of the texts that are cached. Each is under its own key."""
    found = queue.cached_enhancements([key_of(text) for text in texts])
    assert all(key == key_of(text) for key, text in found.items())
    return sorted(found.values())


def long_text(number: int) -> str:
    """A text of 2000 characters that counts 4 KiB."""
    words = "".join(key_of(f"{number} {i}").hex() for i in range(32))[:1950]
    return words + "ä" * 50


def test_what_was_put_in_comes_out(queue: AdminQueue) -> None:
    texts = ["one", 'a "word" {with} \\ signs,\nand a second line', "a\tb — 二 😀", "null", ""]
    put(queue, *texts)
    assert get(queue, *texts, "other") == sorted(texts)
    assert get(queue) == []


def test_nothing_is_put_in_without_a_call(db: Database, queue: AdminQueue) -> None:
    put(queue)
    assert value(db, "select is_called from embedding.enhancement_kib") is False


def test_a_key_that_is_asked_for_twice_has_one_answer(queue: AdminQueue) -> None:
    put(queue, "one")
    assert get(queue, "one", "one") == ["one"]


def test_what_is_put_in_twice_stays_as_it_is_and_takes_no_room(
    db: Database, queue: AdminQueue
) -> None:
    put(queue, "one", "two")
    every = "select ctid, position from embedding_enhancements order by position"
    before = rows(db, every)
    queue.cache_enhancements({key_of("one"): "another answer", key_of("two"): "two"}, ROOMY)
    assert rows(db, every) == before
    assert value(db, "select last_value from embedding.enhancement_kib") == len(before) == 2
    assert get(queue, "one") == ["one"]


def test_a_key_that_is_given_twice_is_stored_once(db: Database) -> None:
    db.execute("select cache_enhancements('{x,y,x}', '{one,two,three}', 1)")
    assert value(db, "select count(*) from embedding_enhancements") == 2


def test_the_oldest_go_first(db: Database, queue: AdminQueue) -> None:
    texts = [long_text(number) for number in range(300)]  # of 4 KiB each
    for first in range(0, 300, 30):
        put(queue, *texts[first : first + 30], cap_mb=1)
    assert value(db, SIZE) == 1024
    assert get(queue, *texts[:30]) == []
    assert get(queue, *texts[60:]) == sorted(texts[60:])


@pytest.mark.parametrize("length", rest_in_full([0, 100, 700, 2000, 8000], first=2))
def test_what_a_row_counts_is_no_less_than_what_it_takes_on_the_disk(
    db: Database, queue: AdminQueue, length: int
) -> None:
    for turn in range(4):
        put(
            queue,
            *[
                "".join(key_of(f"{turn} {i} {part}").hex() for part in range(125))[: length or 5]
                for i in range(250)
            ],
        )
    on_disk = "select pg_total_relation_size('embedding_enhancements') / 1024"
    assert value(db, on_disk) <= value(db, SIZE)


def test_a_smaller_cap_takes_out_what_is_above_it_and_zero_all(
    db: Database, queue: AdminQueue
) -> None:
    put(queue, *[long_text(number) for number in range(500)], cap_mb=4)
    assert value(db, SIZE) > 1024
    put(queue, "one", cap_mb=1)
    assert value(db, SIZE) <= 1024
    assert get(queue, "one") == ["one"]
    db.execute("select cache_enhancements('{}', '{}', 0)")
    assert value(db, SIZE) == 0


def test_it_outlives_a_crash_of_the_server(db: Database) -> None:
    persistence = (
        "select relpersistence from pg_class where oid = 'embedding_enhancements'::regclass"
    )
    assert value(db, persistence) in ("p", b"p")


def test_a_row_that_somebody_holds_is_not_waited_for(
    db: Database, connect: Connect, queue: AdminQueue
) -> None:
    put(queue, "held", "free")
    holding = connect()
    with holding.transaction():
        holding.execute(
            "select from embedding_enhancements where content = 'held' for update",
        )
        put(queue, *[long_text(number) for number in range(400)], cap_mb=1)
        assert get(queue, "held", "free") == ["held"]
    put(queue, "one more", cap_mb=1)
    assert get(queue, "held") == []


def test_keys_and_texts_of_different_lengths_are_refused(db: Database) -> None:
    for call in (
        "select cache_enhancements('{x,y}', '{one}', 1)",
        "select cache_enhancements('{x}', null, 1)",
    ):
        assert refusal(db, call.encode().decode())[0] == "keys and contents must be of one length"
