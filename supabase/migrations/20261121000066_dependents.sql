-- Why:   before a vector column is replaced, its owner must know what would break with the old column, or silently keep
--        reading it. Views, policies and the like follow a column and not its name.
-- Locks: nothing. The functions read the catalogs.
-- Undo:  drop function embedding.dependents_of, embedding.dependent_cure, embedding.dependent_kind,
--        embedding.dependent_objects, embedding.replaced_objects;
--
-- A function whose body is a string is not known to Postgres as a dependent: it follows the name of the column. The
-- functions that replace a column copy its grants and its comment to the new one.

-- What is replaced with a column: the column, or its side tables with the view of its passages.
create function embedding.replaced_objects(relation regclass, column_name text)
returns table (class_id oid, object_id oid, column_number integer)
language sql
stable
set search_path = '', pg_temp
as $$
    select 'pg_class'::regclass::oid, attrelid, attnum::integer
      from pg_attribute
     where attrelid = relation and attname = column_name and attnum > 0 and not attisdropped
     union all
    select 'pg_class'::regclass::oid, to_regclass(made.name)::oid, 0
      from public.embedding_targets as target
     cross join lateral unnest(embedding.side_tables(target) || target.passages_relation) as made (name)
     where target.relation_id = replaced_objects.relation and target.embedding_column = column_name and to_regclass(made.name) is not null;
$$;

-- What would be dropped, or refuse the drop, with a column: directly, or through a view, a function or a generated column that
-- depends on it. The rule behind a view stands for the view, and the expression of a column for the column.
create function embedding.dependent_objects(relation regclass, column_name text)
returns table (class_id oid, object_id oid, column_number integer)
language sql
stable
set search_path = '', pg_temp
as $$
    with recursive found as (
        select class_id, object_id, column_number from embedding.replaced_objects(relation, column_name)
         union
        select coalesce(stands_for.class_id, edge.classid), coalesce(stands_for.object_id, edge.objid),
               coalesce(stands_for.column_number, edge.objsubid)
          from found
          join pg_depend as edge
            on edge.refclassid = found.class_id and edge.refobjid = found.object_id
           and (found.column_number = 0 or edge.refobjsubid = found.column_number)
           and edge.deptype in ('n', 'a', 'i')
          left join lateral (
                select 'pg_class'::regclass::oid, ev_class, 0
                  from pg_rewrite
                 where edge.classid = 'pg_rewrite'::regclass and pg_rewrite.oid = edge.objid and rulename = '_RETURN'
                 union all
                select 'pg_class'::regclass::oid, adrelid, adnum::integer
                  from pg_attrdef
                 where edge.classid = 'pg_attrdef'::regclass and pg_attrdef.oid = edge.objid
               ) as stands_for (class_id, object_id, column_number) on true
    )
    select class_id, object_id, column_number from found
    except select * from embedding.replaced_objects(relation, column_name);
$$;

-- What kind of dependent an object is; null: none, because it is ours, a part of another object, or belongs to what is
-- replaced (side tables), or it is a vector index over just the column, which the new column gets as well.
create function embedding.dependent_kind(class_id oid, object_id oid, column_number integer, replaced oid[])
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case class_id
        when 'pg_class'::regclass then (
            select case when column_number > 0
                        then (select case when attgenerated <> '' then 'generated column' when atthasdef then 'default'
                                          else 'column' end
                                from pg_attribute
                               where attrelid = object_id and attnum = column_number and attrelid <> all (replaced))
                        when class.relkind in ('i', 'I') and class.relnamespace <> 'pg_toast'::regnamespace
                        then (select 'index' from pg_index as index
                                join pg_opclass as operators on operators.oid = index.indclass[0]
                               where index.indexrelid = object_id and index.indrelid <> all (replaced)
                                 and not (index.indnatts = 1 and index.indkey[0] <> 0
                                          and operators.opcname ~ '_(cosine|l2|ip|l1)_ops$')
                                 and not exists (select from pg_constraint where conindid = object_id and conrelid = index.indrelid))
                        else (array['view', 'materialized view', 'table', 'table', 'table'])[
                                 array_position('{v,m,r,p,f}'::"char"[], class.relkind)] end
              from pg_class as class where class.oid = object_id)
        when 'pg_proc'::regclass then (
            select case routine.prokind when 'p' then 'procedure' else 'function' end
              from pg_proc as routine
             where routine.oid = object_id and routine.pronamespace <> 'embedding'::regnamespace
               and routine.oid not in (select written.routine from embedding.match_functions() as written))
        when 'pg_constraint'::regclass then (
            select case made.contype when 'c' then 'check constraint' when 'f' then 'foreign key' else 'constraint' end
              from pg_constraint as made
             where made.oid = object_id and made.contype <> 'n' and made.conrelid <> all (replaced))
        when 'pg_trigger'::regclass then (
            select 'trigger' from pg_trigger as made
              join pg_proc as routine on routine.oid = made.tgfoid
             where made.oid = object_id and not made.tgisinternal and made.tgrelid <> all (replaced)
               and routine.pronamespace <> 'embedding'::regnamespace)
        when 'pg_policy'::regclass then (
            select 'policy' from pg_policy where oid = object_id and polrelid <> all (replaced))
        when 'pg_rewrite'::regclass then (
            select 'rule' from pg_rewrite where oid = object_id and rulename <> '_RETURN' and ev_class <> all (replaced))
        when 'pg_publication_rel'::regclass then 'publication'
        when 'pg_statistic_ext'::regclass then 'statistics'
        when 'pg_type'::regclass then ( -- not that of the rows of a view, nor their array
            select 'type' from pg_type where oid = object_id and typrelid = 0 and typcategory <> 'A')
        else (pg_identify_object(class_id, object_id, column_number)).type end;
$$;

-- How a dependent is moved to the new column.
create function embedding.dependent_cure(kind text, name text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case
        when kind in ('view', 'materialized view', 'rule', 'trigger', 'statistics', 'index') then
            format('Run `drop %s %s`, and create it again over the new column.', kind, name)
        when kind in ('function', 'procedure') then
            format('Run `create or replace %s` with the new column in its body, or drop it.', kind)
        when kind = 'policy' then format('Run `alter policy %s` with the new column, or drop it.', name)
        when kind = 'publication' then 'Run `alter publication ... set table` with the new column in its list or condition.'
        when kind = 'generated column' then 'Drop the column, and add it again over the new column.'
        else 'Drop it, and create it again over the new column.' end;
$$;

-- What would break if the column were dropped or replaced, or would keep reading the old one. Names are quoted and have
-- their schema. `cure` says how to move each to the new column.
create function embedding.dependents_of(relation regclass, column_name text)
returns table (kind text, name text, cure text)
language sql
stable
set search_path = '', pg_temp
as $$
    select named.kind, named.name, embedding.dependent_cure(named.kind, named.name)
      from (select distinct embedding.dependent_kind(
                       object.class_id, object.object_id, object.column_number,
                       array(select replaced.object_id from embedding.replaced_objects(relation, column_name) as replaced
                              where replaced.column_number = 0)) as kind,
                   identity.identity as name
              from embedding.dependent_objects(relation, column_name) as object
             cross join lateral pg_identify_object(object.class_id, object.object_id, object.column_number) as identity) as named
     where named.kind is not null
     order by named.kind, named.name;
$$;

select embedding.protect_functions(
    'embedding.replaced_objects', 'embedding.dependent_objects', 'embedding.dependent_kind', 'embedding.dependent_cure',
    'embedding.dependents_of');
