"""docs/uninstall.md leaves a database as it was before `worker migrate`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.conftest import REPOSITORY, Database, memory, migrate, rows, value
from worker.database.embedded import POSTGRES_VERSION, embedded_postgres

# The names of all objects of users, and what may be left of rights and settings.
CATALOG = """
    with relation as (
        select oid, oid::regclass::text as name, relkind, relacl, relrowsecurity, reloptions
          from pg_class
         where relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
    )
    select 'schema', nspname::text, nspacl::text from pg_namespace
     where nspname !~ '^pg_(toast_)?temp'
    union all select 'relation', name, concat_ws(' ', relkind, relacl, relrowsecurity, reloptions)
                from relation
    union all select 'column', name || '.' || attname, format_type(atttypid, atttypmod)
                from relation join pg_attribute on attrelid = relation.oid
               where attnum > 0 and not attisdropped
    union all select 'trigger', tgname, tgrelid::regclass::text from pg_trigger
               where not tgisinternal
    union all select 'policy', polname, polrelid::regclass::text from pg_policy
    union all select 'constraint', conname, conrelid::regclass::text from pg_constraint
               where conrelid in (select oid from relation)
    union all select 'function', oid::regprocedure::text, proacl::text from pg_proc
    union all select 'type', oid::regtype::text, typacl::text from pg_type
    union all select 'operator', oid::regoperator::text, '' from pg_operator
    union all select 'cast', castsource::regtype::text, casttarget::regtype::text from pg_cast
    union all select 'extension', extname, extversion from pg_extension
    union all select 'role', rolname, rolconfig::text from pg_roles
    union all select 'member', roleid::regrole::text, member::regrole::text from pg_auth_members
    union all select 'setting', setrole::regrole::text, setconfig::text from pg_db_role_setting
    union all select 'default right', defaclobjtype::text, defaclacl::text from pg_default_acl
    union all select 'event trigger', evtname, '' from pg_event_trigger
    union all select 'large object', oid::text, '' from pg_largeobject_metadata
    order by 1, 2, 3
"""


@pytest.fixture
def own_db() -> Iterator[Database]:
    """The database of a server of this test alone, since roles are those of a whole server."""
    with (
        tempfile.TemporaryDirectory(prefix="embedding-worker-", dir=memory()) as folder,
        embedded_postgres(Path(folder), int(POSTGRES_VERSION)) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        yield connection


def statements() -> list[str]:
    """The SQL of the page, in its order, without that for pg_cron."""
    page = (REPOSITORY / "docs/uninstall.md").read_text(encoding="utf-8")
    return [block for block in re.findall(r"```sql\n(.*?)```", page, re.S) if "cron." not in block]


def test_the_page_leaves_a_database_as_it_was(own_db: Database) -> None:
    own_db.execute("create table docs (id bigint primary key, body text, summary text)")
    own_db.execute(
        "create function public.of_mine() returns integer language sql"
        " set search_path = '', pg_temp as 'select 1'"
    )
    before = rows(own_db, CATALOG)
    migrate(own_db.info.dsn)
    for options in (
        "'body', 'embedding', dimensions => 3, language => 'english', match_function => true",
        "'summary', 'in_side_table', dimensions => 3, store => 'table'",
        "'body', 'in_chunks', dimensions => 3, chunks => true",
    ):
        own_db.execute(sql.SQL(f"select watch_embeddings('docs', {options})"))
    own_db.execute("insert into docs values (1, 'text', 'summary')")
    own_db.execute("update docs set embedding = '[1,2,3]'")
    own_db.execute("create role app login in role embedding_worker")
    unwatch, drop, *of_the_server = statements()
    own_db.execute(sql.SQL(unwatch))
    own_db.execute(sql.SQL(drop))
    assert value(own_db, "select count(*) from supabase_migrations.schema_migrations") == 0
    assert value(own_db, "select embedding::text from docs") == "[1,2,3]"
    own_db.execute("drop role app")
    own_db.execute("alter table docs drop column embedding")
    for block in of_the_server:
        own_db.execute(sql.SQL(block))
    assert rows(own_db, CATALOG) == before


def test_what_depends_on_it_is_named_and_nothing_is_dropped(docs: Database) -> None:
    docs.execute("create view failures as select * from embedding_failures")
    _, drop, *_ = statements()
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="embedding_failures"):
        docs.execute(sql.SQL(drop))
    docs.execute("rollback")
    assert value(docs, "select count(*) from embedding_targets") == 1
