-- Why:   a second column of new vectors, for a target that has its vectors in a side table, could not be read by roles that have
--        rights on single columns of the watched table; and a conversion began that changed nothing, because the vectors are too
--        wide for the type.
-- Locks: nothing.
-- Undo:  create embedding.make_store and public.convert_embeddings again as `..._start_reembedding.sql` and `..._convert.sql`
--        have them; drop function embedding.readers_of.

-- The rights to read a column of a watched table for those who may read a side table of it, as embedding.grant_column takes them,
-- and may not read all columns.
create function embedding.readers_of(side_table text, relation text)
returns jsonb
language sql
stable
set search_path = '', pg_temp
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'privilege', 'SELECT', 'role', rolname, 'with_grant_option', false)), '[]')
      from pg_class as side
     cross join lateral aclexplode(side.relacl) as given
      left join pg_roles on pg_roles.oid = given.grantee
     where side.oid = side_table::regclass and given.privilege_type = 'SELECT' and given.grantee <> side.relowner
       and not has_table_privilege(coalesce(rolname, 'public'), relation, 'select');
$$;

-- Adds the column of new vectors beside that of a target, with its storage, and for those who may read it.
create or replace function embedding.make_store(old public.embedding_targets, new_column text, vector_type text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    before pg_attribute;
begin
    if new_column <> new_column::name::text or exists (
           select from pg_attribute where attrelid = old.relation::regclass and attname = new_column) then
        raise exception 'table % cannot get a column % for the new vectors', old.table_name, new_column
            using errcode = 'invalid_parameter_value', hint = 'Give another name, or none: then it gets one that is free.';
    end if;
    select pg_attribute.* into before
      from embedding.as_stored(old) as stored
      join pg_attribute on attrelid = stored.relation::regclass and attname = stored.embedding_column;
    execute format('alter table %s add column %I %s', old.relation, new_column, vector_type);
    if before.attstorage <> (select typstorage from pg_type where oid = before.atttypid) then
        execute format('alter table %s alter column %I set storage %s', old.relation, new_column,
                       case before.attstorage when 'p' then 'plain' when 'e' then 'external' when 'x' then 'extended'
                                              else 'main' end);
    end if;
    perform embedding.grant_column(old.relation, new_column, case
        when old.store_relation is null then embedding.column_grants(before.attacl)
        else embedding.readers_of(old.store_relation, old.relation) end);
end $$;

-- Begins to give the vectors of a column another type, `kind`: vector or halfvec, or another `store`: column or table. No worker
-- fills the new vectors before cast_embeddings has done so. Everything else is as for start_reembedding.
create or replace function public.convert_embeddings(
    relation regclass, embedding_column text, kind text, source text default 'sql', store text default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    old constant public.embedding_targets := embedding.lock_serving(
        public.embedding_table_name(relation), convert_embeddings.embedding_column);
    reembedding public.embedding_reembeddings;
begin
    if kind is null or kind not in ('vector', 'halfvec') then
        raise exception 'vectors cannot be converted to %', quote_nullable(kind)
            using errcode = 'invalid_parameter_value', hint = 'The types are vector and halfvec.';
    elsif old.model is null then
        raise exception 'column % of table % has no vectors yet', old.embedding_column, old.table_name
            using errcode = 'object_not_in_prerequisite_state', hint = 'Drop it, add it with the other type, and watch it again.';
    elsif embedding.new_vector_type(old, old.dimensions, kind) not like format('%%.%s(%%', kind) then
        raise exception 'vectors of % dimensions cannot be converted to %', old.dimensions, kind
            using errcode = 'invalid_parameter_value',
                  hint = 'An index takes at most 2000 dimensions of the type vector, and 4000 of halfvec.';
    end if;
    perform embedding.check_cast(old, kind);
    reembedding := public.start_reembedding(
        relation, convert_embeddings.embedding_column, old.model, old.dimensions,
        coalesce(nullif(old.document_prompt, ''), 'none'), old.query_prompt,
        jsonb_strip_nulls(jsonb_build_object('type', kind, 'cast', true, 'store', convert_embeddings.store)),
        convert_embeddings.source);
    update public.embedding_targets as new set enabled = false where new.id = reembedding.new_target;
    return reembedding;
end $$;

select embedding.protect_functions('embedding.readers_of', 'embedding.make_store', 'public.convert_embeddings');
