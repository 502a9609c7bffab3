"""Counting tokens as OpenAI does, if `tiktoken` and its vocabulary are here. Never a download."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha1, sha256
from importlib.util import find_spec
from pathlib import Path

COUNTED_BY = "cl100k_base"  # by all three models of OpenAI
VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
DIGEST = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"


@cache
def counter() -> Callable[[str], int] | None:
    """Return a function that counts tokens for OpenAI's models; None if it is not installed."""
    if find_spec("tiktoken") is None or not _is_here(_vocabulary()):
        return None
    import tiktoken

    encoding = tiktoken.get_encoding(COUNTED_BY)
    return lambda text: len(encoding.encode_ordinary(text))


def _vocabulary() -> Path | None:
    """The file where tiktoken looks for its vocabulary before a download, if it keeps one."""
    name = sha1(VOCABULARY.encode()).hexdigest()
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        folder = os.environ.get(variable)
        if folder is not None:  # if it is empty, tiktoken keeps no file
            return Path(folder, name) if folder else None
    return Path(tempfile.gettempdir(), "data-gym-cache", name)


def _is_here(vocabulary: Path | None) -> bool:
    # A damaged file would be downloaded again.
    try:
        return vocabulary is not None and sha256(vocabulary.read_bytes()).hexdigest() == DIGEST
    except OSError:
        return False
