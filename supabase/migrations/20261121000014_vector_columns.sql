-- Why:   the column of the vectors must have the width of its target. A missing column is added with the right type.
--        Vectors can also be in a side table, beside the watched one (see embedding.make_side_table). The statements of the
--        queue get the pieces of SQL that differ from here.
-- Locks: the migration nothing. embedding.add_column takes ACCESS EXCLUSIVE on the table, until the transaction ends.
--        embedding.clear_all writes every row that has a vector.
-- Undo:  drop function embedding.clear_all, embedding.clear_sql, embedding.clear_row_sql, embedding.has_stored_sql,
--        embedding.has_vector_sql, embedding.hash_stored, embedding.hash_vectors, embedding.has_other_triggers,
--        embedding.write_sql, embedding.vector_of_sql, embedding.same_key_sql, embedding.keys_sql, embedding.key_list,
--        embedding.as_worded, embedding.vector_hash_sql, embedding.kind_of_vectors, embedding.stored_width,
--        embedding.as_stored, embedding.side_tables, embedding.is_column,
--        embedding.text_by_hand_sql, embedding.text_sql, embedding.add_column, embedding.vector_type,
--        embedding.planned_width, embedding.column_width;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The width of a vector column (null: it has none). Raises if the column does not exist or is not of a vector
-- type.
create function embedding.column_width(relation regclass, embedding_column text)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    type text;
    width integer;
begin
    select format_type(attribute.atttypid, null), nullif(attribute.atttypmod, -1)
      into type, width
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attname = embedding_column
       and attribute.attnum > 0 and not attribute.attisdropped;
    if type is null then
        raise exception 'table % has no column %', public.embedding_table_name(relation), embedding_column
            using errcode = 'undefined_column',
                  hint = format('Add it: alter table %s add column %I vector(...), or give its dimensions here '
                                '(on the command line: --create-column).', relation, embedding_column);
    elsif type !~ '(^|\.)(vector|halfvec)$' then
        raise exception 'column % of table % is of type %, not a vector',
                        embedding_column, public.embedding_table_name(relation), type
            using errcode = 'datatype_mismatch',
                  hint = 'The embedding column must be of type vector(n) or halfvec(n).';
    end if;
    return width;
end $$;

-- The width that a vector column has, or will have when watch_embeddings has added it with `dimensions`. Raises if it
-- has another one.
create function embedding.planned_width(relation regclass, embedding_column text, dimensions integer)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    width integer := dimensions;
begin
    if dimensions is null or exists (
        select from pg_attribute
         where attrelid = relation and attname = embedding_column and not attisdropped
    ) then
        width := embedding.column_width(relation, embedding_column);
    end if;
    if width <> dimensions then
        raise exception 'column % holds % dimensions, not %', embedding_column, width, dimensions
            using errcode = 'datatype_mismatch',
                  hint = 'Leave out the dimensions to watch it as it is, or watch another column.';
    end if;
    return width;
end $$;

-- The type of a vector column that is added. Above 2000 dimensions it is a halfvec, since an index over `vector` ends
-- there. An index over `halfvec` ends at 4000: a search in a wider column would read all of it.
create function embedding.vector_type(dimensions integer)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    if dimensions not between 1 and 4000 then
        raise exception 'a vector column cannot have % dimensions', dimensions
            using errcode = 'invalid_parameter_value',
                  hint = 'Give a number from 1 to 4000, to which the model can shorten its vectors '
                         '(on the command line: --dimensions).';
    end if;
    return format('%s.%I(%s)', (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                  case when dimensions <= 2000 then 'vector' else 'halfvec' end, dimensions);
end $$;

-- Adds the vector column.
create function embedding.add_column(relation regclass, embedding_column text, dimensions integer)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    execute format('alter table %s add column %I %s', relation, embedding_column, embedding.vector_type(dimensions));
end $$;

-- SQL for the text of a row that a worker gets. That of a text in chunks begins with its context, at most 500 characters
-- since each chunk gets it, which ends with a unit separator.
create function embedding.text_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when target.chunk_format is null then target.source else format(
        'case when (%1$s)::text collate "C" ~ %2$L then %3$s || e''\x1f'' || (%1$s)::text end', target.source,
        embedding.visible_character(),
        case when target.context is null then ''''''
             else format('coalesce(translate("left"((%s)::text, 500), e''\x1f'', '' ''), '''')', target.context) end) end;
$$;

-- SQL for the text of a job that was given by hand, eq_by_hand, as a worker gets it: one in chunks has no context.
create function embedding.text_by_hand_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when target.chunk_format is null then 'eq_by_hand' else format(
        'case when eq_by_hand collate "C" ~ %L then e''\x1f'' || eq_by_hand else eq_by_hand end',
        embedding.visible_character()) end;
$$;

-- Whether the vectors of a target are in a column of the watched table.
create function embedding.is_column(target public.embedding_targets)
returns boolean
language plpgsql -- since SQL functions are planned at every call before Postgres 18
immutable
set search_path = '', pg_temp
as $$
begin
    return num_nonnulls(target.chunks_relation, target.store_relation) = 0;
end $$;

-- The tables beside the watched one with what is made from its texts: that of the chunks and that of their places, or that of
-- the vectors.
create function embedding.side_tables(target public.embedding_targets)
returns text[]
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    return array_remove(array[target.chunks_relation, target.places_relation, target.store_relation], null);
end $$;

-- The target as if the table that holds its vectors were watched, and all of its rows. That of chunks has the key of the text and
-- the hash of the chunk. Nothing changes if the vectors are in the watched table, or if the other one is missing.
create function embedding.as_stored(target public.embedding_targets)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    beside constant text := coalesce(target.chunks_relation, target.store_relation);
begin
    if to_regclass(beside) is null then
        return target;
    elsif target.chunk_format is not null then
        target.key_columns := target.key_columns || 'hash'::text;
        target.source := 'content';
    end if;
    target.relation := beside;
    target.chunk_format := null;
    target.chunks_relation := null;
    target.places_relation := null;
    target.store_relation := null;
    target.embedding_column := 'embedding';
    target.serves := null;
    target.record_id_sql := embedding.record_id_sql(
        target.relation::regclass, (parse_ident(target.relation))[2], target.key_columns);
    target.record_match_sql := embedding.record_match_sql(target.relation::regclass, target.key_columns);
    target.filter := null;
    return target;
end $$;

-- The width of the vectors of a target: see embedding.column_width.
create function embedding.stored_width(target public.embedding_targets)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    if embedding.is_column(target) then
        return embedding.column_width(target.relation::regclass, target.embedding_column);
    end if;
    return embedding.column_width(coalesce(target.chunks_relation, target.store_relation)::regclass, 'embedding');
end $$;

-- The type of the vectors of a target: vector or halfvec.
create function embedding.kind_of_vectors(target public.embedding_targets)
returns text
language plpgsql -- whose plans last for a session
stable
set search_path = '', pg_temp
as $$
begin
    return (select pg_type.typname::text
              from pg_attribute
              join pg_type on pg_type.oid = pg_attribute.atttypid
             where attrelid = to_regclass(coalesce(target.chunks_relation, target.store_relation, target.relation))
               and attname = case when embedding.is_column(target) then target.embedding_column else 'embedding' end);
end $$;

-- SQL for the hash of a vector of a target, as it is stored: of one in the database, or of one that is to be written. It is
-- over the float32 values, also those of a halfvec, in the order of their bytes in network format. Null for null.
--
-- It shows that a vector was replaced. Measured at 384 and 1536 dimensions, in microseconds: 3.4 and 11, of which vector_send takes
-- 2.0 and 7; MD5, which FIPS refuses, 6.4 and 20; SHA-256 16 and 44 (Postgres without OpenSSL). Postgres keeps it as it is, since
-- hash partitions of arrays depend on it; only a processor that puts the highest byte first would give another. The array is for
-- Postgres before 18, where no other function hashes bytes; nullif, since an array of null has a hash.
create function embedding.vector_hash_sql(target public.embedding_targets, vector_sql text)
returns text
language plpgsql -- whose plans last for a session
stable
set search_path = '', pg_temp
as $$
declare
    extension constant regnamespace := (select extnamespace from pg_extension where extname = 'vector');
begin
    return format('hash_array_extended(nullif(array[%1$s.vector_send((%2$s)::%1$s.%3$s::%1$s.vector)], ''{null}''), 0)',
                  extension, vector_sql, embedding.kind_of_vectors(target));
end $$;

-- The target as if the table that holds its words were watched: another one only for a text in chunks.
create function embedding.as_worded(target public.embedding_targets)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return case when target.chunk_format is null then target else embedding.as_stored(target) end;
end $$;

-- The columns of a key, as a statement lists them.
create function embedding.key_list(key_columns text[])
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select string_agg(quote_ident(name), ', ' order by place)
      from unnest(key_columns) with ordinality as key (name, place);
$$;

-- The key columns of a row, as a statement selects them.
create function embedding.keys_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select string_agg(format('%I.%I', (parse_ident(target.relation))[2], name), ', ' order by place)
      from unnest(target.key_columns) with ordinality as key (name, place);
$$;

-- The condition that a row of another table, which has the same key columns, belongs to a row of the watched table.
create function embedding.same_key_sql(target public.embedding_targets, other text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select string_agg(format('%I.%I = %I.%2$I', (parse_ident(other))[2], name, (parse_ident(target.relation))[2]),
                      ' and ' order by place)
      from unnest(target.key_columns) with ordinality as key (name, place);
$$;

-- SQL for the vector of a row of the watched table. Not for a text in chunks, which has many.
create function embedding.vector_of_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when target.store_relation is null
                then format('%I.%I', (parse_ident(target.relation))[2], target.embedding_column)
                else format('(select %I.embedding from %s where %s)', (parse_ident(target.store_relation))[2],
                            target.store_relation, embedding.same_key_sql(target, target.store_relation)) end;
$$;

-- The statement that gives the vector `vector_sql` to each record of a table eq_given (eq_record, ...), whose rows are locked.
create function embedding.write_sql(target public.embedding_targets, given text, vector_sql text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when embedding.is_column(target)
                then format('update %s set %I = %s from %s where %s', target.relation, target.embedding_column, vector_sql, given,
                            target.record_match_sql)
                else format('insert into %1$s (%2$s, embedding) select %3$s, %4$s from %5$s join %6$s on %7$s '
                            'on conflict (%2$s) do update set embedding = excluded.embedding',
                            target.store_relation, embedding.key_list(target.key_columns), embedding.keys_sql(target),
                            vector_sql, given, target.relation, target.record_match_sql) end;
$$;

-- Whether a trigger of somebody else fires when a vector of a target is written, and can change it.
create function embedding.has_other_triggers(target public.embedding_targets)
returns boolean
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    -- insert 4, update 16: a row of a side table may be new
    events constant integer := case when embedding.is_column(target) then 16 else 20 end;
    written constant regclass := coalesce(target.chunks_relation, target.store_relation, target.relation);
begin
    return exists (
        select from pg_trigger
         where not tgisinternal and tgtype & events <> 0
           and tgfoid::regproc::text !~ '^embedding\.trigger_\d+$'
           and (tgrelid = written or tgrelid in (select relid from pg_partition_tree(written))));
end $$;

-- The hashes of vectors as they are stored where no other trigger changes them.
create function embedding.hash_vectors(target public.embedding_targets, vectors vector[])
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    hashes bigint[];
begin
    execute format('select array(select %s from unnest($1) as eq_given (eq_vector))',
                   embedding.vector_hash_sql(target, 'eq_vector'))
       into hashes using vectors;
    return hashes;
end $$;

-- The hashes of the stored vectors of these records, in their order.
create function embedding.hash_stored(target public.embedding_targets, records text[])
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    hashes bigint[];
begin
    execute format($sql$
        select array_agg(%1$s order by eq_place)
          from (select eq_place, %2$s as eq_vector
                  from unnest($1) with ordinality as eq_given (eq_record, eq_place) join %3$s on %4$s offset 0) as eq_stored
        $sql$, embedding.vector_hash_sql(target, 'eq_vector'), embedding.vector_of_sql(target), target.relation,
        target.record_match_sql)
       into hashes using records;
    return hashes;
end $$;

-- The condition that a row has its vector, or its text has chunks that a search finds. The subquery cannot become a join,
-- which could read all of a side table for a few rows.
create function embedding.has_vector_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when embedding.is_column(target)
                then format('%I.%I is not null', (parse_ident(target.relation))[2], target.embedding_column)
                else format('(select true from %s where %s limit 1) is not null', found.beside,
                            embedding.same_key_sql(target, found.beside)) end
      from (select coalesce(target.places_relation, target.store_relation)) as found (beside);
$$;

-- The condition that something is stored for a row: its vector, or chunks of its text, even if no search finds them yet.
create function embedding.has_stored_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when target.chunks_relation is null then embedding.has_vector_sql(target)
                else format('exists (select from %s where %s)', target.chunks_relation,
                            embedding.same_key_sql(target, target.chunks_relation)) end;
$$;

-- The assignment or statement by which a BEFORE trigger of a row removes what is made from its old text.
create function embedding.clear_row_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when embedding.is_column(target) then format('new.%I := null', target.embedding_column)
                else (select format('delete from %s where %s', found.beside,
                                    string_agg(format('%I.%I = old.%2$I', (parse_ident(found.beside))[2], name),
                                               ' and ' order by place))
                        from unnest(target.key_columns) with ordinality as key (name, place)) end
      from (select coalesce(target.places_relation, target.store_relation)) as found (beside);
$$;

-- The part of a statement that removes the vectors of the rows eq_locked (eq_record, eq_verdict) with nothing to embed.
create function embedding.clear_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when embedding.is_column(target) then format(
        'eq_cleared as (update %s set %I = null from eq_locked where eq_verdict <> ''ready'' and %s)',
        target.relation, target.embedding_column, target.record_match_sql)
    else (select string_agg(format(
                     'eq_cleared_%s as (delete from %s using eq_locked, %s where eq_verdict <> ''ready'' and %s and %s)',
                     place, beside, target.relation, target.record_match_sql, embedding.same_key_sql(target, beside)), ', ')
            from unnest(embedding.side_tables(target)) with ordinality as side (beside, place)) end;
$$;

-- Removes all vectors of a target, whose table the caller has locked.
create function embedding.clear_all(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    beside text;
begin
    if embedding.is_column(target) then
        execute format('update %1$s set %2$I = null where %2$I is not null', target.relation, target.embedding_column);
    end if;
    foreach beside in array embedding.side_tables(target) loop
        execute format('delete from %s', beside);
    end loop;
end $$;

select embedding.protect_functions(
    'embedding.column_width', 'embedding.planned_width', 'embedding.vector_type', 'embedding.add_column',
    'embedding.text_sql', 'embedding.text_by_hand_sql', 'embedding.is_column', 'embedding.side_tables', 'embedding.as_stored',
    'embedding.stored_width', 'embedding.kind_of_vectors', 'embedding.vector_hash_sql', 'embedding.as_worded',
    'embedding.key_list', 'embedding.keys_sql', 'embedding.same_key_sql', 'embedding.vector_of_sql', 'embedding.write_sql',
    'embedding.has_other_triggers', 'embedding.hash_vectors', 'embedding.hash_stored', 'embedding.has_vector_sql',
    'embedding.has_stored_sql', 'embedding.clear_row_sql', 'embedding.clear_sql',
    'embedding.clear_all');
