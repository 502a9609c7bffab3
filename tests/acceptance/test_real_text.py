"""Five thousand real texts through `worker process`, and every vector looked at."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
import pytest
from pgvector.psycopg import register_vector

from tests.acceptance.conftest import statuses
from tests.conftest import Database, Worker
from worker.embedders.local import LocalEmbedder

COUNT = 5_000


def package_descriptions() -> Iterator[str]:
    """The paragraphs of what Debian says of its packages, in its order; nothing elsewhere."""
    if not shutil.which("apt-cache"):
        return
    with subprocess.Popen(
        ["apt-cache", "dumpavail"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        paragraph: list[str] = []
        described = False
        for line in process.stdout:
            if line.startswith(" ") and line.strip() != ".":
                paragraph += [line.strip()] if described else []
                continue
            yield " ".join(paragraph)
            paragraph = []
            if not line.startswith(" "):
                described = line.startswith(("Description:", "Description-en:"))
                paragraph = [line.split(":", 1)[1].strip()] if described else []


def docstrings() -> Iterator[str]:
    """The paragraphs of the documentation in the standard library and the installed packages."""
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            try:
                nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue  # samples of what cannot be parsed
            for node in nodes:
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    yield from (ast.get_docstring(node) or "").split("\n\n")
                    nodes += node.body


def distinct(texts: Iterable[str]) -> Iterator[str]:
    """Each text that is not blank once, as Postgres can hold it."""
    seen = set()
    for text in texts:
        text = text.replace("\0", "").strip()
        if text and text not in seen:
            seen.add(text)
            yield text


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """COUNT texts, short and long, each once unless this machine has too few."""
    documentation = docstrings()
    first = islice(documentation, COUNT // 4)
    found = distinct(chain(first, package_descriptions(), documentation))
    enough = list(islice(found, COUNT))
    assert len(enough) > 1000
    return list(islice(cycle(enough), COUNT))


@pytest.fixture(scope="session")
def expected(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What the local model gives for each of them."""
    embedder = LocalEmbedder()
    return np.vstack(
        [
            embedder.embed(texts[i : i + 1000], "document").vectors
            for i in range(0, len(texts), 1000)
        ]
    )


@pytest.mark.only_in_full
def test_each_of_5_000_vectors_is_that_of_its_text(
    db: Database,
    worker: Worker,
    texts: list[str],
    expected: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    db.execute("create table paragraphs (id integer primary key, body text not null)")
    db.execute("select watch_embeddings('paragraphs', 'body', 'embedding', dimensions => 256)")
    with db.cursor() as cursor, cursor.copy("copy paragraphs (id, body) from stdin") as copy:
        for row in enumerate(texts):
            copy.write_row(row)

    result = worker("process")
    assert result.returncode == 0, result.stderr
    assert f"Total records processed: {COUNT}\nTotal errors: 0\n" in result.stdout
    assert statuses(db) == {"completed": COUNT}

    register_vector(db)
    with db.cursor(binary=True) as cursor:
        found = cursor.execute("select body, embedding from paragraphs order by id").fetchall()
    assert [body for body, _ in found] == texts
    stored = np.array([vector.to_numpy() for _, vector in found])
    assert np.abs(stored - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-3)
