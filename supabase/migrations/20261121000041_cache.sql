-- Why:   a text that was embedded once need not be paid for again: after a rollback, in a second table, ten thousand
--        times over. For workers that are told to use it.
-- Locks: the rows that a call puts in, in the order of their key; who puts in the same at the same time waits until
--        that call ends. What falls out is locked without waiting.
-- Undo:  drop function public.cached_embeddings, public.cache_embeddings; drop table public.embedding_cache; drop
--        sequence embedding.cache_kib;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Counts the kibibytes that were ever put into the cache.
create sequence embedding.cache_kib as bigint;

-- A ring: each row takes as many numbers of the sequence as it has kibibytes, and `position` is the first of
-- them. No number is drawn twice, so the rows whose position is among the last N numbers have N KiB or
-- less, whoever drew them in whatever order; and there is no total to keep, for which all would wait.
--
-- Unlogged: a crash of the server empties it, and standbys do not have it. What is lost can be had again, for
-- the price of a call; logged, the cache would double what a vector adds to the log (7 KiB at 1536 dimensions).
-- The sequence is logged: behind rows that outlived it, new ones would be taken for the oldest.
create unlogged table public.embedding_cache (
    model text not null,
    dimensions integer not null,
    content_hash bytea not null,                   -- sha256 of the text, as in embedding_queue
    vector vector not null,
    tokens integer,
    position bigint not null,
    primary key (model, dimensions, content_hash)
) with (
    -- as many rows die as are put in: until they are swept, they take room beside the bound
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

create index embedding_cache_oldest on public.embedding_cache (position);

-- The vectors of this model and width that are known for texts of these hashes, with the tokens that
-- each took when it was made. The plan is pinned, here and below: by statistics from when the cache was empty,
-- reading all of it costs nothing.
create function public.cached_embeddings(model text, dimensions integer, hashes bytea[])
returns table (content_hash bytea, vector vector, tokens integer)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
    return query
    select found.content_hash, found.vector, found.tokens
      from (select distinct given.hash from unnest(hashes) as given (hash)) as wanted
     cross join lateral (
           select known.* from public.embedding_cache as known
            where known.model = cached_embeddings.model
              and known.dimensions = cached_embeddings.dimensions
              and known.content_hash = wanted.hash
            limit 1) as found; -- a limit, so that each is looked up by itself
end $$;

-- Puts vectors (one for each hash, all made by `model`) into the cache, and takes out the oldest above
-- `cap_mb` mebibytes; 0 empties it. What is there already stays as it is. `tokens` may be null, as a whole
-- or for some. Of calls that overlap none sees what the others put in: the next one takes out what they left
-- too much.
create function public.cache_embeddings(
    model text, hashes bytea[], vectors vector[], tokens integer[], cap_mb integer
)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    newest bigint;
begin
    if cardinality(hashes) is distinct from cardinality(vectors) or cardinality(hashes) <> cardinality(tokens) then
        raise exception 'hashes, vectors and tokens must be of one length'
            using errcode = 'invalid_parameter_value';
    end if;
    -- What a row takes on the disk, at most: 4 bytes a number, a third more for what stays empty on the pages,
    -- and half a kibibyte for the rest of it and its places in the indexes.
    insert into public.embedding_cache (model, dimensions, content_hash, vector, tokens, position)
    select cache_embeddings.model, fresh.dimensions, fresh.hash, fresh.vector, fresh.tokens,
           (select min(nextval('embedding.cache_kib'))
              from generate_series(1, (4 * fresh.dimensions * 4 / 3 + 512 + 1023) / 1024))
      from (select distinct on (given.dimensions, given.hash) given.*
              from (select input.hash, input.vector, input.tokens,
                           cardinality(input.vector::real[]) as dimensions
                      from unnest(hashes, vectors, cache_embeddings.tokens) as input (hash, vector, tokens)) as given
             where (select known.position from public.embedding_cache as known -- one by one, see above
                     where known.model = cache_embeddings.model and known.dimensions = given.dimensions
                       and known.content_hash = given.hash) is null
             order by given.dimensions, given.hash) as fresh
     order by fresh.dimensions, fresh.hash
    on conflict on constraint embedding_cache_pkey do nothing;

    select last_value into newest from embedding.cache_kib;
    delete from public.embedding_cache as fallen
     where fallen.position = any (array(
               select oldest.position from public.embedding_cache as oldest
                where oldest.position <= newest - cap_mb * 1024::bigint
                  for update skip locked));
end $$;

select embedding.protect_relation('embedding.cache_kib');
select embedding.protect_relation('public.embedding_cache');
select embedding.let_workers_call('public.cached_embeddings', 'public.cache_embeddings');
-- Said aloud, so that it does not look forgotten: texts are known again by their hash, and nobody is to try.
create policy nobody on public.embedding_cache using (false);
