"""Who may do what: a worker its work, a signed-in user a look at their own, others nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.conftest import (
    Database,
    Server,
    TemplateOf,
    Worker,
    migrate,
    new_database,
    rows,
    value,
)
from tests.integration.chunks import embed as embed_chunks
from tests.integration.tables import (
    Table,
    acting_as,
    create_role,
    embed_all,
    jobs,
    refusal,
)
from worker.queue.postgres import PostgresQueue

ANNA = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"
BEN = "9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963"

# As a project of Supabase is when the migrations are applied: its schemas and roles, and default
# privileges that open everything new in `public` to all of them.
SUPABASE: list[LiteralString] = [
    "create schema extensions",
    "grant usage on schema extensions to anon, authenticated, service_role",
    "create schema auth",
    "grant usage on schema auth to anon, authenticated, service_role",
    "create function auth.uid() returns uuid stable language sql"
    " as $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$",
    *[
        f"alter default privileges in schema public grant all on {kind}"
        " to anon, authenticated, service_role"
        for kind in ("tables", "functions", "sequences")
    ],
    # A project may well have functions whose names are like ours.
    "create function public.match_embeddings() returns integer language sql as 'select 1'",
    "create function public.embedding_of(text) returns integer language sql as 'select 1'",
]

OURS: LiteralString = """
    select routine.oid from pg_proc as routine
     where routine.pronamespace in ('public'::regnamespace, 'embedding'::regnamespace)
       and routine.proname not in ('match_embeddings', 'embedding_of')
       and not exists (select from pg_depend where objid = routine.oid and deptype = 'e')
"""


def project_with_notes(db: Database) -> None:
    create_role(db, "anon")
    create_role(db, "authenticated")
    create_role(db, "service_role", "bypassrls")
    migrate(db.info.dsn, *SUPABASE)
    db.execute("create table notes (id integer primary key, body text, user_id uuid)")
    db.execute("alter table notes enable row level security")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into notes values (1, 'of Anna', %s), (2, 'of Ben', %s)", [ANNA, BEN])
    db.execute("insert into notes values (3, 'of nobody')")


@pytest.fixture
def supabase(server: Server, template_of: TemplateOf) -> Iterator[Database]:
    """A migrated project of Supabase, with notes of Anna and Ben that wait to be embedded."""
    with (
        new_database(server.url, template_of(server.url, project_with_notes)) as name,
        psycopg.connect(server.direct_url_of(name), autocommit=True) as db,
    ):
        yield db


@pytest.fixture
def signed_in(supabase: Database) -> Iterator[Database]:
    """Anna, signed in."""
    supabase.execute("select set_config('request.jwt.claim.sub', %s, false)", [ANNA])
    with acting_as(supabase, "authenticated"):
        yield supabase


@pytest.fixture
def hired(docs: Database) -> Iterator[Database]:
    """The role of workers, with nothing of its own, where two rows of `docs` wait."""
    docs.execute("insert into docs values (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')")
    with acting_as(docs, "embedding_worker"):
        yield docs


def allowed(db: Database, statements: list[LiteralString]) -> list[LiteralString]:
    """Those of the statements that are not refused for want of a right."""
    return [
        statement
        for statement in statements
        if "permission denied" not in refusal(db, statement)[0]
    ]


CLAIM: LiteralString = (
    "select array[id] as ids, array[lease] as leases, array[content_hash] as hashes, content"
    " from claim_embeddings('tests', 1)"
)


def test_a_worker_can_do_its_work(hired: Database) -> None:
    [(ids, leases, hashes, content)] = rows(hired, CLAIM)
    assert content == "one"
    assert (
        rows(
            hired,
            "select * from complete_embeddings(%s, %s, %s, array['[1,2,3]'::vector], 'a:b')",
            ids,
            leases,
            hashes,
        )
        == []
    )
    [(ids, leases, _, _)] = rows(hired, CLAIM)
    assert value(hired, "select fail_embeddings(%s, %s, 'rejected', 'too long')", ids, leases) == 1
    [(ids, leases, _, _)] = rows(hired, CLAIM)
    assert value(hired, "select release_embeddings(%s, %s)", ids, leases) == 1
    assert value(hired, "select requeued from requeue_embeddings()") == 1
    assert value(hired, "select backfill_embeddings('docs', 'embedding')") == 0
    assert value(hired, "select count_due_embeddings()") == 3
    [(ids, leases, _, _)] = rows(hired, CLAIM)
    extend = "select count(*) from extend_embeddings('tests', %s, %s, '1 minute')"
    assert value(hired, extend, ids, leases) == 0
    hired.execute("select embedding_worker_heartbeat('tests', 'here', 1)")
    assert value(hired, "select count(*) from embedding_workers") == 1
    hired.execute("select embedding_worker_deregister('tests')")
    assert value(hired, "select control_embeddings('pause')") == 0
    assert value(hired, "select desired_state from embedding_command('tests')") == "pause"
    assert value(hired, "select desired_state from embedding_control") == "pause"
    assert value(hired, "select pending from embedding_progress") is not None
    hired.execute("select embedding_provider_report('openai', 'no key')")
    assert value(hired, "select error from embedding_providers") == "no key"
    announce = "select announce_embedding_event('queue_drained', '', gen_random_uuid())"
    assert value(hired, announce) is True
    assert value(hired, announce) is False
    assert value(hired, "select count(*) from embedding_announcements") == 1
    hired.execute("select cache_embeddings('a:b', '{x}', array['[1,2,3]'::vector], '{7}', 1)")
    assert rows(hired, "select content_hash, tokens from cached_embeddings('a:b', 3, '{x,y}')") == [
        (b"x", 7)
    ]
    hired.execute("select cache_enhancements('{x}', '{words}', 1)")
    assert rows(hired, "select * from cached_enhancements('{x,y}')") == [(b"x", "words")]
    assert value(hired, "select row_count from estimate_embeddings('a:b')") == 3
    assert rows(hired, "select * from diagnose_embeddings()") == []
    assert value(hired, "select embedding_schema_version()") >= 1


def test_a_worker_sees_targets_and_states(hired: Database) -> None:
    assert rows(hired, "select rows, pending, due from embedding_status") == [(4, 4, 4)]
    assert rows(hired, "select * from embedding_failures") == []
    assert value(hired, "select count(*) from embedding_queue") == 4
    assert value(hired, "select table_name from embedding_targets") == "docs"
    hired.execute(SEEN)
    assert rows(hired, "select model, tokens, cost from embedding_usage") == [("a:b", 5, None)]
    assert rows(hired, "select * from embedding_providers") == []


SEEN: LiteralString = (
    """select embedding_worker_heartbeat('tests', 'here', 1, 'working', 0, 0, '[{"model": "a:b","""
    """ "completed": 1, "failed": 0, "requests": 1, "tokens": 5, "cost": null}]')"""
)


BEYOND_ITS_WORK: list[LiteralString] = [
    "select * from docs",
    "update docs set body = ''",
    "delete from docs",
    "update embedding_targets set source = '(select string_agg(rolpassword) from pg_authid)'",
    "insert into embedding_targets (table_name) values ('docs')",
    "delete from embedding_targets",
    "update embedding_queue set content = 'mine'",
    "insert into embedding_queue (table_name, record_id, embedding_column)"
    " values ('docs', '9', 'embedding')",
    "delete from embedding_queue",
    "truncate embedding_queue",
    "delete from embedding_counts",
    "select embedding.fold_counts()",
    "update embedding_control set desired_state = 'pause'",
    "insert into embedding_control (worker, desired_state) values ('*', 'pause')",
    "select embedding.wake()",
    "select setval('embedding_queue_id_seq', 1)",
    "select watch_embeddings('docs', 'body', 'embedding')",
    "select unwatch_embeddings('docs', 'embedding')",
    "select * from search_embeddings('docs', 'embedding', '[1,2,3]')",
    "select * from missing_embeddings('docs', 'embedding', '{1}')",
    "select * from sample_vectors('docs', 'embedding')",
    "select embedding_has_vector_index('docs', 'embedding')",
    "select embedding.enqueue(1, array['9'], array[null::uuid])",
    "select embedding.forget(1, array['1'])",
    "select embedding.claim(target, array[1], 'me', '1 min', 'a:b')"
    " from embedding_targets as target",
    "select embedding.text_to_embed(target, '1', 'a:b') from embedding_targets as target",
    "insert into embedding_usage (minute, model) values (now(), 'a:b')",
    "delete from embedding_usage",
    "delete from embedding_providers",
    "delete from embedding_announcements",
    "select * from embedding_cache",
    "delete from embedding_cache",
    "select nextval('embedding.cache_kib')",
    "select * from embedding_enhancements",
    "delete from embedding_enhancements",
    "select nextval('embedding.enhancement_kib')",
    "insert into embedding_audit (actor, source, event) values ('me', 'sql', 'restored')",
    "update embedding_audit set actor = 'nobody'",
    "delete from embedding_audit",
    "truncate embedding_audit",
    "select embedding.audit('swapped', 'docs', 'embedding', 'sql', null)",
    "delete from embedding_backups",
    "update embedding_checks set state = 'sound'",
    "select create_embedding_api_key('mine', sha256('mine'), '{search}')",
    "select revoke_embedding_api_key('mine')",
    "update embedding_api_keys set scopes = '{search}'",
]


def test_a_worker_can_do_nothing_else(hired: Database) -> None:
    assert allowed(hired, BEYOND_ITS_WORK) == []


@pytest.fixture
def hired_url(db: Database, server: Server, database: str) -> str:
    """The database, as a login that may do what workers do, and nothing besides.

    Directly: the pooler of these tests makes everybody the same superuser.
    """
    create_role(db, "hired_hand", "login in role embedding_worker")
    return f"{server.direct_url_of(database)}&user=hired_hand"


def test_a_worker_can_do_all_of_its_work_and_read_no_table(
    db: Database, worker: Worker, hired_url: str
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("alter table docs enable row level security")
    db.execute("insert into docs values (1, 'from before'), (2, ' ')")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 256)")
    db.execute("insert into docs select i, 'text ' || i from generate_series(3, 40) i")
    for command in ("backfill", "process --batch-size 7", "status", "targets"):
        result = worker(*command.split(), DATABASE_URL=hired_url)
        assert result.returncode == 0, result.stderr
    assert rows(db, "select status, count(*) from embedding_queue group by 1 order by 1") == [
        ("completed", 39),
        ("skipped", 1),
    ]
    assert value(db, "select count(embedding) from docs") == 39
    assert value(db, "select count(*) from embedding_workers") == 0

    with psycopg.connect(hired_url, autocommit=True) as hired:
        for statement in ("select from docs", "update docs set body = ''", "copy docs to stdout"):
            assert "permission denied" in refusal(hired, statement)[0]
        assert (
            rows(
                hired,
                "select relname from pg_class where relkind in ('r', 'v', 'm', 'p', 'f')"
                "   and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
                "   and relname !~ '^embedding_(targets|queue|counts|workers|status|failures)$'"
                "   and relname !~ '^embedding_(usage|providers|control|progress|announcements)$'"
                "   and relname !~ '^embedding_(reembeddings|audit|backups|checks|check_states)$'"
                "   and relname !~ '^embedding_(files|folders|file_states|api_keys)$'"
                "   and relname !~ '^embedding_(batches|batch_backfills)$'"
                "   and (has_table_privilege(oid, 'select, insert, update, delete, truncate')"
                "        or has_any_column_privilege(oid, 'select, insert, update'))",
            )
            == []
        )


CALLS: list[LiteralString] = [
    "select * from claim_embeddings('tests')",
    "select * from complete_embeddings('{1}', array[gen_random_uuid()], '{x}',"
    " array['[1,2,3]'::vector], 'a:b')",
    "select fail_embeddings('{1}', array[gen_random_uuid()], 'rejected', 'too long')",
    "select requeue_embeddings(null)",
    "select backfill_embeddings('docs', 'embedding')",
    "select count(*) from embedding_status",
    SEEN,
    "select embedding_provider_report('openai', 'no key', 'mend it')",
    "select control_embeddings('sleep', null)",
    "select * from embedding_command('tests')",
    "select * from poll_embeddings('tests')",
    "select * from embedding_database_load()",
    "select embedding_overview()",
    "select page_embeddings()",
    "select embedding_job(1)",
    "select reveal_embedding_text(1)",
    "select set_embedding_goal('docs', 'embedding', 90)",
    "select embedding_provider_report('openai')",
    "select announce_embedding_event('queue_drained', '', gen_random_uuid())",
    "select cache_embeddings('a:b', '{x}', array['[1,2,3]'::vector], '{7}', 1)",
    "select * from cached_embeddings('a:b', 3, '{x}')",
    "select cache_enhancements('{x}', '{words}', 1)",
    "select * from cached_enhancements('{x}')",
    "select * from estimate_embeddings('a:b')",
    "select * from estimate_embeddings('a:b', missing => true)",
    "select * from list_embeddings()",
    "select * from reprocess_embeddings('~a')",
    "select * from embedding_stats()",
    "select * from diagnose_embeddings()",
    "select * from sample_embeddings()",
    "select * from recheck_embeddings()",
    "select * from verify_embeddings('docs', 'embedding')",
    "select * from find_damaged_embeddings('docs', 'embedding')",
    "select requeue_damaged_embeddings('docs', 'embedding', '{1}')",
    "select embedding_repair_cost()",
    "select * from export_embeddings('docs', 'embedding')",
    "select * from restore_embeddings('docs', 'embedding', '{1}', '{x}', '{\"[1,2,3]\"}', 'a:b')",
    "select * from claim_records('docs', 'embedding', '{1}', 'tests', '1 minute')",
    "select start_embedding_scan(gen_random_uuid(), '1 minute')",
    "select * from known_embedding_files(gen_random_uuid())",
    "select * from claim_embedding_files('tests', array[gen_random_uuid()], 1, '1 minute')",
    "select * from find_embedding_files('words', 'a')",
    "select embedding_file_ids('a')",
    "select * from page_embedding_files('a', 'unread')",
    "select * from list_embedding_audit()",
    "select record_embedding_audit('restored', figures => '{}')",
    "select end_embedding_backup(id, 'tests', 1, 1)"
    "  from begin_embedding_backup('backups', 'tests', '1 minute')",
    "select record_embedding_backup_check('backups', 'a')",
    "select * from begin_embedding_check('tests', '1 day', '1 minute')",
    "select end_embedding_check(1, 'tests', 'sound', 1, 0, 0)",
]


def test_a_worker_cannot_slip_its_own_types_into_our_functions(
    hired: Database,
) -> None:
    """A type of its own named `text`, with a check, would run as the owner of the database."""
    hired.execute(
        "create function pg_temp.spy(text) returns boolean language plpgsql as"
        " $$ begin if current_user <> 'embedding_worker' then"
        " raise exception 'running as %', current_user; end if; return true; end $$"
    )
    for name in ("text", "uuid", "bytea", "jsonb", "timestamptz", "name", "regclass", "vector"):
        hired.execute(
            sql.SQL(
                "create domain pg_temp.{name} as {base} check (pg_temp.spy(value::pg_catalog.text))"
            ).format(
                name=sql.Identifier(name),
                base=sql.SQL("public.vector" if name == "vector" else "pg_catalog." + name),
            )
        )
    hired.execute("create temporary table pg_class as select oid, relname from pg_catalog.pg_class")
    for call in CALLS:
        hired.execute(call)


# -- on Supabase


def test_default_privileges_let_nobody_into_our_tables(supabase: Database) -> None:
    assert rows(
        supabase,
        "select role.rolname, class.relname, privilege"
        "  from pg_roles as role, pg_class as class,"
        "       unnest(array['insert', 'update', 'delete', 'truncate', 'references', 'trigger'])"
        "         as privilege"
        " where role.rolname in ('anon', 'authenticated', 'service_role', 'embedding_worker')"
        "   and class.relname ~ '^embedding_' and class.relkind in ('r', 'v')"
        "   and has_table_privilege(role.oid, class.oid, privilege)"
        " order by 1, 2, 3",
    ) == [
        ("service_role", "embedding_queue", "delete"),
        ("service_role", "embedding_queue", "insert"),
        ("service_role", "embedding_queue", "update"),
    ]
    assert rows(
        supabase,
        "select role.rolname, class.relname from pg_roles as role, pg_class as class"
        " where role.rolname in ('anon', 'authenticated', 'service_role', 'embedding_worker')"
        "   and class.relname ~ '^embedding_' and class.relkind in ('r', 'v')"
        "   and has_table_privilege(role.oid, class.oid, 'select') order by 1, 2",
    ) == [
        (role, name)
        for role in ("embedding_worker", "service_role")
        for name in (
            "embedding_announcements",
            "embedding_api_keys",
            "embedding_audit",
            "embedding_backups",
            "embedding_batch_backfills",
            "embedding_batches",
            "embedding_check_states",
            "embedding_checks",
            "embedding_control",
            "embedding_counts",
            "embedding_failures",
            "embedding_file_states",
            "embedding_files",
            "embedding_folders",
            "embedding_progress",
            "embedding_providers",
            "embedding_queue",
            "embedding_reembeddings",
            "embedding_status",
            "embedding_targets",
            "embedding_usage",
            "embedding_workers",
        )
        if (role, name) != ("embedding_worker", "embedding_files")  # all columns but the texts
    ]
    assert value(
        supabase,
        "select has_column_privilege(role, 'embedding_files', 'path', 'select')"
        "   and not has_column_privilege(role, 'embedding_files', 'content', 'select')"
        "  from (values ('embedding_worker')) as known (role)",
    )


def test_default_privileges_let_nobody_into_our_sequences(supabase: Database) -> None:
    assert (
        rows(
            supabase,
            "select role.rolname, class.relname from pg_roles as role, pg_class as class"
            " where role.rolname in ('anon', 'authenticated', 'service_role', 'embedding_worker')"
            "   and class.relname ~ '^embedding_' and class.relkind = 'S'"
            "   and has_sequence_privilege(role.oid, class.oid, 'usage, update, select')",
        )
        == []
    )


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_default_privileges_let_nobody_call_our_functions(
    supabase: Database, role: LiteralString
) -> None:
    callable_: LiteralString = (
        f"select oid::regprocedure::text from ({OURS}) as ours"
        f" where has_function_privilege('{role}', oid, 'execute')"
    )
    assert rows(supabase, callable_) == []
    supabase.execute("create table tags (id integer primary key, tag text)")
    supabase.execute("select watch_embeddings('tags', 'tag', 'embedding', dimensions => 3)")
    assert rows(supabase, callable_) == []


def test_the_service_role_can_call_what_workers_call_and_search(supabase: Database) -> None:
    assert {
        name
        for (name,) in rows(
            supabase,
            f"select proname from ({OURS}) as ours join pg_proc using (oid)"
            " where has_function_privilege('service_role', oid, 'execute')",
        )
    } == {
        "announce_embedding_event",
        "as_stored",
        "as_worded",
        "backfill_embeddings",
        "begin_embedding_backup",
        "begin_embedding_batch",
        "begin_embedding_check",
        "cache_embeddings",
        "cancel_embedding_batch",
        "cancel_waiting_embeddings",
        "claim_embedding_batch",
        "embedding_batch_jobs",
        "end_embedding_batch",
        "extend_embedding_batch",
        "list_batch_backfills",
        "next_embedding_batch",
        "plan_embedding_batches",
        "record_embedding_batch_file",
        "release_embedding_batch",
        "report_embedding_batch",
        "submit_embedding_batch",
        "cache_enhancements",
        "cached_embeddings",
        "cached_enhancements",
        "check_search",
        "check_table",
        "claim_embedding_files",
        "claim_embeddings",
        "claim_records",
        "complete_documents",
        "complete_embedding_file",
        "complete_embeddings",
        "conditions_sql",
        "continue_embedding_check",
        "control_embeddings",
        "count_due",
        "create_embedding_api_key",
        "count_due_embeddings",
        "describe_embeddings",
        "diagnose_embeddings",
        "distance_sql",
        "embedding_api_key",
        "embedding_command",
        "embedding_database_load",
        "embedding_file_ids",
        "embedding_has_vector_index",
        "embedding_job",
        "embedding_overview",
        "embedding_passages",
        "embedding_match_function",
        "embedding_provider_report",
        "embedding_rate",
        "embedding_schema_version",
        "embedding_stats",
        "embedding_table_name",
        "embedding_worker_deregister",
        "embedding_worker_heartbeat",
        "end_embedding_backup",
        "end_embedding_check",
        "estimate_embeddings",
        "find_damaged_embeddings",
        "requeue_damaged_embeddings",
        "embedding_repair_cost",
        "export_embeddings",
        "extend_embedding_backup",
        "extend_embeddings",
        "fail_embeddings",
        "filter_sql",
        "find_embedding_files",
        "find_passages",
        "find_searched",
        "finish_embedding_scan",
        "has_vector_sql",
        "hybrid_sql",
        "identity_problem",
        "is_column",
        "key_forms",
        "key_values_sql",
        "keys_sql",
        "known_embedding_files",
        "list_embedding_audit",
        "list_embeddings",
        "missing_embeddings",
        "nearest_sql",
        "page_embedding_files",
        "passage_count",
        "passages_sql",
        "placed_chunks",
        "poll_embeddings",
        "recheck_embeddings",
        "record_embedding_audit",
        "record_embedding_backup_check",
        "record_embedding_files",
        "record_id_sql",
        "record_match_sql",
        "reembedding_progress",
        "reembedding_usage",
        "release_embeddings",
        "reprocess_embeddings",
        "requeue_embeddings",
        "restore_embeddings",
        "revoke_embedding_api_key",
        "row_count",
        "same_key_sql",
        "sample_embeddings",
        "sample_vectors",
        "search_embeddings",
        "search_passages",
        "stage_chunks",
        "start_embedding_scan",
        "text_ranks_sql",
        "unconditional_sql",
        "uses_full_text_index_sql",
        "vector_of_sql",
        "vector_sql",
        "page_embeddings",
        "reveal_embedding_passage",
        "reveal_embedding_text",
        "set_embedding_goal",
        "verify_embeddings",
        "work_began",
    }


def test_functions_of_the_project_stay_open(supabase: Database) -> None:
    with acting_as(supabase, "anon"):
        assert value(supabase, "select match_embeddings() + embedding_of('')") == 2


FOR_VISITORS_CLOSED: list[LiteralString] = [
    "select id from embedding_queue",
    "select * from embedding_targets",
    "select * from embedding_status",
    "select * from embedding_failures",
    "select * from embedding_usage",
    "select * from embedding_providers",
    "select * from embedding_cache",
    "select * from embedding_enhancements",
    "select * from embedding_control",
    "select * from embedding_progress",
    "select * from embedding_reembeddings",
    "select * from embedding_audit",
    "select * from embedding_backups",
    "select * from embedding_checks",
    "select * from list_embedding_audit()",
    "select record_embedding_audit('restored')",
    "select * from begin_embedding_backup('backups', 'tests', '1 minute')",
    "select * from begin_embedding_check('tests', '1 day', '1 minute')",
    "select * from reembedding_progress(1)",
    "select * from reembedding_usage(1)",
    "select control_embeddings('pause')",
    "select * from embedding_command('tests')",
    "select * from poll_embeddings('tests')",
    "select * from claim_embeddings('anon')",
    "select requeue_embeddings(null)",
    "select embedding_provider_report('openai', 'none of it is true')",
    "select * from cached_embeddings('a:b', 3, '{x}')",
    "select * from estimate_embeddings('a:b')",
    "select * from list_embeddings()",
    "select * from reprocess_embeddings('*')",
    "select * from embedding_stats()",
    "select embedding_overview()",
    "select page_embeddings()",
    "select embedding_job(1)",
    "select reveal_embedding_text(1)",
    "select set_embedding_goal('docs', 'embedding', 90)",
    "select * from embedding_passages('docs', 'embedding', '1')",
    "select reveal_embedding_passage('docs', 'embedding', '1', 0)",
    "select * from diagnose_embeddings()",
    "select * from sample_embeddings()",
    "select * from recheck_embeddings()",
    "select * from embedding_api_keys",
    "select * from embedding_api_key('x')",
    "select create_embedding_api_key('x', 'x', '{embed}')",
    "select revoke_embedding_api_key('x')",
    "select * from embedding_match_function('notes', 'embedding')",
]


def test_a_visitor_sees_nothing(supabase: Database) -> None:
    with acting_as(supabase, "anon"):
        assert allowed(supabase, FOR_VISITORS_CLOSED) == []


def test_a_signed_in_user_sees_the_state_of_their_own_records(signed_in: Database) -> None:
    assert rows(signed_in, "select record_id, user_id::text, status from embedding_queue") == [
        ("1", ANNA, "pending")
    ]


def test_what_a_signed_in_user_writes_is_queued_as_theirs(
    supabase: Database, server: Server
) -> None:
    """Where a policy lets them write their own rows, and nothing lets them write to the queue."""
    supabase.execute(
        "create policy own on notes to authenticated"
        " using (user_id = auth.uid()) with check (user_id = auth.uid())"
    )
    supabase.execute("select set_config('request.jwt.claim.sub', %s, false)", [ANNA])
    with acting_as(supabase, "authenticated"):
        supabase.execute("insert into notes (id, body, user_id) values (10, 'new', auth.uid())")
        supabase.execute("update notes set body = 'edited'")  # theirs: no other is there for them
        hers: LiteralString = "select record_id, status from embedding_queue order by 1"
        assert rows(supabase, hers) == [("1", "pending"), ("10", "pending")]
        foreign = "insert into notes (id, body, user_id) values (11, 'x', gen_random_uuid())"
        assert "row-level security" in refusal(supabase, foreign)[0]
        supabase.execute("delete from notes where id = 10")
        assert rows(supabase, hers) == [("1", "pending")]
    assert rows(supabase, "select record_id, user_id::text from embedding_queue order by 1") == [
        ("1", ANNA),
        ("2", BEN),
        ("3", None),
    ]
    with PostgresQueue(server.url_of(supabase.info.dbname), "tests") as queue:
        assert embed_all(queue) == ["edited", "of Ben", "of nobody"]


FOR_USERS_CLOSED: list[LiteralString] = [
    "select * from embedding_queue",
    "select content from embedding_queue",
    "select lease from embedding_queue",
    "select error_message from embedding_queue",
    "select content_hash from embedding_queue",
    "update embedding_queue set status = 'pending'",
    "insert into embedding_queue (table_name, record_id, embedding_column, user_id)"
    " values ('notes', '9', 'embedding', auth.uid())",
    "delete from embedding_queue",
    "select * from embedding_targets",
    "select * from embedding_status",
    "select * from embedding_usage",
    "select * from embedding_providers",
    "select * from embedding_cache",
    "select * from embedding_enhancements",
    "select * from claim_embeddings('me')",
    "select * from cached_embeddings('a:b', 3, '{x}')",
    "select * from estimate_embeddings('a:b')",
    "select * from list_embeddings()",
    "select * from reprocess_embeddings('*')",
    "select * from embedding_stats()",
    "select * from diagnose_embeddings()",
    "select * from sample_embeddings()",
    "select * from recheck_embeddings()",
    "select * from search_embeddings('notes', 'embedding', '[1,2,3]')",
    "select * from missing_embeddings('notes', 'embedding', '{1}')",
    "select embedding_has_vector_index('notes', 'embedding')",
]


def test_a_signed_in_user_sees_and_does_no_more(signed_in: Database) -> None:
    assert allowed(signed_in, FOR_USERS_CLOSED) == []


def test_a_signed_in_user_sees_nothing_without_a_claim(supabase: Database) -> None:
    with acting_as(supabase, "authenticated"):
        assert value(supabase, "select count(id) from embedding_queue") == 0


def test_the_service_role_can_claim_steer_and_search(supabase: Database) -> None:
    with acting_as(supabase, "service_role"):
        supabase.execute("set search_path = public, extensions")
        claimed = rows(
            supabase,
            "select array_agg(id), array_agg(lease), array_agg(content_hash)"
            " from claim_embeddings('tests')",
        )
        assert (
            rows(
                supabase,
                "select * from complete_embeddings(%s, %s, %s,"
                " array['[1,0,0]', '[0,1,0]', '[0,0,1]']::vector[], 'a:b')",
                *claimed[0],
            )
            == []
        )
        assert value(supabase, "select completed from embedding_status") == 3
        supabase.execute("update embedding_queue set status = 'pending' where record_id = '1'")
        supabase.execute(
            "insert into embedding_queue (table_name, record_id, embedding_column)"
            " values ('notes', '9', 'embedding')"
        )
        assert value(supabase, "select count_due_embeddings()") == 2
        assert (
            len(rows(supabase, "select * from search_embeddings('notes', 'embedding', '[1,0,0]')"))
            == 3
        )
        assert rows(
            supabase, "select * from missing_embeddings('notes', 'embedding', '{1,9}')"
        ) == [("9",)]


def test_the_service_role_searches_texts_in_chunks(supabase: Database) -> None:
    supabase.execute("create table docs (id bigint primary key, body text, tenant integer)")
    supabase.execute(
        "select watch_embeddings('docs', 'body', dimensions => 3, chunks => true,"
        " language => 'english', filter => 'tenant > 0')"
    )
    supabase.execute("insert into docs values (1, 'One. Two.', 1), (2, '', 1)")
    supabase.execute("update embedding_targets set enabled = table_name = 'docs'")
    with acting_as(supabase, "service_role"):
        supabase.execute("set search_path = public, extensions")
        embed_chunks(supabase)
        for query in (
            "select record_id from search_embeddings('docs', 'embedding', '[1,2,3]',"
            """ query_text => 'one', filter => '{"tenant": 1}')""",
            "select id::text from docs_passages where position = 1",
        ):
            assert rows(supabase, query) == [("1",)]
        assert rows(supabase, "select * from missing_embeddings('docs', 'embedding', '{1,2}')") == [
            ("2",)
        ]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            supabase.execute("delete from docs_chunks")


# -- who may call what


def names(schema: str, listed: str) -> list[str]:
    return [f"{schema}.{name}" for name in listed.split()]


# The owner may call everything. A new function goes into one of these lists.
CALLED_BY_WORKERS = [
    *names(
        "public",
        """
        announce_embedding_event backfill_embeddings begin_embedding_backup
        begin_embedding_check cache_embeddings cache_enhancements
        cached_embeddings cached_enhancements claim_embedding_files claim_embeddings
        complete_documents complete_embedding_file complete_embeddings
        continue_embedding_check control_embeddings
        count_due_embeddings describe_embeddings diagnose_embeddings
        embedding_api_key embedding_match_function
        embedding_command embedding_database_load
        embedding_file_ids embedding_job embedding_overview
        embedding_provider_report embedding_rate embedding_schema_version
        embedding_stats embedding_table_name embedding_worker_deregister
        embedding_worker_heartbeat end_embedding_backup end_embedding_check
        estimate_embeddings extend_embedding_backup extend_embeddings fail_embeddings
        embedding_repair_cost find_damaged_embeddings find_embedding_files
        finish_embedding_scan requeue_damaged_embeddings known_embedding_files
        embedding_passages list_embedding_audit list_embeddings
        page_embedding_files page_embeddings
        reveal_embedding_passage reveal_embedding_text set_embedding_goal
        poll_embeddings recheck_embeddings record_embedding_audit
        record_embedding_backup_check record_embedding_files reembedding_progress
        reembedding_usage release_embeddings reprocess_embeddings requeue_embeddings
        sample_embeddings stage_chunks start_embedding_scan verify_embeddings
        """,
    ),
    *names("public", "claim_records export_embeddings placed_chunks restore_embeddings"),
    *names(
        "public",
        """
        begin_embedding_batch cancel_embedding_batch cancel_waiting_embeddings
        claim_embedding_batch embedding_batch_jobs end_embedding_batch extend_embedding_batch
        list_batch_backfills next_embedding_batch plan_embedding_batches
        record_embedding_batch_file release_embedding_batch report_embedding_batch
        submit_embedding_batch
        """,
    ),
    *names("embedding", "count_due identity_problem passage_count row_count work_began"),
]
CALLED_BY_THE_SERVICE_ROLE = [
    "public.create_embedding_api_key",
    "public.revoke_embedding_api_key",
    "public.embedding_has_vector_index",
    "public.missing_embeddings",
    "public.sample_vectors",
    "public.search_embeddings",
    *names(
        "embedding",
        """
        as_stored as_worded check_search check_table conditions_sql distance_sql filter_sql
        find_passages find_searched has_vector_sql hybrid_sql is_column key_forms
        key_values_sql keys_sql nearest_sql passages_sql record_id_sql record_match_sql
        same_key_sql search_passages text_ranks_sql unconditional_sql
        uses_full_text_index_sql vector_of_sql vector_sql
        """,
    ),
]
CALLED_BY_NOBODY = [
    *names(
        "public",
        "add_embedding_folder adopt_embeddings advance_reembedding cancel_reembedding"
        " cast_embeddings convert_embeddings embedding_index_statements finish_reembedding"
        " pause_reembedding preview_watch_embeddings recount_embeddings relabel_reembedded"
        " remove_embedding_folder"
        " rename_reembedded resume_reembedding rollback_reembedding sample_adoptable"
        " start_reembedding"
        " swap_reembedding"
        " unwatch_embeddings watch_embeddings",
    ),
    *names(
        "embedding",
        """
        add_column adopt_range adopt_record adopt_sql check_adoptable unrecorded_sql
        another_row_works audit audit_batch audit_watch backup_is_due
        beside_record_sql blind_spot body_of cast_sql
        change_model changed_jobs check_cast check_dependents check_identity check_in_chunks
        check_lengths check_names check_pattern check_reembedding check_rename
        check_serves check_side_key check_side_names check_source check_start chunking claim
        claim_documents claim_in_parts clear_all clear_row_sql clear_sql column_grants
        column_width columns_read complete complete_in_chunks count_jobs count_pending
        count_to_embed count_usage counts_and counts_since damage_sql damaged_jobs
        damaged_range tokens_of_chunks default_enhance_prompt next_bounded
        dependent_cure dependent_kind dependent_objects dependents_of describe_error
        diagnose_autovacuum_behind diagnose_autovacuum_off diagnose_backups
        diagnose_column_changed diagnose_damage
        diagnose_dimensions_above_index diagnose_failed_jobs
        diagnose_full_text_index_missing diagnose_function_overloaded
        diagnose_identity_changed diagnose_index_during_backfill diagnose_index_invalid
        diagnose_isolation diagnose_match_function_broken diagnose_no_targets
        diagnose_read_only diagnose_rows_unseen diagnose_schema_owner
        diagnose_side_table_rights diagnose_side_tables_missing
        diagnose_side_tables_unprotected diagnose_suspended diagnose_table_missing
        diagnose_table_refused diagnose_timeout_too_short diagnose_triggers_disabled
        diagnose_triggers_missing diagnose_vector_version drop_full_text_index
        drop_functions drop_side_tables drop_store drop_triggers due_files due_jobs
        due_owners due_records due_targets enhancement enqueue enqueue_edited
        enqueue_missing enqueue_new enqueue_sql enter_state everyone fail_exhausted
        fail_unreadable failed_jobs failed_since fault_of_table files_of_jobs
        files_to_look_at find_target find_target_of find_vectors findings
        finish_jobs first_records fix_text_forms
        fold_counts follow_model follow_names forget full_model full_text_index_name
        full_text_indexes full_text_sql grant_column grant_to growing_pause has_other_triggers
        has_stored_sql hash_full hash_half hash_stored hash_vectors
        hold_scan index_builder is_claimable
        is_of_the_server is_ours is_readable is_rewritten is_timeout
        is_watched_by_statement jobs_after keep_match_function
        kept_with_store key_columns key_list key_too_long kind_of_vectors known_backups lease_jobs
        let_readers_read let_workers_call let_workers_read list_sql lock_documents
        lock_holders lock_reembedding lock_serving lock_sql lock_store lock_vector_index
        make_chunk_tables make_function make_functions make_side_table make_side_tables
        make_store make_triggers match_function_name match_functions match_statement
        match_statement_sql match_store_sql match_words_sql may_be_inside may_pass
        missing_records missing_sql name_chunk_tables name_store new_store_name
        new_backup_name new_vector_type next_records open_for_vectors open_reembedding open_table
        open_verified owner_sql parsing_target percentile plan_chunks plan_enhancement
        plan_model plan_settings plan_store plan_table plan_vector_index plan_watch
        planned_full_text planned_prompt planned_side_width planned_width protect_functions
        protect_relation queue_by_hand queued_id_sql raise_locked read_sql readable_texts
        record_event record_model relabel_rest reembedding_facts reembedding_texts refresh_owners
        refusals refuse_change refuse_documents refuse_in_reembedding refuse_row
        refuse_target rename_in_sql rename_store replace_places replaced_objects
        requeue_target reset_jobs sample_column sampled_records sampled_vector_sql seen_sql serve
        settle
        shortened_id side_tables source_sql stage stage_in_parts start_parsing store_of
        store_target stored_chunks stored_column stored_count stored_width stores_of
        suspend_target table_problem targets_of_jobs text_by_hand_sql text_differs_sql
        text_sql text_to_embed texts texts_to_embed tie_side_table trigger_sql
        triggered_table trusts trusts_vectors unstaged unwatch usage_since vector_hash_sql
        vector_index_progress
        vector_index_sql vector_indexes_of vector_type verified_range verified_sql
        visible_character wake watch write_match_function write_passage_match_function write_sql
        write_vectors
        """,
    ),
    *names(
        "embedding",
        """
        is_in_order jobs_in_order next_jobs next_pending open_passages place_of_cursor place_of_job
        check_restored chunks_end delete_overwritten exported_at_once exported_chunks
        exported_rows is_intact_sql judge_restored lock_restored open_job restore
        write_restored
        left_behind readers_of set_lock_timeout
        claim_whole count_batch count_in_backfill count_in_usage count_waiting forget_batches
        forget_jobs leave_batches recorded_jobs release_from_batch request_batches
        sends_batches stop_waiting target_of_batches wait_for_batches
        """,
    ),
]
CALLERS = (
    {name: {"embedding_worker", "service_role"} for name in CALLED_BY_WORKERS}
    | {name: {"service_role"} for name in CALLED_BY_THE_SERVICE_ROLE}
    | {name: set[str]() for name in CALLED_BY_NOBODY}
)


def callers(db: Database) -> dict[str, set[str]]:
    """Each function of ours, with those who were granted the right to call it."""
    granted: dict[str, set[str]] = {}
    for name, grantees in rows(
        db,
        "select namespace.nspname || '.' || routine.proname, array("
        "       select case grantee when 0 then 'public' else grantee::regrole::text end"
        "         from aclexplode(coalesce(routine.proacl, acldefault('f', routine.proowner)))"
        "        where grantee <> routine.proowner)"
        "  from pg_proc as routine"
        "  join pg_namespace as namespace on namespace.oid = routine.pronamespace"
        " where namespace.nspname in ('public', 'embedding')"
        "   and not exists (select from pg_depend where objid = routine.oid and deptype = 'e')",
    ):
        granted.setdefault(name, set()).update(grantees)
    return granted


def test_each_function_is_called_by_those_who_need_it(db: Database) -> None:
    """On a server without the roles of Supabase, or where they came later than the migrations."""
    assert {name: found - {"service_role"} for name, found in callers(db).items()} == {
        name: expected - {"service_role"} for name, expected in CALLERS.items()
    }


def test_default_privileges_let_nobody_else_call_a_function(empty_project: str) -> None:
    migrate(empty_project)
    with psycopg.connect(empty_project) as owner:
        assert callers(owner) == CALLERS


# -- everywhere


def test_every_table_of_ours_has_row_level_security(docs: Database) -> None:
    assert rows(
        docs,
        "select relname, relrowsecurity from pg_class where relkind = 'r'"
        " and relnamespace = 'public'::regnamespace and relname ~ '^embedding_' order by 1",
    ) == [
        ("embedding_announcements", True),
        ("embedding_api_keys", True),
        ("embedding_audit", True),
        ("embedding_backups", True),
        ("embedding_batch_backfills", True),
        ("embedding_batches", True),
        ("embedding_cache", True),
        ("embedding_checks", True),
        ("embedding_control", True),
        ("embedding_counts", True),
        ("embedding_enhancements", True),
        ("embedding_files", True),
        ("embedding_folders", True),
        ("embedding_providers", True),
        ("embedding_queue", True),
        ("embedding_reembeddings", True),
        ("embedding_targets", True),
        ("embedding_usage", True),
        ("embedding_workers", True),
    ]


def test_every_view_of_ours_has_the_rights_of_its_reader(docs: Database) -> None:
    views = rows(
        docs,
        "select relname, 'security_invoker=true' = any (reloptions) from pg_class"
        " where relkind = 'v' and relnamespace = 'public'::regnamespace",
    )
    assert views
    assert all(invoker for _, invoker in views)


def test_every_function_of_ours_has_an_empty_search_path_with_pg_temp_last(docs: Database) -> None:
    """Left out, pg_temp would come first: there a caller can put types of their own."""
    paths = rows(
        docs,
        "select oid::regprocedure::text, (select setting from unnest(proconfig) as setting"
        f" where setting ~ '^search_path=') from ({OURS}) as ours join pg_proc using (oid)",
    )
    assert len(paths) > 30
    assert {path for _, path in paths} == {'search_path="", pg_temp'}


def test_no_function_of_ours_is_open_to_the_public(docs: Database) -> None:
    create_role(docs, "nobody_in_particular")
    assert (
        rows(
            docs,
            f"select oid::regprocedure::text from ({OURS}) as ours"
            " where has_function_privilege('nobody_in_particular', oid, 'execute')",
        )
        == []
    )


@pytest.fixture
def landlord_url(empty_db: Database) -> str:
    """A migrated database whose owner is no superuser, as with every host of databases.

    It is reached directly: the pooler of these tests makes everybody the same superuser.
    """
    create_role(empty_db, "landlord", "login createrole")
    empty_db.execute("create extension vector")
    empty_db.execute("alter schema public owner to landlord")
    database = sql.Identifier(empty_db.info.dbname)
    empty_db.execute(sql.SQL("alter database {} owner to landlord").format(database))
    url = make_conninfo(empty_db.info.dsn, user="landlord")
    migrate(url)
    return url


@pytest.fixture
def rented(landlord_url: str) -> Iterator[Database]:
    """The watched table `docs` of an owner who is no superuser."""
    with psycopg.connect(landlord_url, autocommit=True) as db:
        table = Table(db)
        table.create()
        table.watch()
        yield db


def test_an_owner_who_is_no_superuser_can_do_everything(
    rented: Database, landlord_url: str
) -> None:
    assert not value(rented, "select rolsuper from pg_roles where rolname = current_user")
    with PostgresQueue(landlord_url, "tests") as queue:
        Table(rented).is_kept_in_step(queue)
        rented.execute("insert into docs values (2, 'text')")
        assert embed_all(queue) == ["text"]
        assert queue.status()[0].coverage == 100.0
        found = "select content from search_embeddings('docs', 'embedding', '[1,2,3]')"
        assert rows(rented, found) == [("text",)]
        assert queue.unwatch("docs", "embedding")


def test_rows_hidden_from_their_owner_are_a_problem_and_not_gone(
    rented: Database, landlord_url: str
) -> None:
    rented.execute("insert into docs values (1, 'one')")
    rented.execute("alter table docs enable row level security, force row level security")
    with PostgresQueue(landlord_url, "tests") as queue:
        [found] = queue.estimate("a:b", None, None, False)
        assert (found.row_count, found.texts) == (1, [])
        assert embed_all(queue) == []
        assert jobs(rented) == [("1", "pending")]
        assert "row-level security" in str(queue.targets()[0].problem)
        rented.execute("alter table docs no force row level security")
        rented.execute("select watch_embeddings('docs', 'body', 'embedding')")
        assert embed_all(queue) == ["one"]


def test_the_functions_of_workers_read_tables_that_their_callers_cannot(
    docs: Database, queue: PostgresQueue
) -> None:
    """Also where row level security closes a table to everybody but its owner."""
    table = Table(docs, "app", "notes")
    table.create()
    docs.execute("alter table app.notes enable row level security")
    table.watch()
    table.insert(1, "a note")
    with acting_as(docs, "embedding_worker"):
        assert rows(docs, "select content from claim_embeddings('tests')") == [("a note",)]
    assert jobs(docs) == [("1", "processing")]
