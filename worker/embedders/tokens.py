"""Counting tokens as OpenAI does, if `tiktoken` and its vocabulary are here. Never a download."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

COUNTED_BY = "cl100k_base"  # by all three models of OpenAI
MODELS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")
VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
BYTES_PER_TOKEN = 3  # at least, in most texts: where nothing counts better


def counter(name: str) -> Callable[[str], int] | None:
    """What counts the tokens of a text for the model `name`, or None if nothing here can."""
    return _cl100k() if name in MODELS else None


@cache
def _cl100k() -> Callable[[str], int] | None:
    if find_spec("tiktoken") is None or not _vocabulary().is_file():
        return None
    import tiktoken

    encoding = tiktoken.get_encoding(COUNTED_BY)
    return lambda text: len(encoding.encode_ordinary(text))


def _vocabulary() -> Path:
    """Where tiktoken looks for its vocabulary before it would download it."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    name = hashlib.sha1(VOCABULARY.encode()).hexdigest()
    return Path(folder or Path(tempfile.gettempdir(), "data-gym-cache"), name)
