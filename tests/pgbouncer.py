"""A pgbouncer in transaction mode before a Postgres of this machine, as many a host has one.

    with pgbouncer(url) as pooled_url:
        psycopg.connect(pooled_url)

Whoever reaches its socket is a superuser of the server behind it, whatever name they give: the
socket lies in a folder that is closed to all users but one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

PORT = 6432  # nothing but a part of the socket's name
POOL_SIZE = 3  # small, so that sessions are shared
START_SECONDS = 10
NO_PGBOUNCER = "there is no pgbouncer: see scripts/setup-parts"

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}

[pgbouncer]
unix_socket_dir = {folder}
listen_port = {own_port}
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
max_db_connections = 0
; A client gets the session that waited longest, and so another one than last time if it can be.
server_round_robin = 1
"""


def pgbouncer_program() -> str | None:
    """The path of pgbouncer. Debian has it where the PATH of most users does not lead."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def pgbouncer(url: str, pool_size: int = POOL_SIZE, mode: str = "transaction") -> Iterator[str]:
    """Yield the URL that leads through a pooler to the server at `url`, which has a socket.

    Each database is served by `pool_size` sessions of the server at most. Stopped on leaving.
    """
    program = pgbouncer_program()
    assert program, NO_PGBOUNCER
    server = conninfo_to_dict(url)
    user, host, port = server["user"], str(server["host"]), server.get("port") or 5432
    # Not below pytest's own folder: of root, each run closes that one to all others.
    with tempfile.TemporaryDirectory(prefix="embedding-worker-pgbouncer-") as folder:
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(
                host=host,
                port=port,
                user=user,
                folder=folder,
                own_port=PORT,
                pool_size=pool_size,
                mode=mode,
            )
        )
        command = [program, str(configuration)]
        if os.geteuid() == 0:
            # It does not run as root, and Postgres lets no other user but its own near its socket.
            owner = Path(host, f".s.PGSQL.{port}").owner()
            shutil.chown(folder, owner)
            command += ["-u", owner]
        way = urlencode({"host": folder, "port": PORT})
        pooled_url = f"postgresql://{user}@/{server['dbname']}?{way}"
        with _running(command, Path(folder) / "log", pooled_url):
            yield pooled_url


def open_all_sessions(pooled_url: str) -> None:
    """Have the pooler open the sessions of a database, among which it then changes.

    By itself it opens a further one only if all others are busy, and a client that is alone meets
    one and the same each time.
    """
    with ExitStack() as transactions:
        for _ in range(POOL_SIZE):
            connection = transactions.enter_context(psycopg.connect(pooled_url))
            connection.execute("select")  # begins a transaction, which has a session to itself


@contextmanager
def _running(command: list[str], log: Path, url: str) -> Iterator[None]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _await_connections(process, log, url)
            yield
        finally:
            # It has nothing to lose, and at SIGTERM newer ones wait until all clients have gone.
            process.kill()


def _await_connections(process: subprocess.Popen[bytes], log: Path, url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=START_SECONDS).close()
            return
        except psycopg.OperationalError as problem:
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace")
                raise RuntimeError(f"pgbouncer did not start: {problem}\n{said}") from problem
        time.sleep(0.02)
