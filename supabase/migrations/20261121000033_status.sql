-- Why:   people see the progress of the columns, and what is wrong, at one glance.
-- Locks: nothing.
-- Undo:  drop view public.embedding_failures, public.embedding_status; drop function embedding.passage_count,
--        embedding.stored_count, embedding.row_count;

-- The rows of a target inside its filter, which should have a vector or be skipped. They are counted if the table is
-- small. Otherwise the planner estimates them from the statistics of the last ANALYZE and the present size; before the first
-- one, which autovacuum does within minutes, a sample of the pages does. They are no fewer than `jobs`, each of which has a row.
-- Null if they cannot be counted (the table or a column of the filter is missing, the filter raises).
create function embedding.row_count(target_id integer, jobs bigint, out rows bigint, out exact boolean)
language plpgsql
volatile -- or Postgres refuses EXPLAIN
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    small constant bigint := 16 * 1024 * 1024; -- bytes: counting takes 10 ms, 20 if they have to be read from disk
    sampled constant bigint := 4 * 1024 * 1024;
    target public.embedding_targets;
    plan json;
    size bigint;
    is_analyzed boolean;
begin
    select * into target from public.embedding_targets as watched where watched.id = target_id;
    perform embedding.check_table(target.relation);
    size := coalesce((select sum(pg_relation_size(part.relid)) from pg_partition_tree(target.relation::regclass) as part),
                     pg_relation_size(target.relation::regclass));
    select class.reltuples >= 0 or class.relkind = 'p' into is_analyzed
      from pg_class as class where class.oid = target.relation::regclass;
    exact := size <= small;
    if exact then
        execute format('select count(*) from %s where %s', target.relation, coalesce(target.filter, 'true'))
           into rows;
    elsif not is_analyzed then
        execute format('select count(*) * %s from %s tablesample system (%s) repeatable (0) where %s',
                       size / sampled::float8, target.relation, 100 * sampled / size::float8, coalesce(target.filter, 'true'))
           into rows;
        rows := greatest(rows, jobs);
    else
        execute format('explain (format json) select from %s where %s', target.relation, coalesce(target.filter, 'true'))
           into plan;
        rows := greatest((plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint, jobs);
    end if;
exception
    when others or query_canceled or assert_failure then -- an error of a filter must not hide the other targets
        if embedding.is_timeout(sqlstate) then
            raise;
        end if;
        rows := null;
        exact := false;
end $$;

-- The rows of a table. They are counted if its primary key is small, which is what is read. Otherwise the planner
-- estimates them.
create function embedding.stored_count(relation text, out rows bigint, out exact boolean)
language plpgsql
volatile -- or Postgres refuses EXPLAIN
set search_path = '', pg_temp
as $$
declare
    small constant bigint := 16 * 1024 * 1024; -- bytes: 200,000 chunks, or 500,000 places
    plan json;
begin
    perform embedding.check_table(relation);
    exact := (select coalesce((select sum(pg_relation_size(part.relid)) from pg_partition_tree(indexrelid) as part),
                              pg_relation_size(indexrelid)) <= small
                from pg_index where indrelid = relation::regclass and indisprimary);
    if exact then
        execute format('select count(*) from %s', relation) into rows;
    else
        execute format('explain (format json) select from %s', relation) into plan;
        rows := (plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint;
    end if;
end $$;

-- The passages of a target in chunks, which a search finds, and its chunks, of which some may wait for the rest of their text.
-- Null for other targets, and if a table is missing.
create function embedding.passage_count(target_id integer, out passages bigint, out chunks bigint, out exact boolean)
language plpgsql
volatile
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    target public.embedding_targets;
begin
    select * into target from public.embedding_targets as watched where watched.id = target_id;
    if target.chunk_format is not null then
        select placed.rows, stored.rows, placed.exact and stored.exact into passages, chunks, exact
          from embedding.stored_count(target.places_relation) as placed,
               embedding.stored_count(target.chunks_relation) as stored;
    end if;
exception
    when others then -- an error of one target must not hide the others
        exact := false;
end $$;

-- One row for each target. `coverage` is the percentage of rows with something to embed that have their
-- vector; null if there are none. `coverage_goal` is what people want it to be: see set_embedding_goal. The numbers of jobs are always exact.
--
-- Rows, passages and due jobs are counted only for a query that selects their columns: Postgres leaves out a left join of an
-- aggregate that is not used.
create view public.embedding_status
with (security_invoker = true)
as
select target.table_name,
       target.embedding_column,
       target.model,
       target.enabled,
       coalesce(target.problem, embedding.identity_problem(target)) as problem,
       counted.rows,
       counted.exact as rows_exact,
       in_chunks.passages,
       in_chunks.chunks,
       in_chunks.exact as passages_exact,
       job.pending,
       job.processing,
       job.completed,
       job.failed,
       job.skipped,
       trunc(100.0 * least(job.completed, counted.wanted) / nullif(counted.wanted, 0), 1) as coverage,
       target.coverage_goal::numeric as coverage_goal,
       soon.due,
       soon.oldest_due,
       soon.due_exact
  from public.embedding_targets as target
 cross join lateral (
       select coalesce(sum(counts.pending), 0)::bigint as pending,
              coalesce(sum(counts.processing), 0)::bigint as processing,
              coalesce(sum(counts.completed), 0)::bigint as completed,
              coalesce(sum(counts.failed), 0)::bigint as failed,
              coalesce(sum(counts.skipped), 0)::bigint as skipped
         from public.embedding_counts as counts
        where counts.target_id = target.id) as job
  left join lateral (
       select max(counted.rows) as rows, bool_and(counted.exact) as exact,
              greatest(max(counted.rows) - job.skipped, 0) as wanted
         from embedding.row_count(
                  target.id, job.pending + job.processing + job.completed + job.failed + job.skipped) as counted
       ) as counted on true
  left join lateral (
       select max(found.passages) as passages, max(found.chunks) as chunks, bool_and(found.exact) as exact
         from embedding.passage_count(target.id) as found) as in_chunks on true
  left join lateral (
       select max(due.due) as due, max(due.oldest_due) as oldest_due, bool_and(due.due_exact) as due_exact
         from embedding.count_due(target.id, job.pending) as due) as soon on true;

-- The failed jobs by class, with the reason of the latest.
create view public.embedding_failures
with (security_invoker = true)
as
select target.table_name,
       target.embedding_column,
       counted.error_class,
       counted.failed,
       latest.error_message as latest_message,
       latest.updated_at as latest_at
  from (select counts.target_id, counts.error_class, sum(counts.failed)::bigint as failed
          from public.embedding_counts as counts
         group by counts.target_id, counts.error_class
        having sum(counts.failed) > 0) as counted
  join public.embedding_targets as target on target.id = counted.target_id
 cross join lateral (
       -- two queries, so that each reads the start of a range of embedding_queue_failed
       (select job.error_message, job.updated_at
          from public.embedding_queue as job
         where job.target_id = counted.target_id and job.status = 'failed' and job.error_class = counted.error_class
         order by job.updated_at desc
         limit 1)
       union all
       (select job.error_message, job.updated_at
          from public.embedding_queue as job
         where job.target_id = counted.target_id and job.status = 'failed' and job.error_class is null
           and counted.error_class is null
         order by job.updated_at desc
         limit 1)) as latest;

select embedding.let_workers_read('public.embedding_status');
select embedding.let_workers_read('public.embedding_failures');
select embedding.protect_functions('embedding.stored_count');
select embedding.let_workers_call('embedding.row_count', 'embedding.passage_count');
select embedding.fix_text_forms('embedding.row_count(integer, bigint)'); -- it evaluates the filter
