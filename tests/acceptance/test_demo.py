"""`worker demo` on an embedded Postgres of its own, as whoever runs it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.conftest import Completed, refused
from tests.conftest import REPOSITORY, memory, run_worker
from tests.documentation import assert_shows, blocks
from tests.openai_server import OpenAIServer
from worker.database.embedded import embedded_postgres

BEST_MATCHES = {
    "shipments are delayed": "Some 1,900 parcels have been standing in trailers",
    "we were charged twice": "The bookkeeper at Marlow found two identical payments",
    "disaster recovery": "Restore drill from the nightly backup",
    "how do I get my money back": "[Refunds] The money goes back the way it came.",
}

SUMMARY = """\
=== PROCESSING SUMMARY ===
Total records processed: 60
Total errors: 0
Success rate: 100.0%
"""

# Of a path too long for a socket, that one lies in the temporary folder. Root is refused it.
TOO_LONG_FOR_ROOT = "data" if os.geteuid() == 0 else "long-" * 30


def best_matches(output: str) -> dict[str, str]:
    """The text of the first row below each search."""
    found = re.findall(r'^"(.+)" in \w+, nearest first:\n[\d.]+  \S+  (.+)$', output, re.M)
    return dict(found)


def check(result: Completed) -> None:
    """All that a demo must show."""
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert SUMMARY in result.stdout
    found = best_matches(result.stdout)
    assert found.keys() == BEST_MATCHES.keys()
    for words, text in BEST_MATCHES.items():
        assert found[words].startswith(text)
    suggested = result.stderr.split("Try next:\n")[1]
    # `worker`, or how it was called where that is not on the PATH.
    commands = re.findall(r"^  (?:worker|python -m worker) (\w+)", suggested, re.M)
    assert commands == ["search", "status", "watch"]


def nothing_runs_on(data_dir: Path) -> bool:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    # Some of the processes of a server name its folder, and their head has a file in it.
    return str(data_dir) not in listed.stdout and not list(data_dir.glob("*/postmaster.pid"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder, not below pytest's own: see the fixture `server`."""
    with tempfile.TemporaryDirectory(prefix="worker-demo-", dir=memory()) as name:
        yield Path(name)


def test_the_demo_works_twice_and_stops_its_server(folder: Path) -> None:
    data_dir = folder / "data"
    # With nothing else in the environment: no HOME, no XDG_RUNTIME_DIR.
    environment = {"WORKER_DATA_DIR": str(data_dir)}
    first = run_worker("demo", cwd=folder, environment=environment)
    check(first)
    [shown] = blocks("README.md", "Try it")[0].steps()
    assert_shows(shown, first.stdout, first.stderr)
    assert f"its data is in {data_dir}\n" in first.stderr
    assert nothing_runs_on(data_dir)

    second = run_worker("demo", cwd=folder, environment=environment)
    check(second)
    assert "(already applied)" in second.stderr
    assert best_matches(second.stdout) == best_matches(first.stdout)
    assert nothing_runs_on(data_dir)

    suggested = re.search(r'worker (search) "(.+)" (--table) (\w+)', second.stderr)
    assert suggested
    for arguments in (suggested.groups(), ["status"]):
        assert run_worker(*arguments, cwd=folder, environment=environment).returncode == 0
    assert nothing_runs_on(data_dir)


def test_the_demo_keeps_out_of_the_database_and_the_account_of_the_settings(
    folder: Path, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    environment = with_openai | {
        "WORKER_DATA_DIR": str(folder / "data"),
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }
    check(run_worker("demo", cwd=folder, environment=environment))
    assert openai.requests == []


@pytest.mark.only_in_full
def test_the_demo_needs_no_setting_that_it_does_not_use(folder: Path) -> None:
    environment = {
        "EMBEDDING_MODEL": "openai:text-embedding-3-small",  # without its key
        "SUPABASE_URL": "https://x.supabase.co",
        "WORKER_DATA_DIR": str(folder / "data"),
    }
    check(run_worker("demo", cwd=folder, environment=environment))


@pytest.mark.parametrize("name", ["Daten-für-Æsop", TOO_LONG_FOR_ROOT])
def test_a_server_starts_over_any_folder(folder: Path, name: str) -> None:
    environment = {"WORKER_DATA_DIR": str(folder / name)}
    result = run_worker("migrate", "--status", cwd=folder, environment=environment)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to run as root")
def test_of_root_the_socket_never_lies_where_others_reach_it(folder: Path) -> None:
    environment = {"WORKER_DATA_DIR": str(folder / ("long-" * 30))}
    cause, _ = refused(run_worker("status", cwd=folder, environment=environment), 2)
    assert "too long for a socket" in cause


@pytest.mark.parametrize("name", ["two words", "it's", 'a"quotation"'])
def test_a_folder_that_no_server_can_be_started_over_is_refused(folder: Path, name: str) -> None:
    environment = {"WORKER_DATA_DIR": str(folder / name)}
    cause, hint = refused(run_worker("status", cwd=folder, environment=environment), 2)
    assert "holds a space or a quotation mark" in cause
    assert "WORKER_DATA_DIR" in hint
    assert not (folder / name).exists()


@pytest.mark.parametrize("name", ["data", TOO_LONG_FOR_ROOT])
def test_the_socket_is_out_of_reach_for_other_users(folder: Path, name: str) -> None:
    with embedded_postgres(folder / name) as url:
        socket = Path(str(conninfo_to_dict(url)["host"])) / ".s.PGSQL.5432"
        assert socket.is_socket()
        on_the_way = [parent.stat().st_mode for parent in socket.parents]
    assert any(not mode & stat.S_IXOTH for mode in on_the_way)


# As somebody else


@dataclass(frozen=True)
class Readable:
    """This Python and this worker where anybody may read them, and a shared temporary folder."""

    folder: Path
    data: Path
    """Where users have their folders."""

    def run(self, *arguments: str, user: str, **environment: str) -> Completed:
        who = pwd.getpwnam(user)
        return subprocess.run(
            [str(self.folder / "python" / "bin" / "python"), "-m", "worker", *arguments],
            cwd=self.folder,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONHOME": str(self.folder / "python"),
                "PYTHONPATH": f"{self.folder / 'app'}{os.pathsep}{self.folder / 'site'}",
                "LD_LIBRARY_PATH": str(self.folder / "python" / "lib"),
                "TMPDIR": str(self.folder / "tmp"),
                **environment,
            },
            user=who.pw_uid,
            group=who.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def folder_of(self, user: str) -> Path:
        """A new folder that belongs to the user."""
        folder = self.data / user
        folder.mkdir()
        who = pwd.getpwnam(user)
        os.chown(folder, who.pw_uid, who.pw_gid)
        return folder


@pytest.fixture(scope="module")
def readable() -> Iterator[Readable]:
    # Not below pytest's own folder, which is closed to others.
    with (
        tempfile.TemporaryDirectory(prefix="worker-demo-") as name,
        tempfile.TemporaryDirectory(prefix="worker-demo-", dir=memory()) as data,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        Path(data).chmod(0o755)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        _copy_python(folder / "python")
        development = shutil.ignore_patterns("mypy*", "*mypyc*", "pip", "setuptools", "hf_xet")
        shutil.copytree(
            sysconfig.get_path("purelib"), folder / "site", ignore=development, copy_function=_link
        )
        shutil.copytree(REPOSITORY / "worker", folder / "app" / "worker")
        shutil.copytree(REPOSITORY / "supabase", folder / "app" / "supabase")
        yield Readable(folder, Path(data))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


def _copy_python(target: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    bulk = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "ensurepip")
    shutil.copytree(library, target / "lib" / library.name, ignore=bulk)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy(shared, target / "lib")
    (target / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), target / "bin" / "python")


only_as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run the demo as somebody else"
)


@only_as_root
@pytest.mark.only_in_full
def test_the_demo_works_for_root_and_then_for_somebody_else(readable: Readable) -> None:
    environments: Mapping[str, dict[str, str]] = {
        user: {"WORKER_DATA_DIR": str(readable.folder_of(user) / "data")}
        for user in ("root", "nobody")
    }
    for user in ("root", "nobody", "root"):
        check(readable.run("demo", user=user, **environments[user]))
        assert nothing_runs_on(Path(environments[user]["WORKER_DATA_DIR"]))


@only_as_root
def test_the_data_of_somebody_else_is_not_touched(readable: Readable) -> None:
    environment = {"WORKER_DATA_DIR": str(readable.folder_of("daemon") / "data")}
    check(readable.run("demo", user="daemon", **environment))
    cause, hint = refused(readable.run("status", user="nobody", **environment), 2)
    assert cause.startswith("the data of the embedded Postgres cannot be kept in ")
    assert "WORKER_DATA_DIR" in hint


@only_as_root
def test_somebody_without_a_home_is_told_to_name_a_folder(readable: Readable) -> None:
    home = Path(pwd.getpwnam("nobody").pw_dir)
    if home.exists():
        pytest.skip("nobody has a home here")
    cause, hint = refused(readable.run("status", user="nobody"), 2)
    assert cause.startswith("the data of the embedded Postgres cannot be kept in ")
    assert "WORKER_DATA_DIR" in hint
