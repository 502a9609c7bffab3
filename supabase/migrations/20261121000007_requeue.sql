-- Why:   jobs that have ended, or are in processing, become pending again: when their column changes, or when an
--        operator requests it.
-- Locks: row locks on the jobs concerned, for the length of a call. requeue_embeddings waits for none: a locked job is
--        being edited, which makes it pending anyway. embedding.requeue_target does wait.
-- Undo:  drop function public.requeue_embeddings, embedding.requeue_target, embedding.reset_jobs;

-- Makes jobs, locked by the caller, pending and due, as if they had never been tried. A worker that is embedding one
-- of them loses its lease. `keeps_hash`: a text that still has the hash of the stored vector completes without a call
-- of the model. Without a `new_priority` each keeps its own. Returns how many there were.
-- embedding.enqueue_one contains the same for one job, since a further call would slow down every edit.
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

-- Makes jobs pending again, to be embedded even if their text and model have not changed. Each
-- argument that is given narrows them down; `only_status` null means every status. Returns how many.
-- Over the Data API it may take a minute: PostgREST takes the timeout from here, not from its role.
create function public.requeue_embeddings(
    only_status text default 'failed',
    only_table text default null,
    only_column text default null,
    only_record text default null,
    only_error_class text default null
)
returns bigint
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set statement_timeout = '1min'
as $$
declare
    requeued bigint;
begin
    requeued := embedding.reset_jobs(
        array(select wanted.id from public.embedding_queue as wanted
               where (only_status is null or wanted.status = only_status)
                 and (only_table is null or wanted.table_name = only_table)
                 and (only_column is null or wanted.embedding_column = only_column)
                 and (only_record is null or wanted.record_id = only_record)
                 and (only_error_class is null or wanted.error_class = only_error_class)
               order by wanted.id
                 for update skip locked),
        false);
    perform embedding.wake();
    return requeued;
end $$;

select embedding.protect_functions('embedding.reset_jobs', 'embedding.requeue_target');
select embedding.let_workers_call('public.requeue_embeddings');
