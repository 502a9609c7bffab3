-- Why:   a source is SQL of the user that runs with the rights of the owner of this API. So it is checked first, and
--        Postgres itself determines which columns it reads.
-- Locks: nothing.
-- Undo:  drop function embedding.full_text_sql, embedding.columns_read, embedding.check_source, embedding.source_sql;

-- SQL for the text to embed: one column, an expression, or several of them ('title, body': joined by an empty line,
-- without nulls). A column may be named by its exact name, or, always beside an expression, as in SQL. Nothing of the
-- source is run: a view tells whether it is one expression, or several, which make a record.
create function embedding.source_sql(relation regclass, source text)
returns text
language plpgsql
set search_path = '', pg_temp
as $$
declare
    columns text[];
begin
    select array_agg(format('%I', named.attname) order by named.ordinal)
      into columns
      from (select distinct on (piece.ordinal) piece.ordinal, attribute.attname
              from regexp_split_to_table(source, ',') with ordinality as piece (name, ordinal)
              join pg_attribute as attribute
                on attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
               and (attribute.attname in (btrim(piece.name), lower(btrim(piece.name)))
                    or format('%I', attribute.attname) = btrim(piece.name))
             order by piece.ordinal, attribute.attname = btrim(piece.name) desc) as named;
    if cardinality(columns) = cardinality(regexp_split_to_array(source, ',')) then
        return case when cardinality(columns) = 1 then columns[1]
                    else format('concat_ws(E''\n\n'', %s)', array_to_string(columns, ', ')) end;
    end if;
    execute format('create temporary view embedding_source as select (%s) as source from %s', source, relation);
    drop view pg_temp.embedding_source;
    return source;
exception
    when invalid_table_definition then
        return format('concat_ws(E''\n\n'', %s)', source);
    when syntax_error_or_access_rule_violation or invalid_schema_name or feature_not_supported or data_exception then
        return source; -- embedding.columns_read says what is wrong with it
end $$;

-- Raises if what the source and the filter of embedding_probe use could run code of a role that the owner of this API
-- does not trust: a function, operator, type or relation of such a role, or one in a schema where such a role
-- can create a function of the same name that fits the arguments better. Postgres keeps the list for the view.
create function embedding.check_source(relation regclass)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    found_one record;
begin
    with used as (
        select distinct dependency.refclassid as class, dependency.refobjid as id
          from pg_depend as dependency
          join pg_rewrite as rule
            on dependency.classid = 'pg_rewrite'::regclass and rule.oid = dependency.objid
         where rule.ev_class = 'pg_temp.embedding_probe'::regclass
           and dependency.refobjid not in (relation, rule.ev_class)
    ), owned (name, owner, schema) as (
        select routine.oid::regprocedure::text, routine.proowner, routine.pronamespace
          from used join pg_proc as routine on class = 'pg_proc'::regclass and routine.oid = id
        union all
        select operator.oid::regoperator::text, operator.oprowner, operator.oprnamespace
          from used join pg_operator as operator on class = 'pg_operator'::regclass and operator.oid = id
        union all
        select type.oid::regtype::text, type.typowner, null
          from used join pg_type as type on class = 'pg_type'::regclass and type.oid = id
        union all
        select other.oid::regclass::text, other.relowner, null
          from used join pg_class as other on class = 'pg_class'::regclass and other.oid = id
    )
    select owned.name, who.may, case who.role when 0 then 'public' else who.role::regrole::text end as role,
           namespace.nspname as schema
      into found_one
      from owned
      left join pg_namespace as namespace on namespace.oid = owned.schema
     cross join lateral (
           select 'own' as may, owned.owner as role
            union all
           select 'create', acl.grantee
             from aclexplode(coalesce(namespace.nspacl, acldefault('n', namespace.nspowner))) as acl
            where acl.privilege_type = 'CREATE') as who
     where who.role <> 'pg_database_owner'::regrole and embedding.trusts(who.role) is not true
     order by who.may desc
     limit 1;
    if found_one.may = 'own' then
        raise exception 'the source or filter uses %, which belongs to %', found_one.name, found_one.role
            using errcode = 'insufficient_privilege',
                  hint = format('%s could replace it by code that runs with the rights of %s: make %2$s its owner.',
                                found_one.role, (select nspowner::regrole from pg_namespace where nspname = 'embedding'));
    elsif found_one.may = 'create' then
        raise exception 'the source or filter uses %, and % may create another of that name', found_one.name,
                        found_one.role
            using errcode = 'insufficient_privilege',
                  hint = format('Run `revoke create on schema %I from %s`.', found_one.schema, found_one.role);
    end if;
end $$;

-- The columns that the source and the filter read, and the attribute number of each. They come from the
-- dependencies of a view over them. The view also proves that they give one text and one truth value for
-- each row. A whole-row reference reads every column but the embeddings. A generated column counts as the
-- columns that it is made from: only its number is returned.
create function embedding.columns_read(
    relation regclass, source text, filter text, out columns text[], out numbers jsonb
)
language plpgsql
set search_path = '', pg_temp
as $$
declare
    whole_row boolean;
begin
    execute format(
        'create temporary view embedding_probe as select (%1$s) as source from %3$s '
        ' where (%1$s)::text is not null and (%2$s)',
        source, coalesce(filter, 'true'), relation);
    perform embedding.check_source(relation);
    select ev_action::text like '%:varattno 0 %'
      into whole_row
      from pg_rewrite where ev_class = 'pg_temp.embedding_probe'::regclass;
    with read as (
        select dependency.refobjsubid as attnum
          from pg_depend as dependency
          join pg_rewrite as rule
            on dependency.classid = 'pg_rewrite'::regclass and rule.oid = dependency.objid
         where rule.ev_class = 'pg_temp.embedding_probe'::regclass
           and dependency.refclassid = 'pg_class'::regclass and dependency.refobjid = relation
    ), generated_from as (
        select dependency.refobjsubid as attnum
          from pg_attrdef as expression
          join pg_depend as dependency
            on dependency.classid = 'pg_attrdef'::regclass and dependency.objid = expression.oid
         where expression.adrelid = relation and expression.adnum in (select attnum from read)
           and dependency.refclassid = 'pg_class'::regclass and dependency.refobjid = relation
    )
    select array_agg(attribute.attname::text order by attribute.attnum) filter (where attribute.attgenerated = ''),
           coalesce(jsonb_object_agg(attribute.attname, attribute.attnum), '{}')
      into columns, numbers
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
       and (attribute.attnum in (select attnum from read)
            or attribute.attnum in (select attnum from generated_from)
            or whole_row and format_type(attribute.atttypid, null) !~ '(^|\.)(vector|halfvec|sparsevec)$');
    drop view pg_temp.embedding_probe;
exception
    when insufficient_privilege then
        raise;
    when syntax_error_or_access_rule_violation or invalid_schema_name or feature_not_supported or data_exception then
        raise exception 'source or filter for table % is not valid: %',
                        public.embedding_table_name(relation), sqlerrm
            using errcode = sqlstate,
                  hint = 'Give column names, or an SQL expression over one row with functions '
                         'outside pg_catalog qualified by their schema.';
end $$;

-- SQL for the words of a source in a text search configuration like `english`, as Postgres writes it; null without one.
-- An index is to hold it, so it must be immutable, which is tried on an empty copy of the table; `concat_ws`, of
-- several columns, is not. It reads the first 100,000 characters: with those an index never refuses a row as too long.
-- A hyphen and a slash separate words, which Postgres would read as a minus in E-4711 and as a path in heating/cooling.
create function embedding.full_text_sql(relation regclass, source text, language text)
returns text
language plpgsql
strict
set search_path = '', pg_temp
as $$
declare
    bare_name constant name := (select relname from pg_class where oid = relation);
    columns constant text := substring(source from '^concat_ws\(E''\\n\\n'', (.*)\)$');
    full_text text;
begin
    if not exists (select from pg_ts_config where oid::regconfig::text = language) then
        raise exception 'there is no text search configuration %', language
            using errcode = 'undefined_object',
                  hint = 'Name one as `select oid::regconfig from pg_ts_config` lists them, like english, german or simple.';
    end if;
    if columns is not null then
        source := (select string_agg(format('coalesce(%s::text, '''')', piece[1]), ' || '' '' || ' order by place)
                     from regexp_matches(columns, '"(?:[^"]|"")+"|[^", ]+', 'g') with ordinality as part (piece, place));
    end if;
    execute format('create temporary table %I (like %s)', bare_name, relation);
    execute format('create index on pg_temp.%I using gin (to_tsvector(%L::regconfig, '
                   'translate("left"((%s)::text, 100000), ''-/'', ''  '')))', bare_name, language, source);
    select pg_get_indexdef(indexrelid, 1, false) into full_text
      from pg_index where indrelid = format('pg_temp.%I', bare_name)::regclass;
    execute format('drop table pg_temp.%I', bare_name);
    return full_text;
exception when invalid_object_definition or feature_not_supported then
    raise exception 'no index can hold the words of the source of table %: %', public.embedding_table_name(relation), sqlerrm
        using errcode = sqlstate,
              hint = 'Give the columns one by one (''title, body''), or join them by || and coalesce: concat, concat_ws '
                     'and format are not immutable.';
end $$;

select embedding.protect_functions(
    'embedding.source_sql', 'embedding.check_source', 'embedding.columns_read', 'embedding.full_text_sql');
