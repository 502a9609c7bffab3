-- Why:   a text that was embedded once need not be paid for again: after a rollback, in a second table, or if many rows
--        have it. Only for workers that are configured to use it.
-- Locks: the rows that a call inserts, in the order of their key; a call that inserts the same rows waits until the first
--        one ends. Rows to be removed are locked without waiting.
-- Undo:  drop function public.cached_embeddings, public.cache_embeddings; drop table public.embedding_cache; drop
--        sequence embedding.cache_kib;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Counts the kibibytes that were ever put into the cache.
create sequence embedding.cache_kib as bigint;

-- A ring buffer: each row takes as many numbers of the sequence as it has kibibytes, and `position` is the first
-- of them. No number is used twice, so the rows whose position is among the last N numbers have at most N KiB,
-- in whatever order they were inserted. So there is no shared total that all calls would have to lock.
--
-- Unlogged: a crash of the server empties it, and standbys do not have it. A lost vector can be
-- embedded again; a logged cache would double what a vector adds to the log (7 KiB at 1536 dimensions). The
-- sequence is logged: if it were behind existing rows, new rows would count as the oldest.
create unlogged table public.embedding_cache (
    model text not null,
    dimensions integer not null,
    content_hash bytea not null,                   -- sha256 of the text, as in embedding_queue
    vector vector not null,
    tokens integer,
    position bigint not null,
    primary key (model, dimensions, content_hash)
) with (
    -- as many rows die as are inserted: until they are vacuumed, they take space beyond the limit
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

create index embedding_cache_oldest on public.embedding_cache (position);

-- The cached vectors of this model and width for texts with these hashes, with the tokens that each took. The plan
-- is pinned, here and below: with statistics from when the cache was empty, the planner would read all of it.
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

-- Puts vectors (one for each hash, all made by `model`) into the cache, and removes the oldest above `cap_mb`
-- mebibytes; 0 empties it. Existing vectors stay as they are. `tokens` may be null, as a whole or in part.
-- Concurrent calls do not see what the others insert: the next call removes the excess.
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
    -- The most that a row takes on disk: 4 bytes for each number, a third more for empty space on the pages,
    -- and half a kibibyte for its other columns and index entries.
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
-- Explicit, so that it does not look forgotten: a hash shows whether a text was embedded, so no other role may read it.
create policy nobody on public.embedding_cache using (false);
