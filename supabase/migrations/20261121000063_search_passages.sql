-- Why:   a search in texts in chunks returns passages: the best of each text, with their place in it.
-- Locks: nothing.
-- Undo:  drop function embedding.write_passage_match_function, embedding.search_passages, embedding.find_passages,
--        embedding.passages_sql;
--
-- The statements of a search run on the table of chunks (embedding.as_stored). What they find may belong to few texts, or to
-- versions of texts that are not complete yet, so they are asked for four times as many chunks as passages, and for more
-- until there are enough. Each round is one statement, so a passage is never from two versions of a text.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The statement that makes passages of the chunks that another statement finds, at most $9 of each text: as a JSON array in their
-- order, with the number of chunks.
create function embedding.passages_sql(target public.embedding_targets, statement text)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    chunks constant text := (parse_ident(target.chunks_relation))[2];
    places constant text := (parse_ident(target.places_relation))[2];
    matched text;
    placed text;
    keys text;
    pairs text;
begin
    select string_agg(format('%1$I.%2$I = eq_hit.%2$I', chunks, name), ' and ' order by place),
           string_agg(format('%1$I.%2$I = eq_hit.%2$I', places, name), ' and ' order by place),
           string_agg(format('eq_hit.%I', name), ', ' order by place) filter (where name <> 'hash'),
           string_agg(format('%L, eq_hit.%I', name, name), ', ' order by place) filter (where name <> 'hash')
      into matched, placed, keys, pairs
      from unnest(target.key_columns || 'hash'::text) with ordinality as key (name, place);
    return format($sql$
with eq_hit as materialized (
    select row_number() over () as eq_order, eq_found.* from (%1$s) as eq_found
), eq_passage as (
    select eq_hit.eq_order, row_number() over (partition by %2$s order by eq_hit.eq_order) as eq_in_text,
           jsonb_build_object(%3$s, 'eq_record', %4$s, 'content', %5$I.content, 'eq_distance', eq_hit.eq_distance,
                              'eq_score', eq_hit.eq_score, 'eq_vector_rank', eq_hit.eq_vector_rank,
                              'eq_text_rank', eq_hit.eq_text_rank, 'page', eq_place.page,
                              'heading_path', eq_place.heading_path, 'first_char', eq_place.first_char,
                              'last_char', eq_place.last_char) as eq_row
      from eq_hit
      join %6$s on %7$s
     cross join lateral (select * from %8$s where %9$s order by position limit 1) as eq_place
)
select coalesce((select jsonb_agg(eq_row order by eq_order) from eq_passage where eq_in_text <= $9), '[]'),
       (select count(*) from eq_hit)$sql$,
        statement, keys, pairs,
        embedding.record_id_sql(target.chunks_relation::regclass, chunks, target.key_columns), chunks,
        target.chunks_relation, matched, target.places_relation, placed);
end $$;

-- Finds passages by a statement of embedding.passages_sql, whose parameters are the other arguments: it runs until there are
-- eq_wanted passages, or no more chunks. The match functions contain the body of this one, since their callers have no
-- rights on this schema.
create function embedding.find_passages(
    eq_statement text, query_embedding vector, eq_wanted integer, eq_threshold double precision, query_text text,
    full_text_weight double precision, eq_rrf_k integer, eq_exact boolean, eq_uses_index boolean, per_document integer,
    out eq_passages jsonb
)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    eq_asked bigint := greatest(4 * eq_wanted::bigint, 40);
    eq_chunks bigint;
begin
    loop
        execute eq_statement into eq_passages, eq_chunks
          using query_embedding, eq_asked, eq_threshold, query_text, full_text_weight, eq_rrf_k, eq_exact, eq_uses_index,
                greatest(coalesce(per_document, 1), 1);
        exit when jsonb_array_length(eq_passages) >= eq_wanted or eq_chunks < eq_asked
               or eq_asked >= greatest(100000, 4 * eq_wanted::bigint);
        eq_asked := eq_asked * 5;
    end loop;
end $$;

-- The passages that the statement of a search finds in a target in chunks: see search_embeddings.
create function embedding.search_passages(
    target public.embedding_targets, statement text, query vector, matches integer, query_text text,
    full_text_weight double precision, rrf_k integer, exact boolean, uses_index boolean, per_document integer
)
returns table (
    record_id text, content text, distance double precision, score double precision, vector_rank integer, text_rank integer,
    page integer, heading_path text, first_char integer, last_char integer
)
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return query
    select eq_row.eq_record, eq_row.content, eq_row.eq_distance, eq_row.eq_score, eq_row.eq_vector_rank,
           eq_row.eq_text_rank, eq_row.page, eq_row.heading_path, eq_row.first_char, eq_row.last_char
      from jsonb_to_recordset(embedding.find_passages(
               embedding.passages_sql(target, statement), query, matches, -1, query_text, full_text_weight, rrf_k, exact,
               uses_index, per_document)) as eq_row (
           eq_record text, content text, eq_distance double precision, eq_score double precision, eq_vector_rank integer,
           eq_text_rank integer, page integer, heading_path text, first_char integer, last_char integer)
     limit matches;
end $$;

-- Creates the match function of a target in chunks: see embedding.write_match_function. It returns passages, at most
-- `per_document` of each text.
create function embedding.write_passage_match_function(
    target public.embedding_targets, function_name name, vector_type text
)
returns regprocedure
language plpgsql
set search_path = '', pg_temp
as $$
declare
    qualified_name constant text := format('%I.%I', (parse_ident(target.relation))[1], function_name);
    outputs text;
    found text;
begin
    select string_agg(format('%I %s', attname, format_type(atttypid, null)), ', ' order by place),
           string_agg(format('eq_row.%I', attname), ', ' order by place)
      into outputs, found
      from unnest(target.key_columns) with ordinality as key (name, place)
      join pg_attribute on attrelid = target.relation::regclass and attname = key.name;
    execute format(
        'create or replace function %s(query_embedding %s, match_count integer default 10, '
        'match_threshold double precision default -1, query_text text default null, '
        'full_text_weight double precision default 1, rrf_k integer default 50, filter jsonb default null, '
        'per_document integer default 1, model text default null) '
        'returns table (%s, content text, similarity double precision, '
        'score double precision, vector_rank integer, text_rank integer, '
        'page integer, heading_path text, first_char integer, last_char integer) '
        'language plpgsql stable set search_path = '''', pg_temp set jit = off set work_mem = ''64MB'' '
        'set synchronize_seqscans = off as %L',
        qualified_name, vector_type, outputs,
        format($body$
#variable_conflict use_column
declare
    eq_relation constant regclass := %1$L;
    eq_wanted constant integer := coalesce(match_count, 10);
    eq_threshold constant double precision := coalesce(match_threshold, -1);
    eq_rrf_k constant integer := coalesce(rrf_k, 50);
    eq_exact constant boolean := false;
    eq_store record;
    eq_conditions text;
    eq_statement text;
    eq_uses_index boolean;
    eq_scan constant text := current_setting('hnsw.iterative_scan', true);
    eq_passages jsonb;
begin
    %2$s
    %3$s
    full_text_weight := coalesce(full_text_weight, 1);
    perform set_config('hnsw.iterative_scan', 'strict_order', true) where eq_scan is not null;
    %4$s
    perform set_config('hnsw.iterative_scan', eq_scan, true) where eq_scan is not null;
    return query
    select %5$s, eq_row.content, 1 - eq_row.eq_distance, eq_row.eq_score, eq_row.eq_vector_rank, eq_row.eq_text_rank,
           eq_row.page, eq_row.heading_path, eq_row.first_char, eq_row.last_char
      from jsonb_to_recordset(eq_passages) as eq_row (
           %6$s, content text, eq_distance double precision, eq_score double precision, eq_vector_rank integer,
           eq_text_rank integer, page integer, heading_path text, first_char integer, last_char integer)
     limit eq_wanted;
end $body$,
            target.relation,
            embedding.match_store_sql(target),
            embedding.match_statement_sql(target),
            embedding.body_of('embedding.find_passages'),
            found, outputs));
    return format('%s(%s, integer, double precision, text, double precision, integer, jsonb, integer, text)',
                  qualified_name, vector_type)::regprocedure;
end $$;

select embedding.protect_functions(
    'embedding.passages_sql', 'embedding.find_passages', 'embedding.search_passages',
    'embedding.write_passage_match_function');
select embedding.grant_to('service_role', 'execute on function '
    'embedding.passages_sql, embedding.find_passages, embedding.search_passages');
