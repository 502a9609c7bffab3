"""What of `sentence-transformers:` needs no torch; tests/transformers has the rest."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.unit.conftest import Open
from worker.embedders.registry import open_reranker
from worker.embedders.sentence_transformers import _batches
from worker.errors import SettingsError
from worker.settings import Settings

MODEL = "sentence-transformers:BAAI/bge-small-en-v1.5"


@pytest.mark.skipif(bool(find_spec("sentence_transformers")), reason="it is installed")
def test_a_missing_package_says_how_to_install_it(opened: Open) -> None:
    for open_model in (
        lambda: opened(MODEL, embedding_model=MODEL),
        lambda: open_reranker("sentence-transformers:a/b", Settings()),
    ):
        with pytest.raises(SettingsError, match="not installed") as caught:
            open_model()
        hint = str(caught.value.hint)
        assert "pip install 'embedding-worker[sentence-transformers]'" in hint
        assert "whl/cpu" in hint


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], [[0]]),
        ([2, 9, 3, 4], [[1], [3, 2], [0]]),
        ([5, 5, 5, 5], [[0, 1], [2, 3]]),
        ([99, 1], [[0], [1]]),
        ([0, 0, 0], [[0, 1, 2]]),
    ],
)
def test_batches_hold_texts_of_similar_length_and_no_more_tokens_than_allowed(
    lengths: list[int], expected: list[list[int]]
) -> None:
    assert list(_batches(lengths, 10)) == expected
