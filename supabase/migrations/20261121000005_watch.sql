-- Why:   `watch_embeddings` registers a column to be kept in step with its text, and installs the
--        triggers that put changed rows into the queue; `unwatch_embeddings` takes both away.
-- Locks: the migration nothing. A call of watch_embeddings takes SHARE ROW EXCLUSIVE on the table
--        for the moment its triggers are made (writers wait, readers do not), and ACCESS EXCLUSIVE
--        if it has to add the column.
-- Undo:  select unwatch_embeddings(table, column) for each target, then drop the functions.
--
-- Everything here runs with the rights of the caller, who must own the table.

-- `sessions` for public.sessions, `app.sessions` elsewhere; quoted where the name needs it.
create function public.embedding_table_name(relation regclass)
returns text
language sql
stable
set search_path = ''
as $$
    select case when namespace.nspname = 'public' then format('%I', class.relname)
                else format('%I.%I', namespace.nspname, class.relname) end
      from pg_class as class
      join pg_namespace as namespace on namespace.oid = class.relnamespace
     where class.oid = relation;
$$;

-- The columns of the primary key, in its order. Raises unless each has one text form: the text of
-- a date, a time or a float depends on the session that asks, and could not name the row.
create function public.embedding_key_columns(relation regclass)
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
    key_columns text[];
    unfit text;
begin
    select array_agg(attribute.attname::text order by place.ordinal),
           min(format('%s (%s)', attribute.attname, format_type(attribute.atttypid, attribute.atttypmod)))
               filter (where type.typcategory in ('D', 'T') or type.typname in ('float4', 'float8', 'bytea'))
      into key_columns, unfit
      from pg_index as index
     cross join lateral unnest(index.indkey::smallint[]) with ordinality as place (attnum, ordinal)
      join pg_attribute as attribute
        on attribute.attrelid = index.indrelid and attribute.attnum = place.attnum
      join pg_type as type on type.oid = attribute.atttypid
     where index.indrelid = relation and index.indisprimary
       and place.ordinal <= index.indnkeyatts;
    if key_columns is null then
        raise exception 'table % has no primary key', public.embedding_table_name(relation)
            using errcode = 'invalid_table_definition',
                  hint = format('Give it one: alter table %s add primary key (…).', relation);
    elsif unfit is not null then
        raise exception 'table % has a primary key column without one text form: %',
                        public.embedding_table_name(relation), unfit
            using errcode = 'feature_not_supported',
                  hint = 'Use a key of uuid, integer, bigint, text, numeric, boolean or enum columns.';
    end if;
    return key_columns;
end $$;

-- The SQL for the text to embed: of one column, of several ('title, body': joined by an empty
-- line, without those that are null), or the expression as it was given.
create function public.embedding_source_sql(relation regclass, source text)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    columns text[];
begin
    select array_agg(format('%I', attribute.attname) order by piece.ordinal)
      into columns
      from regexp_split_to_table(source, ',') with ordinality as piece (name, ordinal)
      join pg_attribute as attribute
        on attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
       and btrim(piece.name) in (attribute.attname, format('%I', attribute.attname));
    if columns is null or cardinality(columns) <> cardinality(regexp_split_to_array(source, ',')) then
        return source;
    elsif cardinality(columns) = 1 then
        return columns[1];
    end if;
    return format('concat_ws(E''\n\n'', %s)', array_to_string(columns, ', '));
end $$;

-- The columns that the source and the filter read. Postgres itself is asked, by way of a view
-- over them, which also proves that both are valid SQL; a row taken as a whole reads every column
-- but the embeddings.
create function public.embedding_columns_read(relation regclass, source text, filter text)
returns text[]
language plpgsql
set search_path = ''
as $$
declare
    columns text[];
    whole_row boolean;
begin
    execute format(
        'create temporary view embedding_probe as select (%s)::text as source, (%s)::boolean as filter from %s',
        source, coalesce(filter, 'true'), relation);
    whole_row := pg_get_viewdef('pg_temp.embedding_probe'::regclass) like '%.*%';
    select array_agg(attribute.attname::text order by attribute.attnum)
      into columns
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
       and case when whole_row
           then format_type(attribute.atttypid, null) !~ '(^|\.)(vector|halfvec|sparsevec)$'
           else exists (
               select from pg_depend as dependency
                 join pg_rewrite as rule on rule.oid = dependency.objid
                where dependency.classid = 'pg_rewrite'::regclass
                  and rule.ev_class = 'pg_temp.embedding_probe'::regclass
                  and dependency.refobjid = relation
                  and dependency.refobjsubid = attribute.attnum)
           end;
    drop view pg_temp.embedding_probe;
    return columns;
exception
    when syntax_error or undefined_column or undefined_function or undefined_table
      or datatype_mismatch or cannot_coerce or grouping_error or ambiguous_column then
        raise exception 'source or filter for table % is not valid: %',
                        public.embedding_table_name(relation), sqlerrm
            using errcode = sqlstate,
                  hint = 'Give column names, or an SQL expression over one row with functions '
                         'outside pg_catalog qualified by their schema.';
end $$;

-- The key of a row as text, for rows known by the given name.
create function public.embedding_record_id_sql(row_name text, key_columns text[])
returns text
language sql
immutable
set search_path = ''
as $$
    select case when cardinality(key_columns) = 1
                then format('%I.%I::text', row_name, key_columns[1])
                else format('jsonb_build_array(%s)::text',
                            string_agg(format('%I.%I', row_name, name), ', ' order by ordinal)) end
      from unnest(key_columns) with ordinality as key (name, ordinal);
$$;

-- The condition that finds the row of the record id `eq_record`. The text is cast to the type of
-- the key, and not the key to text, so that the primary key serves the look-up.
create function public.embedding_record_match_sql(relation regclass, key_columns text[])
returns text
language sql
stable
set search_path = ''
as $$
    select string_agg(
               format('%I.%I = (%s)::%s', class.relname, key.name,
                      case when cardinality(key_columns) = 1 then 'eq_record'
                           else format('eq_record::jsonb ->> %s', key.ordinal - 1) end,
                      format_type(attribute.atttypid, attribute.atttypmod)),
               ' and ' order by key.ordinal)
      from unnest(key_columns) with ordinality as key (name, ordinal)
      join pg_class as class on class.oid = relation
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attname = key.name;
$$;

-- Makes the trigger function of a target. It holds no logic, only the names of this table's
-- columns, so that its statements are planned once a session and not at every write.
create function public.embedding_make_trigger_function(target public.embedding_targets)
returns void
language plpgsql
set search_path = ''
as $$
begin
    execute format($function$
        create or replace function public.embedding_trigger_%1$s()
        returns trigger
        language plpgsql
        security definer
        set search_path = ''
        as $body$
        begin
            if tg_op = 'INSERT' then
                perform public.enqueue_embeddings(
                            %1$s, array_agg(%2$s order by %3$s), array_agg(%4$s order by %3$s))
                   from changed;
            elsif tg_op = 'UPDATE' and tg_when = 'BEFORE' then
                new.%8$I := null;
                return new;
            elsif tg_op = 'UPDATE' then
                if %5$s <> %6$s then
                    perform public.forget_embeddings(%1$s, array[%5$s]);
                end if;
                perform public.enqueue_embeddings(%1$s, array[%6$s], array[%7$s]);
            elsif tg_op = 'DELETE' then
                perform public.forget_embeddings(%1$s, array_agg(%2$s)) from changed;
            else
                delete from public.embedding_queue as job
                 where job.table_name = %9$L and job.embedding_column = %8$L;
            end if;
            return null;
        end $body$ $function$,
        target.id,
        public.embedding_record_id_sql('changed', target.key_columns),
        (select string_agg(format('changed.%I', name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        coalesce(format('changed.%I', target.user_column), 'null::uuid'),
        public.embedding_record_id_sql('old', target.key_columns),
        public.embedding_record_id_sql('new', target.key_columns),
        coalesce(format('new.%I', target.user_column), 'null::uuid'),
        target.embedding_column,
        target.table_name);
    execute format('revoke all on function public.embedding_trigger_%s() from public', target.id);
end $$;

-- INSERT and DELETE enqueue a statement's rows at once. UPDATE works by row, because only such a
-- trigger can name its columns: writing a vector or any other column then costs nothing. Values
-- are compared as the text they would be embedded as: two that are equal by a lenient collation
-- (or numbers like 1.0 and 1.00) can still read differently.
create function public.embedding_make_triggers(target public.embedding_targets, columns_read text[])
returns void
language plpgsql
set search_path = ''
as $$
declare
    calls text := format('execute function public.embedding_trigger_%s()', target.id);
    columns text;
    text_differs text;
    differs text;
begin
    select string_agg(format('%I', name), ', '),
           string_agg(comparison, ' or '),
           string_agg(comparison, ' or ') filter (where name = any (columns_read))
      into columns, differs, text_differs
      from (select distinct unnest(columns_read || target.key_columns || target.user_column)) as read (name)
     cross join lateral format(
               'old.%1$I::text collate "C" is distinct from new.%1$I::text collate "C"', name) as comparison
     where name is not null;

    perform public.embedding_drop_triggers(target);
    execute format('create trigger embedding_insert_%s after insert on %s '
                   'referencing new table as changed for each statement %s',
                   target.id, target.relation, calls);
    execute format('create trigger embedding_update_%s after update of %s on %s for each row when (%s) %s',
                   target.id, columns, target.relation, differs, calls);
    execute format('create trigger embedding_delete_%s after delete on %s '
                   'referencing old table as changed for each statement %s',
                   target.id, target.relation, calls);
    execute format('create trigger embedding_truncate_%s after truncate on %s for each statement %s',
                   target.id, target.relation, calls);
    if target.on_change = 'clear' and text_differs is not null then
        execute format('create trigger embedding_clear_%s before update of %s on %s for each row when (%s) %s',
                       target.id, columns, target.relation, text_differs, calls);
    end if;
end $$;

create function public.embedding_drop_triggers(target public.embedding_targets)
returns void
language plpgsql
set search_path = ''
set client_min_messages = warning
as $$
declare
    event text;
begin
    if to_regclass(target.relation) is null then
        return; -- dropped with its table
    end if;
    foreach event in array array['insert', 'update', 'delete', 'truncate', 'clear'] loop
        execute format('drop trigger if exists embedding_%s_%s on %s', event, target.id, target.relation);
    end loop;
end $$;

-- The width of a vector column (null: it has none). Raises if there is no such column or it holds
-- no vectors.
create function public.embedding_column_width(relation regclass, embedding_column text)
returns integer
language plpgsql
stable
set search_path = ''
as $$
declare
    table_name text := public.embedding_table_name(relation);
    type text;
    width integer;
begin
    select format_type(attribute.atttypid, null), nullif(attribute.atttypmod, -1)
      into type, width
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attname = embedding_column
       and attribute.attnum > 0 and not attribute.attisdropped;
    if type is null then
        raise exception 'table % has no column %', table_name, embedding_column
            using errcode = 'undefined_column',
                  hint = format('Add it: alter table %s add column %I vector(…), or give its dimensions here '
                                '(on the command line: --create-column).', relation, embedding_column);
    elsif type !~ '(^|\.)(vector|halfvec)$' then
        raise exception 'column % of table % is of type %, not a vector', embedding_column, table_name, type
            using errcode = 'datatype_mismatch',
                  hint = 'The embedding column must be of type vector(n) or halfvec(n).';
    end if;
    return width;
end $$;

-- Adds the vector column. Above 2000 dimensions it is a halfvec: an index over `vector` ends there.
create function public.embedding_add_column(relation regclass, embedding_column text, dimensions integer)
returns void
language plpgsql
set search_path = ''
as $$
begin
    execute format('alter table %s add column %I %s.%I(%s)', relation, embedding_column,
                   (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                   case when dimensions <= 2000 then 'vector' else 'halfvec' end, dimensions);
end $$;

-- Keeps `embedding_column` in step with `source` (a column, several, or an SQL expression over the
-- row), for the rows for which `filter` is true. Rows that are already there are enqueued by
-- backfill_embeddings, or by their next edit. With `dimensions` a missing column is added.
--
-- Called again with other values it changes the target; where the text, the filter or the model
-- changes, its records become pending, and those whose text and model turn out the same complete
-- without a call to the model. Says in one sentence what is wrong, and then changes nothing.
create function public.watch_embeddings(
    relation regclass,
    source text,
    embedding_column text,
    model text default null,
    filter text default null,
    dimensions integer default null,
    priority smallint default 0,
    debounce interval default '0',
    on_change text default 'keep'
)
returns public.embedding_targets
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
    watched public.embedding_targets;
    before public.embedding_targets;
    key_columns text[] := public.embedding_key_columns(relation);
    source_sql text := public.embedding_source_sql(relation, source);
    columns_read text[] := public.embedding_columns_read(relation, source_sql, filter);
    bare_name name;
    width integer;
begin
    if watch_embeddings.embedding_column = any (columns_read) then
        raise exception 'column % cannot be made from itself', watch_embeddings.embedding_column
            using errcode = 'invalid_parameter_value',
                  hint = 'The source and the filter must not read the embedding column.';
    end if;
    if dimensions is not null and not exists (
        select from pg_attribute
         where attrelid = relation and attname = watch_embeddings.embedding_column and not attisdropped
    ) then
        perform public.embedding_add_column(relation, watch_embeddings.embedding_column, dimensions);
    end if;
    width := public.embedding_column_width(relation, watch_embeddings.embedding_column);
    if dimensions <> width then
        raise exception 'column % holds % dimensions, not %', watch_embeddings.embedding_column, width, dimensions
            using errcode = 'datatype_mismatch',
                  hint = 'Leave the dimensions away, or watch another column.';
    end if;

    select * into before from public.embedding_targets as target
     where target.table_name = public.embedding_table_name(relation)
       and target.embedding_column = watch_embeddings.embedding_column;
    select relname into bare_name from pg_class where oid = relation;

    insert into public.embedding_targets as target (
        table_name, embedding_column, source, filter, model, dimensions, priority, debounce, on_change,
        relation, key_columns, record_id_sql, record_match_sql, user_column)
    values (
        public.embedding_table_name(relation), watch_embeddings.embedding_column, source_sql,
        watch_embeddings.filter, watch_embeddings.model, width, watch_embeddings.priority,
        watch_embeddings.debounce, watch_embeddings.on_change,
        (select format('%I.%I', namespace.nspname, bare_name)
           from pg_class as class join pg_namespace as namespace on namespace.oid = class.relnamespace
          where class.oid = relation),
        key_columns,
        public.embedding_record_id_sql(bare_name, key_columns),
        public.embedding_record_match_sql(relation, key_columns),
        (select attname from pg_attribute
          where attrelid = relation and attname = 'user_id' and atttypid = 'uuid'::regtype and not attisdropped))
    on conflict on constraint embedding_targets_one_per_column do update
       set source = excluded.source, filter = excluded.filter, model = excluded.model,
           dimensions = excluded.dimensions, priority = excluded.priority, debounce = excluded.debounce,
           on_change = excluded.on_change, relation = excluded.relation, key_columns = excluded.key_columns,
           record_id_sql = excluded.record_id_sql, record_match_sql = excluded.record_match_sql,
           user_column = excluded.user_column, problem = null, updated_at = now()
    returning target.* into watched;

    perform public.embedding_make_trigger_function(watched);
    perform public.embedding_make_triggers(watched, columns_read);
    if (before.source, before.filter, before.model) is distinct from (watched.source, watched.filter, watched.model)
    then
        update public.embedding_queue as job
           set status = 'pending', priority = watched.priority - 10, available_at = now(),
               attempts = 0, lease = null, lease_expires_at = null, worker = null, updated_at = now()
         where job.id in (
                   select due.id from public.embedding_queue as due
                    where due.table_name = watched.table_name
                      and due.embedding_column = watched.embedding_column
                      and due.status <> 'pending'
                    order by due.id for update skip locked);
    end if;
    return watched;
end $$;

-- Stops keeping the column in step: its triggers and its queue go, its vectors stay. Also serves
-- after the table itself was dropped, by the name it was watched under. True if it was watched.
create function public.unwatch_embeddings(watched_table text, embedding_column text)
returns boolean
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
begin
    delete from public.embedding_targets as gone
     where gone.table_name = watched_table
       and gone.embedding_column = unwatch_embeddings.embedding_column
    returning gone.* into target;
    if target.id is null then
        return false;
    end if;
    perform public.embedding_drop_triggers(target);
    execute format('drop function if exists public.embedding_trigger_%s()', target.id);
    delete from public.embedding_queue as job
     where job.table_name = target.table_name and job.embedding_column = target.embedding_column;
    return true;
end $$;
