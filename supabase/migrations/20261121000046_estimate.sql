-- Why:   people can estimate the cost of what is due, and of a backfill, in advance.
-- Locks: nothing. It waits for a table that is locked as a whole for a second, and then skips it.
-- Undo:  drop function public.estimate_embeddings, embedding.texts_to_embed, embedding.text_to_embed,
--        embedding.due_records, embedding.missing_records;
--
-- Everything here is stable: Postgres itself ensures that such functions write nothing.

-- How many rows a backfill would enqueue, and the record ids of up to `sample` of them.
create function embedding.missing_records(
    target public.embedding_targets, sample integer, out found_rows bigint, out records text[]
)
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    for row_by_row in 0 .. 1 loop
        begin
            execute format('with eq_missing as materialized (select %s as eq_record from %s where %s) '
                           'select count(*), array(select eq_record from eq_missing '
                           '                        order by hashtextextended(eq_record, 0) limit $1) from eq_missing',
                           target.record_id_sql, target.relation, embedding.missing_sql(target, row_by_row = 1))
               into found_rows, records using sample;
            return;
        exception when others or query_canceled or assert_failure then
            if row_by_row = 1 or target.filter is null or embedding.is_timeout(sqlstate) then
                raise;
            end if;
            execute format('select from %s where (%s) limit 0', target.relation, target.filter);
        end;
    end loop;
end $$;

-- The record ids of up to `sample` jobs that are due.
create function embedding.due_records(target public.embedding_targets, sample integer)
returns text[]
language sql
stable
set search_path = '', pg_temp
as $$
    select array(select job.record_id
                   from (select pending.record_id from public.embedding_queue as pending
                          where pending.target_id = target.id and pending.status = 'pending'
                            and pending.available_at <= now() and pending.available_at < 'infinity'
                         union all
                         select expired.record_id from public.embedding_queue as expired
                          where expired.target_id = target.id and expired.status = 'processing'
                            and expired.lease_expires_at <= now()) as job
                  order by hashtextextended(job.record_id, 0) limit sample);
$$;

-- The text that a model would get for a record. Null if it would get none: the row is missing or outside the
-- filter, there is nothing to embed, or its vector was made from this text by this model, and enhanced if it has to be.
create function embedding.text_to_embed(target public.embedding_targets, record_id text, default_model text)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    content text;
begin
    execute format($sql$
        select convert_from(convert_to(eq_content, 'UTF8'), 'UTF8') -- raises if it is no text: SQL_ASCII
          from (select coalesce(eq_given, (%1$s)::text) as eq_content, eq_old_hash, eq_old_model, eq_unenhanced,
                       %2$s as eq_has_vector
                  from (select $1 as eq_record) as eq_asked
                  left join lateral (
                        select content as eq_given, content_hash as eq_old_hash, model as eq_old_model,
                               unenhanced as eq_unenhanced
                          from public.embedding_queue
                         where record_id = eq_record and target_id = $2) as eq_job on true
                 cross join %3$s
                 where %4$s and (%5$s)) as eq_found
         where eq_content collate "C" ~ $3
           and (eq_has_vector and eq_old_model = $4 and eq_unenhanced is null
                and eq_old_hash = sha256(convert_to(eq_content, 'UTF8'))) is not true
        $sql$,
        embedding.text_sql(target), embedding.has_vector_sql(target), target.relation, target.record_match_sql, coalesce(target.filter, 'true'))
       into content
      using record_id, target.id, embedding.visible_character(), embedding.full_model(target, default_model);
    return content;
end $$;

-- The texts that a model would get for some records: the length of each in bytes, and its first characters. Leaves out records
-- that get none, and rows whose source raises. Raises if no row can be read.
create function embedding.texts_to_embed(
    target public.embedding_targets, records text[], default_model text, characters integer,
    out record_ids text[], out bytes bigint[], out texts text[]
)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    record_id text;
    content text;
begin
    record_ids := '{}';
    bytes := '{}';
    texts := '{}';
    perform embedding.text_to_embed(target, null, default_model); -- raises if no row can be read
    foreach record_id in array records loop
        begin
            content := embedding.text_to_embed(target, record_id, default_model);
            if content is not null then
                record_ids := record_ids || record_id;
                bytes := bytes || octet_length(content)::bigint;
                texts := texts || left(content, characters);
            end if;
        exception when others or query_canceled or assert_failure then
            if embedding.is_timeout(sqlstate) then
                raise;
            end if;
        end;
    end loop;
end $$;

-- What there is to embed, for each target that a worker with this default model works on: the number of due jobs (with
-- `missing` instead the number of rows that a backfill would enqueue), and for a sample of them the texts: the length in
-- bytes, and the first 20,000 characters. Rows that need no call of the model have no text, so the expected share of
-- `row_count` that needs one is cardinality(bytes) / least(row_count, sample).
--
-- The sample is chosen by a hash of the record: from all parts of the table, and the same for the same arguments.
-- It leaves out rows whose source raises. A table that cannot be read has no texts, and no count (null) if that
-- needs the table.
create function public.estimate_embeddings(
    default_model text,
    only_table text default null,
    only_column text default null,
    missing boolean default false,
    sample integer default 200
)
returns table (
    table_name text, embedding_column text, model text, document_prompt text, dimensions integer,
    row_count bigint, bytes bigint[], texts text[]
)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    records text[];
begin
    for target in
        select * from public.embedding_targets as watched
         where watched.enabled and watched.problem is null and watched.kind = 'embed'
           and (watched.model_is_default and watched.model <> default_model) is not true
           and (only_table is null or watched.table_name = only_table)
           and (only_column is null or watched.embedding_column = only_column)
         order by watched.table_name, watched.embedding_column
    loop
        table_name := target.table_name;
        embedding_column := target.embedding_column;
        model := coalesce(target.model, default_model);
        document_prompt := target.document_prompt;
        dimensions := target.dimensions;
        row_count := null;
        records := '{}';
        bytes := '{}';
        texts := '{}';
        begin
            if missing then
                perform embedding.check_table(target.relation);
                select found.found_rows, found.records into row_count, records
                  from embedding.missing_records(target, sample) as found;
            else
                row_count := public.count_due_embeddings(target.table_name, target.embedding_column);
                records := embedding.due_records(target, sample);
                perform embedding.check_table(target.relation);
            end if;
            select found.bytes, found.texts into bytes, texts
              from embedding.texts_to_embed(target, records, default_model, 20000) as found;
        exception
            when transaction_rollback or insufficient_resources or operator_intervention or system_error then
                raise; -- not caused by the table
            when others then
                bytes := '{}';
                texts := '{}';
        end;
        return next;
    end loop;
end $$;

select embedding.protect_functions(
    'embedding.missing_records', 'embedding.due_records', 'embedding.text_to_embed', 'embedding.texts_to_embed');
select embedding.let_workers_call('public.estimate_embeddings');
