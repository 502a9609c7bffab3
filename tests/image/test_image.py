"""The image, run without a writable file system and without any capability."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import docx
import pytest

from tests import conftest
from tests.acceptance.conftest import Held, statuses
from tests.conftest import ENVIRONMENT, REPOSITORY, Database, rows, value
from tests.image.conftest import (
    CONFINED,
    ENGINE,
    FULL_IMAGE,
    IMAGE,
    ON_A_BUSY_HOST,
    Container,
    Run,
    engine,
    lines_of,
    options,
)
from tests.openai_server import OpenAIServer

NETWORKLESS = [*CONFINED, "--network=none"]
DEFAULT, FULL = "local mcp web", "backup bedrock files local mcp s3 web"  # the extras of the images
TOKEN = "a-long-token-for-operators"
eventually = partial(conftest.eventually, within=60)


def inspected(image: str) -> dict[str, Any]:
    [image_] = json.loads(engine("image", "inspect", image).stdout)
    return dict(image_)


def test_it_has_at_most_300_mb_and_no_root() -> None:
    image = inspected(IMAGE)
    assert image["Size"] <= 300_000_000
    assert image["Config"]["User"] == "65532:65532"


def test_it_has_nothing_that_only_builds_need() -> None:
    found = engine(
        *["run", "--rm", *NETWORKLESS, "--entrypoint=find", IMAGE, "/opt", "/usr/local"],
        *["-name", "*.pyc", "-o", "-name", "pip", "-o", "-name", "setuptools"],
        *["-o", "-path", "*/site-packages/*/tests"],
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("extras", [DEFAULT, FULL])
def test_all_packages_come_without_a_compiler_on_arm64(extras: str) -> None:
    result = subprocess.run(
        [".venv/bin/uv", "pip", "install", "--dry-run", "--target=unused", "--no-build"]
        + ["--python-platform=aarch64-manylinux_2_28", "--python-version=3.13"]
        + ["--require-hashes", "--constraints=requirements.lock", "--requirements=pyproject.toml"]
        + [f"--extra={extra}" for extra in extras.split()],
        cwd=REPOSITORY,
        env=ENVIRONMENT | {"UV_SYSTEM_CERTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_it_starts_without_a_network() -> None:
    result = engine("run", "--rm", *NETWORKLESS, IMAGE, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("embedding-worker ")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [([], "DATABASE_URL is not set"), (["serve"], "WORKER_WEB_TOKEN is not set")],
)
def test_wrong_settings_end_it_with_their_exit_code(arguments: list[str], cause: str) -> None:
    result = engine("run", "--rm", *NETWORKLESS, IMAGE, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert cause in result.stderr


def test_it_goes_from_an_empty_database_to_a_search_result(run: Run, empty_db: Database) -> None:
    fill(run, empty_db)
    found = run("search", "money back", "--table", "docs", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)[0]["record_id"] == "1"


def test_the_lines_of_the_docs_start_a_worker(container_url: str, empty_db: Database) -> None:
    """Those of docs/deployment.md."""
    empty_db.execute("create table docs (id bigint primary key, body text)")
    empty_db.execute("insert into docs values (1, 'How to get a refund')")
    build, database, *start = lines_of("Docker")
    assert build == "docker build -f deploy/Dockerfile -t embedding-worker ."
    assert database == "export DATABASE_URL='postgresql://USER:PASSWORD@HOST/DATABASE'"
    name = f"ew-{uuid4().hex[:12]}"
    script = re.sub("(--name|logs|exec) worker", rf"\1 {name}", "\n".join(start))
    script = f'docker() {{ {ENGINE} "${{@/embedding-worker/{IMAGE}}}"; }}\n{script}'
    busy = " ".join(f"-e {setting}" for setting in ON_A_BUSY_HOST)
    try:
        subprocess.run(
            ["bash", "-euc", script.replace("docker run", f"docker run --network=host {busy}")],
            env=os.environ | {"DATABASE_URL": container_url},
            check=True,
        )
        eventually(lambda: statuses(empty_db) == {"completed": 1})
    finally:
        engine("stop", name)
        engine("rm", name)


def fill(run: Run, db: Database) -> None:
    """Give the texts of a table their vectors, by commands of the image alone."""
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "insert into docs values (1, 'How to get a refund'), (2, 'The weather'), (3, 'Cats')"
    )
    for command in (
        ["migrate"],
        ["watch", "docs", "--source", "body", "--create-column"],
        ["backfill"],
        ["process"],
    ):
        result = run(*command)
        assert result.returncode == 0, result.stderr
    assert statuses(db) == {"completed": 3}


def test_stopping_it_loses_nothing(
    run: Run, container_url: str, empty_db: Database, openai: OpenAIServer, held: Held
) -> None:
    model = {
        "EMBEDDING_MODEL": "openai:text-embedding-3-small",
        "OPENAI_API_KEY": openai.api_key,
        "OPENAI_BASE_URL": openai.base_url,
        "EMBEDDING_BATCH_SIZE": "10",
        "EMBEDDING_MAX_CONCURRENCY": "1",
    }
    assert run("migrate").returncode == 0
    empty_db.execute("create table docs (id bigint primary key, body text)")
    empty_db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 1536)")
    empty_db.execute("insert into docs select i, 'text ' || i from generate_series(1, 100) i")
    with Container(*options(DATABASE_URL=container_url, **model), IMAGE) as container:
        assert held.arrived.wait(60)
        container.send("TERM")
        eventually(lambda: "stopping: finishing requests in flight" in container.log())
        held.let_go.set()
        assert container.wait() == 0, container.log()
    ended = statuses(empty_db)
    assert ended["completed"] >= 10, "the request in flight was finished"
    assert set(ended) == {"completed", "pending"}
    assert (
        value(empty_db, "select count(*) from docs where embedding is not null")
        == (ended["completed"])
    )
    assert rows(empty_db, "select * from embedding_workers") == []
    assert run("process", **model).returncode == 0
    assert statuses(empty_db) == {"completed": 100}


def test_it_serves_the_dashboard_and_answers_probes(run: Run, container_url: str) -> None:
    assert run("migrate").returncode == 0
    settings = options(
        DATABASE_URL=container_url, WORKER_WEB_TOKEN=TOKEN, WORKER_WEB_ADDRESS="127.0.0.1:18080"
    )
    with Container(*settings, IMAGE, "serve") as container:
        ask = (
            "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:18080{}').status)"
        )
        eventually(lambda: container.python(ask.format("/readyz")).stdout == "200\n")
        assert container.python(ask.format("/healthz")).stdout == "200\n"
        container.stop()
        assert container.wait() == 0, container.log()


@pytest.fixture
def volume() -> Iterator[str]:
    """An empty volume, as Docker makes it."""
    name = f"embedding-worker-{uuid4().hex[:12]}"
    assert engine("volume", "create", name).returncode == 0
    yield name
    engine("volume", "rm", name)


def test_the_full_image_reads_files_and_makes_backups(
    run: Run, empty_db: Database, volume: str, tmp_path: Path
) -> None:
    fill(run, empty_db)
    document = docx.Document()
    document.add_paragraph("The notice period is three months")
    document.save(str(tmp_path / "contract.docx"))
    tmp_path.chmod(0o755)
    more = [f"--volume={volume}:/data", f"--volume={tmp_path}:/files:ro", "--tmpfs=/tmp"]
    in_full = partial(run, image=FULL_IMAGE, more=more, FILES_HOST="files")
    for command in (["files", "add", "/files"], ["files", "scan"], ["process"], ["backup"]):
        result = in_full(*command)
        assert result.returncode == 0, (command, result.stderr)
    found = in_full("search", "notice period", "--file", "*.docx", "--json")
    assert "three months" in found.stdout, found.stderr
    empty_db.execute("update docs set embedding = null")
    assert in_full("restore", "latest").returncode == 0
    assert value(empty_db, "select count(*) from docs where embedding is not null") == 3
