-- Why:   a search says which of its arguments it cannot use, and can be limited to rows with certain values, such as
--        those of a tenant.
-- Locks: nothing.
-- Undo:  drop function embedding.filter_sql, embedding.check_search;
--
-- The match functions contain the bodies of these functions, since their callers have no rights on this schema.

-- Raises if a search cannot use one of its arguments. Null means the default of each.
create function embedding.check_search(
    eq_relation regclass, eq_column name, query_embedding real[], match_count integer,
    match_threshold double precision, full_text_weight double precision, rrf_k integer
)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    eq_width constant integer := (select nullif(atttypmod, -1) from pg_attribute
                                   where attrelid = eq_relation and attname = eq_column);
    eq_cause text;
    eq_cure text;
begin
    select format('%s cannot be %s', eq_name, eq_value), eq_hint into eq_cause, eq_cure
      from (values ('the number of rows', match_count::double precision, 0::double precision, 'Ask for 0 rows or more.'),
                   ('match_threshold', match_threshold, '-Infinity', 'Give a similarity from -1 to 1.'),
                   ('full_text_weight', full_text_weight, 0, 'Give 0 or more; 1 is the default.'),
                   ('rrf_k', rrf_k, 0, 'Give 0 or more; 50 is the default.')) as eq_given (eq_name, eq_value, eq_least, eq_hint)
     where not (eq_value >= eq_least and eq_value < 'Infinity')
     limit 1;
    if eq_width <> cardinality(query_embedding::real[]) then
        eq_cause := format('the vector of the query has %s dimensions, and those of column %s of table %s have %s',
                           cardinality(query_embedding::real[]), eq_column, eq_relation, eq_width);
        eq_cure := 'Embed the query with the model of the column.';
    end if;
    if eq_cause is not null then
        raise exception '%', eq_cause using errcode = 'invalid_parameter_value', hint = eq_cure;
    end if;
end $$;

-- The conditions of a filter like {"tenant_id": 5, "lang": ["en", "de"]}, to be added to a WHERE. Values have the type
-- of their column, so that indexes over it can be used; a domain counts as its base type. Raises if a value does not.
create function embedding.filter_sql(eq_relation regclass, filter jsonb, out eq_conditions text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    eq_hint constant text := 'A filter is an object of columns and values, like {"tenant_id": 5, "lang": ["en", "de"]}.';
    eq_bare_name constant name := (select relname from pg_class where oid = eq_relation);
    eq_object jsonb := filter;
    eq_name text;
    eq_value jsonb;
    eq_type text;
    eq_condition text;
begin
    begin
        eq_object := filter #>> '{}'; -- some clients send an object as a string
    exception when data_exception then null;
    end;
    if jsonb_typeof(eq_object) <> 'object' then
        raise exception 'the filter is not a JSON object: %', left(filter::text, 40)
            using errcode = 'invalid_parameter_value', hint = eq_hint;
    end if;
    eq_conditions := '';
    for eq_name, eq_value in select key, value from jsonb_each(eq_object) loop
        select format_type(coalesce(nullif(typbasetype, 0), atttypid), -1) into eq_type
          from pg_attribute join pg_type on pg_type.oid = atttypid
         where attrelid = eq_relation and attname = eq_name and attnum > 0 and not attisdropped;
        if eq_type is null then
            raise exception 'the filter names a column % that table % does not have', eq_name, eq_relation
                using errcode = 'invalid_parameter_value', hint = eq_hint;
        end if;
        eq_condition := case jsonb_typeof(eq_value)
            when 'null' then format(' and %I.%I is null', eq_bare_name, eq_name)
            when 'array' then format(' and (%1$I.%2$I = any (%3$L::%4$s[])%5$s)', eq_bare_name, eq_name,
                                     array(select jsonb_array_elements_text(eq_value)), eq_type,
                                     case when eq_value @> 'null' then format(' or %I.%I is null', eq_bare_name, eq_name) end)
            else format(' and %I.%I = %L::%s', eq_bare_name, eq_name, eq_value #>> '{}', eq_type) end;
        begin
            execute format('select from %s where false%s', eq_relation, eq_condition);
        exception when data_exception or undefined_function then
            raise exception 'the filter cannot compare column % of type % with %', eq_name, eq_type, left(eq_value::text, 40)
                using errcode = 'invalid_parameter_value',
                      hint = 'Give a value of this type, or an array of such values. A column of json or of arrays '
                             'cannot be used.';
        end;
        eq_conditions := eq_conditions || eq_condition;
    end loop;
end $$;

select embedding.protect_functions('embedding.check_search', 'embedding.filter_sql');
select embedding.grant_to('service_role', 'execute on function embedding.check_search, embedding.filter_sql');
