-- Why:   the hashes of vectors that are written were computed by a statement that was made and planned at every call.
-- Locks: nothing.
-- Undo:  create embedding.vector_hash_sql and embedding.hash_vectors again as `..._vector_columns.sql` has them; drop function
--        embedding.hash_halfvec, embedding.hash_vector;

-- The types are looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The hash of a vector: see embedding.vector_hash_sql. Postgres looks up the names in its body now, and puts the body into a
-- statement that calls it; it would not with a search_path.
create function embedding.hash_vector(vector vector)
returns bigint
language sql
immutable
parallel safe
return hash_array_extended(nullif(array[vector_send(vector)], '{null}'), 0);

-- The hash of a vector that is, or will be, stored as a halfvec.
create function embedding.hash_halfvec(vector vector)
returns bigint
language sql
immutable
parallel safe
return hash_array_extended(nullif(array[vector_send(vector::halfvec::vector)], '{null}'), 0);

-- SQL for the hash of a vector of a target, as it is stored: of one in the database, or of one that is to be written. It is
-- over the float32 values, also those of a halfvec, in the order of their bytes in network format. Null for null.
--
-- It shows that a vector was replaced. Measured at 384 and 1536 dimensions, in microseconds: 3.4 and 11, of which vector_send takes
-- 2.0 and 7; MD5, which FIPS refuses, 6.4 and 20; SHA-256 16 and 44 (Postgres without OpenSSL). Postgres keeps it as it is, since
-- hash partitions of arrays depend on it; only a processor that puts the highest byte first would give another. The array is for
-- Postgres before 18, where no other function hashes bytes; nullif, since an array of null has a hash.
create or replace function embedding.vector_hash_sql(target public.embedding_targets, vector_sql text)
returns text
language plpgsql -- whose plans last for a session
stable
set search_path = '', pg_temp
as $$
declare
    extension constant regnamespace := (select extnamespace from pg_extension where extname = 'vector');
begin
    return format('embedding.hash_%s((%s)::%s.vector)', embedding.kind_of_vectors(target), vector_sql, extension);
end $$;

-- The hashes of vectors as they are stored where no other trigger changes them.
create or replace function embedding.hash_vectors(target public.embedding_targets, vectors vector[])
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    if embedding.kind_of_vectors(target) = 'halfvec' then
        return array(select embedding.hash_halfvec(given.vector) from unnest(vectors) as given (vector));
    end if;
    return array(select embedding.hash_vector(given.vector) from unnest(vectors) as given (vector));
end $$;

select embedding.protect_functions(
    'embedding.hash_vector', 'embedding.hash_halfvec', 'embedding.vector_hash_sql', 'embedding.hash_vectors');
