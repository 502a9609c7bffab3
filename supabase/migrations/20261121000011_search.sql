-- Why:   the point of it all: the rows nearest to a vector.
-- Locks: nothing.
-- Undo:  drop function public.search_embeddings;

select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The rows of a watched column nearest to `query` by cosine distance (0 the same direction, 1
-- unrelated, 2 opposite), nearest first, with their text (null if it cannot be read). Runs with the
-- rights of the caller, so grants and row level security of the table apply.
create function public.search_embeddings(
    watched_table text, embedding_column text, query vector, matches integer default 5
)
returns table (record_id text, content text, distance double precision)
language plpgsql
stable
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = watched_table
       and watched.embedding_column = search_embeddings.embedding_column;
    if target.id is null then
        raise exception 'column % of table % is not watched', search_embeddings.embedding_column, watched_table
            using errcode = 'undefined_object',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    end if;
    for record_id, distance in
        execute format(
            'select %1$s, (%2$I.%3$I operator(%4$s.<=>) $1)::double precision '
            '  from %5$s where %2$I.%3$I is not null and (%6$s) '
            ' order by %2$I.%3$I operator(%4$s.<=>) $1 limit $2',
            target.record_id_sql, (parse_ident(target.relation))[2], target.embedding_column,
            (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
            target.relation, coalesce(target.filter, 'true'))
        using query, matches
    loop
        begin
            execute format('select (%s)::text from (select $1 as eq_record) as eq_found, %s where %s',
                           target.source, target.relation, target.record_match_sql)
               into content using record_id;
        exception when data_exception or cardinality_violation or plpgsql_error or external_routine_exception then
            content := null; -- edited into something unreadable since: one such row must not hide the others
        end;
        return next;
    end loop;
end $$;
