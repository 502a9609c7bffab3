-- Why:   an app searches a watched table through a function of its own, `match_<table>`.
-- Locks: nothing.
-- Undo:  watch_embeddings(..., match_function => false) for each target, then drop function
--        embedding.keep_match_function, embedding.match_words_sql, embedding.write_match_function, embedding.body_of,
--        embedding.match_function_name, embedding.match_functions;

-- The match functions that watch_embeddings created, known by their comment and their owner: other roles can give
-- their functions the same comment.
create function embedding.match_functions()
returns table (target_id integer, routine regprocedure, schema_name name, name name)
language sql
stable
set search_path = '', pg_temp
as $$
    select (regexp_match(comment.description, '^Of embedding target (\d+):'))[1]::integer,
           written.oid::regprocedure, namespace.nspname, written.proname
      from pg_description as comment
      join pg_proc as written on written.oid = comment.objoid
      join pg_namespace as namespace on namespace.oid = written.pronamespace
     where comment.classoid = 'pg_proc'::regclass and comment.description ~ '^Of embedding target \d+:'
       and embedding.is_ours(written.oid::regprocedure);
$$;

-- The name of the match function of a target: `match_<table>`, or `match_<table>_<column>` if another column of the
-- table has that name already. An existing one keeps its name. Raises if a function of someone else has the
-- name.
create function embedding.match_function_name(target public.embedding_targets)
returns name
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    schema_of_table constant name := (parse_ident(target.relation))[1];
    short constant name := 'match_' || (parse_ident(target.relation))[2];
    long constant name := short || '_' || target.embedding_column;
    chosen name;
begin
    select case when bool_or(ours.name = short and ours.target_id <> target.id)
                  or bool_or(ours.name = long and ours.target_id = target.id) then long
                else short end
      into chosen
      from embedding.match_functions() as ours
     where ours.schema_name = schema_of_table;
    if exists (
        select from pg_proc as other
          join pg_namespace as namespace on namespace.oid = other.pronamespace
         where namespace.nspname = schema_of_table and other.proname = chosen
           and other.oid not in (select ours.routine from embedding.match_functions() as ours
                                  where ours.target_id = target.id)
    ) then
        raise exception 'there is a function %.% already, which is not of this column',
                        quote_ident(schema_of_table), quote_ident(chosen)
            using errcode = 'duplicate_function',
                  hint = 'Rename that function, or watch the column without match_function.';
    end if;
    return chosen;
end $$;

-- The body of a function, as a block in a match function: callers of those have no rights on this schema.
create function embedding.body_of(routine regproc)
returns text
language sql
stable
set search_path = '', pg_temp
as $$ select btrim(prosrc, E' \n') || ';' from pg_proc where oid = routine $$;

-- Creates the function that returns the rows nearest to a vector, and those that have the words of a query, by their keys,
-- with their text (null if it cannot be read) and their cosine similarity, in the form of Supabase's guides. It runs
-- with the rights of its caller, so grants and row level security of the table apply.
create function embedding.write_match_function(target public.embedding_targets, function_name name)
returns regprocedure
language plpgsql
set search_path = '', pg_temp
as $$
declare
    qualified_name constant text := format('%I.%I', (parse_ident(target.relation))[1], function_name);
    bare_name constant name := (parse_ident(target.relation))[2];
    vector_type constant text := (
        select format_type(atttypid, null) from pg_attribute
         where attrelid = target.relation::regclass and attname = target.embedding_column);
    outputs text;  -- id bigint
    matched text;  -- docs.id = eq_found.id
    assigned text; -- id := eq_found.id;
begin
    if target.chunk_format is not null then
        return embedding.write_passage_match_function(target, function_name);
    end if;
    select string_agg(format('%I %s', attname, format_type(atttypid, null)), ', ' order by place),
           string_agg(format('%1$I.%2$I = eq_found.%2$I', bare_name, attname), ' and ' order by place),
           string_agg(format('%1$I := eq_found.%1$I;', attname), ' ' order by place)
      into outputs, matched, assigned
      from unnest(target.key_columns) with ordinality as key (name, place)
      join pg_attribute on attrelid = target.relation::regclass and attname = key.name;

    execute format(
        'create or replace function %s(query_embedding %s, match_count integer default 10, '
        'match_threshold double precision default -1, query_text text default null, '
        'full_text_weight double precision default 1, rrf_k integer default 50, filter jsonb default null) '
        'returns table (%s, content text, similarity double precision, '
        'score double precision, vector_rank integer, text_rank integer) '
        'language plpgsql stable set search_path = '''', pg_temp set jit = off set work_mem = ''64MB'' '
        'set synchronize_seqscans = off as %L',
        qualified_name, vector_type, outputs,
        format($body$
#variable_conflict use_column
declare
    eq_relation constant regclass := %1$L;
    eq_column constant name := %9$L;
    eq_conditions text;
    eq_statement text := %2$L;
    eq_uses_index boolean;
    eq_scan constant text := current_setting('hnsw.iterative_scan', true);
    eq_found record;
begin
    %3$s
    if query_text is not null and coalesce(full_text_weight, 1) > 0 then
        %4$s
    end if;
    perform set_config('hnsw.iterative_scan', 'strict_order', true) where eq_scan is not null;
    for eq_found in
        execute replace(eq_statement, '/* eq_filter */', eq_conditions)
          using query_embedding, coalesce(match_count, 10), coalesce(match_threshold, -1), query_text,
                coalesce(full_text_weight, 1), coalesce(rrf_k, 50), false, eq_uses_index
    loop
        begin
            select (%5$s)::text into content from %6$s where %7$s;
        exception when others then
            content := null; -- has become unreadable since: one such row must not hide the others
        end;
        %8$s
        similarity := 1 - eq_found.eq_distance;
        score := eq_found.eq_score;
        vector_rank := eq_found.eq_vector_rank;
        text_rank := eq_found.eq_text_rank;
        return next;
    end loop;
    perform set_config('hnsw.iterative_scan', eq_scan, true) where eq_scan is not null;
end $body$,
            target.relation, embedding.vector_sql(target),
            embedding.body_of('embedding.check_search') || E'\n    ' || embedding.body_of('embedding.filter_sql'),
            embedding.match_words_sql(target), target.source, target.relation, matched, assigned,
            target.embedding_column));
    return format('%s(%s, integer, double precision, text, double precision, integer, jsonb)',
                  qualified_name, vector_type)::regprocedure;
end $$;

-- What a match function does when it gets words: it takes the other statement, if the target has a language.
create function embedding.match_words_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    stored constant public.embedding_targets := embedding.as_stored(target);
begin
    return case when target.language is null then format(
        $sql$raise exception '%%', %L using errcode = 'invalid_parameter_value', hint = %L;$sql$,
        format('column %s of table %s is not set up for full text', target.embedding_column, target.table_name),
        format('Run `worker watch %s --column %s --hybrid`, or search without words.',
               target.table_name, target.embedding_column))
    else format(
        $sql$eq_uses_index := %s;
        eq_statement := %L;$sql$, embedding.uses_full_text_index_sql(stored),
        case when target.chunk_format is null then embedding.hybrid_sql(target)
             else embedding.passages_sql(target, embedding.hybrid_sql(stored)) end) end;
end $$;

-- Creates the match function of a target (true), drops it (false), or keeps an existing one in step with the target
-- (null). Grants on it stay, unless the types of its key or its vectors change.
create function embedding.keep_match_function(target public.embedding_targets, wanted boolean)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    before regprocedure := (select routine from embedding.match_functions() where target_id = target.id);
    written regprocedure;
    function_name name;
    reserved_name text;
begin
    if not coalesce(wanted, before is not null) then
        if before is not null then
            execute format('drop function %s', before);
        end if;
        return;
    end if;
    select name into reserved_name from unnest(target.key_columns) as key (name)
     where name in ('content', 'similarity', 'score', 'vector_rank', 'text_rank', 'query_embedding', 'match_count',
                    'match_threshold', 'query_text', 'full_text_weight', 'rrf_k', 'filter', 'per_document', 'page',
                    'heading_path', 'first_char', 'last_char');
    if reserved_name is not null then
        raise exception 'table % cannot have a match function: its key has a column %', target.table_name, reserved_name
            using errcode = 'duplicate_column',
                  hint = 'The function itself gives that name to something else: use search_embeddings.';
    end if;

    function_name := embedding.match_function_name(target);
    begin
        written := embedding.write_match_function(target, function_name);
    exception when invalid_function_definition then -- its key had other types
        execute format('drop function %s', before);
        before := null;
        written := embedding.write_match_function(target, function_name);
    end;
    if before <> written then
        execute format('drop function %s', before);
    end if;
    execute format('comment on function %s is %L', written, format(
        'Of embedding target %s: the rows of %s nearest to a vector. Written by watch_embeddings, which overwrites it.',
        target.id, target.table_name));
end $$;

select embedding.protect_functions(
    'embedding.match_functions', 'embedding.match_function_name', 'embedding.body_of', 'embedding.write_match_function',
    'embedding.match_words_sql', 'embedding.keep_match_function');
