-- Why:   a long text is embedded in chunks. Their vectors are in a table beside the watched one, and a second, narrow
--        table says where each chunk is in its text.
-- Locks: the migration nothing. embedding.make_chunk_tables takes SHARE ROW EXCLUSIVE on the watched table (writers
--        wait, readers do not), and embedding.drop_chunk_tables ACCESS EXCLUSIVE, until the transaction ends.
-- Undo:  unwatch_embeddings for each target in chunks, then drop function embedding.drop_chunk_tables,
--        embedding.make_chunk_tables, embedding.tie_chunk_table, embedding.make_chunk_table, embedding.let_readers_read,
--        embedding.planned_full_text,
--        embedding.planned_chunk_width, embedding.plan_chunks, embedding.name_chunk_tables, embedding.check_chunk_key;
--
-- A chunk is known by the hash of everything that a model gets for it: a text that is edited keeps the vectors of all
-- chunks that are still in it, and equal chunks of a text have one vector. A place names the hash of its chunk, so an edit
-- that moves all others writes no vector and no entry of a vector index. A chunk is stored as soon as its vector is paid
-- for, and found by a search when a place names it.

-- Raises unless the key of a table can be that of its chunks, and is that of those it has.
create function embedding.check_chunk_key(target public.embedding_targets)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reserved_name text := (
        select name from unnest(target.key_columns) with ordinality as key (name, place)
         where name in ('hash', 'content', 'context', 'embedding', 'position', 'first_char', 'last_char', 'page',
                        'heading_path')
         order by place limit 1);
    other_key text := (
        select made.name
          from unnest(array[target.chunks_relation, target.places_relation]) as made (name), unnest(target.key_columns) as key (name)
         where to_regclass(made.name) is not null
           and not exists (select from pg_attribute where attrelid = to_regclass(made.name) and attname = key.name) limit 1);
begin
    if reserved_name is not null then
        raise exception 'table % cannot have chunks: its key has a column %', target.table_name, reserved_name
            using errcode = 'duplicate_column',
                  hint = 'The tables of chunks give that name to something else: rename the column.';
    elsif exists (select from pg_index
                   where indrelid = target.relation::regclass and indisprimary and not indimmediate) then
        raise exception 'table % cannot have chunks: its primary key is deferrable', target.table_name
            using errcode = 'feature_not_supported',
                  hint = 'Postgres has no foreign key to such a key. Make it not deferrable.';
    elsif other_key is not null then
        raise exception 'the key of table % is no longer that of %', target.table_name, other_key
            using errcode = 'undefined_column',
                  hint = format('Rename the columns of its tables of chunks as well, or run `worker unwatch %s --column %s` '
                                'first, which drops the chunks.', target.table_name, target.embedding_column);
    end if;
end $$;

-- The target with the names of its tables: `docs_chunks`, `docs_chunk_places` and `docs_passages`; for a column that is not
-- `embedding`, `docs_<column>_chunks` and so on. They keep their names. Raises if something else has one.
create function embedding.name_chunk_tables(target public.embedding_targets)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    part constant text[] := parse_ident(target.relation);
    stem constant text := part[2] || case when target.embedding_column = 'embedding' then ''
                                          else '_' || target.embedding_column end;
    unfit text;
begin
    if target.chunks_relation is not null then
        return target;
    end if;
    target.chunks_relation := format('%I.%I', part[1], stem || '_chunks');
    target.places_relation := format('%I.%I', part[1], stem || '_chunk_places');
    target.passages_relation := format('%I.%I', part[1], stem || '_passages');
    select format(case when octet_length((parse_ident(name))[2]) > 63 then 'the name %s is too long'
                       else 'the name %s is taken' end, name)
      into unfit
      from unnest(array[target.chunks_relation, target.places_relation, target.passages_relation]) as made (name)
     where octet_length((parse_ident(name))[2]) > 63 or num_nonnulls(to_regclass(name), to_regtype(name)) > 0
     limit 1;
    if unfit is not null then
        raise exception '%', unfit
            using errcode = 'duplicate_table',
                  hint = 'Give the column another name (on the command line: --column), or rename what is in the way.';
    end if;
    return target;
end $$;

-- The target with the settings for chunks, of a table that its other fields name. Raises if they do not fit.
create function embedding.plan_chunks(
    before public.embedding_targets, target public.embedding_targets, wanted embedding.wanted_target
)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    is_in_chunks constant boolean := before.chunk_format is not null;
    cause text;
    cure text;
begin
    if before.id is not null and wanted.chunks <> is_in_chunks then
        raise exception 'column % of table % is embedded %', target.embedding_column, target.table_name,
                        case when is_in_chunks then 'in chunks' else 'as a whole' end
            using errcode = 'invalid_parameter_value',
                  hint = format('Run `worker unwatch %s --column %s` first, or give another name to the column.',
                                target.table_name, target.embedding_column);
    elsif not coalesce(wanted.chunks, is_in_chunks) then
        if num_nonnulls(wanted.context, wanted.format, wanted.chunk_size, wanted.chunk_unit, wanted.max_chunks) > 0 then
            raise exception 'a context, a format and a size of chunks are only for texts in chunks'
                using errcode = 'invalid_parameter_value',
                      hint = 'Give `chunks => true` as well (on the command line: --chunks).';
        end if;
        return target;
    end if;
    perform embedding.check_chunk_key(target);
    target.context := case when wanted.context is null then before.context
                           else embedding.source_sql(target.relation::regclass, nullif(wanted.context, '')) end;
    target.chunk_format := coalesce(wanted.format, before.chunk_format, 'markdown');
    target.chunk_unit := coalesce(wanted.chunk_unit, before.chunk_unit, 'characters');
    target.chunk_size := coalesce(wanted.chunk_size, before.chunk_size,
                                  case target.chunk_unit when 'tokens' then 300 else 1250 end);
    target.max_chunks := coalesce(wanted.max_chunks, before.max_chunks, 20000);
    select checked.cause, checked.cure into cause, cure
      from (values
            (target.chunk_format = any ('{markdown,text,html,code}'), format('there is no format %s of chunks', target.chunk_format),
             'Formats are markdown, text, html and code.'),
            (target.chunk_unit = any ('{characters,tokens}'),
             format('there is no unit %s of the size of chunks', target.chunk_unit), 'Units are characters and tokens.'),
            (target.chunk_size between 50 and 100000,
             format('chunks cannot have %s %s', target.chunk_size, target.chunk_unit), 'Give a size from 50 to 100000.'),
            (target.max_chunks between 1 and 1000000, format('a text cannot have at most %s chunks', target.max_chunks),
             'Give a number of chunks from 1 to 1000000.')) as checked (fits, cause, cure)
     where not fits limit 1;
    if cause is not null then
        raise exception '%', cause using errcode = 'invalid_parameter_value', hint = cure;
    end if;
    return embedding.name_chunk_tables(target);
end $$;

-- The width of the vectors that a target in chunks has, or will have. Raises if it has another one.
create function embedding.planned_chunk_width(target public.embedding_targets, dimensions integer)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    if to_regclass(target.chunks_relation) is not null then
        return embedding.planned_width(to_regclass(target.chunks_relation), 'embedding', dimensions);
    elsif coalesce(dimensions, target.dimensions) is null then
        raise exception 'the width of the vectors is not given'
            using errcode = 'invalid_parameter_value',
                  hint = 'Give `dimensions`, as many as the model has (on the command line: --dimensions).';
    end if;
    return coalesce(dimensions, target.dimensions); -- as it was, if the table was dropped
end $$;

-- SQL for the words of a target by which a search finds it; null without a language. Those of a text in chunks are
-- in the table of its chunks, and null before there is that table.
create function embedding.planned_full_text(target public.embedding_targets)
returns text
language plpgsql
set search_path = '', pg_temp
as $$
begin
    return case when target.chunk_format is null
                then embedding.full_text_sql(target.relation::regclass, target.source, target.language)
                else embedding.full_text_sql(to_regclass(target.chunks_relation),
                                             'coalesce(context, '''') || '' '' || content', target.language) end;
end $$;

-- Lets the roles that may read all columns that the chunks are made from read a table made from them, and no others.
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

-- Creates the table of the chunks of a target, or that of their places: the columns of the key, then others. It belongs to the
-- owner of the watched table, and row-level security shows its rows to those who see the rows they are made from.
create function embedding.make_chunk_table(target public.embedding_targets, made text, columns text, key_column text)
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
        'create %s table %s (%s, %s, primary key (%s, %s))',
        case watched.relpersistence when 'u' then 'unlogged' end, made, key_definitions, columns,
        embedding.key_list(target.key_columns), key_column);
    execute format('alter table %s owner to %s', made, watched.relowner::regrole);
    execute format('alter table %s enable row level security', made);
    execute format('create policy of_the_row on %s for select using (exists (select from %s where %s))',
                   made, target.relation, embedding.same_key_sql(target, made));
end $$;

-- Lets the rows of a table of chunks go and move with those of the watched table. A foreign key is gone if the primary key of
-- the watched table was dropped with `cascade`.
create function embedding.tie_chunk_table(target public.embedding_targets, made text)
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

-- Creates the tables of the chunks of a target and the view of its passages, as far as they are missing, and lets those who
-- read the watched table read them.
create function embedding.make_chunk_tables(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    keys constant text := embedding.key_list(target.key_columns);
    is_complete boolean := to_regclass(target.passages_relation) is not null;
    made text;
begin
    if to_regclass(target.chunks_relation) is null then
        perform embedding.make_chunk_table(
            target, target.chunks_relation, 'hash bytea not null, content text not null, context text, embedding '
            || embedding.vector_type(target.dimensions) || ' not null', 'hash');
        is_complete := false;
    end if;
    if to_regclass(target.places_relation) is null then
        perform embedding.make_chunk_table(
            target, target.places_relation, 'position integer not null, hash bytea not null, first_char integer not null, '
            'last_char integer not null, page integer, heading_path text', 'position');
        execute format('create index on %s (%s, hash)', target.places_relation, keys);
        is_complete := false;
    end if;
    perform embedding.tie_chunk_table(target, target.chunks_relation);
    perform embedding.tie_chunk_table(target, target.places_relation);
    if not is_complete then
        execute format(
            'create or replace view %s with (security_invoker = true) as select %s, place.position, place.first_char, '
            'place.last_char, place.page, place.heading_path, chunk.context, chunk.content, chunk.hash '
            'from %s as place join %s as chunk using (%s, hash)',
            target.passages_relation, 'place.' || replace(keys, ', ', ', place.'), target.places_relation,
            target.chunks_relation, keys);
        execute format('alter view %s owner to %s', target.passages_relation,
                       (select relowner::regrole from pg_class where oid = target.relation::regclass));
    end if;
    foreach made in array array[target.chunks_relation, target.places_relation, target.passages_relation] loop
        perform embedding.let_readers_read(target, made);
    end loop;
end $$;

-- Drops the tables of the chunks of a target, if it has any, and the view of its passages.
create function embedding.drop_chunk_tables(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
set client_min_messages = warning
as $$
begin
    if target.chunk_format is not null then
        execute format('drop view if exists %s', target.passages_relation);
        execute format('drop table if exists %s, %s', target.places_relation, target.chunks_relation);
    end if;
end $$;

select embedding.protect_functions(
    'embedding.check_chunk_key', 'embedding.name_chunk_tables', 'embedding.plan_chunks',
    'embedding.planned_chunk_width', 'embedding.planned_full_text', 'embedding.let_readers_read',
    'embedding.make_chunk_table', 'embedding.tie_chunk_table', 'embedding.make_chunk_tables', 'embedding.drop_chunk_tables');
