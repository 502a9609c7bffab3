"""The SQL files of `supabase/migrations`, as shipped with this worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.errors import SchemaError

SCHEMA_VERSION = 1
"""What `embedding_schema_version()` must answer. Raised with any change that old workers notice."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file, named as the Supabase CLI names them: `<version>_<name>.sql`."""

    version: str
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All migrations, in the order in which they are applied."""
    found = []
    for path in sorted((_supabase_folder() / "migrations").glob("*_*.sql")):
        version, name = path.stem.split("_", 1)
        found.append(Migration(version, name, path.read_text(encoding="utf-8")))
    return found


def seed() -> str:
    """The sample tables with their text, and their watches."""
    return (_supabase_folder() / "seed.sql").read_text(encoding="utf-8")


def check_version(version: int | None) -> None:
    """Raise SchemaError unless the schema (None: there is none) is of this worker's version."""
    if version is None:
        raise SchemaError(
            "the tables and functions of embedding-worker are missing from this database",
            "Apply the migrations: worker migrate (or: supabase db push).",
        )
    if version < SCHEMA_VERSION:
        raise SchemaError(
            f"the schema of this database ({version}) is older than this worker's"
            f" ({SCHEMA_VERSION})",
            "Apply the migrations: worker migrate (or: supabase db push).",
        )
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"the schema of this database ({version}) is newer than this worker's"
            f" ({SCHEMA_VERSION})",
            "Upgrade the worker: pip install --upgrade embedding-worker.",
        )


def _supabase_folder() -> Path:
    """`supabase/` as the wheel carries it, or as it lies in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "supabase"
    return shipped if shipped.is_dir() else package.parent / "supabase"
