-- Why:   a re-embedding ends: the store that nobody needs any more is dropped, and the new one can get the name of the old one.
-- Locks: the migration nothing. A call locks the watched table against writers while it deletes or renames jobs, and against
--        readers for the moment of the drop or the rename. It waits 100 ms for each lock, unless lock_timeout is set, and
--        changes nothing if it does not get it: call it again.
-- Undo:  drop function public.rename_reembedded, public.finish_reembedding, public.cancel_reembedding,
--        embedding.check_rename, embedding.rename_store, embedding.kept_with_store,
--        embedding.check_dependents, embedding.drop_store, embedding.lock_store;

-- Locks a target, and its table against writers, whose jobs the caller can then change while readers go on. If a reader would
-- keep the caller from the drop or the rename at the end, it raises now, and not after the work.
create function embedding.lock_store(target_id integer)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets;
    tables text;
begin
    perform set_config('lock_timeout', '100ms', true) where current_setting('lock_timeout') = '0';
    select * into target from public.embedding_targets as known where known.id = target_id for update;
    select string_agg(made.id::regclass::text, ', ') into tables
      from (select embedding.triggered_table(target_id)
             union all
            select to_regclass(beside) from unnest(embedding.side_tables(target)) as beside) as made (id)
     where made.id is not null;
    if tables is null then
        return target;
    end if;
    execute format('lock table %s in share row exclusive mode', tables);
    begin
        execute format('lock table %s in access exclusive mode', tables);
        raise sqlstate 'EQ001';
    exception when sqlstate 'EQ001' then -- gives this lock back
        return target;
    end;
end $$;

-- Stops watching a target, and drops its column or its side tables. Raises, with what it is, if something depends on them.
create function embedding.drop_store(target_id integer)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target constant public.embedding_targets := embedding.lock_store(target_id);
    is_column constant boolean := to_regclass(target.relation) is not null and embedding.is_column(target);
    dependents text;
begin
    if is_column and embedding.identity_problem(target) is not null and exists (
           select from pg_attribute
            where attrelid = target.relation_id and not attisdropped
              and attnum = (target.column_numbers ->> target.embedding_column)::smallint) then
        raise exception '%', embedding.identity_problem(target) -- another column may have its name
            using errcode = 'object_not_in_prerequisite_state', hint = 'Watch it again first.';
    elsif is_column and (select reloftype <> 0 from pg_class where oid = target.relation::regclass) then
        raise exception 'table % has the columns of a type, so none of them can be dropped', target.table_name
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run `alter table %s not of` first.', target.relation);
    end if;
    delete from public.embedding_queue as job where job.target_id = target.id;
    perform embedding.unwatch(target.table_name, target.embedding_column);
    if is_column then
        execute format('alter table %s drop column if exists %I', target.relation, target.embedding_column);
    end if;
exception when dependent_objects_still_exist then
    get stacked diagnostics dependents = pg_exception_detail;
    raise exception 'column % of table % is still used: %', target.embedding_column, target.table_name,
                    replace(dependents, E'\n', '; ')
        using errcode = 'dependent_objects_still_exist', hint = 'Drop what depends on it, or let it use the new vectors.';
end $$;

-- Ends a re-embedding that was not swapped: the new vectors go.
create function public.cancel_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding constant public.embedding_reembeddings := embedding.enter_state(
        embedding.lock_reembedding(table_name, embedding_column, '{filling,paused,indexing,verifying,ready}'),
        'cancelled', 'cancelled', source, figures);
begin
    perform embedding.drop_store(reembedding.new_target);
    return reembedding;
exception when lock_not_available then
    perform embedding.raise_locked(table_name, embedding_column);
end $$;

-- Raises if something would break, or silently stay with the old vectors, if they were dropped.
create function embedding.check_dependents(old public.embedding_targets)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    names text;
    cures text;
begin
    select string_agg(format('%s %s', kind, name), ', ' order by kind, name), string_agg(distinct cure, ' ')
      into names, cures
      from embedding.dependents_of(to_regclass(old.relation), old.embedding_column);
    if names is not null then
        raise exception 'column % of table % is still used: %', old.embedding_column, old.table_name, names
            using errcode = 'dependent_objects_still_exist', hint = cures;
    end if;
end $$;

-- What goes with the old vectors and the new ones can get: the comment and the grants of the column, or the names of the tables of
-- chunks. A side table is named after its column.
create function embedding.kept_with_store(old public.embedding_targets)
returns jsonb
language sql
stable
set search_path = '', pg_temp
as $$
    select case when embedding.is_column(old) then jsonb_build_object(
        'comment', col_description(attrelid, attnum),
        'grants', embedding.column_grants(attacl))
    else jsonb_build_object(
        'chunks_relation', old.chunks_relation, 'places_relation', old.places_relation,
        'passages_relation', old.passages_relation) end
      from (values (true)) as once (more)
      left join pg_attribute on attrelid = to_regclass(old.relation) and attname = old.embedding_column;
$$;

-- Ends a re-embedding that was swapped: the old vectors go, and with them the way back.
create function public.finish_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings := embedding.lock_reembedding(table_name, embedding_column, '{swapped}');
    old public.embedding_targets;
begin
    select * into old from public.embedding_targets as known where known.id = reembedding.old_target;
    perform embedding.check_dependents(old);
    reembedding := embedding.enter_state(
        reembedding, 'finished', 'finished', source, coalesce(figures, '{}') || embedding.kept_with_store(old));
    perform embedding.drop_store(old.id);
    return reembedding;
exception when lock_not_available then
    perform embedding.raise_locked(table_name, embedding_column);
end $$;

-- Renames the column of a locked target to the one that it serves, its side table to fit, or its tables of chunks to those that
-- went (`kept`). Returns the target as it is then.
create function embedding.rename_store(target public.embedding_targets, kept jsonb)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    renamed public.embedding_targets := target;
    words_index regclass;
begin
    renamed.embedding_column := target.serves;
    renamed.serves := null;
    if target.store_relation is not null then
        renamed.store_relation := embedding.name_store(target, target.serves);
        execute format('alter table %s rename to %I', target.store_relation, (parse_ident(renamed.store_relation))[2]);
        return renamed;
    elsif embedding.is_column(target) then
        execute format('alter table %s rename column %I to %I', target.relation, target.embedding_column, target.serves);
        renamed.column_numbers := target.column_numbers - target.embedding_column || jsonb_build_object(
            target.serves, target.column_numbers -> target.embedding_column);
        execute format('comment on column %s.%I is %L', target.relation, target.serves, kept ->> 'comment');
        perform embedding.grant_column(target.relation, target.serves, kept -> 'grants');
        return renamed;
    end if;
    renamed.chunks_relation := kept ->> 'chunks_relation';
    renamed.places_relation := kept ->> 'places_relation';
    renamed.passages_relation := kept ->> 'passages_relation';
    select index into words_index from embedding.full_text_indexes(embedding.as_stored(target)) where is_ours;
    execute format('alter table %s rename to %I', target.chunks_relation, (parse_ident(renamed.chunks_relation))[2]);
    execute format('alter table %s rename to %I', target.places_relation, (parse_ident(renamed.places_relation))[2]);
    execute format('alter view %s rename to %I', target.passages_relation, (parse_ident(renamed.passages_relation))[2]);
    if words_index is not null then
        execute format('alter index %s rename to %I', words_index,
                       embedding.full_text_index_name(embedding.as_stored(renamed)));
    end if;
    return renamed;
end $$;

-- After a re-embedding is finished, gives the new column the name of the old one, with its comment and its grants; a side table is
-- renamed to fit, and new tables of chunks get the names of the old ones.
create function public.rename_reembedded(table_name text, embedding_column text, source text default 'sql')
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets := embedding.lock_serving(table_name, embedding_column);
    reembedding public.embedding_reembeddings := embedding.check_rename(target);
begin
    target := embedding.lock_store(target.id);
    update public.embedding_queue as job set embedding_column = target.serves where job.target_id = target.id;
    target := embedding.rename_store(target, (
        select event.figures from public.embedding_audit as event
         where event.reembedding_id = reembedding.id and event.event = 'finished'));
    update public.embedding_targets as known
       set embedding_column = target.embedding_column, serves = null, column_numbers = target.column_numbers,
           chunks_relation = target.chunks_relation, places_relation = target.places_relation,
           passages_relation = target.passages_relation, store_relation = target.store_relation, updated_at = now()
     where known.id = target.id;
    perform embedding.keep_match_function(target, null);
    perform embedding.record_event(reembedding, 'renamed', reembedding.state, source, null);
    return reembedding;
exception when lock_not_available then
    perform embedding.raise_locked(table_name, embedding_column);
end $$;

-- The finished re-embedding whose new target can get the name that it serves. Raises if there is none.
create function embedding.check_rename(target public.embedding_targets)
returns public.embedding_reembeddings
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
    problem constant text := coalesce(target.problem, embedding.identity_problem(target));
    cause text;
    cure text;
begin
    select * into reembedding from public.embedding_reembeddings as known
     where known.new_target = target.id and known.state = 'finished';
    select checked.cause, checked.cure into cause, cure
      from (values
            (exists (select from embedding.open_reembedding(target.id)),
             format('column %s of table %s is re-embedded', coalesce(target.serves, target.embedding_column), target.table_name),
             'Finish the re-embedding first.'),
            (target.serves is null, format('column %s of table %s has its name', target.embedding_column, target.table_name),
             'There is nothing to rename.'),
            (problem is not null, format('column %s of table %s is suspended: %s', target.embedding_column, target.table_name, problem),
             'Watch it again first.'),
            (target.store_relation is not null and to_regclass(embedding.name_store(target, target.serves)) is not null,
             format('there is a table %s already', embedding.name_store(target, target.serves)), 'Rename that table, or drop it.'),
            (target.chunk_format is null and exists (
                 select from pg_attribute where attrelid = to_regclass(target.relation) and attname = target.serves),
             format('table %s has a column %s already', target.table_name, target.serves), 'Rename that column, or drop it.'))
           as checked (fails, cause, cure)
     where fails limit 1;
    if cause is not null then
        raise exception '%', cause using errcode = 'object_not_in_prerequisite_state', hint = cure;
    end if;
    return reembedding;
end $$;

select embedding.protect_functions(
    'embedding.lock_store', 'embedding.drop_store', 'embedding.check_dependents', 'embedding.kept_with_store',
    'embedding.rename_store', 'embedding.check_rename', 'public.cancel_reembedding',
    'public.finish_reembedding', 'public.rename_reembedded');
