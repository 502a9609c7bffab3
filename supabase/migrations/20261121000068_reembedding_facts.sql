-- Why:   a re-embedding is refused or announced with all of its problems at once, before it costs anything. This reads what the
--        database knows of a column; worker/reembedding/preflight.py judges it.
-- Locks: nothing.
-- Undo:  drop function embedding.reembedding_texts, embedding.reembedding_facts;
--
-- How much space is free on the disk is not among the facts: SQL cannot see it.

-- What matters for the re-embedding of a column: `dimensions` is the width of its new vectors. `row_count` is exact where
-- counting is fast, else estimated. The index is the one that searches use; its size is that of all its blocks.
create function embedding.reembedding_facts(relation regclass, column_name text, dimensions integer)
returns table (
    table_name text, column_type text, present_dimensions integer, wanted_dimensions integer, row_count bigint, table_bytes bigint,
    is_partitioned boolean, is_of_type boolean, has_children boolean, store text, problem text, index_name text, index_is_valid boolean,
    index_bytes bigint, vector_version text, server_version text, publications text[], standbys bigint, slots bigint,
    dependents jsonb)
language plpgsql
volatile -- as embedding.stored_count is
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    stored record;
begin
    table_name := public.embedding_table_name(reembedding_facts.relation);
    select * into target from public.embedding_targets as watched
     where watched.table_name = reembedding_facts.table_name and watched.embedding_column = column_name;
    if target.id is null then
        raise exception 'column % of table % is not watched', column_name, table_name
            using errcode = 'undefined_object', hint = '`worker targets` lists the watched columns.';
    end if;
    select found.relation as id, found.number, vector.typname, nullif(attribute.atttypmod, -1) as width
      into stored
      from embedding.find_vectors(table_name, column_name) as found
      join pg_attribute as attribute on attribute.attrelid = found.relation and attribute.attnum = found.number
      join pg_type as vector on vector.oid = attribute.atttypid;
    column_type := stored.typname;
    present_dimensions := stored.width;
    row_count := (select counted.rows from embedding.stored_count(stored.id::text) as counted);
    table_bytes := coalesce((select sum(pg_table_size(relid)) from pg_partition_tree(stored.id)), pg_table_size(stored.id));
    select relkind = 'p', reloftype <> 0 into is_partitioned, is_of_type
      from pg_class where oid = reembedding_facts.relation;
    has_children := exists (select from pg_inherits where inhparent = reembedding_facts.relation);
    store := embedding.store_of(target);
    problem := target.problem;
    select indexes.index::text, indexes.is_valid, pg_relation_size(indexes.index) into index_name, index_is_valid, index_bytes
      from embedding.vector_indexes_of(stored.id, stored.number) as indexes limit 1;
    vector_version := (select extversion from pg_extension where extname = 'vector');
    server_version := current_setting('server_version');
    publications := array(select published.pubname::text from pg_publication_tables as published
                            join pg_class as class on class.oid = stored.id
                           where published.schemaname = class.relnamespace::regnamespace::name
                             and published.tablename = class.relname order by 1);
    standbys := (select count(*) from pg_stat_replication);
    slots := (select count(*) from pg_replication_slots where not active);
    dependents := (select coalesce(jsonb_agg(found order by found.kind, found.name), '[]')
                     from embedding.dependents_of(reembedding_facts.relation, column_name) as found);
    wanted_dimensions := dimensions;
    return next;
end $$;

-- The texts of `sample` random rows inside the filter, as a model gets them for new vectors. `row_count` is that of
-- embedding_status. `sampled` is how many rows were read: some have no text. `too_long` are the ids of those of which the
-- present model did not take the whole text. A table that cannot be read has no sample.
create function embedding.reembedding_texts(relation regclass, column_name text, sample integer)
returns table (
    row_count bigint, sampled integer, record_ids text[], bytes bigint[], texts text[], too_long text[], on_too_long text)
language plpgsql
volatile -- as embedding.row_count is
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    records text[];
    characters integer; -- a chunk as a whole, unless that is too much
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = public.embedding_table_name(reembedding_texts.relation)
       and watched.embedding_column = column_name;
    on_too_long := target.on_too_long;
    characters := least(greatest(20000, 5 * target.chunk_size), 100000);
    row_count := (select counted.rows from embedding.row_count(target.id, (
        select sum(counts.pending + counts.processing + counts.completed + counts.failed + counts.skipped)::bigint
          from public.embedding_counts as counts where counts.target_id = target.id)) as counted);
    begin
        records := embedding.sampled_records(target, format('(%s)', coalesce(target.filter, 'true')), sample);
        too_long := array(
            select job.record_id from public.embedding_queue as job
             where job.target_id = target.id and job.record_id = any (records)
               and (job.truncated_to is not null or job.status = 'failed' and job.error_class = 'too_long'));
        target.id := null; -- the new target has no jobs yet
        select cardinality(records), found.* into sampled, record_ids, bytes, texts
          from embedding.texts_to_embed(target, records, '', characters) as found;
    exception
        when transaction_rollback or insufficient_resources or operator_intervention or system_error then
            raise; -- not caused by the table
        when others then
            sampled := 0;
            record_ids := '{}';
            bytes := '{}';
            texts := '{}';
            too_long := '{}';
    end;
    return next;
end $$;

select embedding.protect_functions('embedding.reembedding_facts', 'embedding.reembedding_texts');
