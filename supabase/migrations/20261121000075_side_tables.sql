-- Why:   what is made from the texts of a table can be in tables beside it: the vectors themselves, so that the table stays
--        narrow and a new vector writes no row of it; or the chunks of long texts and their places.
-- Locks: the migration nothing. embedding.make_side_tables takes SHARE ROW EXCLUSIVE on the watched table (writers wait,
--        readers do not), and embedding.drop_side_tables ACCESS EXCLUSIVE, until the transaction ends.
-- Undo:  unwatch_embeddings for each target with a side table, then drop function embedding.drop_side_tables,
--        embedding.make_side_tables, embedding.tie_side_table, embedding.make_side_table, embedding.let_readers_read,
--        embedding.planned_side_width, embedding.plan_store, embedding.name_store, embedding.check_side_names,
--        embedding.check_side_key;

-- Raises unless the key of a table can be that of its side tables, and is that of those it has. `reserved` are their other
-- columns.
create function embedding.check_side_key(target public.embedding_targets, reserved text[])
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reserved_name text := (
        select name from unnest(target.key_columns) with ordinality as key (name, place)
         where name = any (reserved) order by place limit 1);
    other_key text := (
        select made.name
          from unnest(embedding.side_tables(target)) as made (name), unnest(target.key_columns) as key (name)
         where to_regclass(made.name) is not null
           and not exists (select from pg_attribute where attrelid = to_regclass(made.name) and attname = key.name) limit 1);
    kind constant text := case when target.store_relation is null then 'chunks' else 'a side table' end;
begin
    if reserved_name is not null then
        raise exception 'table % cannot have %: its key has a column %', target.table_name, kind, reserved_name
            using errcode = 'duplicate_column',
                  hint = 'The tables beside it give that name to something else: rename the column.';
    elsif exists (select from pg_index
                   where indrelid = target.relation::regclass and indisprimary and not indimmediate) then
        raise exception 'table % cannot have %: its primary key is deferrable', target.table_name, kind
            using errcode = 'feature_not_supported',
                  hint = 'Postgres has no foreign key to such a key. Make it not deferrable.';
    elsif other_key is not null then
        raise exception 'the key of table % is no longer that of %', target.table_name, other_key
            using errcode = 'undefined_column',
                  hint = format('Rename the columns of the tables beside it as well, or run `worker unwatch %s --column %s` '
                                'first, which drops them.', target.table_name, target.embedding_column);
    end if;
end $$;

-- Raises if a side table or a view cannot get one of these names.
create function embedding.check_side_names(variadic names text[])
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    unfit text;
begin
    select format(case when octet_length((parse_ident(name))[2]) > 63 then 'the name %s is too long'
                       else 'the name %s is taken' end, name)
      into unfit
      from unnest(names) as made (name)
     where octet_length((parse_ident(name))[2]) > 63 or num_nonnulls(to_regclass(name), to_regtype(name)) > 0
     limit 1;
    if unfit is not null then
        raise exception '%', unfit
            using errcode = 'duplicate_table',
                  hint = 'Give the column another name (on the command line: --column), or rename what is in the way.';
    end if;
end $$;

-- The name of the side table for the vectors of a column: `<table>_<column>`, shortened if it is too long.
create function embedding.name_store(target public.embedding_targets, column_name text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select quote_ident(part[1]) || '.' || quote_ident(
               case when octet_length(long) <= 63 then long
                    else left(long, 12) || '_' || left(md5(long), 10) end) -- 4 bytes a character at most
      from parse_ident(target.relation) as part
     cross join lateral (select part[2] || '_' || column_name) as full_name (long);
$$;

-- The target with the place of its vectors, of a table that its other fields name. Raises if it cannot have it.
create function embedding.plan_store(
    before public.embedding_targets, target public.embedding_targets, wanted embedding.wanted_target
)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    present constant text := embedding.store_of(before);
    named constant text := format('column %s of table %s', target.embedding_column, target.table_name);
    cause text;
    cure text;
begin
    select checked.cause, checked.cure into cause, cure
      from (values
            (wanted.store not in ('column', 'table'), format('vectors cannot be stored in a %s', quote_nullable(wanted.store)),
             'The store is column or table.'),
            (target.chunk_format is not null and wanted.store is not null,
             'a store is only for texts that are embedded as a whole', 'Leave it out: chunks have tables of their own.'),
            (before.id is not null and wanted.store <> present,
             format('the vectors of %s are in a %s', named, case present when 'column' then present else 'side table' end),
             format('`worker reembed start` and `worker reembed convert` make new ones with --store %s.', wanted.store)),
            (before.id is null and wanted.store = 'table' and exists (
                 select from pg_attribute where attrelid = target.relation::regclass and attname = target.embedding_column),
             format('table %s has a column %s already', target.table_name, target.embedding_column),
             'Give the side table another name (on the command line: --column), or drop that column.'))
           as checked (fails, cause, cure)
     where fails limit 1;
    if cause is not null then
        raise exception '%', cause using errcode = 'invalid_parameter_value', hint = cure;
    elsif target.store_relation is null and wanted.store = 'table' then
        target.store_relation := embedding.name_store(target, target.embedding_column);
        perform embedding.check_side_names(target.store_relation);
    end if;
    if target.store_relation is not null then
        perform embedding.check_side_key(target, '{embedding}');
    end if;
    return target;
end $$;

-- The width of the vectors that a target has, or will have, in its side table. Raises if it has another one.
create function embedding.planned_side_width(target public.embedding_targets, dimensions integer)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    beside constant regclass := to_regclass(coalesce(target.chunks_relation, target.store_relation));
begin
    if beside is not null then
        return embedding.planned_width(beside, 'embedding', dimensions);
    elsif coalesce(dimensions, target.dimensions) is null then
        raise exception 'the width of the vectors is not given'
            using errcode = 'invalid_parameter_value',
                  hint = 'Give `dimensions`, as many as the model has (on the command line: --dimensions).';
    end if;
    return coalesce(dimensions, target.dimensions); -- as it was, if the table was dropped
end $$;

-- Lets the roles that may read all columns that the vectors are made from read a table made from them, and no others.
create function embedding.let_readers_read(target public.embedding_targets, made text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    owner constant oid := (select relowner from pg_class where oid = target.relation::regclass);
    grantee text;
begin
    for grantee in
        select distinct coalesce(quote_ident(role.rolname), 'public')
          from pg_class cross join lateral aclexplode(relacl) as acl
          left join pg_roles as role on role.oid = acl.grantee
         where pg_class.oid = made::regclass and acl.grantee <> owner
    loop
        execute format('revoke all on %s from %s', made, grantee);
    end loop;
    for grantee in
        select distinct coalesce(quote_ident(role.rolname), 'public')
          from (select acl.* from pg_class, aclexplode(relacl) as acl where oid = target.relation::regclass
                 union all
                select acl.* from pg_attribute, aclexplode(attacl) as acl
                 where attrelid = target.relation::regclass) as given
          left join pg_roles as role on role.oid = given.grantee
         where given.privilege_type = 'SELECT' and given.grantee <> owner
           and not exists (
               select from jsonb_object_keys(target.column_numbers) as read (name)
                where not has_column_privilege(coalesce(role.rolname, 'public'), target.relation, read.name, 'select'))
    loop
        execute format('grant select on %s to %s', made, grantee);
    end loop;
end $$;

-- Creates a side table: the columns of the key, then others. It belongs to the owner of the watched table, and row-level
-- security shows its rows to those who see the rows they are made from. `key_column`: another column of its key.
create function embedding.make_side_table(
    target public.embedding_targets, made text, columns text, key_column text default null
)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    watched pg_class;
    key_definitions text;
begin
    select * into watched from pg_class where oid = target.relation::regclass;
    select string_agg(format('%I %s%s not null', name, format_type(atttypid, atttypmod),
                             (select format(' collate %s', oid::regcollation) from pg_collation
                               where oid = attcollation and collname <> 'default')), ', ' order by place)
      into key_definitions
      from unnest(target.key_columns) with ordinality as key (name, place)
      join pg_attribute on attrelid = watched.oid and attname = name;
    execute format(
        'create %s table %s (%s, %s, primary key (%s))',
        case watched.relpersistence when 'u' then 'unlogged' end, made, key_definitions, columns,
        embedding.key_list(target.key_columns || key_column));
    execute format('alter table %s owner to %s', made, watched.relowner::regrole);
    execute format('alter table %s enable row level security', made);
    execute format('create policy of_the_row on %s for select using (exists (select from %s where %s))',
                   made, target.relation, embedding.same_key_sql(target, made));
end $$;

-- Lets the rows of a side table go and move with those of the watched table. A foreign key is gone if the primary key of
-- the watched table was dropped with `cascade`.
create function embedding.tie_side_table(target public.embedding_targets, made text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    keys constant text := embedding.key_list(target.key_columns);
begin
    if not exists (
        select from pg_constraint
         where contype = 'f' and conrelid = made::regclass and confrelid = target.relation::regclass
    ) then
        execute format('delete from %s where not exists (select from %s where %s)',
                       made, target.relation, embedding.same_key_sql(target, made));
        execute format('alter table %1$s add foreign key (%2$s) references %3$s (%2$s) on update cascade on delete cascade',
                       made, keys, target.relation);
    end if;
end $$;

-- Creates the side tables of a target, as far as they are missing, and lets those who read the watched table read them.
create function embedding.make_side_tables(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    made text;
begin
    if target.chunk_format is not null then
        perform embedding.make_chunk_tables(target);
    elsif to_regclass(target.store_relation) is null then
        perform embedding.make_side_table(
            target, target.store_relation, format('embedding %s not null', embedding.vector_type(target.dimensions)));
    end if;
    foreach made in array embedding.side_tables(target) loop
        perform embedding.tie_side_table(target, made);
    end loop;
    foreach made in array array_remove(embedding.side_tables(target) || target.passages_relation, null) loop
        perform embedding.let_readers_read(target, made);
    end loop;
end $$;

-- Drops the side tables of a target, if it has any, and the view of its passages.
create function embedding.drop_side_tables(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
set client_min_messages = warning
as $$
begin
    if target.chunk_format is not null then
        execute format('drop view if exists %s', target.passages_relation);
    end if;
    if not embedding.is_column(target) then
        execute format('drop table if exists %s', array_to_string(embedding.side_tables(target), ', '));
    end if;
end $$;

select embedding.protect_functions(
    'embedding.check_side_key', 'embedding.check_side_names', 'embedding.name_store', 'embedding.plan_store',
    'embedding.planned_side_width', 'embedding.let_readers_read', 'embedding.make_side_table', 'embedding.tie_side_table',
    'embedding.make_side_tables', 'embedding.drop_side_tables');
