"""What a parser process and the worker write to each other.

A message is two lengths, a JSON object, and the text of a file, which may be empty. A parser that a
file has taken over cannot make the worker read more than `most` bytes, or anything but JSON.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

LENGTHS = struct.Struct(">IQ")
MOST_HEADER = 2**16  # bytes


class BadMessage(Exception):
    """The message breaks the rules above."""


def send(stream: IO[bytes], header: dict[str, Any], content: bytes = b"") -> None:
    """Write one message."""
    encoded = json.dumps(header).encode()
    stream.write(LENGTHS.pack(len(encoded), len(content)) + encoded)
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes], most: int = 0) -> tuple[dict[str, Any], bytes]:
    """Read one message, whose content has at most `most` bytes.

    Raises EOFError if the stream ends before, and BadMessage.
    """
    header_length, content_length = LENGTHS.unpack(_read(stream, LENGTHS.size))
    if header_length > MOST_HEADER or content_length > most:
        raise BadMessage
    try:
        header = json.loads(_read(stream, header_length))
    except (ValueError, RecursionError):
        raise BadMessage from None
    if not isinstance(header, dict):
        raise BadMessage
    return header, _read(stream, content_length)


def _read(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
