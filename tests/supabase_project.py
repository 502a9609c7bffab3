"""A Supabase project on this machine, made of parts that nobody here wrote.

    with data_api(database_url) as project:
        supabase.create_client(project.url, project.secret_key)

The database is the embedded Postgres with what a hosted project brings: its roles, the schemas
`auth` and `extensions`, its default privileges. The Data API and the sign-up of users are
`@supabase/lite`, over it; migrations and lints are those of the Supabase CLI.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.tcp_proxy import TcpProxy

PARTS = Path(__file__).parents[1] / ".parts/supabase/node_modules"
START_SECONDS = 30
PROJECT = "project"  # the name of the database that is served, whatever the test
NO_SUPABASE = "there is no Supabase CLI, or no Node.js: see scripts/setup-parts"

# Roles are those of the whole server; each is made once.
ROLES = """
do $$
begin
    if to_regrole('anon') is null then
        create role anon nologin noinherit;
        create role authenticated nologin noinherit;
        create role service_role nologin noinherit bypassrls;
        create role authenticator login noinherit;
        grant anon, authenticated, service_role to authenticator;
        alter role anon set statement_timeout = '3s';
        alter role authenticated set statement_timeout = '8s';
        alter role authenticator set statement_timeout = '8s';
    end if;
    execute format('alter role %I set search_path = "$user", public, extensions', current_user);
exception when duplicate_object or unique_violation then
    null; -- another test made them in the same moment
end $$;
"""

# Of each database of a project: what is there before the first migration.
OF_A_PROJECT = """
create schema if not exists extensions;
create schema if not exists auth;
create extension if not exists vector with schema extensions;
grant usage on schema public, extensions, auth to anon, authenticated, service_role;
alter default privileges in schema public
    grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public
    grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public
    grant all on sequences to anon, authenticated, service_role;
create or replace function auth.uid() returns uuid language sql stable as $$
    select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
"""


@dataclass(frozen=True, slots=True)
class Project:
    """Where a project is reached, and its keys. `database` leads to its Postgres over TCP."""

    url: str
    secret_key: str
    publishable_key: str
    database: TcpProxy

    @property
    def database_url(self) -> str:
        return _short(self.database.url)


def supabase_is_here() -> bool:
    return (PARTS / ".bin/supabase").is_file() and shutil.which("node") is not None


def make_project(database_url: str) -> None:
    """Give a database what a Supabase project has before its first migration."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(ROLES)
        connection.execute(OF_A_PROJECT)


@contextmanager
def over_tcp(database_url: str) -> Iterator[str]:
    """Yield a URL on 127.0.0.1 for a database that has only a socket: node and the CLI want one."""
    with TcpProxy(database_url) as proxy:
        yield _short(proxy.url)


def supabase_cli(
    *arguments: str, workdir: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`supabase ARGUMENTS` in a project folder, with no account and nothing to ask."""
    return subprocess.run(
        [str(PARTS / ".bin/supabase"), "--workdir", str(workdir), "--yes", *arguments],
        env=_environment(workdir) | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_node(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an ES module that may import what lies in .parts/supabase."""
    (folder / "node_modules").unlink(missing_ok=True)
    (folder / "node_modules").symlink_to(PARTS)
    (folder / "script.mjs").write_text(script)
    return subprocess.run(
        ["node", "script.mjs"],
        cwd=folder,
        env=_environment(folder) | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def data_api(database_url: str) -> Iterator[Project]:
    """Yield a project whose Data API serves a database, on a port of its own.

    Stopped on leaving.
    """
    with TcpProxy(database_url) as database, tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        project = Project(
            url=f"http://127.0.0.1:{port}",
            secret_key="sb_secret_" + "s" * 22,
            publishable_key="sb_publishable_" + "p" * 22,
            database=database,
        )
        configuration = Path(folder, "supabase/config.toml")
        configuration.parent.mkdir()
        configuration.write_text(
            f'project_id = "tests"\n[api]\nport = {port}\n'
            f'[db]\ndriver = "postgres"\nurl = "{project.database_url}"\n'
            f'[auth]\npublishable_key = "{project.publishable_key}"\n'
            f'secret_key = "{project.secret_key}"\n'
            "[auth.email]\nenable_confirmations = false\n"
        )
        log = Path(folder, "log")
        with (
            log.open("wb") as output,
            subprocess.Popen(
                ["node", str(PARTS / ".bin/lite"), "start", "--no-admin"],
                cwd=folder,
                env=_environment(Path(folder)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                _await_server(process, log, project.url)
                yield project
            finally:
                process.kill()  # it has nothing to lose


def _short(url: str) -> str:
    return url.split("&")[0]


def _environment(home: Path) -> dict[str, str]:
    quiet = {"DO_NOT_TRACK": "1", "LITE_TELEMETRY": "0", "SUPABASE_TELEMETRY_DISABLED": "1"}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "NO_COLOR": "1", **quiet}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _await_server(process: subprocess.Popen[bytes], log: Path, url: str) -> None:
    """Wait until it has run the last statement of its start, which is after "Server running"."""
    end = time.monotonic() + START_SECONDS
    while "\nReady in " not in (said := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"@supabase/lite did not start: {said}")
        time.sleep(0.02)
