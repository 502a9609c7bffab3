-- Why:   each target has functions of its own, which contain the names of its table and columns and its source and
--        filter: so the plans of their statements are kept for a session, and not made at every call.
-- Locks: nothing.
-- Undo:  drop function embedding.make_functions cascade; drop function embedding.drop_functions, embedding.make_function;

-- Creates a function of a target. It belongs to the owner of this API.
create function embedding.make_function(function_name text, arguments text, options text, body text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if exists (select from pg_proc
                where pronamespace = 'embedding'::regnamespace and proname = function_name
                  and not embedding.trusts(proowner)) then
        raise exception 'there is a function embedding.% already, which is not of this API', function_name
            using errcode = 'duplicate_function',
                  hint = format('Run `drop function embedding.%s cascade`.', function_name);
    end if;
    execute format('create or replace function embedding.%s(%s) %s language plpgsql set search_path = '''', pg_temp as %L',
                   function_name, arguments, options, body);
    execute format('alter function embedding.%s owner to %s', function_name,
                   (select nspowner::regrole from pg_namespace where nspname = 'embedding'));
    execute format('revoke all on function embedding.%s from %s', function_name, embedding.everyone());
end $$;

-- Creates the functions of a target, or makes them again when the target changes:
--
--   trigger_N  is called by its triggers
--   enqueue_N  enqueues records, after it has looked them up in the table
--   read_N     reads the rows of leased jobs
--   lock_N     locks the rows and jobs that get their vectors
create function embedding.make_functions()
returns trigger
language plpgsql
set search_path = '', pg_temp
as $$
declare
    keeps_plans constant text := 'set plan_cache_mode = force_generic_plan set enable_seqscan = off '
                                 'set enable_bitmapscan = off set jit = off';
begin
    if to_regclass(new.relation) is null
       or exists (select from unnest(new.key_columns) as key (name)
                   where not exists (select from pg_attribute
                                      where attrelid = to_regclass(new.relation) and attname = key.name
                                        and not attisdropped)) then
        return null; -- the table or its key was renamed: the target is suspended until it is watched again
    end if;
    perform embedding.make_function(
        'trigger_' || new.id, '', 'returns trigger security definer', embedding.trigger_sql(new));
    perform embedding.make_function(
        'enqueue_' || new.id, 'edited text[], moved text[]',
        'returns void security definer set row_security = off set enable_seqscan = off', embedding.enqueue_sql(new));
    perform embedding.make_function(
        'read_' || new.id, 'ids bigint[], fence uuid, current_model text, live_priority smallint',
        'returns setof embedding.judged_job ' || keeps_plans, embedding.read_sql(new));
    perform embedding.make_function(
        'lock_' || new.id, 'ids bigint[], leases uuid[], hashes bytea[], out places integer[], out records text[]',
        keeps_plans, embedding.lock_sql(new));
    return null;
end $$;

create trigger embedding_targets_functions
    after insert or update of relation, key_columns, record_id_sql, record_match_sql, user_column, embedding_column,
                              source, context, filter, places_relation, store_relation
    on public.embedding_targets
    for each row execute function embedding.make_functions();

-- A session that restores data can have turned off other triggers.
alter table public.embedding_targets enable always trigger embedding_targets_functions;

-- Drops the functions of a target, with the triggers that call them, whatever their table is now.
create function embedding.drop_functions(target_id integer)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    routine regprocedure;
begin
    for routine in
        select oid from pg_proc
         where pronamespace = 'embedding'::regnamespace and embedding.trusts(proowner)
           and proname ~ format('^(trigger|enqueue|read|lock)_%s$', target_id)
    loop
        execute format('drop function %s cascade', routine);
    end loop;
end $$;

select embedding.protect_functions(
    'embedding.make_function', 'embedding.make_functions', 'embedding.drop_functions');
