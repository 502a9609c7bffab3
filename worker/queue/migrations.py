"""The SQL files of `supabase/migrations`, as shipped with this worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def _supabase_folder() -> Path:
    """`supabase/` as the wheel carries it, or as it lies in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "supabase"
    return shipped if shipped.is_dir() else package.parent / "supabase"
