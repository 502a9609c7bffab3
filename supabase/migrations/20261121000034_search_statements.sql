-- Why:   people and apps find rows by the meaning of some words and, where a column has a language, by the words
--        themselves. The statements are written here once, for search_embeddings and for the match functions.
-- Locks: nothing.
-- Undo:  drop function embedding.hybrid_sql, embedding.text_ranks_sql, embedding.vector_sql, embedding.nearest_sql,
--        embedding.distance_sql, embedding.unconditional_sql, embedding.conditions_sql;
--
-- The statements have parameters: $1 the vector of the query, $2 how many rows, $3 the least similarity, $4 the words
-- of the query, $5 the weight of full text, $6 the constant of the fusion, $7 true: compare all vectors, $8 whether an
-- index over the words can be used. They return the keys with eq_record, eq_distance, eq_score, eq_vector_rank and
-- eq_text_rank. The conditions of a caller (embedding.filter_sql) take the place of /* eq_filter */; if there are none,
-- `true` takes that of embedding.unconditional_sql before. They are planned at each call, with the values of their
-- parameters. Their functions turn off synchronize_seqscans, with which the first rows of a large table would be others at
-- each call.

-- The conditions on the rows of a table that a search reads for a target: its filter, and those of a caller. Rows of a side
-- table have those of the watched row. The subquery cannot become a join, which would keep an index over the vectors from
-- being used.
create function embedding.conditions_sql(target public.embedding_targets, read_table text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when read_table = target.relation then conditions
                else format('(select true from %s where %s and %s limit 1) is not null', target.relation,
                            embedding.same_key_sql(target, read_table), conditions) end
      from format('(%s) /* eq_filter */', coalesce(target.filter, 'true')) as conditions;
$$;

-- The part of a statement that is always true if the caller of a search gives no conditions: a look into the watched table.
-- Empty if there is no such part.
create function embedding.unconditional_sql(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when embedding.is_column(target) or target.filter is not null then ''
                else embedding.conditions_sql(target, coalesce(target.chunks_relation, target.store_relation)) end;
$$;

-- The cosine distance of a row (0 the same direction, 1 unrelated, 2 opposite). One type on both sides: for two types,
-- an operator of another role could be the best match.
create function embedding.distance_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('%s operator(%s.<=>) $1::%s', embedding.vector_of_sql(target),
                  (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                  format_type(atttypid, null))
      from embedding.as_stored(target) as stored
      join pg_attribute on attrelid = stored.relation::regclass and attname = stored.embedding_column;
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
     where not $7 and $1 is not null and %4$s
     order by %2$s limit %5$s
), eq_near as materialized (
    select * from eq_indexed where (select count(*) from eq_indexed) >= $2
    union all
    (select %1$s, %2$s
       from %3$s
      where (select count(*) from eq_indexed) < $2 and $1 is not null and %4$s
      order by (%2$s) + 0 limit %5$s)
)$sql$,
        stored.record_id_sql, embedding.distance_sql(stored), stored.relation,
        embedding.conditions_sql(target, stored.relation), rows)
      from embedding.as_stored(target) as stored;
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
        embedding.nearest_sql(target, '$2'), embedding.keys_sql(stored), stored.relation, stored.record_match_sql)
      from embedding.as_stored(target) as stored;
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
                          where %5$s @@ eq_query and %4$s limit 10000) as eq_first
     where $8
), eq_first as materialized (
    select null as eq_lexeme, ctid as eq_place from %3$s where %4$s limit 10000
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
      order by sum(eq_idf) filter (where eq_is_rare) desc nulls last, sum(eq_idf) desc limit greatest($2, 100))
    union
    select eq_record from eq_near
    union
    select %1$s from %3$s
     where not $8 and ($1 is null or (select count(*) from eq_first) < 5000) and %4$s
), eq_text as materialized (
    select eq_record, eq_counts, eq_length / nullif(avg(eq_length) over (), 0) as eq_length, count(*) over () as eq_texts
      from eq_candidate join %3$s on %2$s
     cross join lateral (
           select sum(cardinality(positions)) as eq_length,
                  jsonb_object_agg(eq_lexeme, cardinality(positions)) filter (where eq_lexeme is not null) as eq_counts
             from unnest(%5$s) left join eq_word on eq_lexeme = lexeme) as eq_counted
), eq_term as materialized (
    select eq_record, eq_lexeme, eq_texts,
           eq_count::integer / (eq_count::integer + 1.2 * (0.25 + 0.75 * eq_length)) as eq_share
      from eq_text cross join lateral jsonb_each_text(eq_counts) as eq_one (eq_lexeme, eq_count)
), eq_matched as materialized (
    select eq_record, row_number() over (order by sum(eq_share * eq_idf) desc, eq_record) as eq_rank
      from eq_term
      join (select eq_lexeme, eq_idf from eq_rarity
            union all
            select eq_lexeme, ln(1 + (max(eq_texts) - count(*) + 0.5) / (count(*) + 0.5)) from eq_term
             where not $8 group by eq_lexeme) as eq_weight using (eq_lexeme)
     group by eq_record
)$sql$,
        worded.record_id_sql, worded.record_match_sql, worded.relation, embedding.conditions_sql(target, worded.relation),
        worded.full_text, worded.language, worded.relation)
      from embedding.as_worded(target) as worded;
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
        embedding.nearest_sql(target, 'case when $8 then greatest($2, 50) else greatest($2, 1000) end'),
        embedding.text_ranks_sql(target), embedding.keys_sql(worded), embedding.distance_sql(worded), worded.relation,
        worded.record_match_sql)
      from embedding.as_worded(target) as worded;
$$;

select embedding.protect_functions(
    'embedding.conditions_sql', 'embedding.unconditional_sql', 'embedding.distance_sql', 'embedding.nearest_sql',
    'embedding.vector_sql', 'embedding.text_ranks_sql', 'embedding.hybrid_sql');
select embedding.grant_to('service_role', 'execute on function '
    'embedding.is_column, embedding.as_stored, embedding.as_worded, embedding.record_id_sql, embedding.record_match_sql, '
    'embedding.key_values_sql, embedding.key_forms, embedding.keys_sql, embedding.same_key_sql, embedding.vector_of_sql, '
    'embedding.conditions_sql, embedding.unconditional_sql, embedding.distance_sql, embedding.nearest_sql, '
    'embedding.vector_sql, embedding.text_ranks_sql, embedding.hybrid_sql');
