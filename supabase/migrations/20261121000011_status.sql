-- Why:   one glance at how far the columns are, and at what is wrong.
-- Locks: nothing.
-- Undo:  drop view public.embedding_failures, public.embedding_status; drop function public.embedding_due,
--        public.embedding_rows, public.embedding_row_count, public.count_due_embeddings;

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

-- The same, in no time: counted where the table is small, else as many as the planner expects.
create function public.embedding_rows(target_id integer, out rows bigint, out rows_exact boolean)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    small constant integer := 8 * 1024 * 1024; -- bytes, without what is stored apart; 10 ms
    target public.embedding_targets;
    expected json;
begin
    select * into target from public.embedding_targets as watched where watched.id = target_id;
    rows_exact := pg_relation_size(to_regclass(target.relation)) <= small;
    if rows_exact then
        rows := public.embedding_row_count(target_id);
        return;
    end if;
    execute format('explain (format json) select from %s where %s', target.relation, coalesce(target.filter, 'true'))
       into expected;
    rows := expected -> 0 -> 'Plan' ->> 'Plan Rows';
exception
    when others then
        rows := null; -- as in embedding_row_count
end $$;

-- How many jobs of a target a claim would find now, and since when the oldest of them is due. With more than ten
-- thousand pending, `due` is all of them if any is, and `due_exact` is false; the oldest is then that of a hundred
-- owners at most.
create function public.embedding_due(
    target_id integer, pending bigint, out due bigint, out due_exact boolean, out oldest_due timestamptz
)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    many constant integer := 10000;
    expired bigint;
begin
    select count(*) into expired
      from public.embedding_queue as job
     where job.target_id = embedding_due.target_id and job.status = 'processing' and job.lease_expires_at <= now();
    due_exact := pending <= many;
    if due_exact then
        select count(*), min(job.available_at) into due, oldest_due
          from public.embedding_queue as job
         where job.target_id = embedding_due.target_id and job.status = 'pending' and job.available_at <= now();
        due := due + expired;
        return;
    end if;
    with recursive owners as (
        (select job.priority, coalesce(uuid_hash(job.user_id), 0) as owner, job.available_at, 1 as number
           from public.embedding_queue as job
          where job.target_id = embedding_due.target_id and job.status = 'pending'
          order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
          limit 1)
        union all
        select next.priority, next.owner, next.available_at, owners.number + 1
          from owners
         cross join lateral (
            (select job.priority, coalesce(uuid_hash(job.user_id), 0) as owner, job.available_at
               from public.embedding_queue as job
              where job.target_id = embedding_due.target_id and job.status = 'pending'
                and job.priority = owners.priority and coalesce(uuid_hash(job.user_id), 0) > owners.owner
              order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
              limit 1)
            union all
            (select job.priority, coalesce(uuid_hash(job.user_id), 0), job.available_at
               from public.embedding_queue as job
              where job.target_id = embedding_due.target_id and job.status = 'pending'
                and job.priority < owners.priority
              order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
              limit 1)
            limit 1) as next
         where owners.number < 100
    )
    select min(owners.available_at) into oldest_due from owners where owners.available_at <= now();
    due := case when oldest_due is null then expired else pending + expired end;
end $$;

-- One row for each target. `coverage` is the share, in percent, of the rows with something to embed
-- that have their vector; null where there is none. The counts of the jobs are exact; `rows` is where `rows_exact`
-- says so, and so is the coverage; `due` where `due_exact` does.
create view public.embedding_status
with (security_invoker = true)
as
with counted as (
    select noted.target_id,
           coalesce(sum(noted.jobs) filter (where noted.status = 'pending'), 0)::bigint as pending,
           coalesce(sum(noted.jobs) filter (where noted.status = 'processing'), 0)::bigint as processing,
           coalesce(sum(noted.jobs) filter (where noted.status = 'completed'), 0)::bigint as completed,
           coalesce(sum(noted.jobs) filter (where noted.status = 'failed'), 0)::bigint as failed,
           coalesce(sum(noted.jobs) filter (where noted.status = 'skipped'), 0)::bigint as skipped,
           sum(noted.jobs)::bigint as jobs
      from public.embedding_counts as noted
     group by noted.target_id
)
select target.table_name,
       target.embedding_column,
       target.model,
       target.enabled,
       target.problem,
       found.rows,
       counted_rows.rows_exact,
       coalesce(job.pending, 0) as pending,
       coalesce(job.processing, 0) as processing,
       coalesce(job.completed, 0) as completed,
       coalesce(job.failed, 0) as failed,
       coalesce(job.skipped, 0) as skipped,
       round(100.0 * least(coalesce(job.completed, 0), wanted.vectors) / nullif(wanted.vectors, 0), 1) as coverage,
       waiting.due,
       waiting.due_exact,
       waiting.oldest_due
  from public.embedding_targets as target
 cross join lateral public.embedding_rows(target.id) as counted_rows
  left join counted as job on job.target_id = target.id
 cross join lateral public.embedding_due(target.id, coalesce(job.pending, 0)) as waiting
 cross join lateral (
    select case when counted_rows.rows_exact then counted_rows.rows
                else greatest(counted_rows.rows, job.jobs) end as rows) as found
 cross join lateral (select greatest(found.rows - coalesce(job.skipped, 0), 0) as vectors) as wanted;

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
