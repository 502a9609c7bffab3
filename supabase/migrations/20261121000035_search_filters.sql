-- Why:   a search can be limited to rows with certain values, such as those of a tenant.
-- Locks: nothing.
-- Undo:  drop function embedding.filter_sql;

-- The conditions of a filter like {"tenant_id": 5, "lang": ["en", "de"]}, to be added to a WHERE. Values have the type
-- of their column, so that indexes over it can be used. The match functions contain the body of this one, since
-- their callers have no rights on this schema.
create function embedding.filter_sql(eq_relation regclass, filter jsonb, out eq_conditions text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    eq_bare_name constant name := (select relname from pg_class where oid = eq_relation);
    eq_given constant jsonb := case jsonb_typeof(filter) when 'string' then (filter #>> '{}')::jsonb -- as some clients
                                                         when 'null' then null else filter end;     -- send an object
    eq_name text;
    eq_value jsonb;
    eq_type text;
begin
    eq_conditions := '';
    for eq_name, eq_value in select key, value from jsonb_each(eq_given) loop
        select format_type(atttypid, -1) into eq_type
          from pg_attribute
         where attrelid = eq_relation and attname = eq_name and attnum > 0 and not attisdropped;
        if eq_type is null then
            raise exception 'the filter names a column % that table % does not have', eq_name, eq_relation
                using errcode = 'invalid_parameter_value',
                      hint = 'A filter is an object of columns and values, like {"tenant_id": 5, "lang": ["en", "de"]}.';
        end if;
        eq_conditions := eq_conditions || case jsonb_typeof(eq_value)
            when 'null' then format(' and %I.%I is null', eq_bare_name, eq_name)
            when 'array' then format(' and %I.%I = any (%L::%s[])', eq_bare_name, eq_name,
                                     array(select jsonb_array_elements_text(eq_value)), eq_type)
            else format(' and %I.%I = %L::%s', eq_bare_name, eq_name, eq_value #>> '{}', eq_type) end;
    end loop;
end $$;

select embedding.protect_functions('embedding.filter_sql');
select embedding.grant_to('service_role', 'execute on function embedding.filter_sql');
