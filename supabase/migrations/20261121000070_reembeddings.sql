-- Why:   a column gets the vectors of another model beside those it has, while searches go on. Each such undertaking has a
--        row, and each of its steps an entry in embedding_audit.
-- Locks: nothing, the tables are new.
-- Undo:  drop function public.reembedding_usage, public.reembedding_progress, embedding.raise_locked, embedding.lock_holders;
--        drop function embedding.refuse_in_reembedding cascade; drop function
--        embedding.check_reembedding, embedding.open_reembedding; alter table public.embedding_audit
--        drop constraint embedding_audit_of_known_reembedding; drop table public.embedding_reembeddings;
--
-- The *named column* is the one that people name. Its serving target may keep its vectors in another column (`serves` of
-- embedding_targets): a swap changes which target serves it, and never the name of a column.

create table public.embedding_reembeddings (
    id integer generated always as identity primary key,
    table_name text not null,                      -- as in embedding_targets
    embedding_column text not null,                -- the named column
    old_target integer not null,                   -- these stay after a target is gone
    new_target integer not null,
    old_column text not null,                      -- the names under which they are watched
    new_column text not null,
    state text not null default 'filling',
    old_model text,
    new_model text not null,
    dimensions integer not null,                   -- of the new vectors
    config jsonb,                                  -- what was asked for
    problem text,                                  -- why the present stage failed last; null: it did not
    started_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    swapped_at timestamptz,                        -- null: the old target serves
    ended_at timestamptz,                          -- finished or cancelled
    constraint embedding_reembeddings_known_state check (
        state in ('filling', 'paused', 'indexing', 'verifying', 'ready', 'swapped', 'finished', 'cancelled'))
);

create unique index embedding_reembeddings_one_open
    on public.embedding_reembeddings (table_name, embedding_column) where ended_at is null;

alter table public.embedding_audit
    add constraint embedding_audit_of_known_reembedding foreign key (reembedding_id) references public.embedding_reembeddings;

-- The open re-embedding of a target. No row: there is none.
create function embedding.open_reembedding(target_id integer)
returns setof public.embedding_reembeddings
language sql
stable
set search_path = '', pg_temp
as $$
    select known.* from public.embedding_reembeddings as known
     where known.ended_at is null and target_id in (known.old_target, known.new_target);
$$;

-- Raises if a target is in an open re-embedding: both of its targets have to embed the same texts. `wanted` is what would be
-- done. A model or a prompt that was not decided yet may be recorded.
create function embedding.check_reembedding(
    before public.embedding_targets, wanted text, after public.embedding_targets default null
)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
begin
    if after.id is not null
       and (before.model is null or before.model is not distinct from after.model)
       and (before.document_prompt is null or before.document_prompt is not distinct from after.document_prompt)
       and (before.query_prompt, before.source, before.filter, before.dimensions, before.language, before.context,
            before.chunk_format, before.chunk_size, before.chunk_unit, before.max_chunks, before.enhance_model,
            before.enhance_prompt)
           is not distinct from
           (after.query_prompt, after.source, after.filter, after.dimensions, after.language, after.context,
            after.chunk_format, after.chunk_size, after.chunk_unit, after.max_chunks, after.enhance_model,
            after.enhance_prompt) then
        return;
    end if;
    select * into reembedding from embedding.open_reembedding(before.id);
    if found then
        raise exception 'column % of table % cannot be % while column % is re-embedded', before.embedding_column,
                        before.table_name, wanted, reembedding.embedding_column
            using errcode = 'object_not_in_prerequisite_state',
                  hint = case when reembedding.state = 'swapped' then 'Finish the re-embedding first, or roll it back and cancel it.'
                              else 'Cancel the re-embedding first, or finish it.' end;
    end if;
end $$;

-- Refuses a change of a target by hand as well, and one by a session that did not see the re-embedding begin.
create function embedding.refuse_in_reembedding()
returns trigger
language plpgsql
set search_path = '', pg_temp
as $$
begin
    perform embedding.check_reembedding(old, 'changed', new);
    return new;
end $$;

create trigger embedding_targets_in_reembedding
    before update of source, filter, model, document_prompt, query_prompt, dimensions, language, context, chunk_format,
                     chunk_size, chunk_unit, max_chunks, enhance_model, enhance_prompt
    on public.embedding_targets
    for each row execute function embedding.refuse_in_reembedding();

-- How far the new vectors of a re-embedding are. `rows` are those that should have one, null once the new target
-- is gone; `done` those that do, or have nothing to embed. `tokens` and `cost` are those of the new model since the start, in
-- the last 7 days; `cost` is null if the price of some of it is not known. `eta_seconds` is the time for the pending jobs at the
-- rate of all workers in the last minutes, as in embedding_progress; null: none of them used the new model.
create function public.reembedding_progress(id integer)
returns table (
    rows bigint, rows_exact boolean, done bigint, pending bigint, failed bigint, tokens bigint, cost double precision,
    eta_seconds double precision
)
language sql
volatile
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select counted.rows, counted.exact, jobs.completed + jobs.skipped, jobs.pending, jobs.failed, paid.tokens, paid.cost,
           case when jobs.pending = 0 then 0 else jobs.pending / (speed.jobs_per_second * greatest(users.workers, 1)) end
      from public.embedding_reembeddings as known
     cross join lateral (
           select coalesce(sum(counts.pending + counts.processing), 0)::bigint as pending,
                  coalesce(sum(counts.completed), 0)::bigint as completed,
                  coalesce(sum(counts.failed), 0)::bigint as failed,
                  coalesce(sum(counts.skipped), 0)::bigint as skipped
             from public.embedding_counts as counts
            where counts.target_id = known.new_target) as jobs
     cross join lateral (
           select sum(usage.tokens)::bigint as tokens,
                  case when bool_and(usage.cost is not null) then sum(usage.cost)::float8 end as cost
             from public.embedding_usage as usage
            where usage.model = known.new_model
              and usage.minute >= date_trunc('minute', known.started_at, 'UTC')
              and usage.minute <= coalesce(known.ended_at, now())) as paid
     cross join lateral (
           select nullif(sum(usage.completed + usage.failed) / nullif(sum(usage.seconds), 0), 0) as jobs_per_second
             from public.embedding_usage as usage
            where usage.model = known.new_model and usage.minute >= now() - interval '5 minutes') as speed
     cross join lateral (
           select count(*) as workers from public.embedding_workers as worker
            where worker.usage @> jsonb_build_array(jsonb_build_object('model', known.new_model))
              and worker.seen_at > now() - interval '2 minutes') as users
      left join lateral embedding.row_count(
               known.new_target, jobs.pending + jobs.completed + jobs.failed + jobs.skipped) as counted on true
     where known.id = reembedding_progress.id;
$$;

-- What edits have taken since the swap, by each model: both sets of vectors are kept in step. One row for each model, the old
-- one first; no row before a swap. It counts whole minutes after the swap, in the last 7 days, and all columns of a model. `cost`
-- is null if the price of some of it is not known.
create function public.reembedding_usage(id integer)
returns table (model text, texts bigint, tokens bigint, cost double precision)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select paid.model, coalesce(sum(usage.completed), 0)::bigint, coalesce(sum(usage.tokens), 0)::bigint,
           case when bool_and(usage.minute is null or usage.cost is not null)
                then coalesce(sum(usage.cost), 0)::double precision end
      from public.embedding_reembeddings as known
      left join public.embedding_targets as old on old.id = known.old_target
     cross join lateral (select distinct unnest(array[coalesce(known.old_model, old.model), known.new_model])) as paid (model)
      left join public.embedding_usage as usage
        on usage.model = paid.model and usage.minute > known.swapped_at and usage.minute <= coalesce(known.ended_at, now())
     where known.id = reembedding_usage.id and known.swapped_at is not null and paid.model is not null
     group by paid.model, known.new_model
     order by paid.model = known.new_model;
$$;

-- The sessions that hold a lock on one of these tables, each with its process, its name and its state, but not with what it
-- runs. What a caller may not see of a session is left out.
create function embedding.lock_holders(tables regclass[], also_readers boolean)
returns table (table_name text, session text, process integer)
language sql
volatile -- locks are not part of a snapshot
set search_path = '', pg_temp
as $$
    select public.embedding_table_name(held.id),
           case when held.process is null then 'a prepared transaction'
                else format('process %s (%s)', held.process,
                            coalesce(nullif(known.application_name, ''), nullif(known.backend_type, 'client backend'),
                                     'without a name'))
                     || coalesce(format(', %s since %s', known.state, date_trunc('second', known.state_change)), '') end,
           held.process
      from (select distinct lock.relation::regclass as id, coalesce(worker.leader_pid, lock.pid) as process
              from pg_locks as lock
              left join pg_stat_activity as worker on worker.pid = lock.pid
             where lock.relation = any (tables::oid[]) and lock.granted
               and (also_readers or lock.mode <> 'AccessShareLock')
               and lock.database = (select oid from pg_database where datname = current_database())
               and lock.pid is distinct from pg_backend_pid()) as held
      left join pg_stat_activity as known on known.pid = held.process
     order by held.process, 1;
$$;

-- Raises lock_not_available, with who holds a lock on the tables of a column. Without one, or if nobody does any more, with who
-- writes settings and jobs.
create function embedding.raise_locked(watched_table text, embedding_column text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    names text;
    sessions text;
    processes text;
    candidates regclass[];
    also_readers boolean;
begin
    for candidates, also_readers in
        select array_agg(distinct made.id::regclass), true from public.embedding_targets as target
         cross join lateral unnest(array[to_regclass(target.relation), to_regclass(target.chunks_relation),
                                         to_regclass(target.places_relation)]) as made (id)
         where target.table_name = watched_table and made.id is not null
           and raise_locked.embedding_column in (target.embedding_column, target.serves)
        union all
        select '{public.embedding_targets,public.embedding_reembeddings,public.embedding_queue}', false
    loop
        select string_agg(distinct held.table_name, ', '), string_agg(distinct held.session, '; '),
               string_agg(distinct held.process::text, ', ')
          into names, sessions, processes
          from embedding.lock_holders(candidates, also_readers) as held;
        exit when names is not null;
    end loop;
    raise exception using errcode = 'lock_not_available',
        message = format('%s locked by another session%s',
                         case when names like '%, %' then format('tables %s are', names)
                              else format('table %s is', coalesce(names, watched_table, 'embedding_targets')) end,
                         coalesce(': ' || sessions, '')),
        hint = 'End the transaction of that session, then try again'
               || coalesce(format('; `select pg_terminate_backend(%s)` ends the session itself', processes), '') || '.';
end $$;

select embedding.let_workers_read('public.embedding_reembeddings');
select embedding.protect_functions(
    'embedding.open_reembedding', 'embedding.check_reembedding', 'embedding.refuse_in_reembedding',
    'embedding.lock_holders', 'embedding.raise_locked');
select embedding.let_workers_call('public.reembedding_progress', 'public.reembedding_usage');
