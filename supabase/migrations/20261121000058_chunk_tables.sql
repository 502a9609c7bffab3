-- Why:   a long text is embedded in chunks. Their vectors are in a table beside the watched one, and a second, narrow
--        table says where each chunk is in its text.
-- Locks: the migration nothing. embedding.make_chunk_tables takes SHARE ROW EXCLUSIVE on the watched table (writers
--        wait, readers do not), and embedding.drop_chunk_tables ACCESS EXCLUSIVE, until the transaction ends.
-- Undo:  unwatch_embeddings for each target in chunks, then drop function embedding.drop_chunk_tables,
--        embedding.make_chunk_tables, embedding.let_readers_read, embedding.planned_full_text, embedding.planned_chunk_width,
--        embedding.plan_chunks, embedding.name_chunk_tables,
--        embedding.check_chunk_key;
--
-- A chunk is known by the hash of everything that a model gets for it: a text that is edited keeps the vectors of all
-- chunks that are still in it, and equal chunks of a text have one vector. A place names the hash of its chunk, so an edit
-- that moves all others writes no vector and no entry of a vector index. A chunk is stored as soon as its vector is paid
-- for, and found by a search when a place names it.

-- Raises unless the key of a table can be that of its chunks.
create function embedding.check_chunk_key(relation regclass, key_columns text[])
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reserved_name text := (
        select name from unnest(key_columns) as key (name)
         where name in ('hash', 'content', 'context', 'embedding', 'position', 'first_char', 'last_char', 'page',
                        'heading_path'));
begin
    if reserved_name is not null then
        raise exception 'table % cannot have chunks: its key has a column %',
                        public.embedding_table_name(relation), reserved_name
            using errcode = 'duplicate_column', hint = 'The tables of chunks give that name to something else: rename the column.';
    elsif exists (select from pg_index where indrelid = relation and indisprimary and not indimmediate) then
        raise exception 'table % cannot have chunks: its primary key is deferrable', public.embedding_table_name(relation)
            using errcode = 'feature_not_supported',
                  hint = 'Postgres has no foreign key to such a key. Make it not deferrable.';
    end if;
end $$;

-- The target with the names of its tables: `docs_chunks`, `docs_chunk_places` and `docs_passages`; for a column that is not
-- `embedding`, `docs_<column>_chunks` and so on. Existing ones keep their names. Raises if something else has a name.
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
    taken text;
begin
    if to_regclass(target.chunks_relation) is null then
        target.chunks_relation := format('%I.%I', part[1], stem || '_chunks');
        target.places_relation := format('%I.%I', part[1], stem || '_chunk_places');
        target.passages_relation := format('%I.%I', part[1], stem || '_passages');
        select name into taken
          from unnest(array[target.chunks_relation, target.places_relation, target.passages_relation]) as made (name)
         where to_regclass(name) is not null or octet_length((parse_ident(name))[2]) > 63 limit 1;
        if taken is not null then
            raise exception 'the name % is taken, or too long', taken
                using errcode = 'duplicate_table',
                      hint = 'Rename what has that name, or give the column another name (on the command line: --column).';
        end if;
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
    perform embedding.check_chunk_key(target.relation::regclass, target.key_columns);
    target.context := case when wanted.context is null then before.context
                           else embedding.source_sql(target.relation::regclass, nullif(wanted.context, '')) end;
    target.chunk_format := coalesce(wanted.format, before.chunk_format, 'markdown');
    target.chunk_unit := coalesce(wanted.chunk_unit, before.chunk_unit, 'characters');
    target.chunk_size := coalesce(wanted.chunk_size, before.chunk_size,
                                  case target.chunk_unit when 'tokens' then 300 else 1250 end);
    target.max_chunks := coalesce(wanted.max_chunks, before.max_chunks, 20000);
    if target.chunk_format <> all ('{markdown,text,html,code}') or target.chunk_unit <> all ('{characters,tokens}') then
        raise exception 'there is no format % of chunks, or no unit %', target.chunk_format, target.chunk_unit
            using errcode = 'invalid_parameter_value',
                  hint = 'Formats are markdown, text, html and code; units are characters and tokens.';
    elsif target.chunk_size not between 50 and 100000 or target.max_chunks not between 1 and 1000000 then
        raise exception 'chunks cannot have % %, or a text % of them', target.chunk_size, target.chunk_unit, target.max_chunks
            using errcode = 'invalid_parameter_value',
                  hint = 'Give a size from 50 to 100000, and a number of chunks from 1 to 1000000.';
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
    elsif dimensions is null then
        raise exception 'the width of the vectors is not given'
            using errcode = 'invalid_parameter_value',
                  hint = 'Give `dimensions`, as many as the model has (on the command line: --dimensions).';
    end if;
    return dimensions;
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

-- Lets the roles that may read all columns that the chunks are made from read a table made from them.
create function embedding.let_readers_read(target public.embedding_targets, made text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reader record;
begin
    execute format('revoke all on %s from %s', made, embedding.everyone());
    for reader in
        select distinct coalesce(role.rolname, 'public') as name, coalesce(quote_ident(role.rolname), 'public') as quoted
          from (select acl.* from pg_class, aclexplode(relacl) as acl where oid = target.relation::regclass
                 union all
                select acl.* from pg_attribute, aclexplode(attacl) as acl
                 where attrelid = target.relation::regclass) as given
          left join pg_roles as role on role.oid = given.grantee
         where given.privilege_type = 'SELECT' and given.grantee <> given.grantor
    loop
        if not exists (
            select from jsonb_object_keys(target.column_numbers) as read (name)
             where not has_column_privilege(reader.name, target.relation, read.name, 'select'))
        then
            execute format('grant select on %s to %s', made, reader.quoted);
        end if;
    end loop;
end $$;

-- Creates the tables of the chunks of a target and the view of its passages. They belong to the owner of the watched table.
-- Row-level security shows a chunk to those who see the row that it is made from.
create function embedding.make_chunk_tables(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    made text;
    columns text;
    keys text;
begin
    select string_agg(format('%I %s%s not null', name, format_type(atttypid, atttypmod),
                             (select format(' collate %s', oid::regcollation) from pg_collation
                               where oid = attcollation and collname <> 'default')), ', ' order by place),
           string_agg(format('%I', name), ', ' order by place)
      into columns, keys
      from unnest(target.key_columns) with ordinality as key (name, place)
      join pg_attribute on attrelid = target.relation::regclass and attname = name;
    execute format(
        'create table %1$s (%2$s, hash bytea not null, content text not null, context text, embedding %3$s not null, '
        'primary key (%4$s, hash), foreign key (%4$s) references %5$s (%4$s) on update cascade on delete cascade)',
        target.chunks_relation, columns, embedding.vector_type(target.dimensions), keys, target.relation);
    execute format(
        'create table %1$s (%2$s, position integer not null, hash bytea not null, first_char integer not null, '
        'last_char integer not null, page integer, heading_path text, primary key (%3$s, position), '
        'foreign key (%3$s) references %4$s (%3$s) on update cascade on delete cascade)',
        target.places_relation, columns, keys, target.relation);
    execute format('create index on %s (%s, hash)', target.places_relation, keys);
    execute format(
        'create view %1$s with (security_invoker = true) as select %2$s, place.position, place.first_char, '
        'place.last_char, place.page, place.heading_path, chunk.context, chunk.content, chunk.hash '
        'from %3$s as place join %4$s as chunk using (%5$s, hash)',
        target.passages_relation,
        (select string_agg(format('place.%I', name), ', ' order by place)
           from unnest(target.key_columns) with ordinality as key (name, place)),
        target.places_relation, target.chunks_relation, keys);
    foreach made in array array[target.chunks_relation, target.places_relation] loop
        execute format('alter table %s enable row level security', made);
        execute format('create policy of_the_row on %s for select using (exists (select from %s where %s))',
                       made, target.relation, embedding.same_key_sql(target, made));
    end loop;
    foreach made in array array[target.chunks_relation, target.places_relation, target.passages_relation] loop
        execute format('alter table %s owner to %s', made,
                       (select relowner::regrole from pg_class where oid = target.relation::regclass));
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
    'embedding.make_chunk_tables', 'embedding.drop_chunk_tables');
