"""pgai, from PyPI, in a virtual environment of its own: its schema, a vectorizer and its worker.

Of its extra `vectorizer-worker`, only the packages that its worker needs for texts are installed.
The others parse documents or call other providers, are seven gigabytes, and are not loaded here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg import sql

from benchmarks.database import Database
from benchmarks.report import Skipped
from benchmarks.usage import REPOSITORY

VERSION = "0.12.1"
PACKAGES = (  # with the bounds of the extra
    f"pgai=={VERSION}",
    "filetype==1.2.0",
    "ijson>=3.3",
    "numpy",
    "openai>=1.44,<2",
    "pgvector>=0.3,<1",
    "tiktoken>=0.7,<1",
    "tokenizers",
)
FOLDER = REPOSITORY / ".parts" / "pgai"
UV_INSTALL = (sys.executable, "-m", "uv", "pip", "install", "--compile-bytecode")
Program = tuple[list[str], dict[str, str]]  # a command and its environment
QUEUE = "ai._vectorizer_q_1"  # of the first vectorizer of a database


@dataclass(frozen=True, slots=True)
class Processing:
    """How much the worker of a vectorizer does at once; None is pgai's default."""

    batch_size: int | None = None
    concurrency: int | None = None

    def __str__(self) -> str:
        if self == Processing():
            return "default settings (batch size 50, concurrency 1)"
        return f"batch size {self.batch_size}, concurrency {self.concurrency}"


def is_installed() -> bool:
    """Whether these packages were installed completely."""
    return _mark().exists() and _mark().read_text() == "\n".join(PACKAGES)


def install() -> None:
    """Install pgai unless it is installed. Raises Skipped if it cannot be installed."""
    if is_installed():
        return
    sys.stderr.write(f"installing pgai {VERSION} into {FOLDER} …\n")
    try:
        _run(sys.executable, "-m", "venv", "--clear", str(FOLDER))
        try:
            _run(*UV_INSTALL, "--python", _python(), *PACKAGES)
        except subprocess.CalledProcessError:  # as in scripts/setup
            _run(_python(), "-m", "pip", "install", *PACKAGES)
    except (OSError, subprocess.CalledProcessError) as problem:
        reason = (getattr(problem, "stderr", None) or str(problem)).strip().splitlines()[-1]
        raise Skipped(
            f"pgai {VERSION} could not be installed, so nothing was compared with it: {reason}"
        ) from problem
    _mark().write_text("\n".join(PACKAGES))


def vectorize(database: Database, base_url: str, processing: Processing) -> Database:
    """Create `vectorized` with a vectorizer, in a database with no other vectorizer of pgai."""
    _run(_python(), "-m", "pgai", "install", "--db-url", database.url)
    with database.connect() as connection:
        connection.execute("create table vectorized (like plain including all)")
        connection.execute(
            sql.SQL(
                "select ai.create_vectorizer('vectorized', loading => ai.loading_column('body'),"
                " embedding => ai.embedding_openai({model}, {dimensions}, base_url => {base_url}),"
                " chunking => ai.chunking_none(),"
                " destination => ai.destination_column('embedding'),"
                " processing => ai.processing_default({batch_size}, {concurrency}))"
            ).format(
                model="text-embedding-3-small",
                dimensions=database.dimensions,
                base_url=base_url,
                batch_size=processing.batch_size,
                concurrency=processing.concurrency,
            )
        )
    return replace(database, queues={**database.queues, "vectorized": QUEUE})


def worker(database: Database, *options: str) -> Program:
    """Return pgai's worker."""
    [package] = FOLDER.glob("lib/*/site-packages/pgai")
    command = [_python(), "-m", "pgai", "vectorizer", "worker", "--db-url", database.url]
    # pgai comes with the vocabularies of OpenAI's models, but downloads them without this.
    vocabularies = str(package / "vectorizer" / "tiktoken_cache")
    return [*command, *options], {"OPENAI_API_KEY": "any", "TIKTOKEN_CACHE_DIR": vocabularies}


def _mark() -> Path:
    return FOLDER / ".installed"


def _python() -> str:
    return str(FOLDER / "bin" / "python")


def _run(*command: str) -> None:
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1"}  # as in scripts/setup
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
