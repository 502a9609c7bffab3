"""The hash of a stored vector, computed without Postgres: Jenkins' lookup3, as its arrays have it.

The bytes are those of a vector in network format. See embedding.vector_hash_sql.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

WORD = 0xFFFFFFFF


def vector_hash(numbers: Sequence[float]) -> int:
    """Return the hash of a vector of float32 numbers."""
    sent = struct.pack(f">hh{len(numbers)}f", len(numbers), 0, *numbers)
    [signed] = struct.unpack("<q", struct.pack("<Q", (31 + _of_bytes(sent)) % 2**64))
    return int(signed)


def _of_bytes(key: bytes) -> int:
    a = b = c = (0x9E3779B9 + len(key) + 3923095) & WORD
    whole = len(key) - len(key) % 12
    for place in range(0, whole, 12):
        a, b, c = (
            (each + word) & WORD
            for each, word in zip((a, b, c), struct.unpack_from("<3I", key, place), strict=True)
        )
        a, b, c = _mix(a, b, c)
    rest = key[whole:]
    a += int.from_bytes(rest[:4], "little")
    b += int.from_bytes(rest[4:8], "little")
    c += int.from_bytes(rest[8:], "little") << 8  # its lowest byte is for the length
    b, c = _final(a & WORD, b & WORD, c & WORD)
    return b << 32 | c


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c & WORD) ^ _rotate(c, bits)
        c = c + b & WORD
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int]:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotate(b, bits) & WORD
        a, b, c = b, c, a
    return a, b


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & WORD
