"""`local:wordllama-256`: a small English model whose weights come in a wheel.

Only the two data files of the `wordllama` package are used. Its own loader needs the network on a
fresh install, and its `embed` pads each of 64 texts to the longest: with one text of a megabyte
that takes gigabytes. A vector is the mean of the rows of its tokens, at unit length: the same
numbers as `WordLlama.embed(norm=True)` gives (a test compares them), also for the SHORTER widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.embedders.base import (
    LOCAL_MODEL,
    Concurrency,
    Embeddings,
    Prompts,
    RequestLimits,
    Role,
    Vectors,
)
from worker.embedders.prompts import NONE
from worker.errors import SettingsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DIMENSIONS = 256
SHORTER = (64, 128)  # trained so that the beginning of a vector is a vector
TOKENS_AT_ONCE = 16_384  # rows gathered at a time: 16 MiB, whatever the length of the text


class LocalEmbedder:
    """The model, loaded into this process. Raises SettingsError if it is not installed."""

    provider = "local"
    model = f"local:{LOCAL_MODEL}"
    price: float | None = 0.0
    # the tokenizer takes up to 110 times the bytes of its texts in memory
    request_limits = RequestLimits(items=1000, bytes=1_000_000)
    # the tokenizer leaves the interpreter lock; more threads only add memory
    concurrency = Concurrency(first=2, most=2)
    count: Callable[[str], int] | None = None  # it takes any length

    def __init__(self, prompts: Prompts = NONE, width: int | None = None) -> None:
        self.prompts = prompts
        used = width if width in SHORTER else DIMENSIONS
        self.dimensions: int | None = used
        self._rows = read_rows(used)
        self._tokenizer = read_tokenizer()

    def probe(self) -> None:
        """Do nothing: everything is known."""

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        encoded = self._tokenizer.encode_batch(
            self.prompts.before(texts, role), add_special_tokens=False
        )
        token_ids = [np.array(text.ids, dtype=np.intp) for text in encoded]
        vectors = np.stack([self._mean(ids) for ids in token_ids])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
        return Embeddings(vectors, [len(ids) for ids in token_ids])

    def close(self) -> None:
        """Do nothing: the interpreter frees the memory."""

    def _mean(self, ids: npt.NDArray[np.intp]) -> Vectors:
        if len(ids) <= TOKENS_AT_ONCE:
            mean: Vectors = self._rows[ids].sum(axis=0) / np.float32(max(len(ids), 1))
        else:
            counts = np.bincount(ids, minlength=len(self._rows))
            used = np.flatnonzero(counts)
            total = counts[used].astype(np.float64) @ self._rows[used]
            mean = (total / len(ids)).astype(np.float32)
        return mean


def read_rows(width: int) -> npt.NDArray[np.float32]:
    """Return the vector of each token."""
    from safetensors.numpy import load_file

    weights = load_file(_package_folder() / "weights" / "l2_supercat_256.safetensors")
    return np.asarray(weights["embedding.weight"][:, :width], dtype=np.float32)


def read_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    file = _package_folder() / "tokenizers" / "l2_supercat_tokenizer_config.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _package_folder() -> Path:
    # find_spec does not import the package, which would configure the root logger.
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise SettingsError(
            "the local model is not installed (there is no `wordllama` on this Python)",
            "Install it with: pip install 'embedding-worker[local]'. It has wheels for Linux "
            "x86_64, macOS and Windows, up to Python 3.13; elsewhere choose another model, like "
            "EMBEDDING_MODEL=openai:text-embedding-3-small.",
        )
    return Path(spec.origin).parent
