-- Why:   several workers and commands share the schedule of backups: one of them makes the next backup, another continues it if
--        that one dies, and everybody sees what became of it.
-- Locks: the row of a backup, for the length of a call.
-- Undo:  drop function public.record_embedding_backup_check, public.end_embedding_backup, public.extend_embedding_backup,
--        public.begin_embedding_backup, embedding.new_backup_name, embedding.backup_is_due; drop table public.embedding_backups;

-- One row for each backup that was begun. Only its destination shows whether it still exists.
create table public.embedding_backups (
    id bigint generated always as identity primary key,
    destination text not null,                     -- a folder, or s3://bucket/prefix; never with a key or a password
    name text not null,                            -- when it was begun, in UTC: 2026-11-30T17-35-02Z
    only_table text,                               -- null: all tables
    every interval,                                -- of a schedule: the time between two of them
    state text not null default 'running',
    worker text not null,                          -- who makes it, or made it last
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,                       -- when it was complete, or failed last
    lease_expires_at timestamptz,                  -- while it is running
    rows bigint not null default 0,                -- written so far
    bytes bigint not null default 0,
    failures integer not null default 0,           -- attempts in a row that failed
    error_message text,                            -- of the last attempt
    checked_at timestamptz,                        -- when it was read back ...
    problem text,                                  -- ... and what was wrong with it; null: nothing
    constraint embedding_backups_one_of_a_name unique (destination, name),
    constraint embedding_backups_known_state check (state in ('running', 'complete', 'failed')),
    constraint embedding_backups_leased check ((state = 'running') = (lease_expires_at is not null))
);

create unique index embedding_backups_one_running
    on public.embedding_backups (destination, coalesce(only_table, '')) where state = 'running';

-- Whether it is time for the next backup, after the latest one to the same destination. Without `every` it always is, unless one
-- is running. The pause after a failure doubles from a minute to `every`.
create function embedding.backup_is_due(latest public.embedding_backups, every interval)
returns boolean
language sql
volatile
set search_path = '', pg_temp
as $$
    select case when latest.id is null then true
                when latest.state = 'running' then latest.lease_expires_at < clock_timestamp()
                when every is null then true
                when latest.state = 'complete' then latest.finished_at <= clock_timestamp() - every
                else latest.finished_at <= clock_timestamp()
                     - least(every, interval '1 minute' * power(2, least(latest.failures, 20) - 1)) end;
$$;

-- The time as a name, or the next second that no backup to the destination has.
create function embedding.new_backup_name(destination text)
returns text
language sql
volatile
set search_path = '', pg_temp
as $$
    select min(free.name)
      from generate_series(0, 1000) as later (seconds)
     cross join lateral (select to_char(clock_timestamp() at time zone 'UTC' + later.seconds * interval '1 second',
                                        'YYYY-MM-DD"T"HH24-MI-SS"Z"')) as free (name)
     where free.name <> all (array(select known.name from public.embedding_backups as known
                                    where known.destination = new_backup_name.destination));
$$;

-- Begins a backup to a destination, or continues the one that failed or whose worker died, for a day after it was begun. No row:
-- it is not due, or another worker makes it. `every`: only if that time has passed since the last one was complete.
create function public.begin_embedding_backup(
    destination text, worker text, lease_for interval, every interval default null, only_table text default null
)
returns setof public.embedding_backups
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    until constant timestamptz := clock_timestamp() + lease_for;
    latest public.embedding_backups;
begin
    if begin_embedding_backup.destination ~ '://[^/]*@' then
        raise exception 'the destination of a backup holds a name or a password'
            using errcode = 'invalid_parameter_value', hint = 'It is kept in a table: give s3://bucket/prefix.';
    end if;
    select * into latest from public.embedding_backups as known
     where known.destination = begin_embedding_backup.destination
       and known.only_table is not distinct from begin_embedding_backup.only_table
     order by known.id desc limit 1;
    if not embedding.backup_is_due(latest, begin_embedding_backup.every) then
        return;
    elsif latest.state <> 'complete' and latest.started_at > clock_timestamp() - interval '1 day' then
        return query
            update public.embedding_backups as known
               set state = 'running', worker = begin_embedding_backup.worker, lease_expires_at = until, finished_at = null,
                   every = coalesce(begin_embedding_backup.every, known.every)
             where known.id = latest.id and known.state = latest.state
               and known.lease_expires_at is not distinct from latest.lease_expires_at -- else another one was faster
            returning known.*;
        return;
    end if;
    update public.embedding_backups as known
       set state = 'failed', finished_at = clock_timestamp(), lease_expires_at = null, failures = known.failures + 1,
           error_message = 'nobody continued it within a day'
     where known.id = latest.id and known.state = 'running' and known.lease_expires_at < clock_timestamp();
    return query
        insert into public.embedding_backups as known
               (destination, name, only_table, every, worker, lease_expires_at, failures)
        values (begin_embedding_backup.destination, embedding.new_backup_name(begin_embedding_backup.destination),
                begin_embedding_backup.only_table, begin_embedding_backup.every, begin_embedding_backup.worker, until,
                case when latest.state <> 'complete' then latest.failures else 0 end)
        on conflict do nothing -- another one was faster
        returning known.*;
end $$;

-- Reports how far a backup is, and extends its lease; with a `lease_for` of 0 another worker can continue it at once. Returns
-- false if another worker has it by now.
create function public.extend_embedding_backup(
    id bigint, worker text, lease_for interval, rows bigint default null, bytes bigint default null
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_backups as known
       set lease_expires_at = clock_timestamp() + lease_for,
           rows = coalesce(extend_embedding_backup.rows, known.rows), bytes = coalesce(extend_embedding_backup.bytes, known.bytes)
     where known.id = extend_embedding_backup.id and known.worker = extend_embedding_backup.worker and known.state = 'running';
    return found;
end $$;

-- Ends a backup: it is complete, or, with an `error`, failed. Returns false if another worker has it by now. Of a destination,
-- the rows of the latest 200 backups stay, and that of the last complete one.
create function public.end_embedding_backup(
    id bigint, worker text, rows bigint, bytes bigint, error text default null, source text default 'sql'
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    ended public.embedding_backups;
begin
    update public.embedding_backups as known
       set state = case when error is null then 'complete' else 'failed' end, finished_at = clock_timestamp(),
           lease_expires_at = null, rows = end_embedding_backup.rows, bytes = end_embedding_backup.bytes,
           failures = case when error is null then 0 else known.failures + 1 end, error_message = left(error, 1000)
     where known.id = end_embedding_backup.id and known.worker = end_embedding_backup.worker and known.state = 'running'
    returning known.* into ended;
    if not found then
        return false;
    end if;
    perform embedding.audit(
        case when error is null then 'backup_completed' else 'backup_failed' end, ended.only_table, null, source,
        jsonb_strip_nulls(jsonb_build_object(
            'destination', ended.destination, 'name', ended.name, 'rows', ended.rows, 'bytes', ended.bytes,
            'error', left(error, 200))));
    delete from public.embedding_backups as old
     where old.destination = ended.destination and old.state <> 'running'
       and old.id <= (select newest.id from public.embedding_backups as newest
                       where newest.destination = ended.destination order by newest.id desc offset 200 limit 1)
       and old.id is distinct from (select max(newest.id) from public.embedding_backups as newest
                                     where newest.destination = ended.destination and newest.state = 'complete'
                                       and newest.only_table is null);
    return true;
end $$;

-- Records that a backup was read back, and what was wrong with it (null: nothing). False: this database does not know it.
create function public.record_embedding_backup_check(destination text, name text, problem text default null)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_backups as known
       set checked_at = clock_timestamp(), problem = left(record_embedding_backup_check.problem, 1000)
     where known.destination = record_embedding_backup_check.destination and known.name = record_embedding_backup_check.name;
    return found;
end $$;

select embedding.let_workers_read('public.embedding_backups');
select embedding.protect_functions('embedding.backup_is_due', 'embedding.new_backup_name');
select embedding.let_workers_call(
    'public.begin_embedding_backup', 'public.extend_embedding_backup', 'public.end_embedding_backup',
    'public.record_embedding_backup_check');
