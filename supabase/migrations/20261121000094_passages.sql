-- Why:   a person sees the passages of a text in chunks, and the words of one only on request, which is recorded.
-- Locks: an ACCESS SHARE lock on the watched table and its side tables, for the length of a call.
-- Undo:  drop function public.reveal_embedding_passage, public.embedding_passages, embedding.open_passages;

-- The target in chunks of a column. Raises if it is embedded as a whole.
create function embedding.open_passages(watched_table text, embedding_column text)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
begin
    if target.chunk_format is null then
        raise exception 'column % of table % is embedded as a whole', target.embedding_column, target.table_name
            using errcode = 'invalid_parameter_value', hint = 'Only texts in chunks have passages.';
    end if;
    return target;
end $$;

-- The passages of a text in chunks that a search finds, after a position: at most `max_rows`, 500 at most, without their words.
-- `hash` is that of the chunk, and of what the model got for it; unless it `has_vector`, its chunk is missing.
create function public.embedding_passages(
    watched_table text, embedding_column text, record_id text, after_position integer default null, max_rows integer default 50
)
returns table (
    "position" integer, first_char integer, last_char integer, page integer, heading_path text, hash bytea,
    characters integer, has_vector boolean
)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    target constant public.embedding_targets := embedding.open_passages(watched_table, embedding_column);
begin
    return query execute format($sql$
        select %1$I.position, %1$I.first_char, %1$I.last_char, %1$I.page, %1$I.heading_path, %1$I.hash,
               %1$I.last_char - %1$I.first_char, exists (select from %4$s where %5$s and %6$I.hash = %1$I.hash offset 0)
          from (select $1 as eq_record) as eq_asked cross join %2$s
         where %3$s and %1$I.position > $2
         order by %1$I.position limit $3$sql$,
        (parse_ident(target.places_relation))[2], target.places_relation,
        embedding.record_match_sql(target.places_relation::regclass, target.key_columns), target.chunks_relation,
        embedding.record_match_sql(target.chunks_relation::regclass, target.key_columns),
        (parse_ident(target.chunks_relation))[2])
    using record_id, coalesce(after_position, -1), least(max_rows, 500);
exception
    when data_exception then -- this is no key of the table, so there is no such text
        return;
end $$;

-- The words of a passage, at most 20,000 characters of it; null if there is no such passage. That somebody looked is recorded.
create function public.reveal_embedding_passage(
    watched_table text, embedding_column text, record_id text, at_position integer, source text default 'sql'
)
returns text
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    most_characters constant integer := 20000;
    target constant public.embedding_targets := embedding.open_passages(watched_table, embedding_column);
    wanted bytea;
    words text;
begin
    select passage.hash into wanted
      from public.embedding_passages(
               watched_table, embedding_column, record_id, at_position - 1, 1) as passage
     where passage."position" = at_position;
    if wanted is null then
        return null;
    end if;
    execute format(
        'select left(%1$I.content, $3) from (select $1 as eq_record) as eq_asked cross join %2$s where %3$s and %1$I.hash = $2',
        (parse_ident(target.chunks_relation))[2], target.chunks_relation,
        embedding.record_match_sql(target.chunks_relation::regclass, target.key_columns))
       into words
      using record_id, wanted, most_characters;
    perform embedding.audit(
        'text_revealed', target.table_name, target.embedding_column, source,
        jsonb_build_object('record_id', left(record_id, 200), 'position', at_position));
    return words;
end $$;

select embedding.protect_functions('embedding.open_passages');
select embedding.let_workers_call('public.embedding_passages', 'public.reveal_embedding_passage');
