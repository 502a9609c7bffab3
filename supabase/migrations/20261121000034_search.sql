-- Why:   people and apps find the rows nearest to a vector, by the name of the table.
-- Locks: nothing.
-- Undo:  drop function public.search_embeddings;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- The rows of a watched column nearest to `query` by cosine distance (0 the same direction, 1
-- unrelated, 2 opposite), nearest first, with their text (null if it cannot be read). Runs with the
-- rights of the caller, so grants and row level security of the table apply. With the `model` that made
-- `query`, raises if the column holds vectors of another one.
create function public.search_embeddings(
    watched_table text, embedding_column text, query vector, matches integer default 5, model text default null
)
returns table (record_id text, content text, distance double precision)
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
    end if;
    if has_schema_privilege('embedding', 'usage') then -- the owner, a superuser, service_role
        perform embedding.check_table(target.relation);
    end if;
    -- one type on both sides: for two types, an operator of another role could be the best match
    for record_id, distance in
        execute format(
            'select %1$s, (%2$I.%3$I operator(%4$s.<=>) $1::%7$s)::double precision '
            '  from %5$s where %2$I.%3$I is not null and (%6$s) '
            ' order by %2$I.%3$I operator(%4$s.<=>) $1::%7$s limit $2',
            target.record_id_sql, (parse_ident(target.relation))[2], target.embedding_column,
            (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
            target.relation, coalesce(target.filter, 'true'),
            (select format_type(atttypid, null) from pg_attribute
              where attrelid = target.relation::regclass and attname = target.embedding_column))
        using query, matches
    loop
        begin
            execute format('select (%s)::text from (select $1 as eq_record) as eq_found, %s where %s',
                           target.source, target.relation, target.record_match_sql)
               into content using record_id;
        exception when others then
            content := null; -- has become unreadable since: one such row must not hide the others
        end;
        return next;
    end loop;
end $$;

select embedding.protect_functions('public.search_embeddings');
select embedding.grant_to('service_role', 'execute on function public.search_embeddings');
