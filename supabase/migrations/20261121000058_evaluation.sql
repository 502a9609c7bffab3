-- Why:   an evaluation says how many of the records that people judged relevant no search can find, and whether an index
--        can have missed some.
-- Locks: nothing.
-- Undo:  drop function public.embedding_has_vector_index, public.missing_embeddings;

-- The ids among `record_ids` that no row with a vector has, among the rows that a search looks at. Runs with
-- the rights of the caller.
create function public.missing_embeddings(watched_table text, embedding_column text, record_ids text[])
returns table (record_id text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = watched_table
       and watched.embedding_column = missing_embeddings.embedding_column;
    if target.id is null then
        raise exception 'column % of table % is not watched', missing_embeddings.embedding_column, watched_table
            using errcode = 'undefined_object';
    end if;
    if has_schema_privilege('embedding', 'usage') then -- the owner, a superuser, service_role
        perform embedding.check_table(target.relation);
    end if;
    return query execute format(
        'select eq_asked.eq_id from unnest($1) as eq_asked (eq_id) '
        ' where not exists (select from %1$s where %2$s = eq_asked.eq_id and %3$s and (%4$s))',
        target.relation, target.record_id_sql, embedding.has_vector_sql(target),
        coalesce(target.filter, 'true'))
        using record_ids;
end $$;

-- Whether a search can use an index over the vectors of a column: one for the cosine distance, of any extension.
create function public.embedding_has_vector_index(watched_table text, embedding_column text)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$
    select exists (
        select from public.embedding_targets as watched
         cross join lateral embedding.as_stored(watched) as target
          join pg_attribute as attribute
            on attribute.attrelid = to_regclass(target.relation) and attribute.attname = target.embedding_column
          join pg_index as index
            on index.indrelid = attribute.attrelid and index.indkey[0] = attribute.attnum and index.indisvalid
          join pg_opclass as operators on operators.oid = index.indclass[0] and operators.opcname ~ '_cosine_ops$'
         where watched.table_name = watched_table
           and watched.embedding_column = embedding_has_vector_index.embedding_column);
$$;

select embedding.protect_functions('public.missing_embeddings', 'public.embedding_has_vector_index');
select embedding.grant_to('service_role', 'execute on function '
    'public.missing_embeddings, public.embedding_has_vector_index, embedding.has_vector_sql');
