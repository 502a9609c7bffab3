-- Why:   idle workers compare the vectors of each column with what was written, a range of the key at a time. They share this
--        work: one checks a column at a time, another continues where it ended, and what was found stays known.
-- Locks: the row of a check, for the length of a call.
-- Undo:  drop function public.end_embedding_check, public.continue_embedding_check, public.begin_embedding_check;
--        drop view public.embedding_check_states; drop table public.embedding_checks;

-- One row for each target that was checked: what the last whole check found, and how far the present one is.
create table public.embedding_checks (
    target_id integer primary key,                 -- as in embedding_targets; unwatch_embeddings deletes the row
    state text,                                    -- null: no check has ended yet
    vectors bigint,                                -- what the last whole check found: completed jobs ...
    lost bigint,
    overwritten bigint,
    checked_at timestamptz,                        -- ... and when
    from_cache bigint not null default 0,          -- what became of the damaged ones then
    from_backup bigint not null default 0,
    requeued bigint not null default 0,
    over_budget bigint not null default 0,
    started_at timestamptz,                        -- of the present check; null: there is none
    looked_to text,                                -- ... the last record that it has checked; null: none yet
    found_so_far jsonb not null default '{}',      -- ... what it has found up to there
    cost double precision not null default 0,      -- ... US dollars for the texts that it had embedded again
    worker text,                                   -- ... who does it, or did it last
    lease_expires_at timestamptz,
    constraint embedding_checks_known_state check (state in ('sound', 'repaired', 'repairing', 'waiting'))
);

create view public.embedding_check_states with (security_invoker = true) as
select target.table_name, target.embedding_column, known.*
  from public.embedding_checks as known
  join public.embedding_targets as target on target.id = known.target_id;

-- Begins a check of the target whose last one was longest ago and ended more than `every` ago, or continues one whose worker has
-- died. No row: none is due, or others do it.
create function public.begin_embedding_check(
    worker text, every interval, lease_for interval, only_table text default null, only_column text default null
)
returns setof public.embedding_check_states
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    due integer;
begin
    select target.id into due
      from public.embedding_targets as target
      left join public.embedding_checks as known on known.target_id = target.id
     where target.kind = 'embed' and target.enabled and target.problem is null
       and (only_table is null or target.table_name = only_table)
       and (only_column is null or target.embedding_column = only_column)
       and (known.lease_expires_at is null or known.lease_expires_at < clock_timestamp())
       and (known.started_at is not null or known.checked_at is null or known.checked_at <= clock_timestamp() - every)
     order by known.started_at, known.checked_at nulls first, target.id limit 1;
    if due is null then
        return;
    end if;
    insert into public.embedding_checks as known (target_id, started_at, worker, lease_expires_at)
    values (due, clock_timestamp(), begin_embedding_check.worker, clock_timestamp() + lease_for)
    on conflict on constraint embedding_checks_pkey do update
       set started_at = coalesce(known.started_at, excluded.started_at), worker = excluded.worker,
           lease_expires_at = excluded.lease_expires_at
     where known.lease_expires_at is null or known.lease_expires_at < clock_timestamp();
    if found then -- else another one was faster
        return query select * from public.embedding_check_states as known where known.target_id = due;
    end if;
end $$;

-- Records how far a check is, and extends its lease; with a `lease_for` of 0 another worker can continue it at once. Without
-- `looked_to` only the lease is extended. `state`: it is `repairing` by now. Returns false if another worker has it by now.
create function public.continue_embedding_check(
    target_id integer, worker text, lease_for interval, looked_to text default null, found_so_far jsonb default null,
    state text default null
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    if jsonb_typeof(found_so_far) = 'string' then
        found_so_far := found_so_far #>> '{}'; -- some clients of the Data API send JSON as a text within JSON
    end if;
    update public.embedding_checks as known
       set lease_expires_at = clock_timestamp() + lease_for, state = coalesce(continue_embedding_check.state, known.state),
           looked_to = coalesce(continue_embedding_check.looked_to, known.looked_to),
           found_so_far = coalesce(continue_embedding_check.found_so_far, known.found_so_far)
     where known.target_id = continue_embedding_check.target_id and known.worker = continue_embedding_check.worker
       and known.started_at is not null;
    return found;
end $$;

-- Ends a check with what it has found, and what became of the damaged vectors. `cost`: US dollars for those that are requeued,
-- null: not known. Returns false if another worker has it by now.
create function public.end_embedding_check(
    target_id integer, worker text, state text, vectors bigint, lost bigint, overwritten bigint,
    from_cache bigint default 0, from_backup bigint default 0, requeued bigint default 0, over_budget bigint default 0,
    cost double precision default 0, source text default 'sql'
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    spent double precision; -- also by a worker that was killed
begin
    select greatest(known.cost, end_embedding_check.cost) into spent
      from public.embedding_checks as known where known.target_id = end_embedding_check.target_id;
    update public.embedding_checks as known
       set state = end_embedding_check.state, vectors = end_embedding_check.vectors,
           lost = end_embedding_check.lost, overwritten = end_embedding_check.overwritten, checked_at = clock_timestamp(),
           from_cache = end_embedding_check.from_cache, from_backup = end_embedding_check.from_backup,
           requeued = end_embedding_check.requeued, over_budget = end_embedding_check.over_budget,
           started_at = null, looked_to = null, found_so_far = '{}', cost = 0, lease_expires_at = null
     where known.target_id = end_embedding_check.target_id and known.worker = end_embedding_check.worker
       and known.started_at is not null;
    if not found then
        return false;
    end if;
    if from_cache + from_backup + requeued > 0 or spent > 0 then
        perform embedding.audit(
                    'repaired', target.table_name, target.embedding_column, end_embedding_check.source, jsonb_build_object(
                        'lost', lost, 'overwritten', overwritten, 'from_cache', from_cache, 'from_backup', from_backup,
                        'requeued', requeued, 'over_budget', over_budget,
                        'cost', case when end_embedding_check.cost is not null then spent end))
           from public.embedding_targets as target where target.id = end_embedding_check.target_id;
    end if;
    return true;
end $$;

select embedding.let_workers_read('public.embedding_checks');
select embedding.let_workers_read('public.embedding_check_states');
select embedding.let_workers_call(
    'public.begin_embedding_check', 'public.continue_embedding_check', 'public.end_embedding_check');
