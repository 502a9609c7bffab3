-- Why:   rows without a vector wait for batches, and people see how many do, and what they cost.
-- Locks: what backfill_embeddings locks, and row locks on jobs, for the length of a call. It waits for none of them.
-- Undo:  drop function public.list_batch_backfills, public.cancel_waiting_embeddings, public.plan_embedding_batches,
--        embedding.request_batches, embedding.wait_for_batches, embedding.sends_batches, embedding.count_waiting,
--        embedding.target_of_batches;

-- The target of a column whose texts can be sent in batches. Raises if there is none.
create function embedding.target_of_batches(watched_table text, embedding_column text)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets;
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = watched_table and watched.embedding_column = target_of_batches.embedding_column;
    if target.id is null then
        raise exception 'column % of table % is not watched', embedding_column, watched_table
            using errcode = 'undefined_object', hint = '`worker targets` lists the watched columns.';
    elsif num_nonnulls(target.chunk_format, target.enhance_model) > 0 then
        raise exception 'column % of table % is embedded %, which a batch cannot do', embedding_column, watched_table,
            case when target.chunk_format is not null then 'in chunks' else 'with a chat model' end
            using errcode = 'invalid_parameter_value', hint = 'Use the ordinary backfill: `worker backfill`.';
    end if;
    return target;
end $$;

-- How many jobs of a target wait for a batch: the pending ones, without those that are not waiting, if these are few.
create function embedding.count_waiting(target_id integer)
returns bigint
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    few constant integer := 10000;
    others constant bigint := (
        select count(*)
          from (select from public.embedding_queue as job
                 where job.target_id = count_waiting.target_id and job.status = 'pending' and job.available_at < 'infinity'
                 limit few) as not_waiting);
begin
    if others < few then
        return (select coalesce(sum(counts.pending), 0) - others from public.embedding_counts as counts
                 where counts.target_id = count_waiting.target_id);
    end if;
    return (select count(*) from public.embedding_queue as job
             where job.target_id = count_waiting.target_id and job.status = 'pending' and job.available_at = 'infinity');
end $$;

-- Whether jobs of a target wait for a batch, or are in one.
create function embedding.sends_batches(target_id integer)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$
    select exists (select from public.embedding_queue as job
                    where job.target_id = sends_batches.target_id and job.status = 'pending'
                      and job.available_at = 'infinity')
        or exists (select from public.embedding_batches as batch
                    where batch.target_id = sends_batches.target_id and batch.ended_at is null);
$$;

-- Lets up to `batch` pending jobs of a target wait for a batch: those below its priority, as from a backfill. Returns how many.
create function embedding.wait_for_batches(target public.embedding_targets, batch integer)
returns integer
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    jobs integer;
begin
    update public.embedding_queue as job
       set available_at = 'infinity', updated_at = now()
     where job.id = any (array(
               select waiting.id from public.embedding_queue as waiting
                where waiting.target_id = target.id and waiting.status = 'pending' and waiting.available_at < 'infinity'
                  and waiting.priority < target.priority
                limit batch
                  for update skip locked));
    get diagnostics jobs = row_count;
    return jobs;
end $$;

-- Records that batches of a target are requested, with another limit of the cost, or again: then a pause after a failure ends.
create function embedding.request_batches(
    target public.embedding_targets, is_new boolean, max_cost double precision, source text
)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    before public.embedding_batch_backfills;
begin
    select * into before from public.embedding_batch_backfills as known where known.target_id = target.id;
    insert into public.embedding_batch_backfills as known (target_id, max_cost)
    values (target.id, request_batches.max_cost)
    on conflict on constraint embedding_batch_backfills_pkey do update
       set max_cost = excluded.max_cost, retry_at = null,
           spent = case when is_new then 0 else known.spent end,
           failures = case when is_new then 0 else known.failures end,
           error_class = case when not is_new then known.error_class end,
           error_message = case when not is_new then known.error_message end,
           requested_at = case when is_new then excluded.requested_at else known.requested_at end;
    if is_new or before.target_id is null or before.max_cost is distinct from request_batches.max_cost then
        perform embedding.audit(
            'batches_requested', target.table_name, target.embedding_column, source,
            jsonb_strip_nulls(jsonb_build_object('max_cost', request_batches.max_cost)));
    end if;
end $$;

-- Enqueues the next rows of a target that lack a vector, as backfill_embeddings does, and lets them wait for a batch, with the
-- pending jobs of an ordinary backfill. Returns how many it found, at most about `batch`; call it until that is 0. `max_cost`: US
-- dollars that all batches of this backfill may cost, null for no limit; each call sets it. `source` is where the call comes
-- from: see embedding.audit.
create function public.plan_embedding_batches(
    watched_table text, embedding_column text, batch integer default 1000, max_cost double precision default null,
    source text default 'sql'
)
returns integer
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    target constant public.embedding_targets := embedding.target_of_batches(watched_table, embedding_column);
    is_new constant boolean := not embedding.sends_batches(target.id);
    waiting integer := embedding.wait_for_batches(target, batch);
    found_rows integer := 0;
begin
    if waiting < batch then
        found_rows := public.backfill_embeddings(watched_table, embedding_column, batch);
        waiting := waiting + embedding.wait_for_batches(target, batch);
    end if;
    if waiting > 0 or not is_new then
        perform embedding.request_batches(target, is_new, max_cost, source);
    end if;
    return greatest(found_rows, waiting);
end $$;

-- Lets the jobs of a column that wait for a batch be due now, as those of an ordinary backfill, at most `batch` of them (null:
-- all). Returns how many; call it until that is 0. Batches that are under way are collected.
create function public.cancel_waiting_embeddings(
    watched_table text, embedding_column text, batch integer default 1000, source text default 'sql'
)
returns integer
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    target constant public.embedding_targets := embedding.target_of_batches(watched_table, embedding_column);
    jobs integer;
begin
    delete from public.embedding_batch_backfills as known where known.target_id = target.id;
    if found then
        perform embedding.audit('batches_no_longer_requested', watched_table, embedding_column, source, null);
    end if;
    jobs := embedding.stop_waiting(target.id, batch);
    perform embedding.wake();
    return jobs;
end $$;

-- The columns whose jobs wait for batches, or did. `model` and `document_prompt` are null if they are not decided. `waiting`: jobs.
-- `committed`: US dollars for the batches since it was requested, those under way with their estimates.
create function public.list_batch_backfills()
returns table (
    target_id integer, table_name text, embedding_column text, model text, document_prompt text, dimensions integer,
    waiting bigint, committed double precision, max_cost double precision, most_tokens bigint, retry_at timestamptz,
    failures integer, error_class text, error_message text, requested_at timestamptz
)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select target.id, target.table_name, target.embedding_column, target.model, target.document_prompt, target.dimensions,
           embedding.count_waiting(target.id), known.spent + under_way.cost, known.max_cost, known.most_tokens, known.retry_at,
           known.failures, known.error_class, known.error_message, known.requested_at
      from public.embedding_batch_backfills as known
      join public.embedding_targets as target on target.id = known.target_id
     cross join lateral (
           select coalesce(sum(batch.cost), 0) as cost from public.embedding_batches as batch
            where batch.target_id = target.id and batch.ended_at is null) as under_way
     order by known.requested_at, target.id;
$$;

select embedding.protect_functions(
    'embedding.target_of_batches', 'embedding.count_waiting', 'embedding.sends_batches', 'embedding.wait_for_batches',
    'embedding.request_batches');
select embedding.let_workers_call(
    'public.plan_embedding_batches', 'public.cancel_waiting_embeddings', 'public.list_batch_backfills');
