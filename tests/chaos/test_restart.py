"""A Postgres that is restarted under its workers, as after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import Held, Start, fill, statuses
from tests.chaos.conftest import ONE_OUTAGE, CountingServer, ended, wrong_vectors
from tests.conftest import value
from tests.web import served_web
from worker.database.embedded import POSTGRES_VERSION, embedded_postgres
from worker.database.migrations import migrations
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

BATCH = 5
IN_HAND = 8 * BATCH  # of a worker, with all the requests under way that it makes at once
ROWS = 5 * IN_HAND  # what two workers take before the restart and during it, and a rest


@dataclass(frozen=True)
class OwnServer:
    """A Postgres of one test alone. It writes through to the disk, as the session's does not."""

    url: str
    folder: Path
    programs: Path

    def restart(self) -> None:
        assert self.control("restart", "-m", "immediate") == 0

    def kill_and_start(self) -> None:
        self.kill()
        self.start()

    def kill(self) -> None:
        postmaster = (self.folder / "postmaster.pid").read_text().split()[0]
        os.kill(int(postmaster), signal.SIGKILL)

    def start(self) -> None:
        while self.control("restart") != 0:  # not before the last of its processes has gone
            pass

    def control(self, *arguments: str) -> int:
        """Run pg_ctl as the user that the server runs as. Returns its exit code."""
        return subprocess.run(
            [
                self.programs / "pg_ctl",
                "-w",
                "-D",
                self.folder,
                "-l",
                self.folder / "log",
                *arguments,
            ],
            user=self.folder.stat().st_uid,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="embedding-worker-") as folder:
        data_dir = Path(folder).resolve()
        with embedded_postgres(data_dir) as url:
            with embedded_postgres(data_dir) as same:  # another thread stops using it
                assert same == url
            with PostgresQueue(url, "tests") as queue:
                for migration in migrations():
                    queue.apply(migration)
            with psycopg.connect(url) as db:
                programs = Path(value(db, "select setting from pg_config where name = 'BINDIR'"))
            server = OwnServer(url, data_dir / f"postgres{POSTGRES_VERSION}", programs)
            yield server
            # on leaving, embedded_postgres would stop the process that it has started, and no other
            server.control("stop", "-m", "immediate")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash" in metafunc.fixturenames:
        crashes = [OwnServer.restart]
        if metafunc.config.getoption("--full"):
            crashes += [OwnServer.kill_and_start]
        metafunc.parametrize("crash", crashes)


@pytest.mark.timeout(120)
def test_workers_wait_for_a_database_that_crashed_and_go_on(
    own_server: OwnServer,
    start: Start,
    openai: CountingServer,
    with_openai: dict[str, str],
    crash: Callable[[OwnServer], None],
) -> None:
    before, after = Held(), Held()
    openai.faults += [before] * 16 + [after] * 16
    with psycopg.connect(own_server.url, autocommit=True) as notes:
        notes.execute("create table notes (id bigint primary key, body text)")
        notes.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 8)")
        fill(notes, ROWS)
    flags = ["process", "--json", "--batch-size", str(BATCH)]
    with_openai |= {"DATABASE_URL": own_server.url}
    workers = [start(*flags, **with_openai) for _ in range(2)]
    openai.wait_for_texts(2 * IN_HAND)  # both have their hands full, and begin to write
    before.let_go.set()
    crash(own_server)
    after.let_go.set()  # neither of them ended in between

    summaries = []
    for worker in workers:
        summary, said = ended(worker)
        assert ONE_OUTAGE.fullmatch(said)
        summaries.append(summary)
    assert sum(summary["completed"] for summary in summaries) == ROWS
    assert set(openai.times_asked().values()) == {1}
    with psycopg.connect(own_server.url, autocommit=True) as notes:
        assert statuses(notes) == {"completed": ROWS}
        assert wrong_vectors(notes) == []
        assert value(notes, "select count(*) from embedding_workers") == 0


@pytest.mark.timeout(120)
def test_the_dashboard_says_that_its_database_was_killed_and_goes_on(own_server: OwnServer) -> None:
    with served_web(Settings(database_url=own_server.url)) as web:
        with web.as_admin.stream("GET", "/live", params={"page": "/workers"}) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if line == "data: <h1>Workers</h1>")
            own_server.kill()
            assert next(line for line in lines if line.startswith("event:")) == "event: outage"
            page = web.get("/")
            assert page.status_code == 503
            assert "retry-after" in page.headers
            assert web.as_nobody.get("/readyz").status_code == 503
            assert web.as_nobody.get("/healthz").status_code == 200
            own_server.start()
            next(line for line in lines if line == "data: <h1>Workers</h1>")
        assert web.get("/").status_code == 200
        assert web.as_nobody.get("/readyz").status_code == 200
