-- Why:   people control workers from any client of the database, and waiting workers are woken when jobs are due.
-- Locks: a row of embedding_control, for the length of a call.
-- Undo:  drop function embedding.wake, public.poll_embeddings, public.embedding_command, public.control_embeddings;
--        drop table public.embedding_control;

-- The commands for workers. No row: they work.
create table public.embedding_control (
    worker text primary key,                       -- as in embedding_workers; `*`: every worker
    desired_state text not null,                   -- pause: claim nothing. sleep: also unload models
    since timestamptz not null default now(),
    constraint embedding_control_known_desired_state check (desired_state in ('work', 'pause', 'sleep'))
);

-- Sends a command to all workers, or to one: `work`, `pause` or `sleep`. A command for all replaces earlier commands for
-- single workers. Returns how many workers it reaches; it also applies to workers that start later. `source` is where the call
-- comes from: see embedding.audit.
create function public.control_embeddings(desired_state text, worker text default null, source text default 'sql')
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
    perform embedding.audit(
        'controlled', null, null, control_embeddings.source,
        jsonb_strip_nulls(jsonb_build_object(
            'desired_state', control_embeddings.desired_state, 'worker', control_embeddings.worker, 'workers', reached)));
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

-- For a worker that waits and that no NOTIFY reaches: the command for it, as from embedding_command (`work` if there is
-- none), and whether a claim with these arguments would find a job (`due`). One row. It writes nothing.
--
-- It is called several times a second, so it reads at most `most_jobs` pending jobs of a target, in the order of the index
-- of due jobs. If all of these are scheduled for later, it may miss a due job of another owner, which a claim finds.
-- The plan is pinned: with statistics from when the queue was empty, the planner sorts every pending job.
create function public.poll_embeddings(
    worker text,
    default_model text default null,
    only_table text default null,
    only_column text default null,
    except_targets integer[] default '{}'
)
returns table (desired_state text, since timestamptz, due boolean)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
#variable_conflict use_column
declare
    most_jobs constant integer := 1000;
begin
    select command.desired_state, command.since into desired_state, since
      from public.embedding_command(poll_embeddings.worker) as command;
    desired_state := coalesce(desired_state, 'work');
    due := exists (
        select from public.embedding_targets as watched
         where embedding.is_claimable(watched, default_model, only_table, only_column, except_targets)
           and (exists (select from (select job.available_at
                                       from public.embedding_queue as job
                                      where job.target_id = watched.id and job.status = 'pending'
                                        and job.available_at < 'infinity'
                                      order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
                                      limit most_jobs) as pending
                         where pending.available_at <= now())
                or exists (select from public.embedding_queue as job
                            where job.target_id = watched.id and job.status = 'processing'
                              and job.lease_expires_at <= now())));
    return next;
end $$;

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
select embedding.let_workers_call(
    'public.control_embeddings', 'public.embedding_command', 'public.poll_embeddings');
