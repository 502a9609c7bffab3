"""Tokens are counted as OpenAI counts them, where its vocabulary is at hand, and never fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IN_CI, REPOSITORY
from tests.unit.conftest import Open
from worker.embedders import tokens
from worker.embedders.tokens import counter

FOLDER = REPOSITORY / ".parts" / "tiktoken"
VOCABULARY = FOLDER / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"

needs_vocabulary = pytest.mark.skipif(
    not VOCABULARY.is_file() and not IN_CI,
    reason="there is no vocabulary: see scripts/setup-parts",
)


@pytest.fixture(autouse=True)
def without_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No vocabulary is found, and no client of the network may be used."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("requests.get", pytest.fail)
    counter.cache_clear()
    yield
    counter.cache_clear()


@pytest.fixture
def at_hand(without_any: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(FOLDER))


@needs_vocabulary
@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("hello world", 2),
        ("tiktoken is great!", 6),
        ("antidisestablishmentarianism", 6),
        ("お誕生日おめでとう", 9),
        ("2 + 2 = 4", 7),
        ("<|endoftext|>", 7),  # text, and not the end of it
    ],
)
def test_tokens_are_counted_as_openai_counts_them(text: str, count: int) -> None:
    counted = counter()
    assert counted is not None
    assert counted(text) == count


@needs_vocabulary
@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    ("model", "settings", "counts"),
    [
        ("openai:text-embedding-3-small", {"openai_api_key": "sk-given"}, True),
        ("openai:text-embedding-ada-002", {"openai_base_url": "http://127.0.0.1:9"}, True),
        ("openai:openai/text-embedding-3-large", {"openai_base_url": "http://127.0.0.1:9"}, True),
        ("openai:BAAI/bge-m3", {"openai_base_url": "http://127.0.0.1:9"}, False),
        ("ollama:bge-m3", {}, False),
    ],
)
def test_only_the_models_of_openai_are_counted_for(
    opened: Open, model: str, settings: dict[str, str], counts: bool
) -> None:
    assert (opened(model, **settings).count is not None) == counts


def test_without_the_vocabulary_nothing_is_counted_and_nothing_fetched() -> None:
    assert counter() is None


@needs_vocabulary
def test_a_damaged_vocabulary_is_none(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY.name).write_bytes(VOCABULARY.read_bytes()[:-1])
    assert counter() is None


@needs_vocabulary
def test_a_cache_that_is_turned_off_is_not_looked_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "data-gym-cache"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert counter() is None
    counter.cache_clear()
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert counter() is not None


def test_without_tiktoken_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "find_spec", lambda name: None)
    assert counter() is None
