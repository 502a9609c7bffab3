"""Texts into requests: every cap kept at once, no more requests than they ask for, nothing lost."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from worker.embedders.base import NO_CAP, RequestLimits
from worker.embedders.packing import Packing, pack, size_of, tokens_at_most

SEED = 20261121


def texts_of(*lengths: int) -> list[str]:
    return ["x" * length for length in lengths]


def words(text: str) -> int:
    """A way to count tokens, exactly."""
    return len(text.split())


def lengths(packing: Packing) -> list[int]:
    """How many texts are in each request."""
    return [len(request) for request in packing.requests]


# -- one cap


@pytest.mark.parametrize(
    ("request_limits", "expected"),
    [
        (RequestLimits(items=3), 4),
        (RequestLimits(items=100, bytes=30), 4),
        (RequestLimits(items=100, tokens=10), 4),  # of three bytes each
    ],
    ids=["items", "bytes", "tokens"],
)
def test_a_request_holds_as_much_as_a_cap_allows_and_no_more(
    request_limits: RequestLimits, expected: int
) -> None:
    packing = pack(texts_of(*[10] * 12), request_limits)
    assert lengths(packing) == [3] * expected
    assert lengths(pack(texts_of(*[10] * 3), request_limits)) == [3]
    assert len(lengths(pack(texts_of(*[10] * 13), request_limits))) == expected + 1


@pytest.mark.parametrize(
    ("request_limits", "expected"),
    [
        (RequestLimits(items=2, bytes=30, tokens=20), [2, 2, 2]),
        (RequestLimits(items=4, bytes=30, tokens=20), [3, 3]),
        (RequestLimits(items=4, bytes=90, tokens=7), [2, 2, 2]),
        (RequestLimits(items=4, bytes=10, tokens=7), [1] * 6),
        (RequestLimits(items=6, bytes=60, tokens=20), [6]),
    ],
)
def test_of_several_caps_the_tightest_counts(
    request_limits: RequestLimits, expected: list[int]
) -> None:
    assert lengths(pack(texts_of(*[10] * 6), request_limits)) == expected


def test_a_size_is_that_of_utf_8() -> None:
    assert [size_of(text) for text in ("ab", "äb", "€", "🙂", "\ud800")] == [2, 3, 3, 4, 1]
    assert lengths(pack(["ää", "€x", "🙂"], RequestLimits(items=9, bytes=8))) == [2, 1]


def test_tokens_are_taken_rather_too_high_than_too_low() -> None:
    assert [tokens_at_most(size) for size in (0, 1, 3, 4, 300, 301)] == [0, 1, 1, 2, 100, 101]


# -- how they are shared out


def test_what_fits_into_one_request_keeps_its_order() -> None:
    given = texts_of(9, 1, 7, 3)
    for request_limits in (
        RequestLimits(items=4),
        RequestLimits(items=9, bytes=20),
        RequestLimits(items=9, tokens=7),
    ):
        assert pack(given, request_limits).requests == [[0, 1, 2, 3]]


def test_texts_of_several_requests_go_with_those_of_their_length() -> None:
    given = texts_of(9, 1, 7, 3, 8, 2)
    assert pack(given, RequestLimits(items=3)).requests == [[1, 5, 3], [2, 4, 0]]
    assert pack(given, RequestLimits(items=9, bytes=17)).requests == [[1, 5, 3, 2], [4, 0]]


def test_texts_of_the_same_length_keep_their_order() -> None:
    assert pack(texts_of(*[5] * 6), RequestLimits(items=3)).requests == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(101, [51, 50]), (250, [84, 84, 82]), (300, [100] * 3), (100, [100]), (1, [1]), (0, [])],
)
def test_the_shares_are_even(count: int, expected: list[int]) -> None:
    assert lengths(pack(texts_of(*range(count)), RequestLimits(items=100))) == expected


def test_a_text_larger_than_a_whole_request_goes_alone() -> None:
    assert pack(texts_of(4, 90, 5), RequestLimits(items=9, bytes=20)).requests == [[0, 2], [1]]
    assert pack(texts_of(4, 90, 5), RequestLimits(items=9, tokens=20)).requests == [[0, 2], [1]]


# -- texts that are too long for the model


def test_a_text_that_may_be_too_long_travels_alone() -> None:
    request_limits = RequestLimits(items=9, tokens_per_text=10)
    packing = pack(texts_of(4, 31, 30, 200, 5), request_limits)
    assert packing.requests == [[0, 2, 4], [1], [3]]
    assert packing.too_long == {}


def test_a_text_whose_tokens_can_be_counted_travels_alone_no_more() -> None:
    given = ["short", "long but few", "of many words " * 4, "another"]
    packing = pack(given, RequestLimits(items=9, tokens_per_text=3), words)
    assert packing.requests == [[0, 1, 3]]
    assert packing.too_long == {2: 12}


def test_a_text_that_is_just_as_long_as_the_model_takes_is_not_too_long() -> None:
    packing = pack(["a b c", "a b c d"], RequestLimits(items=9, tokens_per_text=3), words)
    assert (packing.requests, packing.too_long) == ([[0]], {1: 4})


def test_a_text_that_cannot_be_too_long_is_not_counted() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return 1

    pack(texts_of(8, 9), RequestLimits(items=9, tokens_per_text=8), count)
    assert counted == ["x" * 9]


def test_without_a_cap_for_a_text_none_is_too_long() -> None:
    given = texts_of(10_000_000, 1)
    assert pack(given, RequestLimits(items=9)).requests == [[0, 1]]
    assert pack(given, RequestLimits(items=9), words).too_long == {}


# -- whatever it is


def some_texts(random: Random) -> list[str]:
    letters = random.choice(["x", "x ", "xä ", "x€🙂 "])
    longest = random.choice([3, 30, 300])
    return [
        "".join(random.choices(letters, k=random.randint(1, longest)))
        for _ in range(random.randint(0, 40))
    ]


def some_caps(random: Random) -> RequestLimits:
    return RequestLimits(
        items=random.choice([1, 2, 7, 100]),
        bytes=random.choice([1, 50, 400, NO_CAP]),
        tokens=random.choice([1, 20, 150, NO_CAP]),
        tokens_per_text=random.choice([1, 20, 100, NO_CAP]),
    )


def is_within(request: list[int], sizes: list[int], request_limits: RequestLimits) -> bool:
    load = sum(sizes[place] for place in request)
    return (
        len(request) <= request_limits.items
        and load <= request_limits.bytes
        and tokens_at_most(load) <= request_limits.tokens
    )


def test_every_text_is_in_exactly_one_place_and_no_request_is_above_a_cap() -> None:
    random = Random(SEED)
    for _ in range(2000):
        texts, request_limits = some_texts(random), some_caps(random)
        count = random.choice([None, words])
        packing = pack(texts, request_limits, count)
        sizes = [size_of(text) for text in texts]
        places = [place for request in packing.requests for place in request]
        assert sorted([*places, *packing.too_long]) == list(range(len(texts)))
        for request in packing.requests:
            assert len(request) == 1 or is_within(request, sizes, request_limits), (
                request_limits,
                request,
            )
            assert request
        for place, tokens in packing.too_long.items():
            assert count
            assert tokens == words(texts[place]) > request_limits.tokens_per_text


def test_no_request_has_room_for_the_first_of_the_next() -> None:
    random = Random(SEED)
    for _ in range(500):
        texts = some_texts(random)
        sizes = [size_of(text) for text in texts]
        requests = pack(texts, RequestLimits(items=100, bytes=400)).requests
        for request, following in pairwise(requests):
            assert sum(sizes[place] for place in request) + sizes[following[0]] > 400
