-- Why:   who is at work. Each worker has a row for as long as it runs, and says every so often that it is
--        still there; one that was killed is known by its silence.
-- Locks: nothing but a worker's own row.
-- Undo:  drop function public.embedding_worker_seen, public.embedding_worker_gone;
--        drop table public.embedding_workers;
create table public.embedding_workers (
    worker text primary key,                       -- as in embedding_queue: host, pid, letters of chance
    host text not null,
    pid integer not null,
    state text not null default 'working',         -- stopping: claims no more
    completed bigint not null default 0,           -- jobs since it started
    failed bigint not null default 0,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    constraint embedding_workers_known_state check (state in ('working', 'stopping'))
);

-- Writes a worker down, or that it is still there. Those of whom nothing was seen for a day are forgotten.
create function public.embedding_worker_seen(
    worker text, host text, pid integer, state text default 'working',
    completed bigint default 0, failed bigint default 0
)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    insert into public.embedding_workers as known (worker, host, pid, state, completed, failed)
    values (embedding_worker_seen.worker, embedding_worker_seen.host, embedding_worker_seen.pid,
            embedding_worker_seen.state, embedding_worker_seen.completed, embedding_worker_seen.failed)
    on conflict on constraint embedding_workers_pkey do update
       set state = excluded.state, completed = excluded.completed, failed = excluded.failed, seen_at = now();
    delete from public.embedding_workers as silent
     where silent.worker in (select long_gone.worker from public.embedding_workers as long_gone
                              where long_gone.seen_at < now() - interval '1 day'
                                for update skip locked);
end $$;

-- Takes a worker off the list when it ends. What still stands under its name goes back.
create function public.embedding_worker_gone(worker text)
returns void
language sql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select from public.extend_embeddings(worker, '{}', '{}', '0');
    delete from public.embedding_workers as known where known.worker = embedding_worker_gone.worker;
$$;
