-- Why:   backups fail, or are no longer made, long before somebody needs one; and damage is left that only a person can repair.
-- Locks: nothing. The checks read embedding_backups and embedding_checks.
-- Undo:  drop function embedding.diagnose_damage, embedding.diagnose_backups;

-- For each destination of backups of all tables: the latest one failed, or the last complete one is older than twice the interval
-- of the schedule.
create function embedding.diagnose_backups()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    with place as (
        select known.destination, max(known.id) as latest, min(known.started_at) as begun_at,
               max(known.finished_at) filter (where known.state = 'complete') as complete_at,
               (array_agg(known.every order by known.id desc) filter (where known.every is not null))[1] as every
          from public.embedding_backups as known where known.only_table is null group by known.destination)
    select 'warning', 'backup_failed', place.destination,
           format('the latest backup has failed %s: %s',
                  case latest.failures when 1 then 'once' else latest.failures || ' times in a row' end, latest.error_message),
           'Remove the cause. A worker with a schedule tries again by itself; otherwise run `worker backup`.'
      from place join public.embedding_backups as latest on latest.id = place.latest
     where latest.failures > 0 and latest.error_message is not null
       and (place.every is not null or latest.finished_at > now() - interval '1 day') -- of a command that nobody repeats
    union all
    select 'warning', 'backup_overdue', place.destination,
           coalesce(format('the last complete backup was made at %s', date_trunc('minute', place.complete_at)),
                    'no backup was ever complete')
           || format(', and there should be one every %s', place.every),
           'Check that a worker runs with --backup-every and is not paused, or run `worker backup`.'
      from place where coalesce(place.complete_at, place.begun_at) < now() - 2 * place.every;
$$;

-- A check found so much damage at once that a person has to look at it, or embedding it again would cost more than it may.
create function embedding.diagnose_damage()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'vectors_damaged', format('%s.%I', found.table_name, found.embedding_column),
           format('of %s vectors, %s are lost and %s overwritten', found.vectors, found.lost, found.overwritten)
           || case when found.state = 'waiting' then ''
                   else format('; embedding %s of them again would cost more than it may', found.over_budget) end,
           case when found.state = 'waiting' then 'Find out what happened, then run `worker verify --repair`.'
                else 'Run `worker verify --repair`, or allow more by REPAIR_BUDGET.' end
      from public.embedding_check_states as found
     where found.state = 'waiting' or found.over_budget > 0;
$$;

select embedding.protect_functions('embedding.diagnose_backups', 'embedding.diagnose_damage');
