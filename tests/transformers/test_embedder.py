"""`sentence-transformers:` gives the vectors of the library, and never one of a truncated text."""

from __future__ import annotations

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.transformers.conftest import Copy, Open
from worker.embedders import sentence_transformers
from worker.embedders.base import Embedder, Prompts, Vectors
from worker.errors import ProviderRefused, Rejected, Transient, WorkerError

TEXTS = [
    "a",
    "Two payments of 1,188 euros were found. " * 12,
    "UPPER lower ÄÖÜ naïveté",
    "いろはにほへと ちりぬるを",
    "def f(x): return {**x}  # code",
    "one",
    "a text of a hundred words " * 20,
    "👍🏽 family 👩‍👩‍👧‍👦",
]


@pytest.fixture
def embedder(opened: Open, folder: Path) -> Embedder:
    return opened(folder)


def library(embedder: Embedder) -> Any:
    """The model as the library has it."""
    return embedder._transformer.model  # type: ignore[attr-defined]


def similarity(some: Vectors, others: Vectors) -> float:
    """The least cosine of two vectors in the same row."""
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float(((some * others).sum(axis=1) / lengths).min())


def test_vectors_are_those_of_the_library_in_the_order_of_the_texts(embedder: Embedder) -> None:
    isolated = np.vstack([library(embedder).encode([text]) for text in TEXTS])
    embeddings = embedder.embed(TEXTS, "document")
    assert embeddings.vectors.dtype == np.float32
    assert embeddings.vectors.shape == (len(TEXTS), embedder.dimensions)
    assert similarity(embeddings.vectors, isolated) > 0.99999
    assert np.allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)


def test_similar_texts_are_nearer_than_others(embedder: Embedder) -> None:
    texts = ["How do I get my money back?", "Our refund policy", "Rain in the mountains"]
    query, refund, rain = embedder.embed(texts, "query").vectors
    assert query @ refund > query @ rain + 0.2


def test_tokens_are_counted_exactly(embedder: Embedder) -> None:
    embeddings = embedder.embed(TEXTS, "document")
    tokenizer = library(embedder).tokenizer
    expected = [len(tokenizer(text)["input_ids"]) - 2 for text in TEXTS]
    assert embeddings.tokens == expected
    assert embedder.count
    assert [embedder.count(text) for text in TEXTS] == expected


# 254 tokens and two that are added; the library would truncate the second text silently
@pytest.mark.parametrize("letter", ["word ", "!"])
def test_a_text_of_one_token_too_many_is_rejected(embedder: Embedder, letter: str) -> None:
    assert embedder.request_limits.tokens_per_text == 254
    fits = embedder.embed([letter * 254], "document")
    assert fits.tokens == [254]
    with pytest.raises(Rejected, match="takes 254 tokens, and the text has 255") as caught:
        embedder.embed(["short", letter * 255], "document")
    assert caught.value.error_class == "too_long"
    assert caught.value.share == 254 / 255


def test_the_library_never_truncates(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    # if the count were wrong, the model would fail, or take all of the text
    monkeypatch.setattr(embedder, "_check_lengths", lambda lengths: None)
    shorter, longer = (
        embedder.embed([f"{'word ' * 254}{more}"], "document").vectors
        for more in ("", "and then something else")
    )
    assert similarity(shorter, longer) < 0.9999


def test_the_prompts_in_the_configuration_are_put_before_texts(copy: Copy, opened: Open) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    with_prompts = opened(copy(config_sentence_transformers={"prompts": prompts}))
    assert with_prompts.prompts == Prompts("passage: ", "query: ")
    model = library(with_prompts)
    document = with_prompts.embed(["a text"], "document")
    query = with_prompts.embed(["a text"], "query")
    assert similarity(document.vectors, model.encode(["passage: a text"])) > 0.99999
    assert similarity(query.vectors, model.encode(["query: a text"])) > 0.99999
    assert document.tokens == [len(model.tokenizer("passage: a text")["input_ids"]) - 2]


def test_a_prompt_of_the_column_replaces_that_of_the_model(copy: Copy, opened: Open) -> None:
    folder = copy(config_sentence_transformers={"prompts": {"document": "passage: "}})
    without = opened(folder, document_prompt="")
    assert (
        similarity(
            without.embed(["a text"], "document").vectors, library(without).encode(["a text"])
        )
        > 0.99999
    )


def test_a_prompt_counts_towards_the_length(copy: Copy, opened: Open) -> None:
    embedder = opened(copy(), document_prompt="two words ")
    embedder.embed(["word " * 252], "document")
    with pytest.raises(Rejected):
        embedder.embed(["word " * 253], "document")
    embedder.embed(["word " * 253], "query")


def test_the_threads_of_all_columns_share_one_model(opened: Open, folder: Path) -> None:
    embedders = [opened(folder) for _ in range(4)]
    expected = embedders[0].embed(TEXTS, "document").vectors
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda embedder: embedder.embed(TEXTS, "document"), embedders))
    for embeddings in found:
        assert similarity(embeddings.vectors, expected) > 0.99999
    assert len({id(library(embedder)) for embedder in embedders}) == 1


def test_threads_do_not_change_the_settings_of_the_tokenizer_for_each_other(
    opened: Open, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = opened(copy())

    def forward(features: Any, **options: Any) -> Any:  # in no time, so that threads meet
        return {"sentence_embedding": torch.ones(len(features["input_ids"]), 384)}

    monkeypatch.setattr(library(embedder), "forward", forward)
    with ThreadPoolExecutor(8) as pool:
        texts = ["word " * 200, "a"]
        found = list(pool.map(lambda _: embedder.embed(texts, "document"), range(1000)))
    assert {tuple(embeddings.tokens or ()) for embeddings in found} == {(200, 1)}


def test_a_model_that_nobody_uses_is_freed(opened: Open, copy: Copy) -> None:
    folder = copy()
    first, second = opened(folder), opened(folder)
    first.close()
    gc.collect()
    assert str(folder) in sentence_transformers._in_memory
    second.close()
    gc.collect()
    assert str(folder) not in sentence_transformers._in_memory


def test_closing_ends_a_request_that_nobody_waits_for(
    opened: Open, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = opened(copy())
    model, calls = library(embedder), []
    forward = model.forward

    def closed_meanwhile(features: Any, **options: Any) -> Any:
        calls.append(features)
        embedder.close()
        return forward(features, **options)

    monkeypatch.setattr(model, "forward", closed_meanwhile)
    with pytest.raises(Transient, match="closed"):
        embedder.embed(["word " * 200] * 20, "document")
    assert len(calls) == 1


def test_without_enough_memory_batches_get_smaller(
    opened: Open, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = opened(copy())
    expected = embedder.embed(TEXTS, "document").vectors
    forward, sizes = library(embedder).forward, []

    def with_little_memory(features: Any, **options: Any) -> Any:
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory")
        return forward(features, **options)

    monkeypatch.setattr(library(embedder), "forward", with_little_memory)
    assert similarity(embedder.embed(TEXTS, "document").vectors, expected) > 0.99999
    before = len(sizes)
    monkeypatch.setattr(library(embedder), "forward", with_none(sizes))
    with pytest.raises(Rejected, match="memory"):
        embedder.embed(TEXTS, "document")
    assert sizes[before] < len(TEXTS)


def with_none(sizes: list[int]) -> Any:
    """A model for which no text is short enough."""

    def forward(features: Any, **options: Any) -> Any:
        sizes.append(len(features["input_ids"]))
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    return forward


def test_a_model_that_can_be_shortened_is(copy: Copy, opened: Open) -> None:
    shortened = opened(copy("qwen3-embedding-0.6b"), dimensions=128)
    assert shortened.dimensions == 128
    vectors = shortened.embed(TEXTS, "document").vectors
    whole = library(shortened).encode(TEXTS)[:, :128]
    assert similarity(vectors, whole) > 0.99999
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_another_model_keeps_its_width(opened: Open, folder: Path) -> None:
    assert opened(folder, dimensions=128).dimensions == 384


def refusal(opened: Open, folder: Path) -> WorkerError:
    """The error with which a model is refused. None of its code was run."""
    with pytest.raises(ProviderRefused) as caught:
        opened(folder)
    assert caught.value.cause.isprintable()
    assert len(caught.value.cause) < 500
    assert caught.value.of_the_model
    assert not (folder / "was-here").exists()
    return caught.value


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickle_is_never_loaded(opened: Open, copy: Copy) -> None:
    folder = copy()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(folder / "was-here")))
    assert "pickle" in refusal(opened, folder).cause


def test_code_of_a_model_is_never_run(opened: Open, copy: Copy) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "trap.Transformer"}]
    folder = copy(modules=modules)
    (folder / "trap.py").write_text("import pathlib; pathlib.Path(__file__, '../was-here').touch()")
    assert "trap.Transformer" in refusal(opened, folder).cause


@pytest.mark.parametrize("file", ["config", "tokenizer", "modules"])
def test_a_damaged_model_is_refused(opened: Open, copy: Copy, file: str) -> None:
    folder = copy(**{file: None})
    (folder / f"{file}.json").write_text("{")
    refusal(opened, folder)


def test_a_model_that_is_no_sentence_transformer_is_refused(opened: Open, copy: Copy) -> None:
    assert "not an embedding model" in refusal(opened, copy(modules=None)).cause
