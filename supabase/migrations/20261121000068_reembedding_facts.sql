-- Why:   a re-embedding is refused or announced with all of its problems at once, before it costs anything. This reads what the
--        database knows of a column; worker/reembedding/preflight.py judges it.
-- Locks: nothing.
-- Undo:  drop function embedding.reembedding_facts;
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

select embedding.protect_functions('embedding.reembedding_facts');
