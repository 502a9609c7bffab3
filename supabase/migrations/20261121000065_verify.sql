-- Why:   vectors that were paid for are checked: each row against its job and its vector, and a sample against the model.
-- Locks: an ACCESS SHARE lock on the table that is read, for the length of a call, which reads one range of the key.
-- Undo:  drop function public.sample_vectors, public.verify_embeddings, embedding.sampled_records,
--        embedding.sampled_vector_sql, embedding.open_verified, embedding.verified_range, embedding.first_records,
--        embedding.next_records, embedding.verified_sql, embedding.seen_sql, embedding.findings;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- What a verification finds, by conditions on the rows of embedding.seen_sql. eq_wanted: the row is inside the filter and
-- has a text; null for a chunk. eq_differs: that text is not the one that was embedded. eq_overwritten: the vector is not the one
-- that was written, as far as the hash of that is known.
create function embedding.findings()
returns table (finding text, condition text)
language sql
immutable
set search_path = '', pg_temp
as $$
    values -- texts without a vector, by the status of their job
           ('pending', 'eq_wanted and not eq_has and eq_status in (''pending'', ''processing'')'),
           ('failed', 'eq_wanted and not eq_has and eq_status = ''failed'''),
           ('skipped', 'eq_wanted and not eq_has and eq_status = ''skipped'''),
           ('unqueued', 'eq_wanted and not eq_has and eq_status is null'),
           ('lost', 'eq_wanted and not eq_has and not eq_differs and eq_status = ''completed'' and (eq_old_model <> $4) is not true'),
           -- vectors of another text, by the status of their job
           ('outdated_pending', 'eq_wanted and eq_has and eq_differs and eq_status in (''pending'', ''processing'')'),
           ('outdated_failed', 'eq_wanted and eq_has and eq_differs and eq_status = ''failed'''),
           ('stale', 'eq_wanted and eq_differs and (eq_status = ''completed'' or eq_status = ''skipped'' and eq_has)'),
           ('other_model', 'eq_wanted and eq_status = ''completed'' and eq_old_model <> $4'),
           ('unrecorded', 'eq_wanted and eq_has and eq_status is null'),
           ('without_text', 'eq_has and not eq_wanted and coalesce(eq_status not in (''pending'', ''processing''), true)'),
           ('overwritten', 'eq_overwritten and (eq_status = ''completed'') is not false'),
           -- vectors by themselves
           ('wrong_width', 'eq_width <> $1'),
           ('zero', 'eq_length = 0'),
           ('odd_length', 'eq_length > 0 and abs(eq_length - $2) > $3');
$$;

-- The part of a statement with the rows of a range, each with its job and what is known of its vector. The jobs of the
-- records $5 are read at once, in the order of their index, and joined by a hash table: 2.3 us for a row instead of 3.9 us
-- for a look-up. The passages of a text in chunks are whole if each has its chunk. `offset '0'` keeps the order in which
-- expressions are evaluated like offset 0, which would keep them from the workers of a parallel query.
create function embedding.seen_sql(target public.embedding_targets, of_chunks boolean)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    stored constant public.embedding_targets := case when of_chunks then embedding.as_stored(target) else target end;
    is_in_chunks constant boolean := target.chunk_format is not null;
    has_vector text := embedding.has_vector_sql(target);
    vector text := 'null';
    extension constant regnamespace := (select extnamespace from pg_extension where extname = 'vector');
    measures text := 'null::integer as eq_width, null::double precision as eq_length, null::bigint as eq_vector_hash';
begin
    if is_in_chunks then
        has_vector := format('%s and not exists (select from %s where %s and not exists (select from %s where %s and %s.hash = %s.hash))',
            has_vector, target.places_relation, embedding.same_key_sql(target, target.places_relation),
            target.chunks_relation, embedding.same_key_sql(target, target.chunks_relation),
            quote_ident((parse_ident(target.chunks_relation))[2]), quote_ident((parse_ident(target.places_relation))[2]));
    end if;
    if of_chunks or not is_in_chunks then
        vector := embedding.vector_of_sql(stored);
        measures := format('%1$s.vector_dims(eq_vector) as eq_width, %1$s.%2$s(eq_vector) as eq_length, %3$s as eq_vector_hash',
                           extension,
                           case embedding.kind_of_vectors(target) when 'halfvec' then 'l2_norm' else 'vector_norm' end,
                           embedding.vector_hash_sql(target, 'eq_vector'));
    end if;
    return format($sql$
        select eq_row.*, eq_job.*, eq_old_hash is distinct from eq_hash as eq_differs,
               (eq_vector_hash <> coalesce(eq_chunk_hash, eq_job_hash)) is true as eq_overwritten
          from (select eq_record, eq_has, eq_width, eq_length, eq_vector_hash, eq_chunk_hash, eq_wanted, %1$s as eq_queued_id,
                       case when eq_wanted then sha256(convert_to(eq_text, 'UTF8')) end as eq_hash
                  from (select *, %8$s, case when not %2$L then coalesce(
                               ascii(eq_text) between 33 and 126 or eq_text collate "C" ~ %3$L, false) end as eq_wanted
                          from (select %4$s as eq_record, %5$s as eq_has, case when %6$s then (%7$s)::text end as eq_text,
                                       %9$s as eq_vector, %12$s as eq_chunk_hash
                                  from %10$s where /* eq_range */ offset '0') as eq_read offset '0') as eq_known
                offset '0') as eq_row
          left join (
                select record_id as eq_job_id, status as eq_status, content_hash as eq_old_hash, model as eq_old_model,
                       vector_hash as eq_job_hash
                  from public.embedding_queue
                 where not %2$L and target_id = %11$s
                   and record_id = any (array(select %1$s from unnest($5) as eq_record))
                offset 0) as eq_job on eq_job_id = eq_queued_id$sql$,
        embedding.queued_id_sql('eq_record'), of_chunks, embedding.visible_character(), stored.record_id_sql,
        case when of_chunks then 'true' else has_vector end,
        case when of_chunks then 'false' else coalesce(target.filter, 'true') end,
        case when of_chunks then 'null' else embedding.text_sql(target) end, measures, vector, stored.relation, target.id,
        case when of_chunks then quote_ident((parse_ident(stored.relation))[2]) || '.vector_hash' else 'null::bigint' end);
end $$;

-- The statement that counts the rows of a range, and returns the ids of the rows of each finding as JSON.
-- Most rows are sound, and have none: to check that first saves a fifth of the time.
create function embedding.verified_sql(target public.embedding_targets, of_chunks boolean)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$
        select array[count(*), count(*) filter (where eq_wanted), count(*) filter (where eq_has)], array[%s]
          from (select *, coalesce(eq_wanted and eq_has and eq_status = 'completed' and eq_old_model = $4
                                   and not eq_differs, %L)
                          and not eq_overwritten
                          and (eq_width = $1) is not false and (eq_length > 0) is not false
                          and (abs(eq_length - $2) <= $3) is not false as eq_sound
                  from (%s) as eq_seen offset 0) as eq_judged$sql$,
        string_agg(format('to_jsonb(array_agg(eq_record) filter (where not eq_sound and %s))', condition), ', ' order by place),
        of_chunks, embedding.seen_sql(target, of_chunks))
      from embedding.findings() with ordinality as one (finding, condition, place);
$$;

-- The ids of the next rows after a record, in the order of the key. It reads no other column, so it cannot fail for a row.
create function embedding.next_records(target public.embedding_targets, after_record text, batch integer)
returns text[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    records text[];
begin
    execute format('select array(select %s from %s where %s order by %s limit %s)', target.record_id_sql, target.relation,
                   embedding.beside_record_sql(target, '>', after_record), embedding.keys_sql(target), batch)
       into records;
    return records;
end $$;

-- The first ten of some ids (JSON), in the order of the key.
create function embedding.first_records(target public.embedding_targets, ids jsonb)
returns text[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    records text[];
begin
    execute format('select array(select eq_record from jsonb_array_elements_text($1) as eq_record order by %s limit 10)',
                   array_to_string(embedding.key_values_sql(target.relation::regclass, target.key_columns, 'eq_record'), ', '))
       into records using ids;
    return records;
end $$;

-- The findings of a statement of embedding.verified_sql for `records`, which are the next ones after another record. A row
-- that cannot be read is a finding: halving finds it among many.
create function embedding.verified_range(
    stored public.embedding_targets, statement text, after_record text, records text[], width integer,
    usual_length double precision, tolerance double precision, model text
)
returns table (finding text, found bigint, record_ids text[])
language plpgsql
stable
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    middle constant integer := cardinality(records) / 2;
    counts bigint[];
    ids jsonb[];
begin
    execute replace(statement, '/* eq_range */', format('%s and %s',
            embedding.beside_record_sql(stored, '>', after_record),
            embedding.beside_record_sql(stored, '<=', records[cardinality(records)])))
       into counts, ids using width, usual_length, tolerance, model, records;
    return query
    select one.finding, one.counted, '{}'::text[]
      from unnest('{rows,texts,vectors}'::text[], counts) as one (finding, counted)
     union all
    select one.finding, coalesce(jsonb_array_length(one.ids), 0),
           case when one.ids is null then '{}' else embedding.first_records(stored, one.ids) end
      from unnest(array(select known.finding from embedding.findings() as known), ids) as one (finding, ids);
exception
    when transaction_rollback or insufficient_resources or operator_intervention or system_error then
        raise; -- not caused by a row
    when others or query_canceled or assert_failure then
        if embedding.is_timeout(sqlstate) then
            raise;
        end if;
        execute replace(statement, '/* eq_range */', 'false') -- raises if no row can be read
          using width, usual_length, tolerance, model, records;
        if middle = 0 then
            return query select 'rows', 1::bigint, '{}'::text[] union all select 'unreadable', 1::bigint, records;
            return;
        end if;
        return query
        select * from embedding.verified_range(
            stored, statement, after_record, records[:middle], width, usual_length, tolerance, model)
        union all
        select * from embedding.verified_range(
            stored, statement, records[middle], records[middle + 1:], width, usual_length, tolerance, model);
end $$;

-- The target of a verification, whose table is locked against changes of its columns. Raises if it cannot be read.
create function embedding.open_verified(watched_table text, embedding_column text)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    beside text;
begin
    target := embedding.find_searched(watched_table, embedding_column, null::integer, null::text, false);
    select * into target from public.embedding_targets as watched -- its own name counts, whichever target serves
     where watched.table_name = watched_table
       and watched.embedding_column in (open_verified.embedding_column, target.embedding_column)
     order by watched.embedding_column = open_verified.embedding_column desc limit 1;
    perform embedding.check_table(target.relation);
    execute format('lock table only %s in access share mode', target.relation);
    foreach beside in array embedding.side_tables(target) loop
        perform embedding.check_table(beside);
    end loop;
    return target;
exception when lock_not_available then
    raise exception 'table % is locked by another session', watched_table using errcode = 'lock_not_available';
end $$;

-- Compares the rows of a watched column with their jobs and their vectors, and counts what it finds: see docs/sql-api.md.
-- It checks up to `batch` rows after the record `after_record`, in the order of the key, and returns the last one in each
-- row (`looked_to`; null: there are no more). `of_chunks`: it checks the vectors of the chunks of the texts instead. A
-- vector has an odd length if it differs from `usual_length` by more than `tolerance`. It writes nothing.
create function public.verify_embeddings(
    watched_table text, embedding_column text, of_chunks boolean default false, after_record text default null,
    batch integer default 5000, width integer default null, usual_length double precision default null,
    tolerance double precision default null
)
returns table (finding text, found bigint, record_ids text[], looked_to text)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
set jit = off
-- the plan for all statistics, also those from when the queue was empty: indexes and a hash table
set enable_seqscan = off
set enable_bitmapscan = off
set enable_nestloop = off
set enable_mergejoin = off
set work_mem = '64MB'
-- in as many processes as the server allows for a query, if a range has 8 MB (min_parallel_table_scan_size)
set min_parallel_index_scan_size = 0
set parallel_setup_cost = 0
set parallel_tuple_cost = 0
as $$
#variable_conflict use_column
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    stored constant public.embedding_targets := case when of_chunks then embedding.as_stored(target) else target end;
begin
    return query -- one statement, so that the same rows are visible to both functions
    select one.finding, one.found, one.record_ids, range.records[batch]
      from (select embedding.next_records(stored, after_record, batch) as records offset 0) as range
     cross join lateral embedding.verified_range(
           stored, embedding.verified_sql(target, of_chunks), after_record, range.records, width, usual_length, tolerance,
           embedding.full_model(target)) as one;
end $$;

-- The statement that returns a vector of the record $1, the text that a model gets for it, and why that text cannot be
-- compared with the vector (null: it can). Of a text in chunks it takes the first chunk, or ($2) any.
create function embedding.sampled_vector_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when target.chunk_format is null then format($sql$
        select eq_text, eq_vector,
               case when eq_truncated_to is not null then 'truncated'
                    when eq_status = 'completed' and eq_old_model = $3 and not (%1$s) then null
                    else 'not_in_step' end
          from (select eq_record, case when %2$s then (%3$s)::text end as eq_text, %4$s as eq_vector
                  from (select $1 as eq_record) as eq_asked, %5$s where %6$s and $2 is not null) as eq_row
          left join lateral (
                select status as eq_status, content_hash as eq_old_hash, model as eq_old_model,
                       truncated_to as eq_truncated_to
                  from public.embedding_queue where record_id = %7$s and target_id = %8$s) as eq_job on true
         where eq_vector is not null$sql$,
        embedding.text_differs_sql(), coalesce(target.filter, 'true'), embedding.text_sql(target),
        embedding.vector_of_sql(target), target.relation, target.record_match_sql, embedding.queued_id_sql('eq_record'), target.id)
    else format($sql$
        select coalesce(eq_chunk.context, '') || eq_chunk.content, eq_chunk.embedding, null::text
          from (select $1 as eq_record) as eq_asked, %1$s
         cross join lateral (select %2$I.context, %2$I.content, %2$I.embedding
                               from %3$s, %4$s where %5$s and %6$s and %2$I.hash = %7$I.hash
                              order by case when $2 then random() end, %7$I.position limit 1) as eq_chunk
         where %8$s and $3 is not null$sql$,
        target.relation, (parse_ident(target.chunks_relation))[2], target.chunks_relation, target.places_relation,
        embedding.same_key_sql(target, target.chunks_relation), embedding.same_key_sql(target, target.places_relation),
        (parse_ident(target.places_relation))[2], target.record_match_sql) end;
$$;

-- The ids of random rows for which a condition is true, from at most 64 MiB of the table.
create function embedding.sampled_records(target public.embedding_targets, condition text, sample integer)
returns text[]
language plpgsql
volatile
set search_path = '', pg_temp
as $$
declare
    read_at_most constant numeric := 64 * 1024 * 1024;
    size constant numeric := greatest(
        (select sum(pg_relation_size(relid)) from pg_partition_tree(target.relation::regclass)),
        pg_relation_size(target.relation::regclass), 1);
    records text[];
begin
    execute format('select array(select %s from %s tablesample system (%s) where %s order by random() limit %s)',
                   target.record_id_sql, target.relation, least(100, 100 * read_at_most / size),
                   condition, sample)
       into records;
    return records;
end $$;

-- The vectors of `sample` random records of a watched column, or of the given `record_ids`, each with the text that a model
-- gets for it. `excluded` says why the text must not be compared with the vector: it is `truncated`; a chat model wrote what
-- was embedded (`enhanced`); or it is `not_in_step` with its job. Rows that cannot be read are left out. A text in chunks is
-- sampled by one of its chunks, the first one if it is given by its id.
create function public.sample_vectors(
    watched_table text, embedding_column text, sample integer default 100, record_ids text[] default null
)
returns table (record_id text, content text, excluded text, vector vector)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
#variable_conflict use_column
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    statement constant text := embedding.sampled_vector_sql(target);
begin
    foreach record_id in array coalesce(
        record_ids, embedding.sampled_records(target, embedding.has_vector_sql(target), sample)) loop
        begin
            execute statement into content, vector, excluded
              using record_id, record_ids is null, embedding.full_model(target);
        exception when others or query_canceled or assert_failure then
            if embedding.is_timeout(sqlstate) then
                raise;
            end if;
            continue; -- verify_embeddings finds it
        end;
        if target.enhance_model is not null then
            excluded := 'enhanced';
        end if;
        content := case when excluded is null then content end;
        if vector is not null then
            return next;
        end if;
    end loop;
end $$;

select embedding.protect_functions(
    'embedding.findings', 'embedding.seen_sql', 'embedding.verified_sql', 'embedding.next_records',
    'embedding.first_records', 'embedding.verified_range', 'embedding.open_verified',
    'embedding.sampled_vector_sql', 'embedding.sampled_records', 'public.sample_vectors');
select embedding.let_workers_call('public.verify_embeddings');
select embedding.grant_to('service_role', 'execute on function public.sample_vectors'); -- it reads texts
