-- Why:   people find files by their names and titles before their texts are there, and see what is wrong with them.
-- Locks: nothing.
-- Undo:  drop function public.embedding_file_ids, public.find_embedding_files; drop view public.embedding_file_states;

-- The files with their states:
--   found      its text was not read yet
--   parsing    a worker reads it
--   unread     its text cannot be read: `error_class` and `error_message` say why
--   waiting    its text is read, and not embedded yet, or again
--   searchable its text is found by searches
--   failed     its text cannot be embedded: `error_class` and `error_message` say why
--   missing    the last scans did not find it
create view public.embedding_file_states
with (security_invoker = true)
as
select file.id, folder.name as folder, file.path, file.name, file.size, file.modified_at, file.mime, file.encoding, file.title,
       file.author, file.pages,
       case when file.missing_since is not null then 'missing'
            when parse.status = 'failed' then 'unread'
            when parse.status = 'processing' then 'parsing'
            when parse.status = 'pending' and file.parsed_at is null then 'found'
            when embed.status = 'failed' then 'failed'
            when embed.status in ('completed', 'skipped') and parse.status = 'completed' then 'searchable'
            else 'waiting' end as state,
       case when parse.error_message is not null then parse.error_class else embed.error_class end as error_class,
       coalesce(parse.error_message, embed.error_message) as error_message,
       file.folder_id, file.found_at, file.parsed_at, file.missing_since, file.words
  from public.embedding_files as file
  join public.embedding_folders as folder on folder.id = file.folder_id
  left join public.embedding_queue as parse
    on parse.record_id = file.id::text and parse.table_name = 'embedding_files' and parse.embedding_column = 'content'
  left join public.embedding_queue as embed
    on embed.record_id = file.id::text and embed.table_name = 'embedding_files' and embed.embedding_column = 'embedding';

-- The files whose names, titles or authors have all of these `words`, and whose paths match a regular expression, in these states
-- and this folder, or among these `ids`; each null: any. The best first, by their words, then in the order of their paths. A word
-- also fits those that begin with it.
create function public.find_embedding_files(
    words text default null, path_regex text default null, folder text default null, states text[] default null,
    ids bigint[] default null, max_rows integer default 1000
)
returns setof public.embedding_file_states
language plpgsql
stable
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    query tsquery;
begin
    select string_agg(format('%L:*', lexeme), ' & ')::tsquery into query
      from unnest(to_tsvector('simple', regexp_replace(left(words, 1000), '[^[:alnum:]]+', ' ', 'g')));
    if words is not null and query is null then
        return;
    end if;
    return query
    select file.* from public.embedding_file_states as file
     where (query is null or file.words @@ query)
       and (path_regex is null or file.path ~ path_regex)
       and (find_embedding_files.folder is null or file.folder = find_embedding_files.folder)
       and (find_embedding_files.states is null or file.state = any (find_embedding_files.states))
       and (ids is null or file.id = any (ids))
     order by case when query is not null then ts_rank(file.words, query) end desc, file.folder, file.path
     limit max_rows;
exception when invalid_regular_expression then
    raise exception '%', sqlerrm using errcode = 'invalid_regular_expression', hint = 'Give a regular expression of Postgres.';
end $$;

-- The ids of files whose paths match a regular expression, at most `max_files` of them, as one value: the Data API limits rows.
create function public.embedding_file_ids(path_regex text, max_files integer default 10000)
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return array(select file.id from public.embedding_files as file
                  where file.path ~ path_regex and file.missing_since is null
                  order by file.id limit max_files);
exception when invalid_regular_expression then
    raise exception '%', sqlerrm using errcode = 'invalid_regular_expression', hint = 'Give a regular expression of Postgres.';
end $$;

select embedding.let_workers_read('public.embedding_file_states');
select embedding.let_workers_call('public.find_embedding_files', 'public.embedding_file_ids');
