-- Why:   the hashes of vectors that are written were computed by a statement that was made and planned at every call.
-- Locks: nothing.
-- Undo:  create embedding.hash_vectors again as `..._vector_columns.sql` has it; drop function embedding.hash_full,
--        embedding.hash_half;
--
-- The names in the bodies of both SQL functions are looked up now, so they stay right if the extension is moved to another schema.

-- The types are looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The hashes of vectors that are stored as they are: see embedding.vector_hash_sql.
create function embedding.hash_full(vectors vector[])
returns bigint[]
language sql
immutable
set search_path = '', pg_temp
return array(select hash_array_extended(nullif(array[vector_send(given.vector)], '{null}'), 0)
               from unnest(vectors) as given (vector));

-- The hashes of vectors that are stored as halfvecs.
create function embedding.hash_half(vectors vector[])
returns bigint[]
language sql
immutable
set search_path = '', pg_temp
return array(select hash_array_extended(nullif(array[vector_send(given.vector::halfvec::vector)], '{null}'), 0)
               from unnest(vectors) as given (vector));

-- The hashes of vectors as they are stored where no other trigger changes them.
create or replace function embedding.hash_vectors(target public.embedding_targets, vectors vector[])
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return case embedding.kind_of_vectors(target) when 'halfvec' then embedding.hash_half(vectors)
                                                  else embedding.hash_full(vectors) end;
end $$;

select embedding.protect_functions('embedding.hash_full', 'embedding.hash_half', 'embedding.hash_vectors');
