"""Packs texts into as few requests as all limits of a provider allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from worker.embedders.base import RequestLimits

BYTES_PER_TOKEN = 3  # at least, in most texts: for models whose tokens cannot be counted here


@dataclass(slots=True)
class Packing:
    """The places of the texts in each request; `too_long` has the texts that are in no request, and
    how many tokens they have."""

    requests: list[list[int]] = field(default_factory=list)
    too_long: dict[int, int] = field(default_factory=dict)


def size_of(text: str) -> int:
    """The bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def tokens_at_most(size: int) -> int:
    """Estimate the tokens of a text of `size` bytes, rather too high than too low."""
    return -(-size // BYTES_PER_TOKEN)


def pack(
    texts: Sequence[str], request_limits: RequestLimits, count: Callable[[str], int] | None = None
) -> Packing:
    """Put `texts` into requests. What fits into one keeps its order.

    A text that `count` finds too long for the model is left out. A text that may be too long, if
    nothing can count it, gets a request of its own, so that its rejection affects no other text.
    """
    packing = Packing()
    sizes = [size_of(text) for text in texts]
    together: list[int] = []
    isolated: list[list[int]] = []
    for place, size in enumerate(sizes):
        if size <= request_limits.tokens_per_text:  # no token is shorter than a byte
            together.append(place)
        elif count and (tokens := count(texts[place])) > request_limits.tokens_per_text:
            packing.too_long[place] = tokens
        elif not count and tokens_at_most(size) > request_limits.tokens_per_text:
            isolated.append([place])
        else:
            together.append(place)
    packing.requests = [*_shared(together, sizes, request_limits), *isolated]
    return packing


def _shared(
    places: list[int], sizes: Sequence[int], request_limits: RequestLimits
) -> Iterator[list[int]]:
    """Yield requests of several texts each. If there is more than one, texts of similar length go
    together, so that a model that pads them to the longest has little to pad."""
    # the bytes a request may hold, of which its tokens are a third at most
    room = min(request_limits.bytes, request_limits.tokens * BYTES_PER_TOKEN)
    if len(places) > request_limits.items or sum(sizes[place] for place in places) > room:
        places = sorted(places, key=sizes.__getitem__)
    most = _even_share(len(places), request_limits.items)
    request: list[int] = []
    load = 0
    for place in places:
        if request and (len(request) >= most or load + sizes[place] > room):
            yield request
            request, load = [], 0
        request.append(place)
        load += sizes[place]
    if request:
        yield request


def _even_share(texts: int, most: int) -> int:
    """How many texts a request gets, so that the last one is not much smaller than the others."""
    requests = max(-(-texts // most), 1)
    return max(-(-texts // requests), 1)
