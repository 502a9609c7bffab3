"""Makes the embedded server listen on a TCP port of this machine too, like a server on a network.

The package that starts the embedded server gives it a Unix socket only. Connections over TCP need a
password, since every user of this machine can reach the port and the role is a superuser.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from worker.database.embedded import program

HOST = "127.0.0.1"
ACCESS = ("local all all trust", f"host all all {HOST}/32 scram-sha-256")  # pg_hba.conf


@contextmanager
def listening_on_tcp(url: str) -> Iterator[tuple[str, str]]:
    """Restart the server. Yields its URLs over the socket and over TCP; stops it at the end."""
    password, port = secrets.token_hex(16), _free_port()
    with psycopg.connect(url, autocommit=True) as connection:
        folder = Path(str(connection.execute("show data_directory").fetchall()[0][0]))
        connection.execute(
            sql.SQL("copy (select unnest({}::text[])) to {}").format(
                sql.Literal(list(ACCESS)), sql.Literal(str(folder / "pg_hba.conf"))
            )
        )
        connection.execute(sql.SQL("alter role current_user password {}").format(password))
        user = connection.info.user
    socket_folder = conninfo_to_dict(url)["host"]
    _control(folder, "restart", "-o", f"-h {HOST} -p {port} -k {socket_folder}")
    try:
        yield f"{url}&port={port}", f"postgresql://{user}:{password}@{HOST}:{port}/postgres"
    finally:
        _control(folder, "stop")


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port: int = bound.getsockname()[1]
        return port


def _control(data: Path, action: str, *options: str) -> None:
    """Run pg_ctl as the owner of the data, since it refuses to run as root."""
    pg_ctl = program("pg_ctl")
    assert pg_ctl, "the embedded server comes with pg_ctl"
    subprocess.run(
        [pg_ctl, "-w", "-D", data, "-l", data / "log", *options, action],
        user=data.owner() if os.geteuid() == 0 else None,
        cwd=data.anchor,
        stdout=subprocess.DEVNULL,
        check=True,
    )
