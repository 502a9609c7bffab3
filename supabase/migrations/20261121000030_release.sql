-- Why:   a worker extends the leases of its jobs, and releases or fails those that it cannot complete.
-- Locks: row locks on the jobs concerned. None of these functions waits for one: a locked job is being edited,
--        which takes it from the worker anyway.
-- Undo:  drop function public.fail_embeddings, public.release_embeddings, public.extend_embeddings;

-- Extends the leases of a worker by `lease_for`, with each heartbeat. Returns the jobs whose lease is lost
-- (edited, deleted, or claimed by another worker after the lease expired): their vectors must be discarded.
-- Other jobs under the name of the worker are released at once: they were claimed by a call whose answer
-- was lost. They are looked for among the leases that end within a year, in a plan that is pinned: it reads none that
-- was made not to run out.
create function public.extend_embeddings(worker text, ids bigint[], leases uuid[], lease_for interval)
returns table (id bigint, lease uuid)
language plpgsql
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
    update public.embedding_queue as job
       set lease_expires_at = clock_timestamp() + lease_for, updated_at = now()
     where job.id = any (array(
               select held.id from public.embedding_queue as held
                 join unnest(ids, leases) as given (id, lease) on given.id = held.id and given.lease = held.lease
                  for update of held skip locked));

    update public.embedding_queue as job
       set status = 'pending', abandoned_claims = greatest(job.abandoned_claims - 1, 0),
           available_at = clock_timestamp(), error_message = 'claimed, but the answer was lost',
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (array(
               select held.id
                 from public.embedding_targets as target
                cross join lateral (
                      select leased.id from public.embedding_queue as leased
                       where leased.target_id = target.id and leased.status = 'processing'
                         and leased.lease_expires_at < now() + interval '1 year'
                         and leased.worker = extend_embeddings.worker and leased.id <> all (ids)
                         for update skip locked) as held));

    return query
    select given.id, given.lease from unnest(ids, leases) as given (id, lease)
     where not exists (select from public.embedding_queue as job
                        where job.id = given.id and job.lease = given.lease);
end $$;

-- Releases jobs that did not cause an error: on shutdown, or because the provider is out. This does not
-- count as an attempt. They are due again after `retry_in` plus a random part of up to half of it, different
-- for each: a text that makes a provider hang is then claimed with other jobs, and does not block the same
-- ones for ever. `class` and `reason` say why. Returns how many leases were still held.
--
-- `embedded`: the model has embedded them, but they could not be written. That is counted in `unwritten`, and
-- `retry_in` is doubled each time, up to 5 minutes: so the cost of a job has a limit (see claim_embeddings).
create function public.release_embeddings(
    ids bigint[], leases uuid[], retry_in interval default '0', reason text default null,
    class text default null, embedded boolean default false
)
returns integer
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    released integer;
begin
    update public.embedding_queue as job
       set status = 'pending', abandoned_claims = 0,
           unwritten = least(job.unwritten + embedded::integer, 32767),
           available_at = clock_timestamp() + case
               when embedded then embedding.growing_pause(retry_in, job.unwritten, '5 minutes')
               else retry_in * (1 + random() / 2) end,
           error_message = reason, error_class = class,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id in (
               select held.id from public.embedding_queue as held
                 join unnest(ids, leases) as given (id, lease) on given.id = held.id and given.lease = held.lease
                  for update of held skip locked);
    get diagnostics released = row_count;
    return released;
end $$;

-- Records the error of jobs. With `retry_in` they are due again after that time, if their target allows
-- another attempt; otherwise they are failed, and stay so until somebody requeues them or edits their row.
-- Returns how many are failed now, including those that an earlier call failed whose answer was lost.
create function public.fail_embeddings(
    ids bigint[], leases uuid[], class text, message text, retry_in interval default null
)
returns integer
language sql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    with held as materialized (
        select job.id, least(job.attempts + 1, 32767) as attempts,
               retry_in is null or job.attempts + 1 >= target.max_attempts as for_good
          from public.embedding_queue as job
          join unnest(ids, leases) as given (id, lease) on given.id = job.id and given.lease = job.lease
          join public.embedding_targets as target on target.id = job.target_id
           for update of job skip locked
    ), failed as (
        update public.embedding_queue as job
           set status = case when held.for_good then 'failed' else 'pending' end,
               attempts = held.attempts, abandoned_claims = 0, unwritten = least(job.unwritten + 1, 32767),
               available_at = clock_timestamp() + coalesce(retry_in, '0'),
               error_class = class, error_message = message,
               lease = null, lease_expires_at = null, worker = null, updated_at = now()
          from held where job.id = held.id
    )
    select count(*)::integer
      from unnest(ids) as given (id)
      left join held on held.id = given.id
      left join public.embedding_queue as job on job.id = given.id
     where held.for_good
        or held.id is null and job.status = 'failed' and job.error_class = class and job.error_message = message;
$$;

select embedding.let_workers_call('public.extend_embeddings', 'public.release_embeddings', 'public.fail_embeddings');
