-- Why:   how many jobs are in which status must not take longer to tell the more there are. Each statement that
--        changes the queue notes by how much, in the same transaction: the sum of the notes is exact at every moment.
--        Nobody waits for anybody: notes are only added, and now and then some are folded into one.
-- Locks: a moment of SHARE ROW EXCLUSIVE on embedding_queue, while its triggers are made.
-- Undo:  drop function public.embedding_count_arrived, public.embedding_count_changed, public.embedding_count_gone,
--        public.embedding_count_truncated, public.embedding_fold_counts cascade; drop table public.embedding_counts;
create table public.embedding_counts (
    id bigint generated always as identity primary key,
    target_id integer not null,
    status text not null,
    jobs bigint not null                           -- more, or fewer
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 2000
);

-- Makes one note of the many there are for a target and a status. Those that another folds just now are left to it.
create function public.embedding_fold_counts()
returns void
language sql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    with taken as (
        delete from public.embedding_counts as noted
         where noted.id = any (array(select old.id from public.embedding_counts as old
                                      order by old.id limit 10000 for update skip locked))
        returning noted.target_id, noted.status, noted.jobs
    )
    insert into public.embedding_counts (target_id, status, jobs)
    select taken.target_id, taken.status, sum(taken.jobs)
      from taken
     group by taken.target_id, taken.status
    having sum(taken.jobs) <> 0;
$$;

-- Who writes many notes folds some, also where no worker does. Not in a transaction that sees the past: there, a row
-- that another has folded since would end it.
create function public.embedding_note_counts(target_ids integer[], statuses text[], changes bigint[])
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    every constant integer := 500;
    is_time_to_fold boolean;
begin
    with noted as (
        insert into public.embedding_counts (target_id, status, jobs)
        select change.target_id, change.status, change.jobs
          from unnest(target_ids, statuses, changes) as change (target_id, status, jobs)
        returning id
    )
    select bool_or(noted.id % every = 0) into is_time_to_fold from noted;
    if is_time_to_fold and current_setting('transaction_isolation') = 'read committed' then
        perform public.embedding_fold_counts();
    end if;
end $$;

create function public.embedding_count_arrived()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    perform public.embedding_note_counts(array_agg(counted.target_id), array_agg(counted.status), array_agg(counted.jobs))
       from (select arrived.target_id, arrived.status, count(*) as jobs
               from arrived group by arrived.target_id, arrived.status) as counted
     having count(*) > 0;
    return null;
end $$;

create trigger embedding_count_arrived
    after insert on public.embedding_queue
    referencing new table as arrived
    for each statement execute function public.embedding_count_arrived();

create function public.embedding_count_changed()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    perform public.embedding_note_counts(array_agg(counted.target_id), array_agg(counted.status), array_agg(counted.jobs))
       from (select moved.target_id, moved.status, sum(moved.jobs)::bigint as jobs
               from (select after.target_id, after.status, count(*) as jobs
                       from after group by after.target_id, after.status
                     union all
                     select before.target_id, before.status, - count(*)
                       from before group by before.target_id, before.status) as moved
              group by moved.target_id, moved.status
             having sum(moved.jobs) <> 0) as counted
     having count(*) > 0;
    return null;
end $$;

create trigger embedding_count_changed
    after update on public.embedding_queue
    referencing old table as before new table as after
    for each statement execute function public.embedding_count_changed();

create function public.embedding_count_gone()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    perform public.embedding_note_counts(array_agg(counted.target_id), array_agg(counted.status), array_agg(counted.jobs))
       from (select gone.target_id, gone.status, - count(*) as jobs
               from gone group by gone.target_id, gone.status) as counted
     having count(*) > 0;
    return null;
end $$;

create trigger embedding_count_gone
    after delete on public.embedding_queue
    referencing old table as gone
    for each statement execute function public.embedding_count_gone();

create function public.embedding_count_truncated()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    delete from public.embedding_counts;
    return null;
end $$;

create trigger embedding_count_truncated
    after truncate on public.embedding_queue
    for each statement execute function public.embedding_count_truncated();
