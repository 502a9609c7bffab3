"""The cache: vectors of texts that were embedded before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worker.queue.jobs import Completion

Cached = dict[bytes, tuple[npt.NDArray[np.float32], int | None]]
"""By the hash of a text: its vector, and the number of tokens that took if it is known."""


def whole(completions: Sequence[Completion]) -> list[Completion]:
    """Return the completions of whole texts.

    The vector of a part of a text is not what another column wants.
    """
    return [completion for completion in completions if completion.truncated_to is None]
