-- Why:   people see the progress of all columns together, and the rate.
-- Locks: nothing.
-- Undo:  drop view public.embedding_progress; drop function embedding.work_began;

-- Since when workers have worked without a pause of two minutes; null: they do not work now. It reads the minutes backwards, and
-- none before that pause.
create function embedding.work_began()
returns timestamptz
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    began timestamptz;
    worked timestamptz;
begin
    for worked in
        select distinct counted.minute from public.embedding_usage as counted
         where counted.completed + counted.failed > 0 order by counted.minute desc
    loop
        exit when worked < coalesce(began - interval '2 minutes', now() - interval '3 minutes');
        began := worked;
    end loop;
    return began;
end $$;

-- The progress of all columns together: one row. `rows_per_second` is the rate of all workers together: for each model,
-- the jobs of the last minutes divided by the seconds that workers spent on them, times the workers that use it now (at
-- least one). It is known from the first report of a worker on, since jobs and seconds are reported together; null if
-- nothing was done in the last three minutes. `elapsed_seconds` counts from the start of the present period of work; two
-- minutes without work end it. `eta_seconds` is the time for the pending jobs at that rate; null without a rate. Due jobs
-- are counted only for a query that selects their columns, as in embedding_status.
create view public.embedding_progress
with (security_invoker = true)
as
with spell as (
    select worked.began from embedding.work_began() as worked (began) where worked.began is not null
), by_model as (
    select counted.model, sum(counted.completed + counted.failed) as jobs, sum(counted.seconds) as seconds
      from public.embedding_usage as counted
      join spell on counted.minute >= greatest(spell.began, now() - interval '5 minutes')
     group by counted.model
), speed as (
    select round(sum(by_model.jobs / by_model.seconds * greatest(users.workers, 1))::numeric, 1)::float8
               as rows_per_second
      from by_model
     cross join lateral (
           select count(*) as workers
             from public.embedding_workers as known
            where known.usage @> jsonb_build_array(jsonb_build_object('model', by_model.model))
              and known.seen_at > now() - interval '2 minutes') as users
     where by_model.seconds > 0
), queued as (
    select coalesce(sum(counts.pending + counts.processing), 0)::bigint as pending
      from public.embedding_targets as target
      join public.embedding_counts as counts on counts.target_id = target.id
)
select queued.pending,
       soon.due,
       soon.oldest_due,
       speed.rows_per_second,
       extract(epoch from now() - spell.began)::float8 as elapsed_seconds,
       case when queued.pending = 0 then 0
            else queued.pending / nullif(speed.rows_per_second, 0) end::float8 as eta_seconds
  from queued
  left join (
       select coalesce(sum(status.due), 0)::bigint as due, min(status.oldest_due) as oldest_due
         from public.embedding_status as status) as soon on true
  left join spell on true
  left join speed on true;

select embedding.let_workers_read('public.embedding_progress');
select embedding.let_workers_call('embedding.work_began');
