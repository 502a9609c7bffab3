"""The cache: vectors of texts that were embedded before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worker.queue.jobs import Completion

Cached = dict[bytes, tuple[npt.NDArray[np.float32], int | None]]
"""By the hash of a text: its vector, and its number of tokens if that is known."""


def whole(completions: Sequence[Completion]) -> list[Completion]:
    """Return the completions of whole texts.

    Another column may need the vector of the whole text.
    """
    return [completion for completion in completions if completion.truncated_to is None]
