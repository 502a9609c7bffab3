"""`sentence-transformers:…`: a transformer in this process, on a GPU or on the cores of the CPU.

The library truncates long texts silently, so the tokens are counted here, and a text that is too
long is rejected. It pads the texts of a batch to the longest, so that batches are made here as
well, of texts of similar length and by tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from worker.embedders.base import (
    NO_CAP,
    Concurrency,
    Embeddings,
    Prompts,
    RequestLimits,
    Role,
    Vectors,
    well_formed,
)
from worker.embedders.model_files import (
    PROVIDER,
    Kind,
    check_installed,
    check_usable,
    model_folder,
    why_unusable,
)
from worker.embedders.models import known
from worker.errors import ProviderRefused, Rejected, Transient
from worker.settings import Settings

# Tokens of one batch, with padding. On a CPU, measured with all-MiniLM-L6-v2 and texts of 60 to 900
# characters: 34 ms of CPU time a text in batches of 1024 tokens, 55 ms in batches of 8192.
TOKENS_AT_ONCE_ON_CPU = 1024
TOKENS_AT_ONCE = 8192
TOKENS_A_REQUEST = 16_384
CORES = os.cpu_count() or 1
MOST_CORES = 8  # a container sees all cores of its machine, and may use only a few
PAIRS_AT_ONCE = 16
# How torch says it, on a GPU of NVIDIA, on one of Apple, and on a CPU.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
MOST_WORDS = 200  # characters of an error of the library
WITHOUT_TRUNCATION = {"text": {"truncation": False}}


@dataclass(slots=True, weakref_slot=True)
class Transformer:
    """A model in memory, used by several threads at once."""

    model: Any
    tokens_at_once: int = field(init=False)
    _tokenizing: Lock = field(default_factory=Lock)
    """Each call of a tokenizer changes its settings, so one thread at a time can use it."""

    def __post_init__(self) -> None:
        self.tokens_at_once = TOKENS_AT_ONCE_ON_CPU if self.is_on_cpu else TOKENS_AT_ONCE
        self.model.eval()

    @property
    def is_on_cpu(self) -> bool:
        return bool(self.model.device.type == "cpu")

    @property
    def most_tokens(self) -> int:
        """The most tokens of a text, apart from those that are added to every text."""
        most = self.model.max_seq_length
        added = getattr(self.model.tokenizer, "num_special_tokens_to_add", int)()
        # models without a limit have infinity, or a number like 1e30
        return most - added if most and most < NO_CAP else NO_CAP

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts, apart from those that are added to every text."""
        tokenizer = self.model.tokenizer
        options = {"add_special_tokens": False}
        with self._tokenizing:
            if hasattr(tokenizer, "encode_batch"):  # of a static model
                return [len(found.ids) for found in tokenizer.encode_batch(list(texts), **options)]
            options |= {"truncation": False, "padding": False, "verbose": False}
            return [len(ids) for ids in tokenizer(list(texts), **options)["input_ids"]]

    def encode(self, texts: Sequence[str], size: int, prompt: str, role: Role) -> Vectors:
        """Return the vectors of texts that have `size` tokens when they are padded to the longest.

        Raises Rejected if there is not enough memory for one of them alone.
        """
        try:
            return self._encode(texts, prompt, role)
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
        if len(texts) == 1:
            cause = f"there is not enough memory for a text of {size} tokens"
            raise Rejected(cause, error_class="too_long")
        size = self.tokens_at_once = size // 2
        middle = len(texts) // 2
        halves = (texts[:middle], texts[middle:])
        return np.vstack([self.encode(half, size, prompt, role) for half in halves])

    def _encode(self, texts: Sequence[str], prompt: str, role: Role) -> Vectors:
        """As `encode_document` and `encode_query` of the library do, without truncation."""
        import torch

        model = self.model
        with self._tokenizing:
            features = model.preprocess(
                list(texts), prompt=prompt, task=role, processing_kwargs=WITHOUT_TRUNCATION
            )
        with torch.inference_mode():
            for name, value in features.items():
                if isinstance(value, torch.Tensor):
                    features[name] = value.to(model.device)
            vectors = model(features, task=role)["sentence_embedding"]
            found: Vectors = vectors.float().cpu().numpy()
            return found


_in_memory: WeakValueDictionary[str, Transformer] = WeakValueDictionary()
"""The models in memory, by name. A model is freed when no embedder uses it any more."""
_loading = Lock()


class SentenceTransformersEmbedder:
    """The model `name` of the hub, or the model in the folder `name`.

    Raises SettingsError if the packages are missing, or the environment does not name the model.
    """

    provider = PROVIDER
    price: float | None = 0.0
    request_limits = RequestLimits(items=256, bytes=1_000_000, tokens=TOKENS_A_REQUEST)
    # Each request uses one core: torch can use several for a batch, but its threads wait for each
    # other at each step, which takes several times as long while other programs use the cores.
    concurrency = Concurrency(first=min(CORES, MOST_CORES), most=min(CORES, MOST_CORES))
    count: Callable[[str], int] | None = None
    dimensions: int | None = None

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts
    ) -> None:
        check_usable(name, settings)
        self.model = f"{PROVIDER}:{name}"
        self.prompts = prompts
        self._name = name
        self._wanted = dimensions
        self._transformer: Transformer | None = None

    def probe(self) -> None:
        """Load the model, after its download if it is not on this machine."""
        transformer = self._transformer = self._load()
        self.request_limits = replace(self.request_limits, tokens_per_text=transformer.most_tokens)
        self.count = self._count
        if not transformer.is_on_cpu:
            self.concurrency = Concurrency(first=1, most=1)
        width = transformer.model.get_embedding_dimension()
        if width is None:
            width = transformer.encode(["a"], 1, "", "document").shape[1]
        if known(self._name).shortens and self._wanted and self._wanted < width:
            width = self._wanted
        self.dimensions = width

    def _count(self, text: str) -> int:
        return self._in_use().count([text])[0]

    def _in_use(self) -> Transformer:
        if self._transformer is None:
            raise Transient(f"{self.model} is closed")
        return self._transformer

    def _load(self) -> Transformer:
        with _loading:
            found = _in_memory.get(self._name)
            if found is None:
                model = _loaded("SentenceTransformer", self._name, cores=1)
                found = _in_memory[self._name] = Transformer(model)
        return found

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        transformer = self._in_use()
        clean = [well_formed(text) for text in texts]
        prompt = self.prompts.of(role)
        lengths = transformer.count(self.prompts.before(clean, role))
        self._check_lengths(lengths)
        vectors: list[Vectors] = [np.empty(0, np.float32)] * len(texts)
        for batch in _batches(lengths, transformer.tokens_at_once):
            together, size = [clean[place] for place in batch], len(batch) * lengths[batch[0]]
            encoded = self._in_use().encode(together, size, prompt, role)
            for place, vector in zip(batch, encoded, strict=True):
                vectors[place] = vector
        return Embeddings(self._shorten(np.stack(vectors)), lengths)

    def _shorten(self, vectors: Vectors) -> Vectors:
        """Return the beginning of vectors at unit length, if the column has fewer dimensions."""
        if vectors.shape[1] == self.dimensions:
            return vectors
        beginning = vectors[:, : self.dimensions]
        lengths = np.linalg.norm(beginning, axis=1, keepdims=True)
        return (beginning / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        most, longest = self.request_limits.tokens_per_text, max(lengths)
        if longest > most:
            raise Rejected(
                f"{self.model} takes {most} tokens, and the text has {longest}",
                error_class="too_long",
                share=most / longest,
            )

    def close(self) -> None:
        """Also end a call of `embed` in another thread, after its batch: nobody waits for it."""
        self._transformer = None


class CrossEncoder:
    """A cross-encoder: it reads a query and a text together, as much of the text as fits.

    `name` is given by the caller, and never comes from the database. Raises SettingsError if the
    packages are missing, and what a download raises.
    """

    provider = PROVIDER

    def __init__(self, name: str) -> None:
        self.spent: float | None = 0.0
        check_installed()
        self.model = f"{PROVIDER}:{name}"
        self._encoder = _loaded("CrossEncoder", name, cores=CORES)  # somebody waits for it
        if self._encoder.num_labels != 1:
            raise _unusable(self.model, "it does not give one score for a text")

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        pairs = [(query, text) for text in texts]
        scores = self._encoder.predict(pairs, batch_size=PAIRS_AT_ONCE, show_progress_bar=False)
        return [float(score) for score in scores]

    def close(self) -> None:
        self._encoder = None


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the places of texts, longest first, in batches of `most` tokens, with padding."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def _loaded(kind: Kind, name: str, cores: int) -> Any:
    """Load a model of a class of the library. Afterwards torch uses `cores` cores for each batch.

    Raises ProviderRefused if it cannot be loaded, and what its download raises.
    """
    model = f"{PROVIDER}:{name}"
    folder = model_folder(name)
    if reason := why_unusable(folder, kind):
        raise _unusable(model, reason)
    try:
        import sentence_transformers
        import torch
        from transformers.utils import logging

        torch.set_num_threads(cores)

        logging.disable_progress_bar()
        for library in ("transformers", "sentence_transformers"):
            logging.get_logger(library).setLevel("ERROR")
        return getattr(sentence_transformers, kind)(
            str(folder), local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except Exception as error:  # of the packages, or of the files
        words = str(error).strip().partition("\n")[0][:MOST_WORDS] or type(error).__name__
        raise _unusable(model, words) from error


def _unusable(model: str, reason: str) -> ProviderRefused:
    return ProviderRefused(
        f"{model} cannot be used: {reason}",
        "Choose another model. The worker runs no code of a model.",
        of_the_model=True,
    )
