-- Why:   who may do what. The functions that workers call run with the rights of their owner, so
--        that a worker needs none on anybody's table: its credential can claim and complete, and
--        read nothing else. Everything is closed first, also where Supabase's default privileges
--        had opened it to `anon` and `authenticated`.
--        Two settings of every function belong to this as well. `search_path = '', pg_temp`: left
--        out, pg_temp comes first where types are looked for, and a caller could pass off a domain
--        of theirs as `text`, whose check runs with the rights of our owner. `row_security = off`:
--        where it is forced on our owner, a row that it hides must raise, and not pass for gone.
-- Locks: a moment of ACCESS EXCLUSIVE on the tables.
-- Undo:  alter table ... disable row level security, and grant as before.

-- The worker compares this with its own number and says which of the two is older.
create function public.embedding_schema_version()
returns integer
language sql
immutable
set search_path = '', pg_temp
as $$ select 1 $$;

alter table public.embedding_targets enable row level security;
alter table public.embedding_queue enable row level security;
alter table public.embedding_counts enable row level security;
alter table public.embedding_usage enable row level security;
alter table public.embedding_workers enable row level security;
alter table public.embedding_providers enable row level security;
alter table public.embedding_cache enable row level security;
alter table public.embedding_control enable row level security;
alter table public.embedding_announcements enable row level security;

-- Said aloud, so that it does not look forgotten: texts are known again by their hash, and nobody is to try.
create policy nobody on public.embedding_cache using (false);

do $$
declare
    everyone text;
    every_function regprocedure[];
    one_function regprocedure;
    -- by name, and not by a pattern: a project may well have a `match_embeddings` of its own
    our_functions constant text[] := array[
        'recount_embeddings', 'embedding_table_name', 'watch_embeddings', 'unwatch_embeddings',
        'preview_watch_embeddings',
        'backfill_embeddings', 'claim_embeddings', 'complete_embeddings',
        'extend_embeddings', 'release_embeddings', 'fail_embeddings', 'requeue_embeddings',
        'embedding_rate', 'embedding_worker_heartbeat', 'embedding_worker_deregister', 'embedding_provider_report',
        'cached_embeddings', 'cache_embeddings', 'count_due_embeddings', 'estimate_embeddings',
        'diagnose_embeddings', 'sample_embeddings', 'recheck_embeddings', 'control_embeddings', 'embedding_command', 'announce_embedding_event',
        'embedding_database_load', 'list_embeddings', 'reprocess_embeddings', 'embedding_stats',
        'search_embeddings', 'embedding_schema_version'];
    vector_schema text := (select extnamespace::regnamespace from pg_extension where extname = 'vector');
    worker_functions constant text :=
        'function public.claim_embeddings, public.complete_embeddings, public.extend_embeddings, '
        'public.release_embeddings, public.embedding_worker_heartbeat, public.embedding_worker_deregister, '
        'public.fail_embeddings, public.requeue_embeddings, public.backfill_embeddings, '
        'public.embedding_provider_report, public.cached_embeddings, public.cache_embeddings, '
        'public.estimate_embeddings, embedding.row_count, embedding.count_due, public.count_due_embeddings, '
        'public.diagnose_embeddings, public.sample_embeddings, public.recheck_embeddings, public.control_embeddings, public.embedding_command, '
        'public.announce_embedding_event, public.embedding_database_load, '
        'public.list_embeddings, public.reprocess_embeddings, public.embedding_stats, '
        'public.embedding_rate, public.embedding_table_name, public.embedding_schema_version, '
        'embedding.identity_problem';
    worker_tables constant text :=
        'public.embedding_targets, public.embedding_queue, public.embedding_counts, public.embedding_workers, '
        'public.embedding_status, '
        'public.embedding_failures, public.embedding_usage, public.embedding_providers, '
        'public.embedding_control, public.embedding_progress, public.embedding_announcements';
begin
    -- the roles of a Supabase project, where there are such
    select 'public' || coalesce(string_agg(', ' || quote_ident(rolname), ''), '') into everyone
      from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'embedding_worker');
    select array_agg(routine.oid::regprocedure) into every_function
      from pg_proc as routine
     where routine.pronamespace = 'public'::regnamespace
       and routine.proname = any (our_functions);
    -- A source or filter turns values into text, and that text must be the same in every session: its hash is
    -- compared with that of another session. What these functions call runs under the same settings.
    foreach one_function in array every_function || 'embedding.row_count'::regproc::oid::regprocedure loop
        execute format(
            'alter function %s set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' set timezone = ''UTC'' '
            'set extra_float_digits = 1 set bytea_output = ''hex'' set lc_monetary = ''C'' set lc_numeric = ''C'' '
            'set lc_time = ''C'' set quote_all_identifiers = off set standard_conforming_strings = on', one_function);
    end loop;
    execute format('revoke all on function %s from %s', array_to_string(every_function, ', '), everyone);
    execute format('revoke all on schema embedding from %s', everyone);
    execute format('revoke all on all functions in schema embedding from %s', everyone);
    execute format('revoke all on all sequences in schema embedding from %s', everyone);
    execute format('revoke all on table %s, public.embedding_cache from %s', worker_tables, everyone);
    execute format('revoke all on sequence public.embedding_targets_id_seq, public.embedding_queue_id_seq, '
                   'public.embedding_counts_id_seq from %s', everyone);

    if to_regrole('embedding_worker') is not null then
        execute format('grant usage on schema public, %s to embedding_worker', vector_schema);
        execute format('grant execute on %s to embedding_worker', worker_functions);
        execute format('grant select on table %s to embedding_worker', worker_tables);
        create policy embedding_worker_reads on public.embedding_targets for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_queue for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_counts for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_workers for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_usage for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_providers for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_control for select to embedding_worker using (true);
        create policy embedding_worker_reads on public.embedding_announcements for select to embedding_worker using (true);
    end if;
    if to_regrole('service_role') is not null then
        execute format('grant execute on %s, public.search_embeddings to service_role', worker_functions);
        execute format('grant select on table %s to service_role', worker_tables);
        grant insert, update, delete on table public.embedding_queue to service_role;
        grant usage on schema embedding to service_role;
        grant execute on function embedding.check_table to service_role; -- for search_embeddings
    end if;
    -- a signed-in user sees the state of their own records, and never a text or a lease
    if to_regrole('authenticated') is not null and to_regprocedure('auth.uid()') is not null then
        grant select (id, table_name, record_id, embedding_column, user_id, status, attempts,
                      error_class, available_at, completed_at, created_at, updated_at)
            on table public.embedding_queue to authenticated;
        create policy owners_read on public.embedding_queue for select to authenticated
            using (user_id = (select auth.uid()));
    end if;
end $$;
