"""deploy/compose.yaml, run as docs/deployment.md says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from shutil import copy
from socket import create_server
from urllib.request import urlopen

import pytest

from tests import conftest
from tests.conftest import ENVIRONMENT
from tests.deploy.linters import DEPLOY
from tests.image.conftest import ENGINE, IMAGE, ON_A_BUSY_HOST, Completed, engine, lines_of

CHANGE_FOLDER, *PREPARE, SEARCH = lines_of("Compose")
PROJECT = "embedding-worker-test"
IS_READY = "pg_isready --host=127.0.0.1 --username=postgres"
COMPOSE = os.environ.get("TEST_COMPOSE", "docker compose")
eventually = partial(conftest.eventually, within=60)

Shell = Callable[[str], Completed]


@pytest.fixture
def port() -> int:
    with create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path, port: int) -> Iterator[Shell]:
    """Runs a line beside a copy of the file, without a clone. All that was started is removed."""
    copy(DEPLOY / "compose.yaml", tmp_path)
    chosen = {"IMAGE": IMAGE, "PORT": str(port), "COMPOSE_PROJECT_NAME": PROJECT}

    def shell(line: str) -> Completed:
        line = line.replace("compose exec", "compose exec -T").replace("docker compose", COMPOSE)
        return subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=ENVIRONMENT | chosen,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    yield shell
    shell("docker compose down --volumes")


def test_it_goes_from_nothing_to_a_search_result(shell: Shell, port: int, tmp_path: Path) -> None:
    assert CHANGE_FOLDER == "cd deploy"
    for line in PREPARE:
        result = up(shell) if line.endswith("up --detach") else shell(line)
        assert result.returncode == 0, (line, result.stderr)
        if line.endswith("> .env"):
            with (tmp_path / ".env").open("a") as settings:
                settings.writelines(f"{setting}\n" for setting in ON_A_BUSY_HOST)
    eventually(lambda: "you are paid back" in shell(SEARCH).stdout)
    with urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
        assert answer.status == 200
    eventually(worker_is_healthy)
    stopped = shell("docker compose stop worker")
    assert stopped.returncode == 0
    assert "worker_stopped" in shell("docker compose logs worker").stdout


def test_it_does_not_start_without_passwords(shell: Shell) -> None:
    result = shell("docker compose up --detach --no-build")
    assert result.returncode != 0
    assert "set it in the file .env" in result.stdout + result.stderr


def worker_is_healthy() -> bool:
    """Whether the healthcheck of the file passes. Without systemd, Podman runs it only if asked."""
    if ENGINE == "podman":
        return engine("healthcheck", "run", f"{PROJECT}_worker_1").returncode == 0
    health = engine("inspect", "--format={{.State.Health.Status}}", f"{PROJECT}-worker-1")
    return health.stdout.strip() == "healthy"


def up(shell: Shell) -> Completed:
    """`docker compose up --detach`. Podman of Debian 12 does not wait for what a service needs."""
    if ENGINE == "docker":
        return shell("docker compose up --detach --no-build")
    start = partial("docker compose up --detach --no-build --no-deps {}".format)
    assert shell(start("postgres")).returncode == 0
    eventually(lambda: shell(f"docker compose exec postgres {IS_READY}").returncode == 0)
    assert shell("docker compose run --rm --no-deps migrate").returncode == 0
    result = shell(start("worker"))
    eventually(lambda: "worker_started" in shell("docker compose logs worker").stdout)
    return result
