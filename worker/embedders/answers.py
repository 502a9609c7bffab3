"""Reads an answer: its vectors, texts, tokens and messages.

The clients have decoders, but these accept answers with missing or reordered items, and take
several times as long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import jiter
import numpy as np
import pybase64

from worker.embedders.base import Vectors, well_formed

MOST_TOKENS = 2**31 - 1  # what the queue can hold
MOST_WORDS = 20_000  # bytes of an answer that is not JSON
MOST_CHARACTERS = 2000  # of a text that a chat model wrote
END_OF_REASONING = "</think>"
CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
LAST_WORD = re.compile(r"\s\S{0,99}\Z")  # what is longer is of a language without spaces


def read_json(content: bytes) -> Any:
    """Parse `content`. Raises ValueError, with a message of its own, if it is not JSON."""
    try:
        return jiter.from_json(content, cache_mode="none")
    except (ValueError, RecursionError):
        words = content[:MOST_WORDS].decode("utf-8", "replace") or "nothing at all"
        raise ValueError(f"not JSON: {words}") from None


def extract_message(body: object) -> str:
    """Return the message in an answer, from any of the forms that providers use."""
    match body:
        case None:
            return ""
        case str(words) | {"message": str(words)} | {"detail": str(words)} | {"error": str(words)}:
            return words
        case _:
            return json.dumps(body)


def number_in(words: str | None) -> int | None:
    """Parse digits as a whole number; None without digits, or above MOST_TOKENS."""
    is_short = words and len(words) <= len(str(MOST_TOKENS))
    return counted(int(words)) if words and is_short else None


def counted(number: object) -> int | None:
    """Return `number` if it is a token count that the queue can hold, else None."""
    return number if type(number) is int and 0 <= number <= MOST_TOKENS else None


def written_text(content: str, is_cut: bool = False) -> str:
    """Return what a chat model wrote, without its reasoning; empty without a visible character.

    Control characters become spaces, except for line breaks. A text that `is_cut`, or longer than
    MOST_CHARACTERS, ends after its last whole word.
    """
    text = content.rpartition(END_OF_REASONING)[2].lstrip()
    if text.startswith("<think>"):  # cut while it reasoned
        return ""
    text = well_formed(text[: 2 * MOST_CHARACTERS]).replace("\r\n", "\n")
    text = CONTROL_CHARACTERS.sub(" ", text).strip()
    if is_cut or len(text) > MOST_CHARACTERS:
        text = LAST_WORD.sub("", text[: MOST_CHARACTERS + 1])[:MOST_CHARACTERS].rstrip()
    return text if any(c.isprintable() and not c.isspace() for c in text) else ""


def indexed_vectors(items: Sequence[object], count: int) -> Vectors:
    """Return the vectors of `count` texts, sorted by `index`.

    Without any `index` they are in order. Where only some lack it, it is 0: servers that write
    JSON by the rules of Protocol Buffers (Gemini) leave out a zero.

    Raises ValueError, or an error of numpy, if the items have another form. The values of the
    numbers are not checked.
    """
    if len(items) != count:
        raise ValueError(f"{len(items)} vectors for {count} texts")
    has_indexes = any(isinstance(item, dict) and "index" in item for item in items)
    rows: dict[int, Vectors] = {}
    for place, item in enumerate(items):
        match item:
            case {"index": index, "embedding": str() | list() as embedding}:
                if type(index) is not int:  # True would be taken for 1
                    raise ValueError("an `index` that is not a whole number")
            case {"embedding": str() | list() as embedding}:
                index = 0 if has_indexes else place
            case _:
                raise ValueError("an item without `embedding`")
        rows[index] = decode_vector(embedding)
    if rows.keys() != set(range(count)):
        raise ValueError(f"indexes other than 0 to {count - 1}, each once")
    return stacked([rows[index] for index in range(count)])


def decode_vector(embedding: str | list[Any]) -> Vectors:
    """Decode a vector from base64 or from a list of numbers. Raises as `indexed_vectors` does."""
    if isinstance(embedding, str):
        return np.frombuffer(pybase64.b64decode(embedding, validate=True), dtype="<f4")
    with np.errstate(over="ignore"):  # what a float32 cannot hold becomes infinite
        return np.asarray(embedding, dtype=np.float32)


def stacked(rows: Sequence[Vectors]) -> Vectors:
    """Stack vectors of one width into an array. Raises ValueError if their widths differ."""
    shapes = {row.shape for row in rows}
    if len(shapes) != 1 or any(row.ndim != 1 or not len(row) for row in rows):
        raise ValueError("vectors of different widths, or of none")
    return np.stack(rows).astype(np.float32, copy=False)


def shared_out(tokens: object, lengths: Sequence[int]) -> list[int] | None:
    """Distribute the tokens of a request over its texts by length, without a remainder.

    None if `tokens` is not a token count.
    """
    total = counted(tokens)
    if total is None:
        return None
    whole = max(sum(lengths), 1)
    marks = [(2 * total * upto + whole) // (2 * whole) for upto in accumulate(lengths, initial=0)]
    return [after - before for before, after in pairwise(marks)]
