-- Why:   people search any watched column by its name, as `worker search` does.
-- Locks: nothing.
-- Undo:  drop function public.search_embeddings, embedding.find_searched;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The target that a search names. While a column is re-embedded it has two: the one whose vectors are of `model`, else the one
-- of their width, else the serving one. Both may be of one model, with two document prompts: then `model` can name the prompt,
-- as in `openai:text-embedding-3-small#passage: `, or `openai:text-embedding-3-small#` for none. Raises if the target cannot be
-- searched with vectors of `model`, or by words.
create function embedding.find_searched(
    watched_table text, embedding_column text, query_width integer, model text, uses_words boolean
)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    identity_problem text;
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = watched_table and watched.kind = 'embed'
       and find_searched.embedding_column in (coalesce(watched.serves, watched.embedding_column), watched.embedding_column)
     order by (find_searched.model in (watched.model, watched.model || '#' || watched.document_prompt)) is true desc,
              (watched.model <> find_searched.model) is true, (watched.dimensions = query_width) is true desc, watched.role = 'serving' desc
     limit 1;
    identity_problem := embedding.identity_problem(target);
    if identity_problem is not null then
        raise exception using errcode = 'undefined_object', message = identity_problem;
    elsif target.id is null then
        raise exception 'column % of table % is not watched', find_searched.embedding_column, watched_table
            using errcode = 'undefined_object',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    elsif find_searched.model not in (target.model, target.model || '#' || target.document_prompt) then
        raise exception 'column % of table % holds vectors of %, not of %',
                        find_searched.embedding_column, target.table_name, target.model, find_searched.model
            using errcode = 'invalid_parameter_value',
                  hint = format('Embed the query with %s.', target.model);
    elsif uses_words and target.language is null then
        raise exception 'column % of table % is not set up for full text', find_searched.embedding_column, target.table_name
            using errcode = 'invalid_parameter_value',
                  hint = format('Run `worker watch %s --column %s --hybrid`, or search without words.',
                                target.table_name, find_searched.embedding_column);
    end if;
    return target;
end $$;

-- The rows of a watched column nearest to `query` by cosine distance, nearest first, with their text (null if it cannot
-- be read). With `query_text`, in a column that has a language, also those that have its words, best first; without
-- `query` only those. The arguments are those of the match functions (embedding.write_match_function). Runs with the
-- rights of the caller, so grants and row level security of the table apply. With the `model` that made `query`, raises
-- if the column holds vectors of another one; while it is re-embedded, vectors are compared with those of their model. `exact` compares all vectors, without an index. In texts in chunks it finds
-- passages, at most `per_document` of each text, with their place in it.
create function public.search_embeddings(
    watched_table text, embedding_column text, query vector, matches integer default 5, model text default null,
    query_text text default null, full_text_weight double precision default 1, rrf_k integer default 50,
    filter jsonb default null, exact boolean default false, per_document integer default 1
)
returns table (
    record_id text, content text, distance double precision,
    score double precision, vector_rank integer, text_rank integer,
    page integer, heading_path text, first_char integer, last_char integer
)
language plpgsql
stable
set search_path = '', pg_temp
set jit = off
set work_mem = '64MB'
set synchronize_seqscans = off
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    stored public.embedding_targets;
    uses_words constant boolean := query_text is not null and coalesce(full_text_weight, 1) > 0;
    statement text;
    conditions text;
    uses_index boolean;
    scan constant text := current_setting('hnsw.iterative_scan', true);
    found_one record;
begin
    target := embedding.find_searched(
        watched_table, embedding_column, cardinality(query::real[]), model, uses_words);
    stored := embedding.as_stored(target);
    perform embedding.check_search(
        stored.relation, stored.embedding_column, query::real[], matches, null, full_text_weight, rrf_k);
    if has_schema_privilege('embedding', 'usage') then -- the owner, a superuser, service_role
        perform embedding.check_table(target.relation);
    end if;
    perform set_config('hnsw.iterative_scan', 'strict_order', true) where scan is not null;
    statement := case when uses_words then embedding.hybrid_sql(target) else embedding.vector_sql(target) end;
    conditions := embedding.filter_sql(target.relation, filter);
    if conditions = '' then
        statement := replace(statement, embedding.unconditional_sql(target), 'true');
    end if;
    statement := replace(statement, '/* eq_filter */', conditions);
    if uses_words then
        execute 'select ' || embedding.uses_full_text_index_sql(target) into uses_index;
    end if;
    if target.chunk_format is not null then
        return query
        select * from embedding.search_passages(
            target, statement, query, coalesce(matches, 5), query_text, coalesce(full_text_weight, 1), coalesce(rrf_k, 50),
            exact, uses_index, per_document);
        perform set_config('hnsw.iterative_scan', scan, true) where scan is not null;
        return;
    end if;
    for found_one in
        execute statement
        using query, coalesce(matches, 5), -1::double precision, query_text, coalesce(full_text_weight, 1),
              coalesce(rrf_k, 50), exact, uses_index
    loop
        record_id := found_one.eq_record;
        distance := found_one.eq_distance;
        score := found_one.eq_score;
        vector_rank := found_one.eq_vector_rank;
        text_rank := found_one.eq_text_rank;
        begin
            execute format('select (%s)::text from (select $1 as eq_record) as eq_found, %s where %s',
                           target.source, target.relation, target.record_match_sql)
               into content using record_id;
        exception when others then
            content := null; -- has become unreadable since: one such row must not hide the others
        end;
        return next;
    end loop;
    perform set_config('hnsw.iterative_scan', scan, true) where scan is not null;
end $$;

select embedding.protect_functions('embedding.find_searched', 'public.search_embeddings');
select embedding.grant_to('service_role', 'execute on function embedding.find_searched, public.search_embeddings');
