-- Why:   any worker looks at batches that are under way, and collects and ends them.
-- Locks: the row of the batch and row locks on its jobs, for the length of a call. It waits for no lock on a job.
-- Undo:  drop function public.cancel_embedding_batch, public.end_embedding_batch, embedding.forget_batches,
--        embedding.count_in_usage, embedding.count_in_backfill, embedding.count_batch, public.release_embedding_batch,
--        public.embedding_batch_jobs, public.report_embedding_batch, public.next_embedding_batch, embedding.forget_jobs,
--        embedding.release_from_batch, embedding.recorded_jobs;

-- The given jobs; null: all that are recorded for a batch.
create function embedding.recorded_jobs(batch_id bigint, ids bigint[])
returns bigint[]
language sql
stable
set search_path = '', pg_temp
as $$
    select coalesce(ids, array(select claimed.job_id from embedding.batch_jobs as claimed
                                where claimed.batch_id = recorded_jobs.batch_id));
$$;

-- Gives jobs back that a batch holds (`ids`; null: all), at most `most` of them: to wait for another batch, if its column still
-- sends any, or else to be due now. Returns how many. A job that another session has locked stays: see next_embedding_batch.
create function embedding.release_from_batch(batch public.embedding_batches, ids bigint[], most integer, to_wait boolean)
returns integer
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    recorded constant bigint[] := embedding.recorded_jobs(batch.id, ids);
    held constant bigint[] := array(
        select free.id
          from embedding.batch_jobs as claimed
         cross join lateral (
               select job.id from public.embedding_queue as job
                where job.id = claimed.job_id and job.lease = claimed.lease
                  for update skip locked) as free
         where claimed.batch_id = batch.id and claimed.job_id = any (recorded)
         limit most);
begin
    update public.embedding_queue as job
       set status = 'pending', abandoned_claims = 0, available_at = clock_timestamp(),
           error_class = null, error_message = format('given back by batch %s', batch.id),
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (held);
    -- not above: a change of the status that leaves the due time as it is counts as one by hand
    update public.embedding_queue as job set available_at = 'infinity'
     where job.id = any (held) and to_wait
       and exists (select from public.embedding_batch_backfills as requested where requested.target_id = batch.target_id);
    delete from embedding.batch_jobs as claimed where claimed.batch_id = batch.id and claimed.job_id = any (held);
    update public.embedding_batches as known
       set released = known.released + cardinality(held)
     where known.id = batch.id and known.state <> 'preparing'; -- then they did not fit, or nothing was sent
    if held <> '{}' then
        perform embedding.wake();
    end if;
    return cardinality(held);
end $$;

-- Forgets the jobs of a batch that it no longer holds, or those among `ids`.
create function embedding.forget_jobs(batch_id bigint, ids bigint[] default null)
returns void
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    recorded constant bigint[] := embedding.recorded_jobs(batch_id, ids);
begin
    delete from embedding.batch_jobs as claimed
     where claimed.batch_id = forget_jobs.batch_id and claimed.job_id = any (recorded)
       and not exists (select from public.embedding_queue as job
                        where job.id = claimed.job_id and job.lease = claimed.lease);
end $$;

-- Takes the batch that needs a worker most: one whose worker has died, or that is to be looked at by now; not one of `except_ids`.
-- With `only_id` only that one, although it is not its time yet. No row: none needs one, or others have them.
--
-- A job that was locked when its batch ended is given back here: or else it would stay in processing if it is not edited.
create function public.next_embedding_batch(
    worker text, lease_for interval, only_id bigint default null, except_ids bigint[] default '{}'
)
returns setof public.embedding_batches
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    ended public.embedding_batches;
begin
    for ended in
        select * from public.embedding_batches as known
         where known.ended_at is not null
           and exists (select from embedding.batch_jobs as claimed where claimed.batch_id = known.id)
           for update skip locked
    loop
        perform embedding.release_from_batch(ended, null, null, ended.state in ('failed', 'expired'));
        perform embedding.forget_jobs(ended.id);
    end loop;
    return query
    update public.embedding_batches as known
       set worker = next_embedding_batch.worker, lease_expires_at = clock_timestamp() + lease_for
     where known.id = (
               select free.id from public.embedding_batches as free
                where free.ended_at is null and coalesce(free.lease_expires_at <= clock_timestamp(), true)
                  and free.id <> all (except_ids)
                  and case when only_id is null then coalesce(free.look_at <= clock_timestamp(), true)
                           else free.id = only_id end
                order by free.look_at nulls first, free.id limit 1
                  for update skip locked)
    returning known.*;
end $$;

-- Records the state at the provider, and gives the lease back: the batch is to be looked at in `look_in`, by any worker. Returns
-- false if another worker has it by now.
create function public.report_embedding_batch(id bigint, worker text, provider_state text, look_in interval)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_batches as known
       set provider_state = coalesce(report_embedding_batch.provider_state, known.provider_state), lease_expires_at = null,
           look_at = clock_timestamp() + look_in
     where known.id = report_embedding_batch.id and known.worker = report_embedding_batch.worker and known.ended_at is null;
    return found;
end $$;

-- The jobs of a batch that have the texts of the given jobs, as far as the batch still holds them, with what a worker needs to
-- complete them: at most `batch` of those whose ids are above `after_id`, in their order. `asked`: the given job.
create function public.embedding_batch_jobs(id bigint, job_ids bigint[], after_id bigint default 0, batch integer default 1000)
returns table (
    asked bigint, job_id bigint, target_id integer, table_name text, record_id text, embedding_column text, content_hash bytea,
    lease uuid, model text, document_prompt text, dimensions integer, attempts smallint, truncate boolean
)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    select distinct on (same.job_id)
           given.job_id, same.job_id, target.id, job.table_name, job.record_id, job.embedding_column, same.content_hash,
           same.lease, coalesce(target.model, split_part(known.model, '#', 1)), target.document_prompt, target.dimensions,
           job.attempts, target.on_too_long = 'truncate'
      from public.embedding_batches as known
      join public.embedding_targets as target on target.id = known.target_id
      join embedding.batch_jobs as given on given.batch_id = known.id and given.job_id = any (job_ids)
      join embedding.batch_jobs as same on same.batch_id = known.id and same.content_hash = given.content_hash
      join public.embedding_queue as job on job.id = same.job_id and job.lease = same.lease
     where known.id = embedding_batch_jobs.id and same.job_id > after_id
     order by same.job_id, given.job_id
     limit batch;
end $$;

-- Gives jobs back that the batch holds: those given, or all, at most `batch`; call it until it returns 0. `to_wait`: for another
-- batch, if its column still sends any; or else they are due now. Given jobs that it does not hold are no longer counted as its
-- jobs. Returns how many it gave back: 0 as well if another worker has the batch by now.
create function public.release_embedding_batch(
    id bigint, worker text, to_wait boolean, batch integer default 2000, job_ids bigint[] default null
)
returns integer
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    known public.embedding_batches;
    jobs integer;
begin
    select * into known from public.embedding_batches as found
     where found.id = release_embedding_batch.id and found.worker = release_embedding_batch.worker and found.ended_at is null
       for no key update;
    if known.id is null then
        return 0;
    end if;
    jobs := embedding.release_from_batch(known, job_ids, batch, to_wait);
    if job_ids is not null then
        perform embedding.forget_jobs(known.id, job_ids);
    end if;
    return jobs;
end $$;

-- What became of the jobs of a batch, from the queue, so that it does not matter which worker has written them: completed and
-- failed ones since it was begun, and others that it no longer holds. Tokens and cost are those of the completed ones.
create function embedding.count_batch(
    batch public.embedding_batches, out completed integer, out failed integer, out stale integer, out tokens bigint,
    out cost double precision
)
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    select count(*) filter (where fate.is_completed), count(*) filter (where fate.is_failed and not fate.is_completed),
           count(*) filter (where not fate.is_completed and not fate.is_failed and not fate.is_held),
           coalesce(sum(fate.tokens) filter (where fate.is_completed), 0),
           case when bool_and(fate.cost is not null) filter (where fate.is_completed) is not false
                then coalesce(sum(fate.cost) filter (where fate.is_completed), 0) end
      into completed, failed, stale, tokens, cost
      from (select coalesce(job.content_hash = claimed.content_hash and job.completed_at >= batch.created_at, false)
                       as is_completed,
                   coalesce(job.status = 'failed' and job.updated_at >= batch.created_at, false) as is_failed,
                   coalesce(job.lease = claimed.lease, false) as is_held, job.tokens, job.cost
              from embedding.batch_jobs as claimed
              left join public.embedding_queue as job on job.id = claimed.job_id
             where claimed.batch_id = batch.id) as fate;
end $$;

-- Adds a batch that has ended to its batch backfill. With `retry_in` the next one waits so long, twice as long after each failure in
-- a row, up to an hour; without, the next one is sent at once.
create function embedding.count_in_backfill(batch public.embedding_batches, retry_in interval, most_tokens bigint)
returns void
language sql
set search_path = '', pg_temp
as $$
    update public.embedding_batch_backfills as known
       set spent = known.spent + case when batch.created_at >= known.requested_at then coalesce(batch.cost, 0) else 0 end,
           most_tokens = coalesce(count_in_backfill.most_tokens, known.most_tokens),
           retry_at = case when retry_in is not null
                           then clock_timestamp() + embedding.growing_pause(retry_in, known.failures, '1 hour') end,
           failures = case when retry_in is not null then known.failures + 1
                           when batch.state = 'completed' then 0 else known.failures end,
           error_class = case when retry_in is not null then batch.error_class
                              when batch.state <> 'completed' then known.error_class end,
           error_message = case when retry_in is not null then batch.error_message
                                when batch.state <> 'completed' then known.error_message end
     where known.target_id = batch.target_id;
$$;

-- Adds a batch that has ended to the statistics, under the name of its model with ` (batch)`: it took no time of a worker, and a
-- rate is computed from the others.
create function embedding.count_in_usage(batch public.embedding_batches)
returns void
language sql
set search_path = '', pg_temp
as $$
    insert into public.embedding_usage as counted (minute, model, completed, failed, requests, tokens, cost)
    select date_trunc('minute', now(), 'UTC'), batch.model || ' (batch)', batch.completed, batch.failed, 1,
           coalesce(batch.tokens, 0), batch.cost
     where batch.submitted_at is not null
    on conflict on constraint embedding_usage_pkey do update
       set completed = counted.completed + excluded.completed, failed = counted.failed + excluded.failed,
           requests = counted.requests + excluded.requests, tokens = counted.tokens + excluded.tokens,
           cost = counted.cost + excluded.cost;
$$;

-- Deletes the rows of batches that came to nothing, and of those that ended before the latest 200 of a target.
create function embedding.forget_batches(ended public.embedding_batches)
returns void
language sql
set search_path = '', pg_temp
as $$
    delete from public.embedding_batches as old
     where old.ended_at is not null
       and (old.id = ended.id and old.submitted_at is null and old.error_class is null
            or old.target_id is not distinct from ended.target_id
               and old.id <= (select later.id from public.embedding_batches as later
                               where later.target_id is not distinct from ended.target_id and later.ended_at is not null
                               order by later.id desc offset 200 limit 1))
       and not exists (select from embedding.batch_jobs as claimed where claimed.batch_id = old.id);
$$;

-- Ends a batch: `completed`, `failed`, `expired` or `cancelled`. What it still holds is given back: after `failed` and `expired` to
-- wait for another batch, or else to be due now. `retry_in`: the pause before the next batch of its column, see
-- embedding.count_in_backfill; `most_tokens`: as many may be under way. `tokens` and `cost` are what the provider counts; null: those
-- of the completed jobs. Returns the batch as it is now; no row: another worker has it by now. One that came to nothing, without an
-- error, leaves no row behind.
create function public.end_embedding_batch(
    id bigint, worker text, state text, error_class text default null, error_message text default null,
    retry_in interval default null, most_tokens bigint default null, tokens bigint default null,
    cost double precision default null
)
returns setof public.embedding_batches
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    batch public.embedding_batches;
    counted record;
begin
    select * into batch from public.embedding_batches as found
     where found.id = end_embedding_batch.id and found.worker = end_embedding_batch.worker and found.ended_at is null
       for no key update;
    if batch.id is null then
        return;
    end if;
    perform embedding.release_from_batch(batch, null, null, end_embedding_batch.state in ('failed', 'expired'));
    select * into counted from embedding.count_batch(batch);
    perform embedding.forget_jobs(batch.id);
    update public.embedding_batches as known
       set state = end_embedding_batch.state, completed = counted.completed, failed = counted.failed, stale = counted.stale,
           tokens = coalesce(end_embedding_batch.tokens, counted.tokens), cost = coalesce(end_embedding_batch.cost, counted.cost),
           error_class = end_embedding_batch.error_class, error_message = left(end_embedding_batch.error_message, 1000),
           ended_at = clock_timestamp(), lease_expires_at = null, look_at = null
     where known.id = batch.id
    returning known.* into batch;
    perform embedding.count_in_backfill(batch, retry_in, most_tokens);
    perform embedding.count_in_usage(batch);
    perform embedding.forget_batches(batch);
    return next batch;
end $$;

-- Marks a batch to be cancelled: a worker cancels it at the provider, and collects what was embedded until then. Returns false if
-- it has ended, or there is none. `source` is where the call comes from: see embedding.audit.
create function public.cancel_embedding_batch(id bigint, source text default 'sql')
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    batch public.embedding_batches;
begin
    select * into batch from public.embedding_batches as found
     where found.id = cancel_embedding_batch.id and found.ended_at is null
       for no key update;
    if batch.id is null then
        return false;
    end if;
    if batch.cancel_requested_at is null then
        update public.embedding_batches as known
           set cancel_requested_at = clock_timestamp(), look_at = clock_timestamp()
         where known.id = batch.id;
        perform embedding.audit(
            'batch_cancelled', batch.table_name, batch.embedding_column, source, jsonb_build_object('batch', batch.id));
    end if;
    return true;
end $$;

select embedding.protect_functions(
    'embedding.recorded_jobs', 'embedding.release_from_batch', 'embedding.forget_jobs', 'embedding.count_batch',
    'embedding.count_in_backfill', 'embedding.count_in_usage', 'embedding.forget_batches');
select embedding.let_workers_call(
    'public.next_embedding_batch', 'public.report_embedding_batch', 'public.embedding_batch_jobs',
    'public.release_embedding_batch', 'public.end_embedding_batch', 'public.cancel_embedding_batch');
