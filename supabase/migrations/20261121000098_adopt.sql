-- Why:   a column that another tool has filled comes to this worker with its vectors: they count as made by a model, without a
--        call of it. A sample is compared with the model before (`worker watch ... --adopt MODEL`).
-- Locks: SHARE row locks on the rows whose vectors are adopted, for the length of a call. It waits for none of them.
-- Undo:  drop function public.adopt_embeddings, public.sample_adoptable, embedding.adopt_range, embedding.adopt_record,
--        embedding.adopt_sql, embedding.unrecorded_sql, embedding.check_adoptable;
--
-- The column is watched first, so that each edit from then on makes a job. An adoption locks the row, reads its text and its
-- vector in one version, and adds a completed job only where there is none: the job of an edit always wins. An edit from before
-- the watch whose vector is still the old one cannot be told from any other row.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Raises if the vectors of a target, watched or planned, cannot be adopted.
create function embedding.check_adoptable(target public.embedding_targets)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    if not embedding.is_column(target) then
        raise exception 'only vectors in a column of the table can be adopted, not those of a side table or of chunks'
            using errcode = 'feature_not_supported',
                  hint = 'Watch it without adoption, and let backfill_embeddings enqueue the texts.';
    elsif target.enhance_model is not null then
        raise exception 'vectors of texts by a chat model cannot be adopted: nobody knows what was embedded'
            using errcode = 'feature_not_supported', hint = 'Watch the column without a chat model.';
    elsif not target.column_numbers ? target.embedding_column then
        raise exception 'table % has no column %', target.table_name, target.embedding_column
            using errcode = 'undefined_column', hint = 'Name the column that holds the vectors.';
    elsif target.role <> 'serving' or target.serves is not null then
        raise exception 'column % of table % is being re-embedded', target.embedding_column, target.table_name
            using errcode = 'object_not_in_prerequisite_state', hint = 'Finish or cancel that first.';
    end if;
end $$;

-- The condition that a row has a vector, and no job that says what it was made from. See embedding.missing_sql about the job.
create function embedding.unrecorded_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('(%s) and (select true from public.embedding_queue as eq_job '
                  'where eq_job.record_id = %s and eq_job.target_id = %s limit 1) is null',
                  embedding.has_vector_sql(target), embedding.queued_id_sql(target.record_id_sql), coalesce(target.id, 0));
$$;

-- The statement that adopts the vectors of a range of the key. A vector of another width than $2, or with the hash of zeros, $3,
-- is not one of the model: its row becomes pending. A row without a text, or outside the filter, is left alone.
create function embedding.adopt_sql(target public.embedding_targets, in_range text)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$
        with eq_row as materialized (
            select %1$s as eq_record, %2$s as eq_owner, coalesce((%3$s), false) as eq_inside, (%4$s)::text as eq_text,
                   %5$s as eq_hash, %6$s.vector_dims(%7$s) as eq_width
              from (select %8$I.* from %9$s where %10$s and %11$s order by %12$s for share of %8$I skip locked) as %8$I
        ), eq_judged as (
            select *, row_number() over () as eq_place, embedding.key_too_long(eq_record) as eq_long,
                   eq_width = $2 and eq_hash <> $3 as eq_fits
              from eq_row where eq_inside and eq_text collate "C" ~ %13$L
        ), eq_added as (
            insert into public.embedding_queue
                (target_id, table_name, record_id, embedding_column, user_id, priority, status, error_message, error_class,
                 content_hash, model, vector_hash, completed_at)
            select %14$s, $4, %15$s, $5, eq_owner, $6,
                   case when eq_long is not null then 'failed' when eq_fits then 'completed' else 'pending' end, eq_long,
                   case when eq_long is not null then 'key_too_long' end,
                   case when eq_fits then sha256(convert_to(eq_text, 'UTF8')) end, case when eq_fits then $1 end,
                   case when eq_fits then eq_hash end, case when eq_fits and eq_long is null then clock_timestamp() end
              from eq_judged order by eq_place
            on conflict do nothing
            returning status
        )
        select count(*) filter (where status = 'completed'), count(*) filter (where status <> 'completed'),
               (select count(*) from eq_row) - (select count(*) from eq_judged)
          from eq_added$sql$,
        target.record_id_sql, embedding.owner_sql((parse_ident(target.relation))[2], target.user_column),
        coalesce(target.filter, 'true'), embedding.text_sql(target),
        embedding.vector_hash_sql(target, embedding.vector_of_sql(target)),
        (select extnamespace::regnamespace from pg_extension where extname = 'vector'), embedding.vector_of_sql(target),
        (parse_ident(target.relation))[2], target.relation, in_range, embedding.unrecorded_sql(target),
        embedding.keys_sql(target), embedding.visible_character(), target.id, embedding.queued_id_sql('eq_record'));
$$;

-- Makes a record pending whose text or filter raises an error: the claim fails it, with the error as its reason. Returns whether
-- it did, not if another session holds the row.
create function embedding.adopt_record(target public.embedding_targets, record_id text)
returns boolean
language plpgsql
set search_path = '', pg_temp
as $$
declare
    owner uuid;
    locked integer;
begin
    execute format('select %s from (select $1 as eq_record) as eq_asked, %s where %s and %s for share of %I skip locked',
                   embedding.owner_sql((parse_ident(target.relation))[2], target.user_column), target.relation,
                   target.record_match_sql, embedding.unrecorded_sql(target), (parse_ident(target.relation))[2])
       into owner using record_id;
    get diagnostics locked = row_count;
    if locked > 0 then
        perform embedding.enqueue(target.id, array[record_id], array[owner], true);
    end if;
    return locked > 0;
end $$;

-- Adopts the vectors of `records`, which are the next ones after another record. Halving finds a row that cannot be read.
create function embedding.adopt_range(
    target public.embedding_targets, after_record text, records text[], model text, width integer, hash_of_zeros bigint,
    out adopted bigint, out pending bigint, out left_alone bigint
)
language plpgsql
set search_path = '', pg_temp
set jit = off
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    middle constant integer := cardinality(records) / 2;
    in_range constant text := embedding.beside_record_sql(target, '>', after_record) || ' and '
                              || embedding.beside_record_sql(target, '<=', records[cardinality(records)]);
begin
    execute embedding.adopt_sql(target, in_range)
       into adopted, pending, left_alone
      using model, width, hash_of_zeros, target.table_name, target.embedding_column, greatest(target.priority - 10, -32768);
exception
    when transaction_rollback or insufficient_resources or operator_intervention or system_error then
        raise; -- not caused by a row
    when others or query_canceled or assert_failure then
        if embedding.is_timeout(sqlstate) then
            raise;
        end if;
        execute embedding.adopt_sql(target, 'false') -- raises if no row can be read
          using model, width, hash_of_zeros, target.table_name, target.embedding_column, 0;
        if middle = 0 then
            adopted := 0;
            pending := embedding.adopt_record(target, records[1])::integer;
            left_alone := 0;
            return;
        end if;
        select sum(half.adopted), sum(half.pending), sum(half.left_alone) into adopted, pending, left_alone
          from (values (after_record, records[:middle]), (records[middle], records[middle + 1:])) as part (begins, records)
         cross join lateral embedding.adopt_range(target, part.begins, part.records, model, width, hash_of_zeros) as half;
end $$;

-- The vectors of up to `sample` random rows of a column that is watched with these arguments, or that watch_embeddings would
-- watch, each with the text that a model gets for it. Only vectors without a job. Rows without a text, and rows that cannot be
-- read, are left out. It changes nothing. Raises an error with a hint if the vectors cannot be adopted.
create function public.sample_adoptable(
    relation regclass,
    source text default null,
    embedding_column text default null,
    model text default null,
    filter text default null,
    dimensions integer default null,
    priority smallint default null,
    debounce interval default null,
    on_change text default null,
    on_too_long text default null,
    match_function boolean default null,
    document_prompt text default null,
    query_prompt text default null,
    language text default null,
    chunks boolean default null,
    context text default null,
    format text default null,
    chunk_size integer default null,
    chunk_unit text default null,
    max_chunks integer default null,
    enhance text default null,
    enhance_prompt text default null,
    enhance_on_failure text default null,
    store text default null,
    sample integer default 20
)
returns table (record_id text, content text, vector vector)
language plpgsql
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    plan constant embedding.watch_plan := embedding.plan_watch(relation, row(
        source, embedding_column, model, filter, dimensions, priority, debounce, on_change, on_too_long,
        document_prompt, query_prompt, language, chunks, context, format, chunk_size, chunk_unit, max_chunks,
        enhance, enhance_prompt, enhance_on_failure, store
    )::embedding.wanted_target);
    target public.embedding_targets := plan.target;
    records text[];
    found_rows integer := 0;
    excluded text; -- always: it has no job
begin
    target.id := coalesce(target.id, 0);
    perform embedding.check_adoptable(target);
    records := embedding.sampled_records(target, embedding.unrecorded_sql(target), 5 * sample);
    if records = '{}' then -- there may be a few in a part of the table that was not read
        execute format('select array(select %s from %s where %s limit %s)', target.record_id_sql, target.relation,
                       embedding.unrecorded_sql(target), 5 * sample)
           into records;
    end if;
    foreach record_id in array records loop
        exit when found_rows = sample;
        begin
            execute embedding.sampled_vector_sql(target) into content, vector, excluded using record_id, true, null::text;
        exception when others or query_canceled or assert_failure then
            if embedding.is_timeout(sqlstate) then
                raise;
            end if;
            continue;
        end;
        if content collate "C" ~ embedding.visible_character() and vector is not null then
            found_rows := found_rows + 1;
            return next;
        end if;
    end loop;
end $$;

-- Records that `model` (its full name, see embedding.full_model) made the vectors of a watched column that have no job, from the
-- texts that are there: their jobs are completed. A row whose vector cannot be one of the model, since it has another `width` or
-- is zero, becomes pending. Rows without a text, and rows outside the filter, are left alone. It checks up to `batch` rows after
-- the record `after_record`, in the order of the key, and returns the last one (`looked_to`; null: there are no more). `locked`:
-- how many it has skipped, because another session holds them.
--
-- It compares nothing with the model: `worker watch ... --adopt MODEL` does that before, with a sample.
create function public.adopt_embeddings(
    watched_table text, embedding_column text, model text, width integer, after_record text default null,
    batch integer default 2000
)
returns table (adopted bigint, pending bigint, left_alone bigint, locked bigint, looked_to text)
language plpgsql
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    target public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    records text[];
    zeros bigint[];
    unrecorded bigint;
begin
    select * into target from public.embedding_targets as taken where taken.id = target.id for update; -- calls take turns
    perform embedding.check_adoptable(target);
    perform embedding.open_table(target, 'row share');
    perform embedding.check_restored(target, model, '{}');
    if num_nulls(target.model, target.document_prompt) > 0 then
        target := embedding.record_model(target.id, model);
        perform embedding.check_restored(target, model, '{}');
    end if;
    records := embedding.next_records(target, after_record, batch);
    looked_to := records[batch];
    if records = '{}' then
        return query select 0::bigint, 0::bigint, 0::bigint, 0::bigint, null::text;
        return;
    end if;
    execute format('select array[%s]', embedding.vector_hash_sql(target, format(
                '%s.array_to_vector(array_fill(0::real, array[%s]), -1, true)',
                (select extnamespace::regnamespace from pg_extension where extname = 'vector'), width)))
       into zeros;
    select * into adopted, pending, left_alone
      from embedding.adopt_range(target, after_record, records, model, width, zeros[1]);
    execute format('select count(*) from %s where %s and %s and %s', target.relation,
                   embedding.beside_record_sql(target, '>', after_record),
                   embedding.beside_record_sql(target, '<=', records[cardinality(records)]), embedding.unrecorded_sql(target))
       into unrecorded;
    locked := greatest(unrecorded - left_alone, 0);
    return next;
end $$;

select embedding.protect_functions(
    'embedding.check_adoptable', 'embedding.unrecorded_sql', 'embedding.adopt_sql', 'embedding.adopt_record',
    'embedding.adopt_range', 'public.sample_adoptable', 'public.adopt_embeddings');
