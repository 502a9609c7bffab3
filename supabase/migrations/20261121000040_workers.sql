-- Why:   the list of workers. Each has a row while it runs, and updates it with every heartbeat. A worker that was
--        killed is known by its silence.
-- Locks: a worker's own row, and then those of the running minute in embedding_usage.
-- Undo:  drop function public.embedding_worker_deregister, public.embedding_worker_heartbeat; drop table
--        public.embedding_workers;

create table public.embedding_workers (
    worker text primary key,                       -- as in embedding_queue: host, pid, random characters
    host text not null,
    pid integer not null,
    state text not null default 'working',         -- waiting: nothing is due. paused: by a command or by load.
                                                   -- asleep: has unloaded its models. stopping: claims no more
    throttle_level text not null default 'full',   -- slow: one batch at a time. paused: claims nothing
    cause text,                                    -- of its state or throttle level, if there is one: a command, a figure
    listens boolean not null default false,        -- whether a NOTIFY reaches it
    rss_mb real,                                   -- its memory, in MB of 2**20 bytes
    memory_limit_mb real,                          -- of the fullest cgroup around it; null: none has a limit
    cores integer,                                 -- of its host
    load real,                                     -- the load average of its host in the last minute, divided by the cores
    cpu_percent real,                              -- how busy the CPUs of its host were since the heartbeat before
    version text,                                  -- of the package it runs
    completed bigint not null default 0,           -- jobs since it started
    failed bigint not null default 0,
    usage jsonb not null default '[]',             -- by model, as it was last reported: see embedding_worker_heartbeat
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    constraint embedding_workers_known_state check (state in ('working', 'waiting', 'paused', 'asleep', 'stopping')),
    constraint embedding_workers_known_throttle_level check (throttle_level in ('full', 'slow', 'paused', 'stop'))
);

-- Registers a worker, or updates its row. `usage` is what it has done since it started, by model: an array
-- of {"model", "completed", "failed", "requests", "tokens", "seconds", "cost", "request_ms", "lag_ms"}, the cost in
-- US dollars or null, the last two the counts of histograms: see embedding.percentile. The increase is added to
-- the running minute of embedding_usage, so the call may be repeated; a model that is left out does not change.
-- Workers without a heartbeat for a day are removed (a later heartbeat counts their totals again), and so are minutes
-- after a week.
create function public.embedding_worker_heartbeat(
    worker text, host text, pid integer, state text default 'working',
    completed bigint default 0, failed bigint default 0, usage jsonb default '[]',
    throttle_level text default 'full', cause text default null, listens boolean default false, rss_mb real default null,
    version text default null, cores integer default null, load real default null, cpu_percent real default null,
    memory_limit_mb real default null
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
           (worker, host, pid, state, completed, failed, throttle_level, cause, listens, rss_mb, version, cores, load,
            cpu_percent, memory_limit_mb)
    values (embedding_worker_heartbeat.worker, embedding_worker_heartbeat.host, embedding_worker_heartbeat.pid,
            embedding_worker_heartbeat.state, embedding_worker_heartbeat.completed, embedding_worker_heartbeat.failed,
            embedding_worker_heartbeat.throttle_level, embedding_worker_heartbeat.cause, embedding_worker_heartbeat.listens,
            embedding_worker_heartbeat.rss_mb, embedding_worker_heartbeat.version, embedding_worker_heartbeat.cores,
            embedding_worker_heartbeat.load, embedding_worker_heartbeat.cpu_percent, embedding_worker_heartbeat.memory_limit_mb)
    on conflict on constraint embedding_workers_pkey do update
       set state = excluded.state, completed = excluded.completed, failed = excluded.failed, throttle_level = excluded.throttle_level,
           cause = excluded.cause, listens = excluded.listens, rss_mb = excluded.rss_mb, version = excluded.version,
           cores = excluded.cores, load = excluded.load, cpu_percent = excluded.cpu_percent,
           memory_limit_mb = excluded.memory_limit_mb, seen_at = now()
    returning known.usage into before; -- the row is now locked: another call for this worker waits here
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

-- Removes a worker from the list when it ends. Jobs that are still under its name are released.
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

select embedding.let_workers_read('public.embedding_workers');
select embedding.let_workers_call('public.embedding_worker_heartbeat', 'public.embedding_worker_deregister');
