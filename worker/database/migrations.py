"""The SQL files of `supabase/migrations`, as shipped with this worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SchemaError

SCHEMA_VERSION = 1
"""What `embedding_schema_version()` must return. Increase it if a change affects old workers."""

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
    return Migration(
        "", "pg_cron", shipped("supabase/optional/pg_cron.sql").read_text(encoding="utf-8")
    )


def seed() -> str:
    """The sample tables with their text, and their watches."""
    return shipped("supabase/seed.sql").read_text(encoding="utf-8")


def check_version(version: int | None) -> None:
    """Raise SchemaError unless the schema (None: there is none) is of this worker's version."""
    if version is None:
        raise SchemaError(
            "the tables and functions of embedding-worker are missing from this database",
            "Apply the migrations: worker migrate (or: supabase db push --remote).",
        )
    if version < SCHEMA_VERSION:
        raise SchemaError(
            f"the schema of this database ({version}) is older than this worker's"
            f" ({SCHEMA_VERSION})",
            "Apply the migrations: worker migrate (or: supabase db push --remote).",
        )
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"the schema of this database ({version}) is newer than this worker's"
            f" ({SCHEMA_VERSION})",
            "Upgrade the worker: pip install --upgrade embedding-worker.",
        )


def shipped(name: str) -> Path:
    """The path of a file or folder in the wheel, or else in a checkout."""
    package = Path(__file__).parents[1]
    carried = package / name
    return carried if carried.exists() else package.parent / name


def _migration(path: Path) -> Migration:
    version, name = path.stem.split("_", 1)
    return Migration(version, name, path.read_text(encoding="utf-8"))
