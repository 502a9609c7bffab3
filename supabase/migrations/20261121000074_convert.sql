-- Why:   a column gets vectors of another type, halfvec with half of the bytes or vector, without a call of the model: a
--        re-embedding with the same model, whose new vectors are filled by a cast.
-- Locks: the migration nothing. cast_embeddings locks the rows and jobs that it fills, for the length of a call; it waits for
--        none of them.
-- Undo:  drop function public.cast_embeddings, public.convert_embeddings, embedding.cast_sql, embedding.check_cast;

-- Raises if a vector of a target does not fit into the other type.
create function embedding.check_cast(old public.embedding_targets, kind text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    stored constant public.embedding_targets := embedding.as_stored(old);
begin
    execute format('select count(%I::%s) from %s', stored.embedding_column,
                   embedding.new_vector_type(old, old.dimensions, kind), stored.relation);
exception when numeric_value_out_of_range then
    raise exception 'a vector of column % of table % does not fit into %: %',
                    old.embedding_column, old.table_name, kind, sqlerrm
        using errcode = 'numeric_value_out_of_range', hint = 'A halfvec holds numbers from -65504 to 65504.';
end $$;

-- Begins to give the vectors of a column another type, `kind`: vector or halfvec, or another `store`: column or table. No worker
-- fills the new vectors before cast_embeddings has done so. Everything else is as for start_reembedding.
create function public.convert_embeddings(
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

-- The statement that casts the vectors of the locked records in $1 from one target of a re-embedding to the other. A text in
-- chunks gets all its chunks and places.
create function embedding.cast_sql(old public.embedding_targets, new public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when new.chunk_format is null
                then embedding.write_sql(new, 'unnest($1) as eq_given (eq_record)', embedding.vector_of_sql(old))
    else format($sql$
        with eq_chunk as (
            insert into %1$s (%2$s, hash, content, context, embedding, vector_hash)
            select %2$s, hash, content, context, embedding, case when vector_hash = %8$s then %9$s else vector_hash end
              from unnest($1) as eq_given (eq_record) join %3$s on %4$s
            on conflict do nothing
        )
        insert into %5$s (%2$s, position, hash, first_char, last_char, page, heading_path)
        select %2$s, position, hash, first_char, last_char, page, heading_path
          from unnest($1) as eq_given (eq_record) join %6$s on %7$s
        on conflict do nothing$sql$,
        new.chunks_relation, embedding.key_list(new.key_columns), old.chunks_relation,
        embedding.record_match_sql(old.chunks_relation::regclass, old.key_columns), new.places_relation,
        old.places_relation, embedding.record_match_sql(old.places_relation::regclass, old.key_columns),
        embedding.vector_hash_sql(old, 'embedding'), -- of an overwritten one, the hash stays as it is, and different
        case when embedding.has_other_triggers(new) then 'null' else embedding.vector_hash_sql(new, 'embedding') end) end;
$$;

-- Casts vectors of a column that is converted, those of up to `batch` jobs after the job `after_id`, and completes their jobs.
-- Only records whose old vector is that of their text, and was not overwritten; the others are embedded by workers, which begin
-- when there are no more jobs: then it returns no row. Else the job that it looked to, and how many it has filled.
create function public.cast_embeddings(table_name text, embedding_column text, after_id bigint, batch integer)
returns table (looked_to bigint, filled integer)
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    reembedding constant public.embedding_reembeddings := embedding.lock_reembedding(
        cast_embeddings.table_name, cast_embeddings.embedding_column, '{filling}');
    old public.embedding_targets;
    new public.embedding_targets;
    ids bigint[];
    records text[];
    old_hashes bigint[];
begin
    select * into old from public.embedding_targets as known where known.id = reembedding.old_target;
    select * into new from public.embedding_targets as known where known.id = reembedding.new_target;
    select array_agg(job.id), max(job.id), array_agg(job.record_id) into ids, looked_to, records
      from (select * from public.embedding_queue as found
             where found.target_id = new.id and found.status = 'pending' and found.id > after_id
             order by found.id limit batch) as job;
    if ids is null or reembedding.config @> '{"cast": true}' is not true then
        update public.embedding_targets as known set enabled = true where known.id = new.id and not known.enabled;
        return;
    end if;
    execute format(
        'select array_agg(eq_record), array_agg(eq_hash) from (select eq_record, %s as eq_hash '
        'from unnest($1) as eq_given (eq_record) join %s on %s and (%s) and %s for no key update of %I skip locked) as eq_locked',
        case when old.chunk_format is null then embedding.vector_hash_sql(old, embedding.vector_of_sql(old))
             else 'null::bigint' end,
        new.relation, new.record_match_sql, coalesce(new.filter, 'true'), embedding.has_vector_sql(old),
        (parse_ident(new.relation))[2])
       into records, old_hashes using records;
    -- a statement of its own: who edited a row before it was locked is seen
    with eq_job as materialized (
        select job.id, job.record_id, done.content_hash, done.model, done.tokens, done.truncated_to, done.unenhanced
          from unnest(records, old_hashes) as locked (record_id, vector_hash)
          join public.embedding_queue as job on job.record_id = locked.record_id
          join public.embedding_queue as done
            on done.record_id = job.record_id and done.table_name = job.table_name and done.embedding_column = old.embedding_column
         where job.id = any (ids) and job.status = 'pending' and job.content is null
           and done.status = 'completed' and done.content_hash is not null
           and (done.vector_hash = locked.vector_hash) is not false
           for update of job skip locked
    ), eq_done as (
        update public.embedding_queue as job
           set status = 'completed', attempts = 0, error_message = null, error_class = null,
               content_hash = eq_job.content_hash, model = eq_job.model, tokens = eq_job.tokens, cost = 0,
               truncated_to = eq_job.truncated_to, unenhanced = eq_job.unenhanced,
               completed_at = clock_timestamp(), updated_at = now()
          from eq_job where job.id = eq_job.id
        returning job.id, job.record_id
    )
    select array_agg(id), array_agg(record_id), count(*) into ids, records, filled from eq_done;
    execute embedding.cast_sql(old, new) using records;
    if new.chunk_format is null then
        update public.embedding_queue as job
           set vector_hash = stored.vector_hash
          from unnest(ids, embedding.hash_stored(new, records)) as stored (id, vector_hash)
         where job.id = stored.id;
    end if;
    return next;
end $$;

select embedding.protect_functions(
    'embedding.check_cast', 'embedding.cast_sql', 'public.convert_embeddings', 'public.cast_embeddings');
