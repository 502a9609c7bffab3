-- Why:   `worker doctor` said of a table that was dropped that it has another name now, and gave none.
-- Locks: nothing.
-- Undo:  create embedding.diagnose_table_missing again as `..._diagnose_columns.sql` has it.

-- A watched table is missing, or has another name now.
create or replace function embedding.diagnose_table_missing()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'table_missing', watched.name,
           format('table %s no longer exists', watched.relation) || coalesce(', it is called ' || renamed.relation || ' now', ''),
           coalesce('Run `worker watch` for the column of ' || renamed.relation || '.',
                    'Run `worker unwatch` for the column, or `worker watch` once the table is back.')
      from embedding.watched_columns as watched
     cross join lateral (
            select embedding.triggered_table(watched.id)::regclass::text as relation) as renamed
     where watched.relation_id is null;
$$;

select embedding.protect_functions('embedding.diagnose_table_missing');
