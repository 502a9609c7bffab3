-- Why:   a worker builds the vector index of a column: it must know which index is wanted, which one is there, what an
--        interrupted build left behind, and how far a build is.
-- Locks: nothing. The functions read the catalogs; embedding.lock_vector_index takes an advisory lock of the session.
-- Undo:  drop function embedding.vector_index_progress, embedding.lock_vector_index, embedding.plan_vector_index,
--        embedding.index_builder, embedding.vector_indexes_of, embedding.vector_index_sql,
--        embedding.rename_in_sql, embedding.find_vectors;

-- Where the vectors of a column of a watched table are: in it, or in a side table. The column itself need not be watched. No row: there is no such column.
create function embedding.find_vectors(watched_table text, column_name text)
returns table (relation regclass, number smallint)
language sql
stable
set search_path = '', pg_temp
as $$
    select attrelid::regclass, attnum
      from (select target.relation, target.embedding_column, 1
              from public.embedding_targets as watched
             cross join lateral embedding.as_stored(watched) as target
             where watched.table_name = watched_table and watched.embedding_column = column_name
             union all
            select watched.relation, column_name, 2
              from public.embedding_targets as watched where watched.table_name = watched_table) as stored (relation, name, place)
      join pg_attribute on attrelid = to_regclass(stored.relation) and attname = stored.name and attnum > 0 and not attisdropped
     order by place limit 1;
$$;

-- An expression as Postgres prints it, with another name for a column. A text in quotes stays as it is.
create function embedding.rename_in_sql(expression text, old_name text, new_name text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select string_agg(case when token.part[1] = quote_ident(old_name) then quote_ident(new_name) else token.part[1] end, ''
                      order by token.place)
      from regexp_matches(expression, '(''(?:[^'']|'''')*''|"(?:[^"]|"")*"|[[:alpha:]_][[:alnum:]_$]*|.)', 'g')
           with ordinality as token (part, place);
$$;

-- What follows the name of the table in the statement that builds an index like this one over a vector column, which may be
-- its own: method, operator class, options and, in the same table, predicate. Null: the type of the column has no such operator class.
create function embedding.vector_index_sql(index regclass, relation regclass, number smallint)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('using %I (%I %s.%I)%s%s', method.amname, attribute.attname, wanted.opcnamespace::regnamespace, wanted.opcname,
                  (select format(' with (%s)', string_agg(
                              format('%I = %L', split_part(option, '=', 1), substr(option, strpos(option, '=') + 1)), ', ' order by option))
                     from unnest(class.reloptions) as option having count(*) > 0),
                  case when present.indrelid = vector_index_sql.relation then ' where ' || embedding.rename_in_sql(
                      pg_get_expr(present.indpred, present.indrelid), own.attname, attribute.attname) end)
      from pg_index as present
      join pg_class as class on class.oid = present.indexrelid
      join pg_am as method on method.oid = class.relam
      join pg_opclass as operators on operators.oid = present.indclass[0]
      join pg_attribute as own on own.attrelid = present.indrelid and own.attnum = present.indkey[0]
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attnum = number
      join pg_type as type on type.oid = attribute.atttypid
      join pg_opclass as wanted
        on wanted.opcmethod = operators.opcmethod
       and wanted.opcname = regexp_replace(operators.opcname, '^(vector|halfvec)_', type.typname || '_')
     where present.indexrelid = index;
$$;

-- The vector indexes over just a column, the best for a search first.
create function embedding.vector_indexes_of(relation regclass, number smallint)
returns table (index regclass, definition text, is_valid boolean, serves_searches boolean)
language sql
stable
set search_path = '', pg_temp
as $$
    select indexrelid::regclass, embedding.vector_index_sql(indexrelid::regclass, relation, number), indisvalid,
           indisvalid and indpred is null and operators.opcname ~ '_cosine_ops$'
      from pg_index
      join pg_opclass as operators on operators.oid = indclass[0] and operators.opcname ~ '_(cosine|l2|ip|l1)_ops$'
     where indrelid = relation and indnatts = 1 and indkey[0] = number
     order by indisvalid desc, operators.opcname ~ '_cosine_ops$' desc, indpred is null desc, indexrelid;
$$;

-- The other session that builds an index of a table now, as a person can find it; null: there is none. A role cannot see
-- which table a session of another role works on, but can see its locks.
create function embedding.index_builder(relation regclass)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('process %s (%s)', build.pid, coalesce(nullif(session.application_name, ''), 'without a name'))
      from pg_stat_progress_create_index as build
      join pg_stat_activity as session on session.pid = build.pid
     where build.datname = current_database() and build.pid <> pg_backend_pid()
       and (build.relid = index_builder.relation
            or build.relid is null and exists (
                select from pg_locks as lock
                 where lock.pid = build.pid and lock.relation = index_builder.relation
                   and lock.mode in ('ShareUpdateExclusiveLock', 'ShareLock')))
     order by build.pid limit 1;
$$;

-- The index of a column that is wanted, and what is known for its build. Without `like_column` that is an hnsw index
-- for the cosine distance, or the one that is there already. Raises if there can be none.
create function embedding.plan_vector_index(watched_table text, embedding_column text, like_column text default null)
returns table (
    relation text, definition text, present text, leftovers text[], method text, options jsonb, row_count bigint,
    type text, dimensions integer, is_partitioned boolean, vector_version text, memory_kb bigint, builder text)
language plpgsql
volatile -- as embedding.stored_count is
set search_path = '', pg_temp
as $$
declare
    named constant text := watched_table || '.' || embedding_column;
    own record;
    model regclass; -- of the index
begin
    select found.relation as id, found.number, attribute.attname as name, vector.typname as type_name,
           vector.typnamespace::regnamespace as vector_schema, nullif(attribute.atttypmod, -1) as width, class.relkind
      into own
      from embedding.find_vectors(watched_table, embedding_column) as found
      join pg_attribute as attribute on attribute.attrelid = found.relation and attribute.attnum = found.number
      join pg_type as vector on vector.oid = attribute.atttypid
      join pg_class as class on class.oid = found.relation;
    if own.id is null then
        raise exception 'there are no vectors of %', named
            using errcode = 'undefined_column', hint = '`worker doctor` says what is wrong with the column.';
    end if;
    if like_column is null then
        select indexes.index into model from embedding.vector_indexes_of(own.id, own.number) as indexes where serves_searches limit 1;
    else
        select indexes.index into model
          from embedding.find_vectors(watched_table, like_column) as other
         cross join lateral embedding.vector_indexes_of(other.relation, other.number) as indexes
         where indexes.is_valid limit 1;
        if model is null then
            raise exception 'column % of table % has no valid vector index', like_column, watched_table
                using errcode = 'undefined_object', hint = 'Name another column, or leave out --like.';
        end if;
    end if;
    relation := own.id::text;
    definition := case when model is not null then embedding.vector_index_sql(model, own.id, own.number)
                       else format('using hnsw (%I %s.%I)', own.name, own.vector_schema, own.type_name || '_cosine_ops') end;
    if definition is null then
        raise exception 'index % cannot be built over %, which is of type %', model, named, own.type_name
            using errcode = 'datatype_mismatch', hint = 'Leave out --like.';
    end if;
    present := (select indexes.index from embedding.vector_indexes_of(own.id, own.number) as indexes
                 where indexes.is_valid and indexes.definition = plan_vector_index.definition limit 1);
    leftovers := array(select indexes.index::text from embedding.vector_indexes_of(own.id, own.number) as indexes
                        where not indexes.is_valid and indexes.definition = plan_vector_index.definition);
    select coalesce(access.amname, 'hnsw'),
           coalesce((select jsonb_object_agg(split_part(option, '=', 1), substr(option, strpos(option, '=') + 1))
                       from unnest(class.reloptions) as option), '{}')
      into method, options
      from (values (model)) as chosen (id)
      left join pg_class as class on class.oid = chosen.id
      left join pg_am as access on access.oid = class.relam;
    row_count := (select stored.rows from embedding.stored_count(relation) as stored);
    type := own.type_name;
    dimensions := own.width;
    is_partitioned := own.relkind = 'p';
    vector_version := (select extversion from pg_extension where extname = 'vector');
    memory_kb := (select setting::bigint from pg_settings where name = 'maintenance_work_mem');
    builder := embedding.index_builder(own.id);
    return next;
end $$;

-- Lets only one session at a time build the index of a column, until it ends. Returns the session that has this right; null:
-- it is this one.
create function embedding.lock_vector_index(watched_table text, embedding_column text)
returns text
language plpgsql
set search_path = '', pg_temp
as $$
declare
    key constant bigint := hashtextextended(format('vector index of %I.%I', watched_table, embedding_column), 0);
begin
    if pg_try_advisory_lock(key) then
        return null;
    end if;
    return coalesce((
        select format('process %s (%s)', pid, coalesce(nullif(application_name, ''), 'without a name'))
          from pg_locks join pg_stat_activity using (pid)
         where locktype = 'advisory' and granted and objsubid = 1
           and classid = ((key >> 32) & 4294967295)::oid and objid = (key & 4294967295)::oid
           and database = (select oid from pg_database where datname = current_database())
         limit 1), 'another session');
end $$;

-- How far the statement of a session is that builds or drops an index, and which session it waits for.
create function embedding.vector_index_progress(session integer)
returns table (phase text, done bigint, total bigint, waits_for integer, waits_for_name text)
language sql
stable
set search_path = '', pg_temp
as $$
    select build.phase, build.blocks_done, build.blocks_total, other.pid, other.application_name
      from (values (session)) as own (pid)
      left join pg_stat_progress_create_index as build on build.pid = own.pid
      left join pg_stat_activity as other
        on other.pid = coalesce(nullif(build.current_locker_pid, 0), (pg_blocking_pids(own.pid))[1]);
$$;

select embedding.protect_functions(
    'embedding.find_vectors', 'embedding.rename_in_sql', 'embedding.vector_index_sql', 'embedding.vector_indexes_of',
    'embedding.index_builder', 'embedding.plan_vector_index', 'embedding.lock_vector_index', 'embedding.vector_index_progress');
