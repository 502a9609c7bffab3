"""The local model gives what the package it comes from gives, at a fraction of the memory."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.embedders.local import TOKENS_AT_ONCE, LocalEmbedder
from worker.embedders.registry import open_embedder
from worker.errors import SettingsError
from worker.settings import Settings

SEED = Path(__file__).parents[2] / "supabase" / "seed.sql"

TEXTS = [
    "a",
    "Hello, world!",
    "  two  spaces\tand\na line break  ",
    "UPPER lower Title cAsE",
    "Größenänderung, naïveté, Ærøskøbing, façade",  # Latin with marks
    "Съешь же ещё этих мягких французских булок",
    "いろはにほへと ちりぬるを",
    "אבג דהו • العربية",
    "👍🏽 family 👩‍👩‍👧‍👦 flag 🇩🇪 and 𝔪𝔞𝔱𝔥",
    "e\u0301 is not \u00e9; \u200bzero width\u200d and \ufeff",
    "1234567890 3.14159 -0.5e10 0xdeadbeef",
    "def f(x): return {**x, 'y': [i for i in range(10)]}  # code",
    "https://example.org/a/b?c=d&e=f#g user@example.org",
    "!?.,;:-_()[]{}<>/\\|@#$%^&*~`'\"",
    "\x01\x7f control \r\n characters",
    "word " * 3000,
    SEED.read_text(encoding="utf-8")[:30_000],  # in longer ones, sums of floats differ
    *(line for line in SEED.read_text(encoding="utf-8").splitlines() if len(line) > 60),
]


@pytest.fixture(scope="session")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.fixture(scope="session")
def reference() -> Iterator[Any]:
    """The package's own model. Its import adds a handler to the root logger, which is undone."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wordllama import WordLlama

        folder = Path(sys.modules["wordllama"].__file__ or "").parent
        yield WordLlama.load(cache_dir=folder, disable_download=True)
    root.handlers[:] = before
    root.setLevel(level)


def test_vectors_are_those_of_the_package(embedder: LocalEmbedder, reference: Any) -> None:
    assert len(TEXTS) > 100
    vectors = embedder.embed(TEXTS, "document").vectors
    assert vectors.dtype == np.float32
    expected = np.vstack([reference.embed([text], norm=True) for text in TEXTS])
    assert np.abs(vectors - expected).max() < 1e-6
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("width", [64, 128])
def test_shorter_vectors_are_the_beginnings_of_long_ones(
    embedder: LocalEmbedder, width: int
) -> None:
    shorter = LocalEmbedder(width=width)
    assert shorter.dimensions == width
    beginnings = embedder.embed(TEXTS, "document").vectors[:, :width]
    beginnings /= np.linalg.norm(beginnings, axis=1, keepdims=True)
    assert np.abs(shorter.embed(TEXTS, "document").vectors - beginnings).max() < 1e-6


def test_other_widths_are_not_taken() -> None:
    assert LocalEmbedder(width=100).dimensions == 256


def test_a_text_of_more_tokens_than_are_gathered_at_once_is_no_exception(
    embedder: LocalEmbedder, reference: Any
) -> None:
    text = TEXTS[-1] + " more" * TOKENS_AT_ONCE
    tokens = reference.tokenizer.encode(text, add_special_tokens=False).ids
    mean = reference.embedding[np.array(tokens)].mean(axis=0, dtype=np.float64)
    embeddings = embedder.embed([text], "document")
    assert embeddings.tokens == [len(tokens)]
    assert len(tokens) > TOKENS_AT_ONCE
    assert np.abs(embeddings.vectors - mean / np.linalg.norm(mean)).max() < 1e-6
    # The package sums so many rows up in single precision, and is that much further off.
    assert np.abs(embeddings.vectors - reference.embed([text], norm=True)).max() < 1e-4


def test_the_order_of_the_texts_is_kept_and_neighbours_do_not_matter(
    embedder: LocalEmbedder,
) -> None:
    together = embedder.embed(TEXTS, "document").vectors
    backwards = embedder.embed(TEXTS[::-1], "document").vectors
    isolated = np.vstack([embedder.embed([text], "document").vectors for text in TEXTS])
    assert np.array_equal(together, isolated)
    assert np.array_equal(together, backwards[::-1])


def test_tokens_are_counted(embedder: LocalEmbedder) -> None:
    embeddings = embedder.embed(["one", "one one", "one " * 99 + "one"], "document")
    assert embeddings.tokens is not None
    one, two, hundred = embeddings.tokens
    assert 1 <= one < two <= 2 * one
    assert hundred > 90


def test_it_says_what_it_is(embedder: LocalEmbedder) -> None:
    assert embedder.model == "local:wordllama-256"
    assert embedder.dimensions == embedder.embed(["a"], "document").vectors.shape[1] == 256


MEASURE = """
import json, logging, resource, sys
def peak():
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except FileNotFoundError: # not on Linux, where resource begins with the peak of the parent
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
handlers = logging.getLogger().handlers[:]
from worker.embedders.local import LocalEmbedder
embedder = LocalEmbedder()
embedder.embed(["a short text"] * 64, "document")
before = peak()
text = "A text of a megabyte, about nothing in particular. "
text = (text * (1_048_576 // len(text) + 1))[:1_048_576]
embedder.embed(["a short text"] * 63 + [text], "document")
print(json.dumps({
    "bytes": peak() - before,
    "root_logger_untouched": logging.getLogger().handlers == handlers,
    "package_imported": "wordllama" in sys.modules,
}))
"""


@pytest.fixture(scope="module", autouse=True)
def measuring() -> Iterator[subprocess.Popen[str]]:
    """A process of its own that embeds a text of 1 MB among short ones, beside the other tests."""
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.fixture(scope="module")
def measured(measuring: subprocess.Popen[str]) -> dict[str, Any]:
    """What that process found."""
    output, _ = measuring.communicate()
    assert measuring.returncode == 0
    found: dict[str, Any] = json.loads(output)
    return found


def test_a_text_of_a_megabyte_takes_less_than_150_megabytes(
    measured: dict[str, Any],
) -> None:
    assert measured["bytes"] < 150_000_000


def test_the_root_logger_is_left_alone(measured: dict[str, Any]) -> None:
    assert measured["root_logger_untouched"]
    assert not measured["package_imported"]


def test_a_missing_package_is_an_error_that_names_the_alternatives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec

    def without_wordllama(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "wordllama" else find_spec(name, package)

    monkeypatch.setattr("worker.embedders.local.find_spec", without_wordllama)
    with pytest.raises(SettingsError) as caught:
        open_embedder("local:wordllama-256", None, Settings())
    assert "wordllama" in caught.value.cause
    assert "pip install 'embedding-worker[local]'" in str(caught.value.hint)
    assert "EMBEDDING_MODEL=openai:" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["wordllama", "wordllama-512", "WORDLLAMA-256", "../weights"])
def test_another_local_model_is_an_error_and_never_a_substitute(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_embedder(f"local:{name}", None, Settings())
    assert caught.value.cause == f"there is no embedding model `local:{name}`"
    assert "local:wordllama-256" in str(caught.value.hint)
