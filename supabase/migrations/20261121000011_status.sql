-- Why:   one glance at how far the columns are, and at what is wrong.
-- Locks: nothing.
-- Undo:  drop view public.embedding_failures, public.embedding_status; drop function
--        public.embedding_row_count, public.count_due_embeddings;

-- How many jobs a claim would find due now, of any column or of one. Exact; it reads the index of
-- the due jobs and nothing of the watched tables.
create function public.count_due_embeddings(only_table text default null, only_column text default null)
returns bigint
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select count(*)
      from public.embedding_queue as job
      join public.embedding_targets as target
        on target.id = job.target_id and target.enabled and target.problem is null
     where (only_table is null or target.table_name = only_table)
       and (only_column is null or target.embedding_column = only_column)
       and (job.status = 'pending' and job.available_at <= now()
            or job.status = 'processing' and job.lease_expires_at <= now());
$$;

-- The rows of a target that should have a vector or be skipped: those its filter lets through.
-- Null if they cannot be counted (the table or a column of the filter is gone, the filter raises).
create function public.embedding_row_count(target_id integer)
returns bigint
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    target public.embedding_targets;
    found_rows bigint;
begin
    select * into target from public.embedding_targets as watched where watched.id = target_id;
    execute format('select count(*) from %s where %s', target.relation, coalesce(target.filter, 'true'))
       into found_rows;
    return found_rows;
exception
    when others then
        return null; -- whatever a filter raises, it must not hide the other targets
end $$;

-- One row for each target. `coverage` is the share, in percent, of the rows with something to embed
-- that have their vector; null where there is none.
create view public.embedding_status
with (security_invoker = true)
as
select target.table_name,
       target.embedding_column,
       target.model,
       target.enabled,
       target.problem,
       counted.rows,
       coalesce(job.pending, 0) as pending,
       coalesce(job.processing, 0) as processing,
       coalesce(job.completed, 0) as completed,
       coalesce(job.failed, 0) as failed,
       coalesce(job.skipped, 0) as skipped,
       round(100.0 * least(coalesce(job.completed, 0), wanted.vectors) / nullif(wanted.vectors, 0), 1) as coverage,
       coalesce(job.due, 0) as due,
       job.oldest_due
  from public.embedding_targets as target
 cross join lateral (select public.embedding_row_count(target.id) as rows) as counted
  left join (
        select target_id,
               count(*) filter (where status = 'pending') as pending,
               count(*) filter (where status = 'processing') as processing,
               count(*) filter (where status = 'completed') as completed,
               count(*) filter (where status = 'failed') as failed,
               count(*) filter (where status = 'skipped') as skipped,
               count(*) filter (where status = 'pending' and available_at <= now()
                                   or status = 'processing' and lease_expires_at <= now()) as due,
               min(available_at) filter (where status = 'pending' and available_at <= now()) as oldest_due
          from public.embedding_queue
         group by target_id) as job
    on job.target_id = target.id
 cross join lateral (select greatest(counted.rows - coalesce(job.skipped, 0), 0)) as wanted (vectors);

-- What failed, by class, with the reason of the latest.
create view public.embedding_failures
with (security_invoker = true)
as
select table_name,
       embedding_column,
       error_class,
       count(*) as failed,
       (array_agg(error_message order by updated_at desc))[1] as latest_message,
       max(updated_at) as latest_at
  from public.embedding_queue
 where status = 'failed'
 group by table_name, embedding_column, error_class;
