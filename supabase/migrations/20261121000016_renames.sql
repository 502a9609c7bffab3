-- Why:   a column that was renamed keeps its target and its jobs when it is watched again.
-- Locks: the migration nothing. embedding.follow_names locks the jobs of the targets that it renames.
-- Undo:  drop function embedding.follow_names, embedding.find_target_of, embedding.stored_column,
--        embedding.stores_of;

-- The targets of the column that people name when they mean this one, the serving one first: two while it is re-embedded.
create function embedding.stores_of(target public.embedding_targets)
returns setof public.embedding_targets
language sql
stable
set search_path = '', pg_temp
as $$
    select store.*
      from public.embedding_targets as store
     where store.table_name = target.table_name
       and coalesce(store.serves, store.embedding_column) = coalesce(target.serves, target.embedding_column)
     order by store.role <> 'serving', store.id;
$$;

-- The column that has the vectors of the one that people name: another one after a re-embedding, unless there is one of
-- that name.
create function embedding.stored_column(watched_table text, embedding_column text)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select coalesce(
        (select serving.embedding_column
           from public.embedding_targets as serving
          where serving.table_name = watched_table and serving.serves = stored_column.embedding_column
            and serving.role = 'serving'
            and not exists (select from public.embedding_targets as own
                             where own.table_name = serving.table_name and own.embedding_column = serving.serves)),
        embedding_column);
$$;

-- The target of a column: found by the number of the column, whatever its former name and that of its table; else by
-- name. No row: the column is not watched.
create function embedding.find_target_of(relation regclass, embedding_column text)
returns setof public.embedding_targets
language sql
stable
set search_path = '', pg_temp
as $$
    select target.*
      from public.embedding_targets as target
     cross join lateral (
           select embedding.triggered_table(target.id) = find_target_of.relation as has_triggers,
                  target.relation_id = find_target_of.relation
                  and exists (select from pg_attribute
                               where attrelid = find_target_of.relation and attname = find_target_of.embedding_column
                                 and attnum = (target.column_numbers ->> target.embedding_column)::smallint) as has_number,
                  target.embedding_column = find_target_of.embedding_column as has_name,
                  target.table_name = public.embedding_table_name(find_target_of.relation) as has_table_name) as known
     where has_triggers and has_number or has_name and (has_table_name or has_triggers)
     order by (has_triggers and has_number) is true desc, has_table_name desc
     limit 1;
$$;

-- Gives the target `chosen` these names, and all other targets the present names of their tables and columns, with
-- their jobs. A re-embedding follows its old target. A target that lost its column, and whose name now belongs to another target, is not watched any
-- more.
create function embedding.follow_names(chosen integer, chosen_table text, chosen_column text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    moved_targets integer[];
    table_names text[];
    column_names text[];
    numbers jsonb[];
begin
    select array_agg(target.id), array_agg(present.table_name), array_agg(present.column_name),
           array_agg(target.column_numbers -> target.embedding_column)
      into moved_targets, table_names, column_names, numbers
      from public.embedding_targets as target
     cross join lateral (
           select chosen_table, chosen_column where target.id = chosen
           union all
           select public.embedding_table_name(attrelid), attname::text
             from pg_attribute
            where target.id <> chosen
              and attrelid = embedding.triggered_table(target.id) and not attisdropped
              and case when attrelid = target.relation_id
                       then attnum = (target.column_numbers ->> target.embedding_column)::smallint
                       else attname = target.embedding_column end
           union all
           select public.embedding_table_name(embedding.triggered_table(target.id)), target.embedding_column
            where target.id <> chosen and not embedding.is_column(target)
              and embedding.triggered_table(target.id) is not null) as present (table_name, column_name)
     where (target.table_name, target.embedding_column) <> (present.table_name, present.column_name);

    -- in two steps, since two may have exchanged their names
    update public.embedding_targets as target set embedding_column = format('renamed %s', target.id)
     where target.id = any (moved_targets);
    update public.embedding_queue as job set embedding_column = format('renamed %s', job.target_id)
     where job.target_id = any (moved_targets);
    perform embedding.unwatch(lost.table_name, lost.embedding_column)
       from public.embedding_targets as lost
      where (lost.table_name, lost.embedding_column) in (select * from unnest(table_names, column_names));
    update public.embedding_targets as target
       set table_name = moved.table_name, embedding_column = moved.column_name, updated_at = now(),
           column_numbers = jsonb_strip_nulls(
               target.column_numbers || jsonb_build_object(moved.column_name, moved.column_number)),
           problem = coalesce(target.problem, format('renamed; run `worker watch %s --column %s`',
                                                     moved.table_name, moved.column_name))
      from unnest(moved_targets, table_names, column_names, numbers)
           as moved (id, table_name, column_name, column_number)
     where target.id = moved.id;
    update public.embedding_queue as job
       set table_name = moved.table_name, embedding_column = moved.column_name
      from unnest(moved_targets, table_names, column_names) as moved (id, table_name, column_name)
     where job.target_id = moved.id;
    update public.embedding_reembeddings as known
       set table_name = old.table_name, embedding_column = coalesce(old.serves, old.embedding_column)
      from public.embedding_targets as old
     where old.id = known.old_target and known.ended_at is null;
    update public.embedding_targets as new
       set serves = known.embedding_column
      from public.embedding_reembeddings as known
     where known.new_target = new.id and known.ended_at is null;
end $$;

select embedding.protect_functions(
    'embedding.stores_of', 'embedding.stored_column', 'embedding.find_target_of', 'embedding.follow_names');
