-- Why:   jobs that have ended, or are under way, are started over: when their column changes, or when an operator
--        asks for it.
-- Locks: row locks on the jobs concerned, for the length of a call. requeue_embeddings waits for none: a job that is
--        locked is being edited, which starts it over anyway. embedding.requeue_target does wait.
-- Undo:  drop function public.requeue_embeddings, embedding.requeue_target;

-- Makes every job of a target pending, below live edits. Unless it `trusts_vectors`, each record is embedded again, also
-- if its text and model are the same.
create function embedding.requeue_target(target public.embedding_targets, trusts_vectors boolean)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    update public.embedding_queue as job
       set status = 'pending', priority = greatest(target.priority - 10, -32768), available_at = now(),
           content_hash = case when trusts_vectors then job.content_hash end, attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0, error_message = null, error_class = null,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id in (
               select due.id from public.embedding_queue as due
                where due.target_id = target.id and (due.status <> 'pending' or not trusts_vectors)
                order by due.id for update); -- one left out would keep its old vector for good
end $$;

-- Makes jobs pending again, to be embedded even if their text and model have not changed. Each
-- argument that is given narrows it down; `only_status` null means every status. Returns how many.
-- Called over the Data API it has a minute: PostgREST takes the timeout from here, not from its role.
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
    update public.embedding_queue as job
       set status = 'pending', attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0, available_at = now(), content_hash = null,
           error_message = null, error_class = null,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id in (
               select wanted.id from public.embedding_queue as wanted
                where (only_status is null or wanted.status = only_status)
                  and (only_table is null or wanted.table_name = only_table)
                  and (only_column is null or wanted.embedding_column = only_column)
                  and (only_record is null or wanted.record_id = only_record)
                  and (only_error_class is null or wanted.error_class = only_error_class)
                order by wanted.id
                  for update skip locked);
    get diagnostics requeued = row_count;
    perform embedding.wake();
    return requeued;
end $$;

select embedding.protect_functions('embedding.requeue_target');
select embedding.let_workers_call('public.requeue_embeddings');
