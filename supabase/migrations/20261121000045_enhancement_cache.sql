-- Why:   what a chat model wrote for a text need not be paid for again: after a crash of a worker, or if an edit leaves the
--        text and its surroundings as they were.
-- Locks: the rows that a call inserts, in the order of their key; a call that inserts the same rows waits until the first
--        one ends. Rows to be removed are locked without waiting.
-- Undo:  drop function public.cached_enhancements, public.cache_enhancements; drop table public.embedding_enhancements;
--        drop sequence embedding.enhancement_kib;

-- Counts the kibibytes that were ever put into the cache.
create sequence embedding.enhancement_kib as bigint;

-- A ring buffer, as public.embedding_cache is one. It is logged: an answer of a chat model costs far more than a vector, and
-- is shorter.
create table public.embedding_enhancements (
    key bytea primary key,                         -- the worker's: sha256 of the chat model and of all that it got
    content text not null,                         -- what it wrote
    position bigint not null
) with (
    -- as many rows die as are inserted: until they are vacuumed, they take space beyond the limit
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

create index embedding_enhancements_oldest on public.embedding_enhancements (position);

-- What is cached under these keys. The plan is pinned, here and below, as in public.cached_embeddings.
create function public.cached_enhancements(keys bytea[])
returns table (key bytea, content text)
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
    select found.key, found.content
      from (select distinct given.key from unnest(keys) as given (key)) as wanted
     cross join lateral (
           select known.* from public.embedding_enhancements as known
            where known.key = wanted.key
            limit 1) as found; -- a limit, so that each is looked up by itself
end $$;

-- Puts what chat models wrote (one text for each key) into the cache, and removes the oldest above `cap_mb` mebibytes; 0
-- empties it. What is cached already stays as it is. Concurrent calls do not see what the others insert: the next call
-- removes the excess.
create function public.cache_enhancements(keys bytea[], contents text[], cap_mb integer)
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
    perform embedding.check_lengths('keys and contents', array[cardinality(keys), cardinality(contents)], '{}');
    -- The most that a row takes on disk: a third more than its text for empty space on the pages, and half a kibibyte for its
    -- other columns and index entries.
    insert into public.embedding_enhancements (key, content, position)
    select fresh.key, fresh.content,
           (select min(nextval('embedding.enhancement_kib'))
              from generate_series(1, (octet_length(fresh.content) * 4 / 3 + 512 + 1023) / 1024))
      from (select distinct on (given.key) given.*
              from unnest(keys, contents) as given (key, content)
             where (select known.position from public.embedding_enhancements as known -- one by one, see above
                     where known.key = given.key) is null
             order by given.key) as fresh
     order by fresh.key
    on conflict on constraint embedding_enhancements_pkey do nothing;

    select last_value into newest from embedding.enhancement_kib;
    delete from public.embedding_enhancements as fallen
     where fallen.position = any (array(
               select oldest.position from public.embedding_enhancements as oldest
                where oldest.position <= newest - cap_mb * 1024::bigint
                  for update skip locked));
end $$;

select embedding.protect_relation('embedding.enhancement_kib');
select embedding.protect_relation('public.embedding_enhancements');
select embedding.let_workers_call('public.cached_enhancements', 'public.cache_enhancements');
-- Explicit, as for public.embedding_cache: what was written for a text says what is in it, so no other role may read it.
create policy nobody on public.embedding_enhancements using (false);
