-- Why:   people control workers from any client of the database, and waiting workers are woken when jobs are due.
-- Locks: a row of embedding_control, for the length of a call.
-- Undo:  drop function embedding.wake, public.embedding_command, public.control_embeddings; drop table
--        public.embedding_control;

-- The commands for workers. No row: they work.
create table public.embedding_control (
    worker text primary key,                       -- as in embedding_workers; `*`: every worker
    desired_state text not null,                   -- pause: claim nothing. sleep: also unload models
    since timestamptz not null default now(),
    constraint embedding_control_known_desired_state check (desired_state in ('work', 'pause', 'sleep'))
);

-- Sends a command to all workers, or to one: `work`, `pause` or `sleep`. A command for all replaces earlier commands for
-- single workers. Returns how many workers it reaches; it also applies to workers that start later.
create function public.control_embeddings(desired_state text, worker text default null)
returns bigint
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    reached bigint;
begin
    if control_embeddings.desired_state is null or control_embeddings.desired_state not in ('work', 'pause', 'sleep') then
        raise exception 'workers can work, pause and sleep, not %', quote_nullable(control_embeddings.desired_state)
            using errcode = 'invalid_parameter_value', hint = 'select control_embeddings(''pause'').';
    end if;
    select count(*) into reached
      from public.embedding_workers as known
     where control_embeddings.worker is null or known.worker = control_embeddings.worker;
    if control_embeddings.worker is not null and reached = 0 then
        raise exception 'there is no worker %', control_embeddings.worker
            using errcode = 'invalid_parameter_value', hint = '`worker status` lists the workers.';
    end if;
    delete from public.embedding_control as control
     where control_embeddings.worker is null
        or control.worker not in ('*', control_embeddings.worker)
           and not exists (select from public.embedding_workers as known where known.worker = control.worker);
    insert into public.embedding_control as control (worker, desired_state)
    values (coalesce(control_embeddings.worker, '*'), control_embeddings.desired_state)
    on conflict on constraint embedding_control_pkey do update set desired_state = excluded.desired_state, since = now();
    perform pg_notify('embedding_queue', '');
    return reached;
end $$;

-- The command for a worker, and since when: its own, or else that for all. No row: none, so it works.
create function public.embedding_command(worker text)
returns table (desired_state text, since timestamptz)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select control.desired_state, control.since
      from public.embedding_control as control
     where control.worker in (embedding_command.worker, '*')
     order by control.worker = '*'
     limit 1;
$$;

-- Wakes the waiting workers when the transaction commits. A NOTIFY makes commits wait for one another, so it is sent
-- only if a worker listens, and not if it could make the commit of a writer fail: if transactions may be prepared for
-- a two-phase commit, or the notification queue is half full.
create function embedding.wake()
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    if exists (select from public.embedding_workers as known
                where known.listens and known.state in ('waiting', 'asleep')
                  and known.seen_at > now() - interval '2 minutes')
       and current_setting('max_prepared_transactions') = '0'
       and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('embedding_queue', '');
    end if;
end $$;

select embedding.let_workers_read('public.embedding_control');
select embedding.protect_functions('embedding.wake');
select embedding.let_workers_call('public.control_embeddings', 'public.embedding_command');
