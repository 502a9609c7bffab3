-- Why:   jobs that have ended, or are in processing, become pending again: when their column changes, or when an
--        operator requests it.
-- Locks: row locks on the jobs concerned, for the length of a call. requeue_embeddings waits for none: a locked job is
--        being edited, which makes it pending anyway. embedding.requeue_target does wait.
-- Undo:  drop function public.requeue_embeddings, embedding.failed_jobs, embedding.jobs_after,
--        embedding.requeue_target, embedding.reset_jobs;

-- Makes jobs, locked by the caller, pending and due, as if they had never been tried. A worker that is embedding one
-- of them loses its lease. `keeps_hash`: a text that still has the hash of the stored vector completes without a call
-- of the model. Without a `new_priority` each keeps its own. Returns how many there were.
-- embedding.enqueue_edited contains the same for edits, since a further call would slow down each.
create function embedding.reset_jobs(ids bigint[], keeps_hash boolean, new_priority integer default null)
returns bigint
language plpgsql
set search_path = '', pg_temp
as $$
declare
    jobs bigint;
begin
    if ids = '{}' then
        return 0; -- planned for an empty array, the statement would scan an index of failed jobs
    end if;
    update public.embedding_queue as job
       set status = 'pending', priority = coalesce(new_priority, job.priority), available_at = now(),
           attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0,
           error_message = null, error_class = null,
           lease = null, lease_expires_at = null, worker = null,
           content_hash = case when keeps_hash then job.content_hash end, updated_at = now()
     where job.id = any (ids);
    get diagnostics jobs = row_count;
    return jobs;
end $$;

-- Makes every job of a target pending, below live edits. Unless it `trusts_vectors`, each record is embedded again, also
-- if its text and model are the same.
create function embedding.requeue_target(target public.embedding_targets, trusts_vectors boolean)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    perform embedding.reset_jobs(
        array(select due.id from public.embedding_queue as due
               where due.target_id = target.id and (due.status <> 'pending' or not trusts_vectors)
               order by due.id for update), -- a skipped job would keep its old vector for ever
        trusts_vectors, greatest(target.priority - 10, -32768));
end $$;

-- The next jobs after the job `after_id`, in the order of their ids, at most `batch` (null: all), and the last id that
-- was checked (null: there are no more). If few jobs are of the table or the column, a call ends without a full batch
-- after it has checked twenty times as many jobs, so that it is short in any case. The plan is pinned: with statistics from
-- when the queue was empty, the planner would read and sort all of it.
create function embedding.jobs_after(
    after_id bigint, batch integer, only_table text, only_column text, out ids bigint[], out looked_to bigint
)
language plpgsql
stable
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    looked_to := (select max(next.id)
                    from (select job.id from public.embedding_queue as job
                           where job.id > after_id order by job.id limit 20 * batch::bigint) as next);
    ids := array(select job.id from public.embedding_queue as job
                  where job.id > after_id and job.id <= looked_to
                    and (only_table is null or job.table_name = only_table)
                    and (only_column is null or job.embedding_column = only_column)
                  order by job.id limit batch);
    if cardinality(ids) = batch then
        looked_to := ids[batch];
    end if;
end $$;

-- Locks up to `batch` failed jobs (null: all) and returns them; of a class, those first that have waited longest.
-- The plan is made for the arguments: a class that is given is then a part of the range of the index to read. It is read
-- from the end, so that jobs that fail again meanwhile are not in front.
create function embedding.failed_jobs(
    batch integer, only_table text, only_column text, only_error_class text, failed_before timestamptz
)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    return array(
        select failed.id
          from public.embedding_targets as target
         cross join lateral (
               select job.id from public.embedding_queue as job
                where job.target_id = target.id and job.status = 'failed'
                  and (only_error_class is null or job.error_class = only_error_class)
                  and (failed_before is null or job.updated_at < failed_before)
                order by job.error_class desc, job.updated_at
                limit batch
                  for update skip locked) as failed
         where (only_table is null or target.table_name = only_table)
           and (only_column is null or target.embedding_column = only_column)
         limit batch);
end $$;

-- Makes jobs pending again, to be embedded even if their text and model have not changed. Each `only_` argument that
-- is given narrows them down; `only_status` null means every status. `only_ids` are those of a selection.
--
-- Without a `batch` it requeues all of them. With one, at most that many: call it until `looked_to` is null, with
-- `looked_to` as the next `after_id`, and the `called_at` of the first call as `failed_before`, so that a job that
-- fails again is not requeued twice. `failed_before` concerns only failed jobs; of every status, each job is requeued
-- once, because it is passed. `source` is where the call comes from: see embedding.audit. Over the Data API a call may take a minute:
-- PostgREST takes the timeout from here, not from its role.
create function public.requeue_embeddings(
    only_status text default 'failed',
    only_table text default null,
    only_column text default null,
    only_record text default null,
    only_error_class text default null,
    after_id bigint default 0,
    batch integer default null,
    failed_before timestamptz default null,
    source text default 'sql',
    only_ids bigint[] default null
)
returns table (requeued bigint, looked_to bigint, called_at timestamptz)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set statement_timeout = '1min'
as $$
declare
    ids bigint[];
begin
    if only_ids is null and only_record is null and only_status = 'failed' then
        ids := embedding.failed_jobs(batch, only_table, only_column, only_error_class, failed_before);
        looked_to := case when cardinality(ids) = batch then after_id end;
    else
        if only_ids is not null then
            ids := array(select distinct chosen.id from unnest(only_ids) as chosen (id)
                          where chosen.id > after_id order by chosen.id limit batch);
            looked_to := case when cardinality(ids) = batch then ids[batch] end;
        elsif only_record is null then
            select page.ids, page.looked_to into ids, looked_to
              from embedding.jobs_after(after_id, batch, only_table, only_column) as page;
        else
            ids := array(select job.id from public.embedding_queue as job where job.record_id = only_record);
        end if;
        ids := array(select wanted.id from public.embedding_queue as wanted
                      where wanted.id = any (ids)
                        and (only_table is null or wanted.table_name = only_table)
                        and (only_column is null or wanted.embedding_column = only_column)
                        and (only_record is null or wanted.record_id = only_record)
                        and (only_status is null or wanted.status = only_status)
                        and (only_error_class is null or wanted.error_class = only_error_class)
                      order by wanted.id
                        for update skip locked);
        looked_to := case when batch is not null then looked_to end;
    end if;
    requeued := embedding.reset_jobs(ids, false);
    called_at := now();
    perform embedding.audit_batch(
        'requeued', only_table, only_column, source,
        jsonb_build_object('status', coalesce(only_status, 'every'), 'record_id', left(only_record, 200),
                           'error_class', only_error_class, 'selected', cardinality(only_ids)),
        batch is null or after_id = 0 and failed_before is null, requeued, looked_to);
    perform embedding.wake();
    return next;
end $$;

select embedding.protect_functions(
    'embedding.reset_jobs', 'embedding.requeue_target', 'embedding.jobs_after', 'embedding.failed_jobs');
select embedding.let_workers_call('public.requeue_embeddings');
