"""What a parser may take: time, memory, and the size of a file and of its text."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from worker.errors import SettingsError

MB = 2**20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseOptions:
    """`workers` files are parsed at once, each in a process with `memory_mb` for `seconds`.

    `fallback_encoding` is that of a text which is not Unicode. `most_bytes` is the largest file,
    and `most_characters` the longest text, that is accepted. Raises SettingsError if an option
    cannot be used.
    """

    workers: int = 1
    memory_mb: int = 1024
    seconds: float = 60.0
    fallback_encoding: str = "cp1252"
    most_bytes: int = 256 * MB
    most_characters: int = 16_000_000

    def __post_init__(self) -> None:
        for name in ("workers", "memory_mb", "seconds", "most_bytes", "most_characters"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} is not above zero", f"Give {name} a number above 0.")
        try:
            "a".encode(self.fallback_encoding)
            codecs.decode(b"a", self.fallback_encoding, "strict")
        except (LookupError, UnicodeError, TypeError):
            raise SettingsError(
                f"unknown encoding: `{self.fallback_encoding}`",
                "Use the name of an encoding that Python knows, such as cp1252 or shift_jis.",
            ) from None
