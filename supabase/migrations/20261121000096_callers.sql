-- Why:   the HTTP API searches with the rights of who calls it, whom row level security may hide rows from: so it calls the
--        match function of a column, as an app does.
-- Locks: nothing.
-- Undo:  drop function public.embedding_match_function;

-- The match function of a column, and what is needed to call it and to read what it returns: the columns of the key with
-- their types, and whether it returns passages of texts in chunks. Nothing if it has none.
create function public.embedding_match_function(watched_table text, embedding_column text)
returns table (schema_name text, function_name text, in_chunks boolean, key_columns text[], key_types text[])
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select written.schema_name::text, written.name::text, target.chunk_format is not null, target.key_columns,
           array(select type.typname::text
                   from unnest(target.key_columns) with ordinality as key (name, place)
                   join pg_attribute as attribute
                     on attribute.attrelid = to_regclass(target.relation) and attribute.attname = key.name
                   join pg_type as type on type.oid = attribute.atttypid
                  order by key.place)
      from public.embedding_targets as named
      join public.embedding_targets as target
        on target.id in (select store.id from embedding.stores_of(named) as store)
      join embedding.match_functions() as written on written.target_id = target.id
     where named.table_name = watched_table and named.embedding_column = embedding_match_function.embedding_column
       and named.kind = 'embed'
     limit 1;
$$;

select embedding.let_workers_call('public.embedding_match_function');
