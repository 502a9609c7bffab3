"""The SQL files of `supabase/migrations`, as shipped with this worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SchemaError

SCHEMA_VERSION = 2
"""What `embedding_schema_version()` returns. Each minor release increases both by one."""

MIGRATE = "Apply the migrations: worker migrate (or: supabase db push --remote)."

COPY_PREFIX = "embedding_worker_"
"""Prefix of the names of copies: a project may have its own migration `search`."""

History = Mapping[str, str | None]
"""The version of each migration that a database has applied, with its name."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file, named as the Supabase CLI names them: `<version>_<name>.sql`."""

    version: str
    name: str
    sql: str

    @property
    def copy_name(self) -> str:
        """The name of its copy in a project, after the version."""
        return COPY_PREFIX + self.name

    def version_in(self, history: History) -> str | None:
        """The version under which a history lists it or its copy; None if it does not."""
        copies = (version for version, name in history.items() if name == self.copy_name)
        return self.version if self.version in history else next(copies, None)


def migrations() -> list[Migration]:
    """All migrations, in the order in which they are applied."""
    return [_migration(path) for path in sorted(shipped("supabase/migrations").glob("*_*.sql"))]


def scheduled() -> Migration:
    """The scheduled jobs of pg_cron, which are applied only on request."""
    return Migration("", "pg_cron", shipped("deploy/pg_cron.sql").read_text(encoding="utf-8"))


def seed() -> str:
    """The sample tables with their text, and their watches."""
    return shipped("supabase/seed.sql").read_text(encoding="utf-8")


def check_version(version: int | None) -> int:
    """Return by how many versions the schema (None: there is none) is newer than this worker's.

    Raises SchemaError unless they are at most one version apart: then both work together.
    """
    if version is None:
        raise SchemaError(
            "the tables and functions of embedding-worker are missing from this database", MIGRATE
        )
    newer = version - SCHEMA_VERSION
    if abs(newer) > 1:
        raise SchemaError(
            f"the schema of this database ({version}) is {'newer' if newer > 0 else 'older'} than"
            f" this worker's ({SCHEMA_VERSION}) by more than one version",
            "Upgrade the worker: pip install --upgrade embedding-worker." if newer > 0 else MIGRATE,
        )
    return newer


def shipped(name: str) -> Path:
    """The path of a file or folder in the wheel, or else in a checkout."""
    package = Path(__file__).parents[1]
    carried = package / name
    return carried if carried.exists() else package.parent / name


def _migration(path: Path) -> Migration:
    version, name = path.stem.split("_", 1)
    return Migration(version, name, path.read_text(encoding="utf-8"))
