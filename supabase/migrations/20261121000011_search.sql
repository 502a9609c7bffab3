-- Why:   the point of it all: the rows nearest to a vector.
-- Locks: nothing.
-- Undo:  drop function public.search_embeddings;

select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The rows of a watched column nearest to `query` by cosine distance (0 the same direction, 1
-- unrelated, 2 opposite), nearest first, with the text they were found by. Runs with the rights of
-- the caller, so grants and row level security of the table apply.
create function public.search_embeddings(
    watched_table text, embedding_column text, query vector, matches integer default 5
)
returns table (record_id text, content text, distance double precision)
language plpgsql
stable
set search_path = ''
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
    return query execute format(
        'select %1$s, (%2$s)::text, (%3$I.%4$I operator(%5$s.<=>) $1)::double precision '
        '  from %6$s where %3$I.%4$I is not null and (%7$s) '
        ' order by %3$I.%4$I operator(%5$s.<=>) $1 limit $2',
        target.record_id_sql, target.source, (parse_ident(target.relation))[2], target.embedding_column,
        (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
        target.relation, coalesce(target.filter, 'true'))
    using query, matches;
end $$;
