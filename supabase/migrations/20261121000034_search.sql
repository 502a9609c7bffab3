-- Why:   people and apps find rows by the meaning of some words and, where a column has a language, by the words
--        themselves. The statements are written here once, for search_embeddings and for the match functions.
-- Locks: nothing.
-- Undo:  drop function public.search_embeddings, public.embedding_index_statements, embedding.drop_full_text_index,
--        embedding.full_text_indexes, embedding.full_text_index_name, embedding.uses_full_text_index_sql,
--        embedding.filter_sql, embedding.hybrid_sql, embedding.text_ranks_sql, embedding.vector_sql,
--        embedding.nearest_sql, embedding.keys_sql, embedding.distance_sql;
--
-- The statements have parameters: $1 the vector of the query, $2 how many rows, $3 the least similarity, $4 the words
-- of the query, $5 the weight of full text, $6 the constant of the fusion, $7 true: compare all vectors, $8 whether an
-- index over the words can be used. They return the keys with eq_record, eq_distance, eq_score, eq_vector_rank and
-- eq_text_rank. The conditions of a caller (embedding.filter_sql) take the place of /* eq_filter */. They are planned
-- at each call, with the values of their parameters.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The cosine distance of a row (0 the same direction, 1 unrelated, 2 opposite). One type on both sides: for two types,
-- an operator of another role could be the best match.
create function embedding.distance_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('%I.%I operator(%s.<=>) $1::%s', (parse_ident(target.relation))[2], target.embedding_column,
                  (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                  format_type(atttypid, null))
      from pg_attribute
     where attrelid = target.relation::regclass and attname = target.embedding_column;
$$;

-- The key columns of a row, as a statement selects them.
create function embedding.keys_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select string_agg(format('%I.%I', (parse_ident(target.relation))[2], name), ', ' order by place)
      from unnest(target.key_columns) with ordinality as key (name, place);
$$;

-- The part of a statement that finds the nearest `rows`, eq_near (eq_record, eq_distance). An index may return fewer rows
-- than there are, since row-level security and filters apply to what it returns. If it returns fewer than are asked
-- for, all vectors are compared: no index serves an order by a sum.
create function embedding.nearest_sql(target public.embedding_targets, rows text)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$
eq_indexed as materialized (
    select %1$s as eq_record, %2$s as eq_distance
      from %3$s
     where not $7 and $1 is not null and (%4$s) /* eq_filter */
     order by %2$s limit %5$s
), eq_near as materialized (
    select * from eq_indexed where (select count(*) from eq_indexed) >= $2
    union all
    (select %1$s, %2$s
       from %3$s
      where (select count(*) from eq_indexed) < $2 and $1 is not null and (%4$s) /* eq_filter */
      order by (%2$s) + 0 limit %5$s)
)$sql$,
        target.record_id_sql, embedding.distance_sql(target), target.relation, coalesce(target.filter, 'true'), rows);
$$;

-- The statement that finds the rows nearest to a vector. It orders by the operator itself, so that it can use an index
-- over the column.
create function embedding.vector_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$
with %1$s
select eq_record, %2$s, eq_distance,
       null::double precision as eq_score, null::integer as eq_vector_rank, null::integer as eq_text_rank
  from eq_near join %3$s on %4$s
 where eq_distance <= 1 - $3
 order by eq_distance$sql$,
        embedding.nearest_sql(target, '$2'), embedding.keys_sql(target), target.relation, target.record_match_sql);
$$;

-- The part of a statement that ranks rows by the words of the query, eq_matched (eq_record, eq_rank), by BM25: the sum
-- over the words of the query of how rare a word is (its inverse document frequency) times how often the row has it,
-- which counts less with each time and in a long text. The constants are the usual ones, k1 = 1.2 and b = 0.75.
--
-- An index gives the rows of each word, but not how often each row has it: for that the text is parsed again, which
-- takes a tenth of a millisecond for a hundred words. So the index chooses candidates: the rows with the largest sum
-- of rare words, and the nearest rows. Of a word in more than 10,000 rows only the first 10,000 of the table are
-- read, whose last place tells how many there are in all; such words choose a candidate only where no rarer one
-- does. Under row-level security no index over words may be used, since it would show which words hidden rows have:
-- then all visible rows are candidates, or if they are more than 5,000, the nearest 1,000.
create function embedding.text_ranks_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$
eq_word as materialized (
    select lexeme as eq_lexeme, ('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''')::tsquery as eq_query
      from unnest(to_tsvector(%6$L::regconfig, translate(left($4, 100000), '-/', '  ')))
     order by cardinality(positions) desc, positions[1]
     limit 32
), eq_hit as materialized (
    select eq_lexeme, eq_first.*
      from eq_word
     cross join lateral (select %1$s as eq_record, ctid as eq_place from %3$s
                          where %5$s @@ eq_query and (%4$s) /* eq_filter */ limit 10000) as eq_first
     where $8
), eq_first as materialized (
    select null as eq_lexeme, ctid as eq_place from %3$s where (%4$s) /* eq_filter */ limit 10000
), eq_frequency as materialized (
    select eq_lexeme, eq_rows, case when eq_rows < 10000 then eq_rows
                else greatest(eq_rows, eq_rows * (pg_relation_size(%7$L) / current_setting('block_size')::integer)
                                               / ((eq_last::text::point)[0] + 1)) end as eq_estimate
      from (select eq_lexeme, count(*) as eq_rows, max(eq_place) as eq_last
              from (select eq_lexeme, eq_place from eq_hit union all select * from eq_first) as eq_read
             group by eq_lexeme) as eq_counted
), eq_rarity as materialized (
    select eq_one.eq_lexeme, eq_one.eq_rows < 10000 as eq_is_rare,
           ln(1 + (greatest(eq_every.eq_estimate - eq_one.eq_estimate, 0) + 0.5) / (eq_one.eq_estimate + 0.5)) as eq_idf
      from eq_frequency as eq_one join eq_frequency as eq_every on eq_every.eq_lexeme is null
     where eq_one.eq_lexeme is not null
), eq_candidate as materialized (
    (select eq_record from eq_hit join eq_rarity using (eq_lexeme) group by eq_record
      order by sum(eq_idf) filter (where eq_is_rare) desc nulls last, sum(eq_idf) desc limit greatest($2, 200))
    union
    select eq_record from eq_near
    union
    select %1$s from %3$s
     where not $8 and ($1 is null or (select count(*) from eq_first) < 5000) and (%4$s) /* eq_filter */
), eq_text as materialized (
    select eq_record, %5$s as eq_words from eq_candidate join %3$s on %2$s
), eq_long as materialized (
    select eq_record, eq_words, eq_length / nullif(avg(eq_length) over (), 0) as eq_length, count(*) over () as eq_texts
      from eq_text
     cross join lateral (select sum(cardinality(positions)) as eq_length from unnest(eq_words)) as eq_counted
), eq_term as materialized (
    select eq_record, eq_lexeme, eq_texts,
           cardinality(positions) / (cardinality(positions) + 1.2 * (0.25 + 0.75 * eq_length)) as eq_share
      from eq_long cross join lateral unnest(eq_words) join eq_word on eq_lexeme = lexeme
), eq_matched as materialized (
    select eq_record, row_number() over (order by sum(eq_share * eq_idf) desc, eq_record) as eq_rank
      from eq_term
      join (select eq_lexeme, eq_idf from eq_rarity
            union all
            select eq_lexeme, ln(1 + (max(eq_texts) - count(*) + 0.5) / (count(*) + 0.5)) from eq_term
             where not $8 group by eq_lexeme) as eq_weight using (eq_lexeme)
     group by eq_record
)$sql$,
        target.record_id_sql, target.record_match_sql, target.relation, coalesce(target.filter, 'true'),
        target.full_text, target.language, target.relation);
$$;

-- The statement that ranks rows by their vectors and by their words, and fuses both by reciprocal rank. Words that are
-- in the text of a row find it even if it has no vector yet.
create function embedding.hybrid_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$
with %1$s, %2$s, eq_nearest as (
    select eq_record, row_number() over (order by eq_distance) as eq_rank from eq_near where eq_distance <= 1 - $3
), eq_fused as (
    select eq_record, eq_nearest.eq_rank as eq_vector_rank, eq_matched.eq_rank as eq_text_rank,
           coalesce(1.0::double precision / ($6 + eq_nearest.eq_rank), 0) + coalesce($5 / ($6 + eq_matched.eq_rank), 0) as eq_score
      from eq_nearest full join eq_matched using (eq_record)
     order by eq_score desc, eq_text_rank limit $2
)
select eq_record, %3$s, %4$s as eq_distance, eq_score,
       eq_vector_rank::integer as eq_vector_rank, eq_text_rank::integer as eq_text_rank
  from eq_fused join %5$s on %6$s
 order by eq_score desc, eq_text_rank$sql$,
        embedding.nearest_sql(target, 'case when $8 then greatest($2, 100) else greatest($2, 1000) end'),
        embedding.text_ranks_sql(target), embedding.keys_sql(target), embedding.distance_sql(target), target.relation,
        target.record_match_sql);
$$;

-- The conditions of a filter like {"tenant_id": 5, "lang": ["en", "de"]}, to be added to a WHERE. Values have the type
-- of their column, so that indexes over it can be used. The match functions contain the body of this one, since
-- their callers have no rights on this schema.
create function embedding.filter_sql(eq_relation regclass, filter jsonb, out eq_conditions text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    eq_bare_name constant name := (select relname from pg_class where oid = eq_relation);
    eq_given constant jsonb := case jsonb_typeof(filter) when 'string' then (filter #>> '{}')::jsonb -- as some clients
                                                         when 'null' then null else filter end;     -- send an object
    eq_name text;
    eq_value jsonb;
    eq_type text;
begin
    eq_conditions := '';
    for eq_name, eq_value in select key, value from jsonb_each(eq_given) loop
        select format_type(atttypid, -1) into eq_type
          from pg_attribute
         where attrelid = eq_relation and attname = eq_name and attnum > 0 and not attisdropped;
        if eq_type is null then
            raise exception 'the filter names a column % that table % does not have', eq_name, eq_relation
                using errcode = 'invalid_parameter_value',
                      hint = 'A filter is an object of columns and values, like {"tenant_id": 5, "lang": ["en", "de"]}.';
        end if;
        eq_conditions := eq_conditions || case jsonb_typeof(eq_value)
            when 'null' then format(' and %I.%I is null', eq_bare_name, eq_name)
            when 'array' then format(' and %I.%I = any (%L::%s[])', eq_bare_name, eq_name,
                                     array(select jsonb_array_elements_text(eq_value)), eq_type)
            else format(' and %I.%I = %L::%s', eq_bare_name, eq_name, eq_value #>> '{}', eq_type) end;
    end loop;
end $$;

-- Whether a search of the caller may use an index over the words of a target: the index is there, and no row-level
-- security applies to the caller, under which Postgres does not use it. As SQL, for the match functions.
create function embedding.uses_full_text_index_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select format($sql$not row_security_active(%1$L) and exists (
        select from pg_index where indrelid = %1$L::regclass and indisvalid and indpred is null
                               and pg_get_indexdef(indexrelid, 1, false) = %2$L)$sql$,
        target.relation, target.full_text);
$$;

-- The name of the index over the words of a target: `<table>_<column>_full_text`.
create function embedding.full_text_index_name(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when octet_length(long) <= 63 then long
                else left(long, 20) || '_' || left(md5(long), 10) || '_full_text' end -- 4 bytes a character at most
      from format('%s_%s_full_text', (parse_ident(target.relation))[2], target.embedding_column) as long;
$$;

-- The indexes of a target over its words: those that fit, and one under the name of ours.
create function embedding.full_text_indexes(target public.embedding_targets)
returns table (index regclass, fits boolean, is_ours boolean, is_usable boolean)
language sql
stable
set search_path = '', pg_temp
as $$
    select found.index, found.fits, found.is_ours, found.is_usable
      from (select index.indexrelid::regclass as index,
                   index.indpred is null and coalesce(pg_get_indexdef(index.indexrelid, 1, false) = target.full_text, false) as fits,
                   class.relname = embedding.full_text_index_name(target) as is_ours,
                   index.indisvalid or exists (
                       select from pg_stat_progress_create_index as build
                        where build.index_relid = index.indexrelid) as is_usable
              from pg_index as index
              join pg_class as class on class.oid = index.indexrelid
              join pg_am as method on method.oid = class.relam
             where index.indrelid = to_regclass(target.relation) and method.amname = 'gin') as found
     where found.fits or found.is_ours;
$$;

-- Drops our index over the words of a target, unless it still fits after a change.
create function embedding.drop_full_text_index(before public.embedding_targets, full_text text default null)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    ours regclass;
begin
    if before.full_text is distinct from drop_full_text_index.full_text then
        for ours in select index from embedding.full_text_indexes(before) where fits and is_ours loop
            execute format('drop index %s', ours);
        end loop;
    end if;
end $$;

-- The statements that build the index over the words of a column, in their order; none if it has one or needs none.
-- They drop an index of its name that does not fit, or whose build was interrupted. They block no writers, unless
-- `blocks_writers`, without which they cannot run within a transaction.
create function public.embedding_index_statements(
    watched_table text, embedding_column text, blocks_writers boolean default false
)
returns setof text
language sql
stable
set search_path = '', pg_temp
as $$
    select wanted.statement
      from public.embedding_targets as target
      join pg_class as class on class.oid = to_regclass(target.relation)
     cross join lateral (select case when class.relkind = 'r' and not blocks_writers then ' concurrently ' else ' ' end) as build (how)
     cross join lateral (
           select 1, 'drop index' || how || ours.index from embedding.full_text_indexes(target) as ours where ours.is_ours
            union all
           select 2, format('create index%s%I on %s using gin (%s)', how, embedding.full_text_index_name(target),
                            target.relation, target.full_text)) as wanted (place, statement)
     where target.table_name = watched_table and target.embedding_column = embedding_index_statements.embedding_column
       and target.language is not null
       and not exists (select from embedding.full_text_indexes(target) as fitting where fitting.fits and fitting.is_usable)
     order by wanted.place;
$$;

-- The rows of a watched column nearest to `query` by cosine distance, nearest first, with their text (null if it cannot
-- be read). With `query_text`, in a column that has a language, also those that have its words, best first; without
-- `query` only those. The arguments are those of the match functions (embedding.write_match_function). Runs with the
-- rights of the caller, so grants and row level security of the table apply. With the `model` that made `query`, raises
-- if the column holds vectors of another one. `exact` compares all vectors, without an index.
create function public.search_embeddings(
    watched_table text, embedding_column text, query vector, matches integer default 5, model text default null,
    query_text text default null, full_text_weight double precision default 1, rrf_k integer default 50,
    filter jsonb default null, exact boolean default false
)
returns table (
    record_id text, content text, distance double precision,
    score double precision, vector_rank integer, text_rank integer
)
language plpgsql
stable
set search_path = '', pg_temp
set jit = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    identity_problem text;
    uses_words constant boolean := query_text is not null and full_text_weight > 0;
    uses_index boolean;
    scan constant text := current_setting('hnsw.iterative_scan', true);
    found_one record;
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = watched_table
       and watched.embedding_column = search_embeddings.embedding_column;
    identity_problem := embedding.identity_problem(target);
    if identity_problem is not null then
        raise exception using errcode = 'undefined_object', message = identity_problem;
    elsif target.id is null then
        raise exception 'column % of table % is not watched', search_embeddings.embedding_column, watched_table
            using errcode = 'undefined_object',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    elsif target.model <> search_embeddings.model then
        raise exception 'column % of table % holds vectors of %, not of %',
                        target.embedding_column, target.table_name, target.model, search_embeddings.model
            using errcode = 'invalid_parameter_value',
                  hint = format('Embed the query with %s.', target.model);
    elsif uses_words and target.language is null then
        raise exception 'column % of table % is not set up for full text', target.embedding_column, target.table_name
            using errcode = 'invalid_parameter_value',
                  hint = format('Run `worker watch %s --column %s --hybrid`, or search without words.',
                                target.table_name, target.embedding_column);
    end if;
    if has_schema_privilege('embedding', 'usage') then -- the owner, a superuser, service_role
        perform embedding.check_table(target.relation);
    end if;
    if uses_words then
        execute 'select ' || embedding.uses_full_text_index_sql(target) into uses_index;
    end if;
    perform set_config('hnsw.iterative_scan', 'strict_order', true) where scan is not null;
    for found_one in
        execute replace(case when uses_words then embedding.hybrid_sql(target) else embedding.vector_sql(target) end,
                        '/* eq_filter */', embedding.filter_sql(target.relation, filter))
        using query, coalesce(matches, 5), -1::double precision, query_text, full_text_weight,
              greatest(coalesce(rrf_k, 50), 0), exact, uses_index
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

select embedding.protect_functions(
    'public.search_embeddings', 'embedding.distance_sql', 'embedding.keys_sql', 'embedding.nearest_sql',
    'embedding.vector_sql', 'embedding.text_ranks_sql', 'embedding.hybrid_sql', 'embedding.filter_sql',
    'embedding.uses_full_text_index_sql', 'embedding.full_text_index_name', 'embedding.full_text_indexes',
    'embedding.drop_full_text_index', 'public.embedding_index_statements');
select embedding.grant_to('service_role', 'execute on function '
    'embedding.distance_sql, embedding.keys_sql, embedding.nearest_sql, embedding.vector_sql, embedding.text_ranks_sql, '
    'embedding.hybrid_sql, embedding.filter_sql, embedding.uses_full_text_index_sql, public.search_embeddings');
