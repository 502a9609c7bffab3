"""Nobody runs code as the owner of the SQL API, and no error carries a value of a row."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.conftest import Database, migrate, rest_in_full, rows, value
from tests.integration.jobs import SCOPE
from tests.integration.tables import Table, acting_as, create_role, embed, embed_all, refusal
from worker.errors import WorkerError
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue

# -- the owner of a watched table


@pytest.fixture
def bobs(db: Database) -> Database:
    """A table `bob.docs` that belonged to the owner when it was watched, and belongs to bob now.

    `loot` counts how often code of bob has run as somebody else, also in what was rolled back.
    """
    create_role(db, "bob", "login")
    db.execute("create sequence loot")
    db.execute("grant all on sequence loot to bob")
    db.execute("create schema bob")
    db.execute("create table bob.docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('bob.docs', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into bob.docs values (1, 'one'), (2, 'two')")
    database = sql.Identifier(db.info.dbname)
    db.execute(sql.SQL("grant create on database {} to bob").format(database))
    return db


CLAIM: LiteralString = (
    "select array[id], array[lease], array[content_hash] from claim_embeddings('tests', 1)"
)
COMPLETE: LiteralString = (
    "select reason from complete_embeddings(%s, %s, %s, array['[1,2,3]'::vector], 'a:b')"
)
USES: list[LiteralString] = [
    "select * from embedding_status",
    "select * from list_embeddings()",
    "select * from estimate_embeddings('a:b')",
    "select * from estimate_embeddings('a:b', missing => true)",
    "select * from reprocess_embeddings('*')",
    "select * from diagnose_embeddings()",
    "select * from search_embeddings('bob.docs', 'embedding', '[1,2,3]')",
    "select * from missing_embeddings('bob.docs', 'embedding', '{1}')",
    "select backfill_embeddings('bob.docs', 'embedding')",
    "select watch_embeddings('bob.docs', 'body', 'embedding')",
    "select * from claim_embeddings('tests')",
    "select * from export_embeddings('bob.docs', 'embedding')",
    "select * from restore_embeddings('bob.docs', 'embedding', '{1,2}',"
    " array[sha256('one'), sha256('two')], '{\"[1,2,3]\", \"[1,2,3]\"}', 'a:b')",
    "select * from claim_records('bob.docs', 'embedding', '{1,2}', 'tests', '1 minute')",
]
# Of what bob may do with a table of his; each makes a function of his run wherever it can.
TRAPS: dict[str, list[LiteralString]] = {
    "nothing": [],
    "trigger": [
        "create trigger t before update on bob.docs for each row execute function bob.trigger()"
    ],
    "constraint": ["alter table bob.docs add check (bob.spy()) not valid"],
    "generated column": [
        "alter table bob.docs add g boolean generated always as (bob.spy()) stored"
    ],
    "index": ["create index on bob.docs ((bob.spy()))"],
    "policy": [
        "create policy p on bob.docs using (bob.spy())",
        "alter table bob.docs enable row level security, force row level security",
    ],
    "rule": ["create rule r as on update to bob.docs do also select bob.spy()"],
    "view": [
        "alter table bob.docs rename to hidden",
        "create view bob.docs as select id, body, embedding from bob.hidden where bob.spy()",
    ],
    "other table": [
        "alter table bob.docs rename to hidden",
        "create table bob.docs as select * from bob.hidden",
        "alter table bob.docs add primary key (id)",
        "create trigger t before update on bob.docs for each row execute function bob.trigger()",
    ],
    "other schema": [
        "create schema other",
        "create view other.docs as select id, body, embedding from bob.docs where bob.spy()",
        "alter schema bob rename to hidden",
        "alter schema other rename to bob",
    ],
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_owner_of_a_table_runs_nothing_as_the_owner_of_the_api(
    bobs: Database, trap: str
) -> None:
    """Whoever claims, completes or looks."""
    [claimed] = rows(bobs, CLAIM)
    bobs.execute("alter table bob.docs owner to bob")
    bobs.execute("alter schema bob owner to bob")
    with acting_as(bobs, "bob"):
        bobs.execute(
            "create function bob.spy() returns boolean language plpgsql immutable as $$ begin"
            " if current_user <> 'bob' then perform pg_catalog.nextval('public.loot'); end if;"
            " return true; end $$"
        )
        bobs.execute(
            "create function bob.trigger() returns trigger language plpgsql as"
            " $$ begin perform bob.spy(); return new; end $$"
        )
        for statement in TRAPS[trap]:
            bobs.execute(statement)
    assert rows(bobs, COMPLETE, *claimed) == [("suspended",)]
    for _ in range(2):
        for call in USES:
            with suppress(psycopg.Error):
                bobs.execute(call)
        [(problem,)] = rows(bobs, "select problem from embedding_targets")
        assert "bob" in problem
        bobs.execute("update embedding_targets set problem = null")
    assert value(bobs, "select is_called from loot") is False


def test_a_part_of_another_owner_closes_the_whole_table(db: Database) -> None:
    create_role(db, "bob", "login")
    db.execute("create table docs (id bigint primary key, body text) partition by range (id)")
    db.execute(
        "create table low partition of docs for values from (0) to (9) partition by range (id)"
    )
    db.execute("create table lowest partition of low for values from (0) to (5)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into docs values (1, 'one')")
    db.execute("alter table lowest owner to bob")
    assert rows(db, "select * from claim_embeddings('tests')") == []
    assert "table public.lowest belongs to bob" in value(
        db, "select problem from embedding_targets"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("alter schema app owner to bob", "schema app belongs to bob"),
        (
            "create table child () inherits (app.docs); alter table child owner to bob",
            "table public.child belongs to bob",
        ),
    ],
    ids=["its schema", "a child by inheritance"],
)
def test_what_another_role_owns_around_a_table_closes_it(
    db: Database, change: LiteralString, problem: str
) -> None:
    create_role(db, "bob", "login")
    db.execute("create schema app; create table app.docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('app.docs', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into app.docs values (1, 'one')")
    db.execute(change)
    assert rows(db, "select * from claim_embeddings('tests')") == []
    assert problem in value(db, "select problem from embedding_targets")


def test_a_table_of_another_role_is_refused_with_a_cure(db: Database) -> None:
    create_role(db, "bob", "login")
    db.execute("create table theirs (id bigint primary key, body text)")
    db.execute("alter table theirs owner to bob")
    watch = "select watch_embeddings('theirs', 'body', 'embedding', dimensions => 3)"
    assert refusal(db, watch) == (
        "table public.theirs belongs to bob, whose triggers and constraints would run with the"
        " rights of postgres",
        "Run `alter table public.theirs owner to postgres`; or, if bob may do all that postgres"
        " may, `grant postgres to bob`.",
    )
    db.execute("alter table theirs owner to postgres")
    db.execute(watch)
    db.execute("alter table theirs owner to bob")
    assert [
        (check, hint.endswith("Then run `worker watch` for the column again."))
        for check, hint in rows(db, "select check_name, hint from diagnose_embeddings()")
    ] == [("table_refused", True)]


@pytest.fixture
def landlord_url(empty_db: Database) -> str:
    """A migrated database of `landlord`, who is no superuser.

    It is reached directly: the pooler of these tests makes everybody the same superuser.
    """
    for role in ("landlord", "tenant", "agent", "guest"):
        create_role(empty_db, role, "login")
    empty_db.execute("grant tenant to landlord")
    empty_db.execute("grant landlord to agent")
    empty_db.execute("create extension vector")
    empty_db.execute("alter schema public owner to landlord")
    database = sql.Identifier(empty_db.info.dbname)
    empty_db.execute(sql.SQL("alter database {} owner to landlord").format(database))
    url = make_conninfo(empty_db.info.dsn, user="landlord")
    migrate(url)
    return url


@pytest.mark.parametrize(
    ("owner", "is_trusted"),
    [
        ("landlord", True),
        ("tenant", True),  # landlord was granted its rights
        ("agent", True),  # can act as landlord
        ("postgres", True),  # so can a superuser
        ("guest", False),
    ],
)
def test_tables_of_roles_that_the_owner_trusts_are_kept_in_step(
    empty_db: Database, landlord_url: str, owner: str, is_trusted: bool
) -> None:
    empty_db.execute("create table docs (id bigint primary key, body text)")
    empty_db.execute(sql.SQL("alter table docs owner to {}").format(sql.Identifier(owner)))
    empty_db.execute("grant select, update on docs to landlord")
    watch = "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)"
    if not is_trusted:
        assert f"belongs to {owner}" in refusal(empty_db, watch)[0]
        return
    empty_db.execute(watch)
    empty_db.execute("insert into docs values (1, 'one')")
    with PostgresQueue(landlord_url, "tests") as queue:
        assert embed_all(queue) == ["one"]
        assert queue.status()[0].coverage == 100.0


def test_the_doctor_names_an_owner_of_the_schema_of_the_queue(db: Database) -> None:
    create_role(db, "bob", "login")
    database = sql.Identifier(db.info.dbname)
    db.execute(sql.SQL("alter database {} owner to bob").format(database))
    found: LiteralString = (
        "select cause, hint from diagnose_embeddings() where check_name = 'schema_owner'"
    )
    assert rows(db, found) == [
        (
            "schema public belongs to bob, who can replace the tables of the queue and so run code"
            " with the rights of postgres",
            "Run `alter schema public owner to postgres`.",
        )
    ]
    db.execute("alter schema public owner to postgres")
    assert rows(db, found) == []


# -- what a source uses


@pytest.mark.parametrize(
    ("made", "source"),
    [
        ("create function app.f(text) returns text language sql as 'select $1'", "app.f(body)"),
        ("create domain app.d as text", "body::app.d"),
        ("create view app.v as select 'x' as body", "body || (select v.body from app.v)"),
        (
            "create function app.f(text, text) returns text language sql as 'select $1';"
            " create operator app.|+| (leftarg = text, rightarg = text, function = app.f)",
            "body operator(app.|+|) body",
        ),
    ],
    ids=["function", "type", "view", "operator"],
)
def test_a_source_may_not_use_what_another_role_can_replace(
    docs: Database, made: LiteralString, source: str
) -> None:
    create_role(docs, "bob", "login")
    docs.execute("create schema app")
    docs.execute("grant all on schema app to bob")
    with acting_as(docs, "bob"):
        docs.execute(made)
    for watch in (
        "select watch_embeddings('docs', %s, 'embedding')",
        "select watch_embeddings('docs', 'body', 'embedding', filter => '''x'' <> ' || %s)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="belongs to bob") as problem:
            docs.execute(watch, [source])
        assert "rights of postgres" in str(problem.value.diag.message_hint)


def test_a_source_may_not_use_a_function_that_another_role_can_overload(docs: Database) -> None:
    """A function that fits the arguments better would run in its place."""
    create_role(docs, "bob", "login")
    docs.execute("create schema app")
    docs.execute("create function app.clean(text) returns text language sql as 'select $1'")
    watch: LiteralString = "select watch_embeddings('docs', 'app.clean(body)', 'embedding')"
    docs.execute(watch)
    everyone: LiteralString
    for everyone in ("bob", "public"):
        docs.execute(f"grant create on schema app to {everyone}")
        assert refusal(docs, watch) == (
            f"the source or filter uses app.clean(text), and {everyone} may create another of that"
            " name",
            f"Run `revoke create on schema app from {everyone}`.",
        )
        docs.execute(f"revoke create on schema app from {everyone}")
    docs.execute(watch)


# -- what is known by its name or its comment


def test_a_function_of_another_role_is_not_taken_for_ours(docs: Database) -> None:
    create_role(docs, "mallory", "login")
    docs.execute("grant create on schema public to mallory")
    target = value(docs, "select id from embedding_targets")
    with acting_as(docs, "mallory"):
        for name in ("match_docs", "another"):
            routine = sql.Identifier("public", name)
            docs.execute(
                sql.SQL(
                    "create function {}(query_embedding vector, match_count integer default 10,"
                    " match_threshold double precision default -1)"
                    " returns table (id bigint, content text, similarity double precision)"
                    " language sql as 'select 1::bigint, null::text, 1::float8'"
                ).format(routine)
            )
            docs.execute(
                sql.SQL("comment on function {}(vector, integer, double precision) is {}").format(
                    routine, sql.Literal(f"Of embedding target {target}: x")
                )
            )
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    watch: LiteralString = (
        "select watch_embeddings('docs', 'body', 'embedding', match_function => true)"
    )
    assert "there is a function public.match_docs already" in refusal(docs, watch)[0]
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', match_function => false)")
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    assert rows(
        docs,
        "select proname::text from pg_proc where proowner = 'mallory'::regrole"
        "   and pronamespace = 'public'::regnamespace order by 1",
    ) == [("another",), ("match_docs",)]


def test_a_trigger_function_of_another_role_is_neither_overwritten_nor_dropped(
    docs: Database,
) -> None:
    create_role(docs, "mallory", "login")
    name = f"embedding.trigger_{value(docs, 'select id from embedding_targets')}"
    docs.execute(f"alter function {name} owner to mallory")
    assert refusal(docs, "select watch_embeddings('docs', 'body', 'embedding')") == (
        f"there is a function {name} already, which is not of this API",
        f"Run `drop function {name} cascade`.",
    )
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    assert value(docs, "select to_regproc(%s) is not null", name)


def test_a_trigger_of_the_same_name_is_not_taken_for_ours(docs: Database) -> None:
    """Neither by a watch nor by the doctor."""
    name = f"embedding_insert_{value(docs, 'select id from embedding_targets')}"
    docs.execute(
        "create function idle() returns trigger language plpgsql as 'begin return null; end'"
    )
    trigger = sql.Identifier(name)
    docs.execute(sql.SQL("drop trigger {} on docs").format(trigger))
    docs.execute(
        sql.SQL("create trigger {} after insert on docs execute function idle()").format(trigger)
    )
    assert rows(docs, "select check_name, cause from diagnose_embeddings()") == [
        ("triggers_missing", f"table docs lacks {name}, so changes go unseen")
    ]
    assert refusal(docs, "select watch_embeddings('docs', 'body', 'embedding')") == (
        f"table docs has a trigger {name} that is not of this API",
        f"Run `alter trigger {name} on public.docs rename to ...`.",
    )


def test_what_a_superuser_watches_runs_as_the_owner_of_the_api(
    empty_db: Database, landlord_url: str
) -> None:
    empty_db.execute("create table docs (id bigint primary key, body text)")
    empty_db.execute("alter table docs owner to landlord")
    empty_db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    assert rows(
        empty_db,
        "select distinct proowner::regrole::text from pg_proc"
        " where pronamespace = 'embedding'::regnamespace",
    ) == [("landlord",)]


# -- names and sources that look like the end of a quotation


@pytest.mark.parametrize("part", ["schema", "name", "key", "text", "vector"])
@pytest.mark.parametrize(
    "name",
    rest_in_full(
        [
            "a$body$;alter role bob superuser;$body$",
            'it\'s \\ "quoted"; --',
            "$function$ $sql$ $1 $$",
            "%s %1$s %I %L",
            "two\nlines /* */",
        ],
        2,
    ),
)
def test_names_that_look_like_quotes_are_names(
    db: Database, queue: AdminQueue, name: str, part: str
) -> None:
    create_role(db, "bob", "login")
    table = Table(db, **{part: name})
    table.create()
    table.watch()
    table.is_kept_in_step(queue)
    db.execute(
        "select watch_embeddings(%s, quote_ident(%s), %s, match_function => true,"
        " on_change => 'clear')",
        [sql.Identifier(table.schema, table.name).as_string(), table.text, table.vector],
    )
    table.is_kept_in_step(queue)
    assert len(rows(db, "select * from embedding_status where rows_exact")) == 1
    assert not value(db, "select rolsuper from pg_roles where rolname = 'bob'")
    assert value(
        db, "select unwatch_embeddings(table_name, embedding_column) from embedding_targets"
    )


@pytest.mark.parametrize("text", ["$body$", "$sql$ $function$", "%s %1$s", "''", "\\"])
def test_sources_that_look_like_quotes_are_sources(
    docs: Database, queue: AdminQueue, text: str
) -> None:
    docs.execute(
        "select watch_embeddings('docs', %s, 'embedding', filter => %s, match_function => true)",
        [f"body || '{text}'", f"body <> '{text}'"],
    )
    docs.execute("insert into docs values (1, 'one')")
    expected = "one" + text.replace("''", "'")
    assert embed_all(queue) == [expected]
    assert value(docs, "select content from match_docs('[1,2,3]')") == expected


# -- errors


def function(body: LiteralString) -> LiteralString:
    return (
        "create function public.f(b text) returns text language plpgsql as"
        f" $$ begin {body}; return b; end $$"
    )


def trigger(body: LiteralString) -> LiteralString:
    return (
        f"create function t() returns trigger language plpgsql as $$ begin {body};"
        " return new; end $$;"
        " create trigger t before update on docs for each row execute function t()"
    )


# What is done to the database, and the source of the column.
LEAKS: dict[str, tuple[LiteralString, LiteralString]] = {
    "cast": ("select", "body::integer::text"),
    "date": ("select", "(body::date)::text"),
    "json": ("select", "body::jsonb ->> 'a'"),
    "name of a table": ("select", "body::regclass::text"),
    "name of a type": ("select", "body::regtype::text"),
    "setting": ("select", "current_setting(body)"),
    "format": ("select", "format(body || '%Z')"),
    "raise": (function("raise exception 'no %', b"), "public.f(body)"),
    "raise with a state": (
        function("raise exception 'no %', b using errcode = '42501'"),
        "public.f(body)",
    ),
    "raise of a violation": (
        function("raise exception 'no %', b using errcode = 'unique_violation'"),
        "public.f(body)",
    ),
    "raise with all fields": (
        function("raise using message = b, detail = b, hint = b, column = b, constraint = b"),
        "public.f(body)",
    ),
    "assert": (function("assert false, b"), "public.f(body)"),
    "dynamic statement": (function("execute format('select %I', b)"), "public.f(body)"),
    "function of SQL": (
        "create function public.f(b text) returns text language sql as 'select (b::integer)::text'",
        "public.f(body)",
    ),
    "check": ("alter table docs add check (embedding is null or body is null)", "body"),
    "unique": (
        "create unique index on docs"
        " ((case when embedding is null then body else 'my s3cr3t' end))",
        "body",
    ),
    "trigger": (trigger("raise exception 'no %', new.body"), "body"),
    "trigger of a violation": (
        trigger("raise 'no %', new.body using errcode = '23514', constraint = new.body"),
        "body",
    ),
    "trigger that suspends": (
        trigger("raise 'no %', new.body using errcode = 'undefined_column'"),
        "body",
    ),
    "trigger that casts": (trigger("perform new.body::integer"), "body"),
    "trigger that looks up": (trigger("perform new.body::regclass"), "body"),
}


def try_to_embed(queue: AdminQueue) -> None:
    while taken := queue.claim(SCOPE, 100):
        if taken.jobs:
            embed(queue, taken.jobs)


@pytest.mark.parametrize("leak", LEAKS)
def test_no_error_holds_a_value_of_a_row(docs: Database, queue: AdminQueue, leak: str) -> None:
    """Neither in the queue, nor in a target, nor in what the worker is told."""
    statement, source = LEAKS[leak]
    docs.execute("insert into docs values (1, 's3cr3t'), (2, 'my s3cr3t')")
    docs.execute(statement)
    docs.execute("select watch_embeddings('docs', %s, 'embedding')", [source])
    said = []
    for filter_ in (None, f"{source} is not null"):
        docs.execute(
            "select watch_embeddings('docs', %s, 'embedding', filter => %s)", [source, filter_]
        )
        for use in (lambda: queue.backfill(queue.targets()[0], 100), lambda: try_to_embed(queue)):
            try:
                use()
            except WorkerError as problem:
                said += [str(problem), str(problem.hint), str(problem.__cause__)]
        said += [str(queue.overview().failures), str(queue.targets()), str(queue.diagnose())]
        said += [str(rows(docs, "select error_class, error_message from embedding_queue"))]
    assert "s3cr3t" not in " ".join(said)
    assert re.search(r"SQLSTATE|violates|invalid input", " ".join(said))


def test_what_is_left_of_an_error_says_what_happened(docs: Database, queue: AdminQueue) -> None:
    message: LiteralString = "select error_message from embedding_queue"
    docs.execute("insert into docs values (1, 's3cr3t')")
    docs.execute("alter table docs add constraint secrets check (embedding is null or views > 0)")
    try_to_embed(queue)
    assert value(docs, message) == (
        'new row for relation "docs" violates check constraint "secrets"'
    )
    docs.execute("alter table docs drop constraint secrets")
    docs.execute("select watch_embeddings('docs', 'body::integer::text', 'embedding')")
    assert embed_all(queue) == []
    assert value(docs, message) == 'invalid input syntax for type integer: "..." (SQLSTATE 22P02)'


# -- row level security


def test_forced_row_level_security_is_refused_with_a_cure(
    empty_db: Database, landlord_url: str
) -> None:
    closed: LiteralString = "alter table docs enable row level security, force row level security"
    cause = "row-level security of table public.docs hides rows from landlord"
    hint = (
        "Run `alter table public.docs no force row level security`, or as a superuser"
        " `alter role landlord bypassrls`."
    )
    watch: LiteralString = "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)"
    with psycopg.connect(landlord_url, autocommit=True) as db:
        db.execute("create table docs (id bigint primary key, body text)")
        db.execute(closed)
        assert refusal(db, watch) == (cause, hint)
        db.execute("alter table docs no force row level security")
        db.execute(watch)
        db.execute("insert into docs values (1, 'one')")
        db.execute(closed)
        with PostgresQueue(landlord_url, "tests") as queue:
            assert embed_all(queue) == []
            assert queue.targets()[0].problem == cause
            assert [(found.check, found.cause) for found in queue.diagnose()] == [
                ("table_refused", cause)
            ]
            with pytest.raises(WorkerError) as problem:
                queue.backfill(queue.targets()[0], 10)
            assert (problem.value.cause, problem.value.hint) == (cause, hint)
            empty_db.execute("alter role landlord bypassrls")
            try:
                db.execute(watch)
                assert embed_all(queue) == ["one"]
            finally:
                empty_db.execute("alter role landlord nobypassrls")


def test_forced_row_level_security_of_our_own_tables_is_named(
    empty_db: Database, landlord_url: str
) -> None:
    with PostgresQueue(landlord_url, "tests") as queue:
        for table in ("embedding_queue", "embedding_targets"):
            name = sql.Identifier(table)
            empty_db.execute(sql.SQL("alter table {} force row level security").format(name))
            with pytest.raises(WorkerError, match=table) as problem:
                queue.diagnose()
            assert "NO FORCE ROW LEVEL SECURITY" in str(problem.value.hint)
            empty_db.execute(sql.SQL("alter table {} no force row level security").format(name))
