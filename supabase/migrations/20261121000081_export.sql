-- Why:   stored vectors are read for a backup, each with what it was made from.
-- Locks: an ACCESS SHARE lock on the table that is read, for the length of a call, which reads one range of the key.
-- Undo:  drop function public.export_embeddings, embedding.exported_chunks, embedding.chunks_end, embedding.exported_rows,
--        embedding.exported_at_once, embedding.is_intact_sql;
--
-- A vector and its job are read by one statement, and written by one transaction: so a row is always consistent. No source
-- is evaluated, so no row can fail: the job has the hash of the text.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The condition that a vector is the one that was written, as far as that is known, from SQL for both.
create function embedding.is_intact_sql(target public.embedding_targets, vector_sql text, hash_sql text)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('(%1$s is null or %1$s = %2$s)', hash_sql, embedding.vector_hash_sql(target, vector_sql));
$$;

-- How many vectors of a target take 16 MiB, at most `batch`.
create function embedding.exported_at_once(target public.embedding_targets, batch integer)
returns integer
language sql
immutable
set search_path = '', pg_temp
as $$
    select greatest(1, least(batch, 16 * 1024 * 1024 /
        (4 * coalesce(target.dimensions, 16000) + 200 + octet_length(coalesce(embedding.full_model(target), '')))));
$$;

-- The vectors of the next rows after a record: see export_embeddings.
create function embedding.exported_rows(target public.embedding_targets, after_record text, batch integer)
returns table (
    record_id text, content_hash bytea, model text, tokens integer, cost real, truncated_to integer, unenhanced text,
    completed_at timestamptz, vector vector, looked_to text
)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    return query execute format($sql$
        with eq_row as materialized (
            select %1$s as eq_record, %2$s as eq_vector, row_number() over (order by %3$s) as eq_place
              from %4$s where %5$s order by %3$s limit $1
        ), eq_end as (
            select max(eq_record) filter (where eq_place = $1) as eq_looked_to from eq_row
        ), eq_sound as (
            select eq_place, eq_job.*, eq_vector
              from eq_row
              join (select queue.record_id, queue.content_hash, queue.model, queue.tokens, queue.cost, queue.truncated_to,
                           queue.unenhanced, queue.completed_at, queue.vector_hash
                      from public.embedding_queue as queue
                     where queue.target_id = %6$s and queue.record_id = any (array(select eq_record from eq_row))
                       and queue.status = 'completed' and queue.model = $2 offset 0) as eq_job
                on eq_job.record_id = eq_record
             where eq_vector is not null and %7$s
        )
        select eq_sound.record_id, content_hash, model, tokens, cost, truncated_to, unenhanced, completed_at,
               eq_vector::%8$s.vector, eq_looked_to
          from eq_end left join eq_sound on true
         where eq_sound.record_id is not null or eq_looked_to is not null
         order by eq_place$sql$,
        target.record_id_sql, embedding.vector_of_sql(target), embedding.keys_sql(target), target.relation,
        embedding.beside_record_sql(target, '>', after_record), target.id,
        embedding.is_intact_sql(target, 'eq_vector', 'eq_job.vector_hash'),
        (select extnamespace::regnamespace from pg_extension where extname = 'vector'))
    using batch, embedding.full_model(target);
end $$;

-- The last text of a range of about `batch` chunks after a text, which ends with a whole text, and whether there are more.
-- `chunks` is the target as if the table of its chunks were watched, with the key of the texts.
create function embedding.chunks_end(
    chunks public.embedding_targets, after_record text, batch integer, out last_record text, out has_more boolean
)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    records text[];
    whole integer;
begin
    execute format('select array(select %s from %s where %s order by %s limit %s)', chunks.record_id_sql, chunks.relation,
                   embedding.beside_record_sql(chunks, '>', after_record), embedding.keys_sql(chunks), batch + 1)
       into records;
    has_more := cardinality(records) > batch;
    whole := case when has_more then array_position(records, records[batch + 1]) - 1 else cardinality(records) end;
    last_record := records[greatest(whole, 1)]; -- a text that is longer than the range is not cut
end $$;

-- The vectors of the chunks of the next texts after a record: see export_embeddings.
create function embedding.exported_chunks(target public.embedding_targets, after_record text, batch integer)
returns table (
    record_id text, content_hash bytea, model text, tokens integer, cost real, truncated_to integer, unenhanced text,
    completed_at timestamptz, vector vector, looked_to text
)
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    chunks public.embedding_targets := target;
    name constant text := quote_ident((parse_ident(target.chunks_relation))[2]);
    last_record text;
    has_more boolean;
begin
    chunks.relation := target.chunks_relation;
    chunks.record_id_sql := embedding.record_id_sql(
        chunks.relation::regclass, (parse_ident(chunks.relation))[2], chunks.key_columns);
    select range.last_record, range.has_more into last_record, has_more
      from embedding.chunks_end(chunks, after_record, batch) as range;
    return query execute format($sql$
        with eq_chunk as (
            select %1$s as eq_record, %2$s.hash as eq_hash, %2$s.embedding::%3$s.vector as eq_vector
              from %4$s
             where %5$s and %6$s and %7$s
               and (select true from %8$s where %9$s and %10$s.hash = %2$s.hash limit 1) is not null -- not a join
             order by %11$s, %2$s.hash
        )
        select eq_record, eq_hash, $1, null::integer, null::real, null::integer, null::text, null::timestamptz, eq_vector, $2
          from (select $2 as eq_looked_to) as eq_end left join eq_chunk on true
         where eq_record is not null or eq_looked_to is not null$sql$,
        chunks.record_id_sql, name, (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
        chunks.relation, embedding.beside_record_sql(chunks, '>', after_record),
        embedding.beside_record_sql(chunks, '<=', last_record),
        embedding.is_intact_sql(target, name || '.embedding', name || '.vector_hash'), target.places_relation,
        embedding.same_key_sql(chunks, target.places_relation), quote_ident((parse_ident(target.places_relation))[2]),
        embedding.keys_sql(chunks))
    using embedding.full_model(target), case when has_more then last_record end;
end $$;

-- Returns the vectors of a watched column that belong to completed jobs and are those that were written, each with what it was
-- made from: of up to `batch` rows after the record `after_record`, in the order of the key, or fewer if they have more than
-- about 16 MiB. Each row has the last record that was read (`looked_to`; null: there are no more); if rows were read that have
-- no such vector, it is in a row of its own. `of_chunks`: of a column in chunks, the vectors of the chunks that searches find.
-- Then `record_id` is the id of the text and `content_hash` the hash of the chunk, and no text is cut, however long it is.
create function public.export_embeddings(
    watched_table text, embedding_column text, of_chunks boolean default false, after_record text default null,
    batch integer default 5000
)
returns table (
    record_id text, content_hash bytea, model text, tokens integer, cost real, truncated_to integer, unenhanced text,
    completed_at timestamptz, vector vector, looked_to text
)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
set jit = off
set enable_seqscan = off -- the plan for all statistics, as in verify_embeddings
set enable_bitmapscan = off
set enable_nestloop = off
set enable_mergejoin = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    rows_at_once constant integer := embedding.exported_at_once(target, batch);
begin
    perform embedding.check_identity(target);
    if of_chunks <> (target.chunk_format is not null) then
        raise exception 'column % of table % is embedded %', target.embedding_column, target.table_name,
                        case when of_chunks then 'as a whole' else 'in chunks' end
            using errcode = 'invalid_parameter_value', hint = format('Give of_chunks => %s.', not of_chunks);
    elsif of_chunks then
        return query select * from embedding.exported_chunks(target, after_record, rows_at_once);
    else
        return query select * from embedding.exported_rows(target, after_record, rows_at_once);
    end if;
end $$;

select embedding.protect_functions(
    'embedding.is_intact_sql', 'embedding.exported_at_once', 'embedding.exported_rows', 'embedding.chunks_end',
    'embedding.exported_chunks');
select embedding.let_workers_call('public.export_embeddings');
