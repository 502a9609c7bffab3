-- Why:   people page through the files in a state, such as those that cannot be read, however many files there are.
-- Locks: writers to embedding_files wait while two indexes are built.
-- Undo:  drop function public.page_embedding_files, embedding.files_to_look_at, embedding.files_of_jobs;
--        drop index embedding_files_missing, embedding_files_of_folder;

create index embedding_files_of_folder on public.embedding_files (folder_id, id);
create index embedding_files_missing on public.embedding_files (id) where missing_since is not null;

-- The files whose jobs show that they may be in a state; null: their jobs are more than `most`, or do not show it.
create function embedding.files_of_jobs(state text, most integer)
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    parse constant integer := (select id from public.embedding_targets
                                where table_name = 'embedding_files' and embedding_column = 'content');
    embed constant integer := (select id from public.embedding_targets
                                where table_name = 'embedding_files' and embedding_column = 'embedding');
    found bigint[];
begin
    if state is null or state in ('searchable', 'missing') then
        return null;
    end if;
    select array_agg(distinct job.record_id::bigint) into found
      from (select record_id from public.embedding_queue
             where status = 'failed' and target_id = case state when 'unread' then parse when 'failed' then embed end
             union all
            select record_id from public.embedding_queue
             where status = 'processing' and target_id = case state when 'parsing' then parse when 'waiting' then embed end
             union all
            select record_id from public.embedding_queue
             where status = 'pending' and available_at < 'infinity'
               and target_id = any (array[case when state in ('found', 'waiting') then parse end,
                                          case state when 'waiting' then embed end])
             union all
            select record_id from public.embedding_queue
             where status = 'pending' and available_at = 'infinity'
               and target_id = any (array[case when state in ('found', 'waiting') then parse end,
                                          case state when 'waiting' then embed end])
             limit most + 1) as job
     where job.record_id ~ '^[0-9]{1,18}$';
    return case when cardinality(found) <= most then found when found is null then '{}' end;
end $$;

-- The ids of the next `most` files that may be in a state and a folder, the latest first.
create function embedding.files_to_look_at(folder uuid, state text, before_id bigint, most integer)
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    of_jobs constant bigint[] := embedding.files_of_jobs(state, most);
    before constant bigint := coalesce(before_id, 9223372036854775807);
begin
    if of_jobs is not null then
        return array(select id from unnest(of_jobs) as id where id < before order by id desc);
    elsif state = 'missing' then
        return array(select id from public.embedding_files where missing_since is not null and id < before
                      order by id desc limit most);
    elsif folder is not null then
        return array(select id from public.embedding_files as file where file.folder_id = folder and id < before
                      order by id desc limit most);
    end if;
    return array(select id from public.embedding_files where id < before order by id desc limit most);
end $$;

-- A page of files, the latest first: their ids, and the `before_id` of the next page, null if there is none. It looks at no more than
-- 1000 files, so a page can be short, or empty, with others after it.
create function public.page_embedding_files(
    only_folder text default null, only_state text default null, before_id bigint default null, max_rows integer default 50
)
returns table (ids bigint[], next_id bigint)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    most constant integer := 1000;
    slice constant integer := 100; -- files whose states are read at once, until the page is full
    folder constant uuid := (select known.id from public.embedding_folders as known where known.name = only_folder);
    looked_at bigint[];
    is_cut boolean;
begin
    if only_folder is not null and folder is null then
        ids := '{}';
        return next;
        return;
    end if;
    looked_at := embedding.files_to_look_at(folder, only_state, before_id, most);
    is_cut := cardinality(looked_at) >= most;
    ids := case when only_state is null then looked_at else '{}' end;
    for looked_to in 0 .. case when only_state is null then -1 else cardinality(looked_at) - 1 end by slice loop
        exit when cardinality(ids) >= max_rows;
        ids := ids || array(
            select file.id from unnest(looked_at[looked_to + 1 : looked_to + slice]) as one (id)
             cross join lateral (select known.id, known.folder_id, known.state from public.embedding_file_states as known
                                  where known.id = one.id) as file
             where file.state = only_state and (folder is null or file.folder_id = folder)
             order by file.id desc);
    end loop;
    ids := ids[1 : max_rows];
    next_id := case when cardinality(ids) = max_rows and (is_cut or ids[max_rows] > looked_at[cardinality(looked_at)])
                    then ids[max_rows]
                    when is_cut then looked_at[most] end;
    return next;
end $$;

select embedding.protect_functions('embedding.files_of_jobs', 'embedding.files_to_look_at');
select embedding.let_workers_call('public.page_embedding_files');
