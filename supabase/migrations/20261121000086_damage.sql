-- Why:   vectors that were paid for can vanish, or be overwritten, behind the queue's back: an idle worker looks for them, range
--        by range.
-- Locks: an ACCESS SHARE lock on the table that is read, for the length of a call, which reads one range of the key.
-- Undo:  drop function public.find_damaged_embeddings, embedding.damaged_range, embedding.tokens_of_chunks, embedding.damaged_jobs, embedding.damage_sql,
--        embedding.next_bounded;
--
-- A completed job is damaged if its text is still the one that was embedded, and its vector is gone (`lost`), or is not the one
-- that was stored (`overwritten`; see embedding.vector_hash_sql). Most calls find nothing: they read the vectors of a range and
-- the jobs of its records, and texts only of what looks damaged.

-- The next records after another one, in the order of the key, at most `batch`, and at most as many as have 16 MiB of vectors,
-- but at least one. `looked_to`: the last one; null: there are no more.
create function embedding.next_bounded(
    target public.embedding_targets, after_record text, batch integer, out records text[], out looked_to text
)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    vectors constant integer := greatest(16 * 1024 * 1024 / (4 * coalesce(target.dimensions, 16000)), 1);
    of_places public.embedding_targets := target;
    beyond text;
begin
    batch := case when target.chunk_format is null then least(batch, vectors) else batch end;
    records := embedding.next_records(target, after_record, batch);
    looked_to := records[batch];
    if target.chunk_format is not null then
        of_places.relation := target.places_relation;
        execute format(
            'select %s from %s where %s order by %s offset %s limit 1',
            embedding.record_id_sql(
                to_regclass(target.places_relation), (parse_ident(target.places_relation))[2], target.key_columns),
            target.places_relation, embedding.beside_record_sql(of_places, '>', after_record), embedding.keys_sql(of_places),
            vectors)
           into beyond;
        if beyond = any (records) then
            records := records[:greatest(array_position(records, beyond) - 1, 1)];
            looked_to := records[cardinality(records)];
        end if;
    end if;
end $$;

-- The part of a statement with the records of a range, from after a record to the last one, whose vectors may be damaged. Those
-- of whole texts are all there, with the hash of their vector; those in chunks are damaged.
create function embedding.damage_sql(target public.embedding_targets, after_record text, last_record text)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    of_chunks public.embedding_targets := target;
    of_places public.embedding_targets := target;
    in_range constant text := embedding.beside_record_sql(target, '>', after_record) || ' and '
                              || embedding.beside_record_sql(target, '<=', last_record);
    keys constant text := embedding.key_list(target.key_columns);
begin
    if target.chunk_format is null then
        return format($sql$
            select eq_record, eq_vector is null as eq_lost, %1$s as eq_vector_hash
              from (select %2$s as eq_record, %3$s as eq_vector from %4$s where %5$s offset 0) as eq_read$sql$,
            embedding.vector_hash_sql(target, 'eq_vector'), target.record_id_sql, embedding.vector_of_sql(target),
            target.relation, in_range);
    end if;
    of_chunks.relation := target.chunks_relation;
    of_places.relation := target.places_relation;
    return format($sql$
        select eq_record, bool_or(eq_missing) as eq_lost, null::bigint as eq_vector_hash
          from (select %1$s as eq_record, eq_chunk.hash is null as eq_missing
                  from (select %2$s, hash from %3$s where %4$s offset 0) as %5$I
                  left join (select %2$s, hash, vector_hash <> %6$s as eq_overwritten from %7$s where %8$s offset 0) as eq_chunk
                       using (%2$s, hash)
                 where eq_chunk.hash is null or eq_overwritten
                 union all
                select %9$s, true from %10$s where %11$s and not %12$s) as eq_text
         group by eq_record$sql$,
        embedding.record_id_sql(
            to_regclass(target.places_relation), (parse_ident(target.places_relation))[2], target.key_columns),
        keys, target.places_relation,
        embedding.beside_record_sql(of_places, '>', after_record) || ' and '
        || embedding.beside_record_sql(of_places, '<=', last_record),
        (parse_ident(target.places_relation))[2], embedding.vector_hash_sql(target, 'embedding'), target.chunks_relation,
        embedding.beside_record_sql(of_chunks, '>', after_record) || ' and '
        || embedding.beside_record_sql(of_chunks, '<=', last_record),
        target.record_id_sql, target.relation, in_range, embedding.has_vector_sql(target));
end $$;

-- The completed jobs of these records, which are the next ones after another, whose vector is gone or was overwritten: the first
-- `most` in the order of the key. Their texts may have changed.
create function embedding.damaged_jobs(
    target public.embedding_targets, after_record text, records text[], most integer,
    out ids bigint[], out damaged text[], out damages text[]
)
language plpgsql
stable
set search_path = '', pg_temp
set jit = off
-- the plan for all statistics, also those from when the queue was empty: indexes and a hash table, as in verify_embeddings
set enable_seqscan = off
set enable_bitmapscan = off
set enable_nestloop = off
set enable_mergejoin = off
set enable_hashjoin = on
set work_mem = '64MB'
as $$
begin
    execute format($sql$
        select array_agg(eq_job order by eq_place), array_agg(eq_record order by eq_place),
               array_agg(case when eq_lost then 'lost' else 'overwritten' end order by eq_place)
          from (select eq_job, eq_found.eq_record, eq_lost, eq_place
                  from (select eq_job, eq_record, eq_lost
                          from (%1$s) as eq_row
                          join (select id as eq_job, record_id as eq_queued_id, vector_hash as eq_job_hash
                                  from public.embedding_queue
                                 where target_id = %2$s and status = 'completed' and record_id = any ($1)
                                offset 0) as eq_known on eq_queued_id = eq_record
                         where eq_lost or eq_vector_hash is null or eq_vector_hash <> eq_job_hash
                        offset 0) as eq_found
                  join unnest($1) with ordinality as eq_given (eq_record, eq_place) using (eq_record)
                 order by eq_place limit $2) as eq_first$sql$,
        embedding.damage_sql(target, after_record, records[cardinality(records)]), target.id)
       into ids, damaged, damages using records, most;
end $$;

-- As many tokens as the chunks of a text have at most: one for each character. The job only knows those that were embedded last.
create function embedding.tokens_of_chunks(target public.embedding_targets, record_id text)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    characters bigint;
begin
    execute format('select sum(last_char - first_char) from (select $1 as eq_record) as eq_asked, %s where %s', target.places_relation,
                   embedding.record_match_sql(target.places_relation::regclass, target.key_columns))
       into characters using record_id;
    return characters;
end $$;

-- The damaged jobs of the next range: see find_damaged_embeddings. It is stable, so that the vectors, the jobs and the texts are
-- those of one moment. The plans of the texts are pinned like that of a claim.
create function embedding.damaged_range(target public.embedding_targets, after_record text, batch integer)
returns table (
    record_id text, damage text, content_hash bytea, model text, tokens integer, cost real, looked_to text
)
language plpgsql
stable
set search_path = '', pg_temp
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    most constant integer := 1000; -- the Data API of a Supabase project cuts longer answers, and says nothing
    range record;
    found_jobs record;
    changed bigint[];
begin
    range := embedding.next_bounded(target, after_record, batch);
    if range.records = '{}' then
        return query select null::text, null::text, null::bytea, null::text, null::integer, null::real, null::text;
        return;
    end if;
    found_jobs := embedding.damaged_jobs(target, after_record, range.records, most);
    if cardinality(found_jobs.ids) = most then
        range.looked_to := found_jobs.damaged[most];
    end if;
    changed := case when found_jobs.ids is not null then embedding.changed_jobs(target, found_jobs.ids, true) end;
    return query
    select job.record_id, given.damage, job.content_hash, job.model,
           case when target.chunk_format is null then job.tokens
                else coalesce(embedding.tokens_of_chunks(target, job.record_id), nullif(job.tokens, 0)) end,
           job.cost, range.looked_to
      from unnest(found_jobs.ids, found_jobs.damages) with ordinality as given (id, damage, place)
      join public.embedding_queue as job on job.id = given.id
     where job.id <> all (changed)
     order by given.place;
    if not found then
        return query
        select null::text, null::text, null::bytea, null::text, null::integer, null::real, range.looked_to;
    end if;
end $$;

-- Finds completed jobs whose text is still the one that was embedded, and whose vector is `lost` or `overwritten` (`damage`). Of
-- a text in chunks: a chunk that a place names is gone, or its vector was overwritten. A job that is pending, a row without a
-- text or outside the filter, and a text that changed are not damage. It checks up to `batch` rows after the record
-- `after_record`, in the order of the key, with at most 16 MiB of vectors, and returns at most 1000 of them; the last one that it
-- checked is in each row (`looked_to`; null: there are no more). If nothing is damaged, the only row has no `record_id`. It
-- writes nothing.
create function public.find_damaged_embeddings(
    watched_table text, embedding_column text, after_record text default null, batch integer default 5000
)
returns table (
    record_id text, damage text, content_hash bytea, model text, tokens integer, cost real, looked_to text
)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
begin
    return query select * from embedding.damaged_range(target, after_record, batch);
end $$;

select embedding.protect_functions(
    'embedding.next_bounded', 'embedding.damage_sql', 'embedding.damaged_jobs', 'embedding.tokens_of_chunks',
    'embedding.damaged_range');
select embedding.let_workers_call('public.find_damaged_embeddings');
