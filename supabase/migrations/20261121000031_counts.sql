-- Why:   the number of jobs of a target in each state, without counting them. Every statement records its changes in
--        the same transaction, so the numbers are always exact in every snapshot.
-- Locks: a short lock on embedding_queue while its triggers are made. After that, no session waits for
--        another: no two writers share a row.
-- Undo:  drop function public.recount_embeddings, embedding.fold_counts, embedding.count_jobs cascade; drop table
--        public.embedding_counts;

-- The sum of all rows of a target is the number of its jobs, and the sum for a class the number of failures of that
-- class. A statement that changes a number adds a row; from time to time many rows are folded into one.
create table public.embedding_counts (
    id bigint generated always as identity,
    -- It prevents collisions if the sequence is behind the rows, as on a promoted replica.
    written_by xid8 not null default pg_current_xact_id(),
    target_id integer not null,
    error_class text,                              -- of the failed ones; null as well for all others
    pending bigint not null,
    processing bigint not null,
    completed bigint not null,
    failed bigint not null,
    skipped bigint not null,
    primary key (id, written_by)
) with (
    -- Its rows are short-lived. They are vacuumed by count, like those of the queue.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);

-- Folds the rows from `first_id` on into one for each target and class of failure. It never waits: it skips rows
-- that another session is folding, and rows that are not committed yet.
create function embedding.fold_counts(first_id bigint default 0)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    -- with one snapshot for the whole transaction, locking rows that others have folded would raise an error
    if current_setting('transaction_isolation') <> 'read committed' then
        return;
    elsif not (select count(*) > count(distinct (counted.target_id, counted.error_class))
                 from public.embedding_counts as counted where counted.id >= first_id) then
        return; -- nothing to fold
    end if;
    with folded as (
        delete from public.embedding_counts as counted
         where counted.id = any (array(
                   select free.id from public.embedding_counts as free
                    where free.id >= first_id
                      for update skip locked))
        returning counted.*
    )
    insert into public.embedding_counts (target_id, error_class, pending, processing, completed, failed, skipped)
    select folded.target_id, folded.error_class, sum(folded.pending), sum(folded.processing), sum(folded.completed),
           sum(folded.failed), sum(folded.skipped)
      from folded
     group by folded.target_id, folded.error_class
    having (sum(folded.pending), sum(folded.processing), sum(folded.completed), sum(folded.failed), sum(folded.skipped))
           <> (0, 0, 0, 0, 0);
end $$;

-- Records what a statement has changed, if anything. The writer of every thousandth row folds the rows of this
-- thousand and of the one before, some of which were not committed at that time.
create function embedding.count_jobs()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    fold_at constant integer := 1000; -- rows
    written bigint;
    last_id bigint;
begin
    if to_regclass('public.embedding_counts') is null or to_regproc('embedding.fold_counts') is null then
        return null; -- they were dropped by hand
    elsif tg_op = 'TRUNCATE' then
        truncate public.embedding_counts;
        return null;
    elsif tg_op = 'UPDATE' then
        insert into public.embedding_counts (target_id, error_class, pending, processing, completed, failed, skipped)
        select job.target_id, job.error_class,
               coalesce(sum(job.change) filter (where job.status = 'pending'), 0),
               coalesce(sum(job.change) filter (where job.status = 'processing'), 0),
               coalesce(sum(job.change) filter (where job.status = 'completed'), 0),
               coalesce(sum(job.change) filter (where job.status = 'failed'), 0),
               coalesce(sum(job.change) filter (where job.status = 'skipped'), 0)
          from (select target_id, case status when 'failed' then error_class end as error_class, status, 1 as change
                  from jobs_after
                union all
                select target_id, case status when 'failed' then error_class end, status, -1
                  from jobs) as job
         group by job.target_id, job.error_class
        having sum(job.change) filter (where job.status = 'pending') <> 0
            or sum(job.change) filter (where job.status = 'processing') <> 0
            or sum(job.change) filter (where job.status = 'completed') <> 0
            or sum(job.change) filter (where job.status = 'failed') <> 0
            or sum(job.change) filter (where job.status = 'skipped') <> 0;
    else
        insert into public.embedding_counts (target_id, error_class, pending, processing, completed, failed, skipped)
        select job.target_id, case job.status when 'failed' then job.error_class end,
               sign * count(*) filter (where job.status = 'pending'),
               sign * count(*) filter (where job.status = 'processing'),
               sign * count(*) filter (where job.status = 'completed'),
               sign * count(*) filter (where job.status = 'failed'),
               sign * count(*) filter (where job.status = 'skipped')
          from jobs as job
         cross join (select case tg_op when 'DELETE' then -1 else 1 end) as direction (sign)
         group by 1, 2, sign;
    end if;
    get diagnostics written = row_count;
    if written > 0 then
        last_id := currval('public.embedding_counts_id_seq');
        if last_id % fold_at < written then
            perform embedding.fold_counts(last_id - last_id % fold_at - 2 * fold_at);
        end if;
    end if;
    return null;
end $$;

create trigger embedding_count_inserted after insert on public.embedding_queue
    referencing new table as jobs for each statement execute function embedding.count_jobs();
create trigger embedding_count_updated after update on public.embedding_queue
    referencing old table as jobs new table as jobs_after for each statement execute function embedding.count_jobs();
create trigger embedding_count_deleted after delete on public.embedding_queue
    referencing old table as jobs for each statement execute function embedding.count_jobs();
create trigger embedding_count_truncated after truncate on public.embedding_queue
    for each statement execute function embedding.count_jobs();

-- Corrects the counts after a change of the queue that its triggers missed: a session that turned them off, or a
-- restore of only the data. Returns how many jobs were counted. No session waits for it: jobs and counts come from
-- one snapshot, and the difference is added to the counts as they are at the end.
create function public.recount_embeddings()
returns bigint
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    jobs bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'recount_embeddings needs a transaction that is read committed'
            using errcode = 'invalid_transaction_state', hint = 'begin isolation level read committed;';
    end if;
    lock table public.embedding_counts in share update exclusive mode; -- of two calls, the later sees the earlier
    with counted as materialized (
        select job.target_id, case job.status when 'failed' then job.error_class end as error_class, job.status,
               count(*) as jobs
          from public.embedding_queue as job
         group by 1, 2, 3
    ), known as (
        select counts.target_id, counts.error_class, -counts.pending as pending, -counts.processing as processing,
               -counts.completed as completed, -counts.failed as failed, -counts.skipped as skipped
          from public.embedding_counts as counts
        union all
        select counted.target_id, counted.error_class,
               case counted.status when 'pending' then counted.jobs else 0 end,
               case counted.status when 'processing' then counted.jobs else 0 end,
               case counted.status when 'completed' then counted.jobs else 0 end,
               case counted.status when 'failed' then counted.jobs else 0 end,
               case counted.status when 'skipped' then counted.jobs else 0 end
          from counted
    ), corrected as (
        insert into public.embedding_counts (target_id, error_class, pending, processing, completed, failed, skipped)
        select known.target_id, known.error_class, sum(known.pending), sum(known.processing), sum(known.completed),
               sum(known.failed), sum(known.skipped)
          from known
         group by known.target_id, known.error_class
        having (sum(known.pending), sum(known.processing), sum(known.completed), sum(known.failed), sum(known.skipped))
               <> (0, 0, 0, 0, 0)
    )
    select coalesce(sum(counted.jobs), 0) into jobs from counted;
    return jobs;
end $$;

select embedding.let_workers_read('public.embedding_counts');
select embedding.protect_functions('embedding.fold_counts', 'embedding.count_jobs', 'public.recount_embeddings');
