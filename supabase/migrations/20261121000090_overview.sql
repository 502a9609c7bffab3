-- Why:   a person sees in one call whether all is well: `worker status`, `worker monitor` and the dashboard show the same.
-- Locks: nothing. A table that is locked as a whole is not counted, after a tenth of a second.
-- Undo:  drop function public.embedding_overview, embedding.known_backups;

-- Of the backups of all tables the latest one and the last complete one.
create function embedding.known_backups()
returns setof public.embedding_backups
language sql
stable
set search_path = '', pg_temp
as $$
    select known.* from public.embedding_backups as known
     where known.id in (select max(latest.id) from public.embedding_backups as latest where latest.only_table is null
                        union all
                        select max(complete.id) from public.embedding_backups as complete
                         where complete.only_table is null and complete.state = 'complete')
     order by known.id;
$$;

-- The state of the queue as a JSON object, `at` a time of the database: the rows of embedding_status (`columns`) and of
-- embedding_progress (without due jobs, which each column has), at most 50 rows of embedding_failures, the most frequent first,
-- at most 200 of embedding_workers, those that were seen last, and the rows of embedding_providers (`providers`),
-- embedding_control (`commands`), embedding_check_states (`checks`) and embedding_database_load (`database`). Of backups, those of
-- embedding.known_backups; `reembeddings` are those that have not ended. `recent` is what was done in the last 15 minutes, as in
-- embedding_stats; `completed_today` and `cost_today` count from midnight in UTC, and `cost_today` is null if a price is not known.
create function public.embedding_overview()
returns jsonb
language plpgsql -- whose plans last for a session
volatile -- as embedding.row_count is
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '100ms'
as $$
begin
    return (
        with today as (
            select coalesce(sum(usage.completed), 0) as completed,
                   case when bool_and(usage.cost is not null) is not false then coalesce(sum(usage.cost), 0) end as cost
              from public.embedding_usage as usage
             where usage.minute >= date_trunc('day', now(), 'UTC'))
        select jsonb_build_object(
            'at', clock_timestamp(),
            'columns', (select coalesce(jsonb_agg(to_jsonb(status) order by status.table_name, status.embedding_column), '[]')
                          from public.embedding_status as status),
            'progress', (select to_jsonb(progress)
                           from (select known.pending, known.rows_per_second, known.elapsed_seconds, known.eta_seconds
                                   from public.embedding_progress as known) as progress),
            'failures', (select coalesce(jsonb_agg(to_jsonb(most) order by most.failed desc, most.table_name,
                                                                           most.embedding_column, most.error_class), '[]')
                           from (select * from public.embedding_failures as known
                                  order by known.failed desc, known.table_name, known.embedding_column, known.error_class
                                  limit 50) as most),
            'workers', (select coalesce(jsonb_agg(to_jsonb(latest) - 'usage' order by latest.worker), '[]')
                          from (select * from public.embedding_workers as known
                                 order by known.seen_at desc limit 200) as latest),
            'providers', (select coalesce(jsonb_agg(to_jsonb(stopped) order by stopped.provider), '[]')
                            from public.embedding_providers as stopped),
            'commands', (select coalesce(jsonb_agg(to_jsonb(control) order by control.worker), '[]')
                           from public.embedding_control as control),
            'backups', (select coalesce(jsonb_agg(to_jsonb(backup) order by backup.id), '[]')
                          from embedding.known_backups() as backup),
            'checks', (select coalesce(jsonb_agg(to_jsonb(checked) order by checked.table_name, checked.embedding_column), '[]')
                         from public.embedding_check_states as checked),
            'reembeddings', (select coalesce(jsonb_agg(to_jsonb(open) order by open.id), '[]')
                               from public.embedding_reembeddings as open where open.ended_at is null),
            'database', (select to_jsonb(load) from public.embedding_database_load() as load),
            'recent', (select to_jsonb(done) from embedding.usage_since(now() - interval '15 minutes') as done),
            'completed_today', today.completed,
            'cost_today', today.cost)
          from today);
end $$;

select embedding.protect_functions('embedding.known_backups');
select embedding.let_workers_call('public.embedding_overview');
