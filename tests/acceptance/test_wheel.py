"""The wheel carries all that the worker needs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import ENVIRONMENT, REPOSITORY, run_worker
from worker import __version__
from worker.database.migrations import migrations, scheduled, seed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the first process that needs it."""
    of_this_process = tmp_path_factory.getbasetemp()
    of_all = of_this_process.parent if "PYTEST_XDIST_WORKER" in os.environ else of_this_process
    folder = of_all / "wheel"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return next(folder.glob("*.whl"), None) or _built_wheel(folder)


def _built_wheel(folder: Path) -> Path:
    uv = shutil.which("uv")
    if uv:
        command = [uv, "build", "--wheel", "--out-dir", str(folder), str(REPOSITORY)]
    else:
        pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--wheel-dir", str(folder), str(REPOSITORY)]
    built = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if built.returncode and not os.environ.get("CI"):
        pytest.skip("no wheel can be built here; is there a network?")
    assert built.returncode == 0, built.stderr
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_carries_the_migrations_and_the_sample_data(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for found in migrations():
            name = f"worker/supabase/migrations/{found.version}_{found.name}.sql"
            assert archive.read(name).decode() == found.sql
        assert archive.read("worker/supabase/seed.sql").decode() == seed()
        pg_cron = archive.read("worker/deploy/pg_cron.sql").decode()
        assert pg_cron == scheduled().sql
        example = archive.read("worker/.env.example").decode()
        assert example == (REPOSITORY / ".env.example").read_text()
    shipped = [name for name in names if name.startswith("worker/supabase/")]
    assert len(shipped) == len(migrations()) + 1


def test_the_wheel_carries_the_worker_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    here = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("worker/**/*.py")}
    assert here <= set(names)
    assert "worker/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"worker", f"embedding_worker-{__version__}.dist-info"}


def test_the_metadata_give_the_name_the_version_and_the_script(wheel: Path) -> None:
    folder = f"embedding_worker-{__version__}.dist-info"
    with ZipFile(wheel) as archive:
        metadata = message_from_string(archive.read(f"{folder}/METADATA").decode())
        scripts = ConfigParser()
        scripts.read_string(archive.read(f"{folder}/entry_points.txt").decode())
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert metadata["Name"] == "embedding-worker"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = {
        "backup",
        "bedrock",
        "embedded",
        "files",
        "local",
        "mcp",
        "otel",
        "s3",
        "sentence-transformers",
        "tiktoken",
        "web",
    }
    assert set(metadata.get_all("Provides-Extra") or []) == extras
    assert dict(scripts["console_scripts"]) == {"worker": "worker.__main__:main"}


def test_what_the_wheel_unpacks_to_migrates_an_empty_database(
    wheel: Path, tmp_path: Path, empty_database_url: str
) -> None:
    site = tmp_path / "site"
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {"DATABASE_URL": empty_database_url, "PYTHONPATH": str(site)}
    result = run_worker("migrate", cwd=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(migrations())


@pytest.mark.only_in_full
def test_what_the_wheel_unpacks_to_shows_the_demo(wheel: Path) -> None:
    # Not below pytest's own folder: of root, the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="worker-demo-") as name:
        site = Path(name) / "site"
        with ZipFile(wheel) as archive:
            archive.extractall(site)
        environment = {"WORKER_DATA_DIR": f"{name}/data", "PYTHONPATH": str(site)}
        result = run_worker("demo", cwd=Path(name), environment=environment)
    assert result.returncode == 0, result.stderr
    assert "Total records processed: 60" in result.stdout
    assert "worker search" in result.stderr
