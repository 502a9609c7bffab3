-- Why:   the queue knows a row by its key as text, which must be the same in every session, and copies its owner.
-- Locks: nothing.
-- Undo:  drop function embedding.queued_id_sql, embedding.shortened_id, embedding.key_too_long,
--        embedding.record_match_sql, embedding.key_values_sql, embedding.owner_sql, embedding.record_id_sql,
--        embedding.key_forms, embedding.key_columns, public.embedding_table_name;

-- `sessions` for public.sessions, `app.sessions` elsewhere; quoted where the name needs it.
create function public.embedding_table_name(relation regclass)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when namespace.nspname = 'public' then format('%I', class.relname)
                else format('%I.%I', namespace.nspname, class.relname) end
      from pg_class as class
      join pg_namespace as namespace on namespace.oid = class.relnamespace
     where class.oid = relation;
$$;

-- The columns of the primary key, in its order. Raises unless each has a text form that does not depend on
-- the settings of a session (embedding.key_forms). The text of an interval, a float or an amount of money depends on
-- settings, that of a regclass on the search path, and an array or a composite value is written
-- differently in JSON.
create function embedding.key_columns(relation regclass)
returns text[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    key_columns text[];
    unfit text;
begin
    select array_agg(attribute.attname::text order by place.ordinal),
           min(format('%s (%s)', attribute.attname, format_type(attribute.atttypid, attribute.atttypmod)))
               -- by category and output function, which a domain has from its base type
               filter (where type.typcategory in ('A', 'C', 'R')
                          or type.typcategory in ('D', 'T') and type.typoutput::text not in
                             ('date_out', 'timestamp_out', 'timestamptz_out', 'time_out', 'timetz_out')
                          or type.typoutput::text in ('float4out', 'float8out', 'cash_out')
                          or type.typoutput::text like 'reg%out')
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
                  hint = format('Give it one: alter table %s add primary key (...).', relation);
    elsif unfit is not null then
        raise exception 'table % has a primary key column without one text form: %',
                        public.embedding_table_name(relation), unfit
            using errcode = 'feature_not_supported',
                  hint = 'Use a key of uuid, integer, bigint, text, numeric, boolean, enum, date, time, '
                         'timestamp or bytea columns.';
    end if;
    return key_columns;
end $$;

-- How a record id holds each column of a key, as patterns for format: `written` for its value in a row, `read`
-- for its text in a record id. Both mean the same whatever DateStyle, TimeZone and bytea_output are: JSON has dates and
-- times in ISO 8601, a timestamptz is given in UTC, and Postgres reads ISO 8601 under every DateStyle.
create function embedding.key_forms(relation regclass, key_columns text[])
returns table (place integer, name text, written text, read text)
language sql
stable
set search_path = '', pg_temp
as $$
    select key.ordinal::integer, key.name,
           case type.typoutput::text
                when 'timestamptz_out' then '(%s at time zone ''UTC'')'
                when 'byteaout' then 'encode(%s, ''hex'')'
                else '%s' end,
           case type.typoutput::text
                when 'timestamptz_out' then '(%s)::timestamp at time zone ''UTC'''
                when 'byteaout' then 'decode(%s, ''hex'')'
                else '(%s)::' || replace(format_type(attribute.atttypid, attribute.atttypmod), '%', '%%') end
      from unnest(key_columns) with ordinality as key (name, ordinal)
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attname = key.name
      join pg_type as type on type.oid = attribute.atttypid;
$$;

-- SQL for the key of a row as text, for rows with the given name: for one column its text, for several a JSON array. It
-- uses the collation of the queue: under another collation of the key, two different record ids could be
-- equal.
create function embedding.record_id_sql(relation regclass, row_name text, key_columns text[])
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when cardinality(key_columns) > 1
                then format('jsonb_build_array(%s)::text', string_agg(key.value, ', ' order by key.place))
                when bool_or(type.typcategory = 'D')
                then format('(jsonb_build_array(%s) ->> 0) collate "default"', min(key.value))
                else format('%s::text collate "default"', min(key.value)) end
      from (select form.place, form.name, format(form.written, format('%I.%I', row_name, form.name)) as value
              from embedding.key_forms(relation, key_columns) as form) as key
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attname = key.name
      join pg_type as type on type.oid = attribute.atttypid;
$$;

-- SQL for the owner of a row, for rows with the given name; null if its table names none.
create function embedding.owner_sql(row_name text, user_column text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$ select coalesce(format('%I.', row_name) || quote_ident(user_column), 'null::uuid') $$;

-- SQL for the values of the key, in its order, from SQL that gives a record id.
create function embedding.key_values_sql(relation regclass, key_columns text[], record_sql text)
returns text[]
language sql
stable
set search_path = '', pg_temp
as $$
    select array_agg(format(form.read, case when cardinality(key_columns) = 1 then record_sql
                                            else format('%s::jsonb ->> %s', record_sql, form.place - 1) end)
                     order by form.place)
      from embedding.key_forms(relation, key_columns) as form;
$$;

-- The condition that finds the row of the record id `eq_record`. The text is cast to the type of
-- the key, and not the key to text, so that the look-up uses the primary key.
create function embedding.record_match_sql(relation regclass, key_columns text[])
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select string_agg(format('%I.%I = %s', class.relname, key.name, key.value), ' and ' order by key.place)
      from pg_class as class,
           unnest(key_columns, embedding.key_values_sql(relation, key_columns, 'eq_record'))
           with ordinality as key (name, value, place)
     where class.oid = relation;
$$;

-- Why a record id cannot be stored in the queue, or null. An index row ends at 2704 bytes and holds two names as well.
create function embedding.key_too_long(record_id text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select format('the key has %s bytes, and the queue takes keys of up to 2000', octet_length(record_id))
     where octet_length(record_id) > 2000;
$$;

-- The form in which the queue stores such an id. Its job is failed from the beginning.
create function embedding.shortened_id(record_id text)
returns text
language sql
immutable
parallel safe
set search_path = '', pg_temp
as $$
    select left(record_id, 100) || '...' || encode(sha256(convert_to(record_id, 'UTF8')), 'hex');
$$;

-- SQL for the stored form of a record id. It calls a function only for a long id, since a call takes longer than all
-- the rest.
create function embedding.queued_id_sql(record_id_sql text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select format('case when octet_length(%1$s) <= 2000 then %1$s else embedding.shortened_id(%1$s) end', record_id_sql);
$$;

select embedding.protect_functions(
    'embedding.key_columns', 'embedding.key_forms', 'embedding.record_id_sql', 'embedding.owner_sql',
    'embedding.key_values_sql', 'embedding.record_match_sql', 'embedding.key_too_long', 'embedding.shortened_id', 'embedding.queued_id_sql');
select embedding.let_workers_call('public.embedding_table_name');
