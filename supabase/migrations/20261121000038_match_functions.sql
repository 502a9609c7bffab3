-- Why:   an app searches a watched table through a function of its own, `match_<table>`.
-- Locks: nothing.
-- Undo:  watch_embeddings(..., match_function => false) for each target, then drop function embedding.follow_model cascade;
--        drop function embedding.keep_match_function, embedding.match_statement_sql, embedding.match_words_sql,
--        embedding.match_statement,--        embedding.match_store_sql, embedding.write_match_function, embedding.body_of, embedding.match_function_name, embedding.match_functions;
--
-- A column that has two targets, while it is re-embedded, still has one function. It knows both targets, and is
-- overwritten when the other one begins to serve.

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

-- The name of the match function of a serving target: `match_<table>`, or `match_<table>_<column>` if another column of the
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
    long constant name := short || '_' || coalesce(target.serves, target.embedding_column);
    stores constant integer[] := array(select id from embedding.stores_of(target));
    chosen name;
begin
    select case when bool_or(ours.name = short and ours.target_id <> all (stores))
                  or bool_or(ours.name = long and ours.target_id = any (stores)) then long
                else short end
      into chosen
      from embedding.match_functions() as ours
     where ours.schema_name = schema_of_table;
    if exists (
        select from pg_proc as other
          join pg_namespace as namespace on namespace.oid = other.pronamespace
         where namespace.nspname = schema_of_table and other.proname = chosen
           and other.oid not in (select ours.routine from embedding.match_functions() as ours
                                  where ours.target_id = any (stores))
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
-- with the rights of its caller, so grants and row level security of the table apply. `vector_type` is that of its first
-- parameter: the vectors themselves may have the other one.
create function embedding.write_match_function(target public.embedding_targets, function_name name, vector_type text)
returns regprocedure
language plpgsql
set search_path = '', pg_temp
as $$
declare
    qualified_name constant text := format('%I.%I', (parse_ident(target.relation))[1], function_name);
    bare_name constant name := (parse_ident(target.relation))[2];
    outputs text;  -- id bigint
    matched text;  -- docs.id = eq_found.id
    assigned text; -- id := eq_found.id;
begin
    if target.chunk_format is not null then
        return embedding.write_passage_match_function(target, function_name, vector_type);
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
        'full_text_weight double precision default 1, rrf_k integer default 50, filter jsonb default null, '
        'model text default null) '
        'returns table (%s, content text, similarity double precision, '
        'score double precision, vector_rank integer, text_rank integer) '
        'language plpgsql stable set search_path = '''', pg_temp set jit = off set work_mem = ''64MB'' '
        'set synchronize_seqscans = off as %L',
        qualified_name, vector_type, outputs,
        format($body$
#variable_conflict use_column
declare
    eq_relation constant regclass := %1$L;
    eq_store record;
    eq_conditions text;
    eq_statement text;
    eq_uses_index boolean;
    eq_scan constant text := current_setting('hnsw.iterative_scan', true);
    eq_found record;
begin
    %2$s
    %3$s
    perform set_config('hnsw.iterative_scan', 'strict_order', true) where eq_scan is not null;
    for eq_found in
        execute eq_statement
          using query_embedding, coalesce(match_count, 10), coalesce(match_threshold, -1), query_text,
                coalesce(full_text_weight, 1), coalesce(rrf_k, 50), false, eq_uses_index
    loop
        begin
            select (%4$s)::text into content from %1$s where %5$s;
        exception when others then
            content := null; -- has become unreadable since: one such row must not hide the others
        end;
        %6$s
        similarity := 1 - eq_found.eq_distance;
        score := eq_found.eq_score;
        vector_rank := eq_found.eq_vector_rank;
        text_rank := eq_found.eq_text_rank;
        return next;
    end loop;
    perform set_config('hnsw.iterative_scan', eq_scan, true) where eq_scan is not null;
end $body$,
            target.relation, embedding.match_store_sql(target), embedding.match_statement_sql(target), target.source, matched,
            assigned));
    return format('%s(%s, integer, double precision, text, double precision, integer, jsonb, text)',
                  qualified_name, vector_type)::regprocedure;
end $$;

-- How a match function chooses what it searches, eq_store, as embedding.find_searched does.
create function embedding.match_store_sql(target public.embedding_targets)
returns text
language plpgsql -- part of what it calls is created later
stable
set search_path = '', pg_temp
as $$
begin
    return (select format($sql$select eq_known.* into eq_store
      from (values %1$s)
        as eq_known (eq_model, eq_prompted, eq_width, eq_is_serving, eq_relation, eq_column, eq_statement, eq_words, eq_index,
                     eq_unconditional)
     order by (model in (eq_model, eq_prompted)) is true desc, (eq_model <> model) is true,
              (eq_width = cardinality(query_embedding::real[])) is true desc, eq_is_serving desc
     limit 1;
    if model not in (eq_store.eq_model, eq_store.eq_prompted) then
        raise exception 'column %% of table %% holds vectors of %%, not of %%', %2$L, %3$L, eq_store.eq_model, model
            using errcode = 'invalid_parameter_value', hint = format('Embed the query with %%s.', eq_store.eq_model);
    end if;$sql$,
        string_agg(format('(%L, %L, %L::integer, %L::boolean, %L::regclass, %L::name, %L, %L, %L, %L)',
                          store.model, store.model || '#' || store.document_prompt, store.dimensions, store.role = 'serving',
                          stored.relation, stored.embedding_column,
                          embedding.match_statement(store, embedding.vector_sql(store)),
                          case when store.language is not null
                               then embedding.match_statement(store, embedding.hybrid_sql(store)) end,
                          case when store.language is not null
                               then 'select ' || embedding.uses_full_text_index_sql(store) end,
                          embedding.unconditional_sql(store)), ', '),
        coalesce(target.serves, target.embedding_column), target.table_name)
      from embedding.stores_of(target) as store
     cross join lateral embedding.as_stored(store) as stored
     where to_regclass(store.relation) is not null and embedding.identity_problem(store) is null);
end $$;

-- The statement of a search in what is stored for a target, as a match function runs it.
create function embedding.match_statement(target public.embedding_targets, statement text)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return case when target.chunk_format is null then statement else embedding.passages_sql(target, statement) end;
end $$;

-- What a match function does when it gets words: it takes the other statement, if the target has a language.
create function embedding.match_words_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when target.language is null then format(
        $sql$raise exception '%%', %L using errcode = 'invalid_parameter_value', hint = %L;$sql$,
        format('column %s of table %s is not set up for full text', named.embedding_column, target.table_name),
        format('Run `worker watch %s --column %s --hybrid`, or search without words.',
               target.table_name, named.embedding_column))
    else 'eq_statement := eq_store.eq_words; execute eq_store.eq_index into eq_uses_index;' end
      from (select coalesce(target.serves, target.embedding_column)) as named (embedding_column);
$$;

-- The part of a match function that checks its arguments, and makes the statement that it runs, eq_statement.
create function embedding.match_statement_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$eq_statement := eq_store.eq_statement;
    declare eq_relation constant regclass := eq_store.eq_relation; eq_column constant name := eq_store.eq_column; begin
        %1$s
    end;
    %2$s
    if query_text is not null and coalesce(full_text_weight, 1) > 0 then
        %3$s
    end if;
    if eq_conditions = '' then
        eq_statement := replace(eq_statement, eq_store.eq_unconditional, 'true');
    end if;
    eq_statement := replace(eq_statement, '/* eq_filter */', eq_conditions);$sql$,
        embedding.body_of('embedding.check_search'), embedding.body_of('embedding.filter_sql'),
        embedding.match_words_sql(target));
$$;

-- Creates the match function of the column of a target (true), drops it (false), or keeps an existing one in step with its
-- targets (null). It keeps its name, the type of its vectors, and the grants on it unless the types of its key change.
create function embedding.keep_match_function(target public.embedding_targets, wanted boolean)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    serving public.embedding_targets;
    before regprocedure;
    written regprocedure;
    vector_type text;
    function_name name;
    reserved_name text;
begin
    -- of two sessions that write one function, the second would get an error of Postgres
    perform pg_advisory_xact_lock(hashtextextended(format(
        'match function of %s.%s', target.table_name, coalesce(target.serves, target.embedding_column)), 0));
    select * into serving from embedding.stores_of(target) where role = 'serving';
    select routine into before from embedding.match_functions()
     where target_id = target.id or target_id in (select id from embedding.stores_of(target));
    if serving.id is null or not coalesce(wanted, before is not null) then
        if before is not null then
            execute format('drop function %s', before);
        end if;
        return;
    elsif to_regclass(serving.relation) is null or embedding.identity_problem(serving) is not null then
        return; -- its columns cannot be looked up until it is watched again
    end if;
    select name into reserved_name from unnest(serving.key_columns) as key (name)
     where name in ('content', 'similarity', 'score', 'vector_rank', 'text_rank', 'query_embedding', 'match_count',
                    'match_threshold', 'query_text', 'full_text_weight', 'rrf_k', 'filter', 'model', 'per_document', 'page',
                    'heading_path', 'first_char', 'last_char');
    if reserved_name is not null then
        raise exception 'table % cannot have a match function: its key has a column %', serving.table_name, reserved_name
            using errcode = 'duplicate_column',
                  hint = 'The function itself gives that name to something else: use search_embeddings.';
    end if;

    function_name := embedding.match_function_name(serving);
    vector_type := coalesce(
        (select format_type(proargtypes[0], null) from pg_proc where oid = before),
        (select format_type(atttypid, null)
           from embedding.as_stored(serving) as stored
           join pg_attribute on attrelid = stored.relation::regclass and attname = stored.embedding_column));
    begin
        written := embedding.write_match_function(serving, function_name, vector_type);
    exception when invalid_function_definition then -- its key had other types
        execute format('drop function %s', before);
        before := null;
        written := embedding.write_match_function(serving, function_name, vector_type);
    end;
    if before <> written then
        execute format('drop function %s', before);
    end if;
    execute format('comment on function %s is %L', written, format(
        'Of embedding target %s: the rows of %s nearest to a vector. Written by watch_embeddings, which overwrites it.',
        serving.id, serving.table_name));
end $$;

-- Overwrites the match function of a column when its model or prompt is recorded, or changed by hand. Where our owner may not, it stays
-- as it is: a worker records the model, whose vectors must not wait for that.
create function embedding.follow_model()
returns trigger
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if exists (
        select from embedding.match_functions() as ours join pg_proc on pg_proc.oid = ours.routine
         where ours.target_id in (select id from embedding.stores_of(new)) and pg_has_role(proowner, 'usage')
           and has_schema_privilege(pronamespace, 'create')
    ) then
        perform embedding.keep_match_function(new, null);
    end if;
    return null;
end $$;

create trigger embedding_targets_model
    after update of model, document_prompt on public.embedding_targets
    for each row when ((old.model, old.document_prompt) is distinct from (new.model, new.document_prompt))
    execute function embedding.follow_model();

select embedding.protect_functions(
    'embedding.match_functions', 'embedding.match_function_name', 'embedding.body_of', 'embedding.write_match_function',
    'embedding.match_store_sql', 'embedding.match_statement', 'embedding.match_words_sql', 'embedding.match_statement_sql',
    'embedding.keep_match_function', 'embedding.follow_model');
