"""What chat models write for texts, before these are embedded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from worker.queue.targets import OnFailure


@dataclass(frozen=True, slots=True)
class Enhancement:
    """The chat model that enhances a text, its instructions, and what happens if it fails.

    wait: the text is embedded when the chat model works. raw: it is embedded without, and again
    later.
    """

    model: str
    prompt: str
    on_failure: OnFailure


def enhancement_key(model: str, prompt: str, data: str) -> bytes:
    """Return the hash of everything on which the answer of a chat model depends."""
    parts = [part.encode("utf-8", "surrogatepass") for part in (model, prompt, data)]
    return sha256(b"".join(sha256(part).digest() for part in parts)).digest()


@dataclass(frozen=True, slots=True)
class Enhanced:
    """What a chat model wrote for a text; None: it failed, for the error class `failure`.

    `cost` in US dollars; None: not known. `truncated_to`: how many characters of the text it got,
    if not all of them. `again_in`: when it is asked again after a failure; None: it is not.
    """

    text: str | None
    cost: float | None = 0.0
    truncated_to: int | None = None
    failure: str | None = None
    again_in: timedelta | None = None
