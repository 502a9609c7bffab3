-- Why:   who is at work. Each worker has a row for as long as it runs, and says every so often that it is
--        still there; one that was killed is known by its silence.
-- Locks: a worker's own row, and then those of the running minute in embedding_usage.
-- Undo:  drop view public.embedding_progress; drop function public.embedding_worker_heartbeat, public.embedding_worker_deregister;
--        drop table public.embedding_workers;
create table public.embedding_workers (
    worker text primary key,                       -- as in embedding_queue: host, pid, letters of chance
    host text not null,
    pid integer not null,
    state text not null default 'working',         -- waiting: nothing is due. paused: held by an order or a load.
                                                   -- asleep: gave its memory back. stopping: claims no more
    throttle_level text not null default 'full',   -- slow: one batch at a time. paused: claims nothing
    cause text,                                    -- of its state or throttle level, where there is one: a command, a figure
    listens boolean not null default false,        -- whether a NOTIFY reaches it
    rss_mb real,                                   -- its memory, in MB of 2**20 bytes
    completed bigint not null default 0,           -- jobs since it started
    failed bigint not null default 0,
    usage jsonb not null default '[]',             -- by model, as it was last reported: see embedding_worker_heartbeat
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    constraint embedding_workers_known_state check (state in ('working', 'waiting', 'paused', 'asleep', 'stopping')),
    constraint embedding_workers_known_throttle_level check (throttle_level in ('full', 'slow', 'paused', 'stop'))
);

-- Writes a worker down, or that it is still there. `usage` is what it has done since it started, by
-- model: an array of {"model", "completed", "failed", "requests", "tokens", "seconds", "cost", "request_ms",
-- "lag_ms"}, the cost in US dollars or null, the last two the counts of histograms: see embedding_percentile. What is new of it is added to the running minute of embedding_usage, so the call may be repeated;
-- a model that is left out stays as it was. Workers of whom nothing was seen for a day are forgotten (one
-- that wakes up after that is counted anew), and so are minutes after a week.
create function public.embedding_worker_heartbeat(
    worker text, host text, pid integer, state text default 'working',
    completed bigint default 0, failed bigint default 0, usage jsonb default '[]',
    throttle_level text default 'full', cause text default null, listens boolean default false, rss_mb real default null
)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    before jsonb;
    known_now jsonb;
begin
    if jsonb_typeof(usage) = 'string' then
        usage := usage #>> '{}'; -- some clients of the Data API send JSON as a text within JSON
    end if;
    insert into public.embedding_workers as known
           (worker, host, pid, state, completed, failed, throttle_level, cause, listens, rss_mb)
    values (embedding_worker_heartbeat.worker, embedding_worker_heartbeat.host, embedding_worker_heartbeat.pid,
            embedding_worker_heartbeat.state, embedding_worker_heartbeat.completed, embedding_worker_heartbeat.failed,
            embedding_worker_heartbeat.throttle_level, embedding_worker_heartbeat.cause, embedding_worker_heartbeat.listens,
            embedding_worker_heartbeat.rss_mb)
    on conflict on constraint embedding_workers_pkey do update
       set state = excluded.state, completed = excluded.completed, failed = excluded.failed, throttle_level = excluded.throttle_level,
           cause = excluded.cause, listens = excluded.listens, rss_mb = excluded.rss_mb, seen_at = now()
    returning known.usage into before; -- and the row is ours: a call like this one waits here
    known_now := embedding.count_usage(before, embedding_worker_heartbeat.usage);
    if known_now <> before then
        update public.embedding_workers as known set usage = known_now
         where known.worker = embedding_worker_heartbeat.worker;
    end if;
    delete from public.embedding_workers as silent
     where silent.worker in (select long_gone.worker from public.embedding_workers as long_gone
                              where long_gone.seen_at < now() - interval '1 day'
                                for update skip locked);
    delete from public.embedding_usage as old
     where (old.minute, old.model) in (select long_past.minute, long_past.model
                                         from public.embedding_usage as long_past
                                        where long_past.minute < now() - interval '7 days'
                                          for update skip locked);
    perform embedding.fold_counts();
end $$;

-- Takes a worker off the list when it ends. What still stands under its name goes back.
create function public.embedding_worker_deregister(worker text)
returns void
language sql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select from public.extend_embeddings(worker, '{}'::bigint[], '{}'::uuid[], '0'::interval);
    delete from public.embedding_workers as known where known.worker = embedding_worker_deregister.worker;
$$;

-- How far all columns are together, and how fast: one row. `rows_per_second` is what all workers do together: with
-- each model, the jobs of the last minutes over the seconds that a worker was busy with them, times the workers that
-- use it now (at least one). It is known from the first report of a worker on, since jobs and seconds are reported
-- together; null if nothing was done in the last three minutes. `elapsed_seconds` counts from the start of the present
-- spell of work; two minutes without work end it. `eta_seconds` is what is pending at that rate; null without a rate.
create view public.embedding_progress
with (security_invoker = true)
as
with minutes as (
    select counted.minute, counted.minute - lag(counted.minute) over (order by counted.minute) as gap
      from public.embedding_usage as counted
     where counted.completed + counted.failed > 0
     group by counted.minute
), spell as (
    select max(minutes.minute) filter (where minutes.gap is null or minutes.gap > interval '2 minutes') as began
      from minutes
    having max(minutes.minute) > now() - interval '3 minutes'
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
    select coalesce(sum(job.pending + job.processing), 0)::bigint as pending,
           coalesce(sum(soon.due), 0)::bigint as due,
           min(soon.oldest_due) as oldest_due
      from public.embedding_targets as target
     cross join lateral (
           select coalesce(sum(counts.pending), 0)::bigint as pending,
                  coalesce(sum(counts.processing), 0)::bigint as processing
             from public.embedding_counts as counts
            where counts.target_id = target.id) as job
     cross join lateral embedding.count_due(target.id, job.pending) as soon
)
select queued.pending,
       queued.due,
       queued.oldest_due,
       speed.rows_per_second,
       extract(epoch from now() - spell.began)::float8 as elapsed_seconds,
       case when queued.pending = 0 then 0
            else queued.pending / nullif(speed.rows_per_second, 0) end::float8 as eta_seconds
  from queued
  left join spell on true
  left join speed on true;
