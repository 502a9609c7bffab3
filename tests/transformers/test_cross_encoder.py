"""A cross-encoder puts texts in order. That of the test is tiny and untrained, but a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentence_transformers
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from worker.embedders.registry import open_reranker
from worker.embedders.sentence_transformers import CrossEncoder
from worker.errors import ProviderRefused, SettingsError
from worker.settings import Settings

QUERY = "how do I get my money back"
TEXTS = ["Refunds are made within ten days.", "Rain in the mountains", "a text " * 1000]


@pytest.fixture(scope="module")
def reranker(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-encoder with random weights."""
    new = tmp_path_factory.mktemp("reranker")
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(new)
    tokenizer.save_pretrained(new)
    return new


def test_each_text_gets_the_score_that_the_library_gives_it(reranker: Path) -> None:
    encoder = open_reranker(f"sentence-transformers:{reranker}", Settings())
    assert encoder.model == f"sentence-transformers:{reranker}"
    scores = encoder.rerank(QUERY, TEXTS)
    library = sentence_transformers.CrossEncoder(str(reranker))
    expected = [float(library.predict([(QUERY, text)])[0]) for text in TEXTS]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len(set(scores)) == len(TEXTS)
    assert encoder.rerank(QUERY, []) == []
    assert encoder.spent == 0
    encoder.close()


def test_an_embedding_model_is_no_cross_encoder(folder: Path) -> None:
    with pytest.raises(ProviderRefused, match="not a cross-encoder"):
        CrossEncoder(str(folder))


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        CrossEncoder(str(tmp_path / "none"))
