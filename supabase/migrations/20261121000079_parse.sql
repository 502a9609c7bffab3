-- Why:   a worker claims files of the folders that its host has, and completes them with their texts.
-- Locks: row locks on the claimed jobs, and on the file and the job that are completed, for the length of a call. It waits for
--        none of them.
-- Undo:  drop function public.complete_embedding_file, public.claim_embedding_files, embedding.due_files;

-- Locks up to `batch` due jobs of files in these folders and returns them: first expired leases, then by priority.
create function embedding.due_files(target_id integer, folders uuid[], batch integer)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    ids bigint[];
begin
    ids := array(select job.id from public.embedding_queue as job
                  where job.target_id = due_files.target_id and job.status = 'processing' and job.lease_expires_at <= now()
                    and job.user_id = any (folders)
                  order by job.lease_expires_at limit batch
                    for update skip locked);
    if ids = '{}' then
        ids := array(select job.id from public.embedding_queue as job
                      where job.target_id = due_files.target_id and job.status = 'pending' and job.available_at <= now()
                        and job.available_at < 'infinity' and job.user_id = any (folders)
                      order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at, job.id
                      limit batch
                        for update skip locked);
    end if;
    return ids;
end $$;

-- Claims up to `batch` due files of these folders. Returns a row for each, with its result: those in `processing` are to be
-- parsed and then completed or failed, with their `id`, `lease` and `content_hash`; the others are settled, as for
-- claim_embeddings. Those of a folder come together. No row at all means that nothing is due.
create function public.claim_embedding_files(worker text, folders uuid[], batch integer, lease_for interval)
returns table (
    id bigint, status text, content_hash bytea, lease uuid, attempts smallint, file_id bigint, folder uuid, path text,
    size bigint, stamp text
)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    ids bigint[];
begin
    select * into target from embedding.parsing_target() where enabled and problem is null;
    if target.id is null then
        return;
    end if;
    perform embedding.open_table(target, 'row share');
    ids := embedding.due_files(target.id, folders, batch);
    if ids <> '{}' then
        return query
        select job.id, job.status, job.content_hash, job.lease, job.attempts, file.id, file.folder_id, file.path, file.size,
               file.stamp
          from embedding.claim(target, ids, worker, lease_for, null) as job
          left join public.embedding_files as file on file.id = job.record_id::bigint
         order by file.folder_id, file.path;
    end if;
end $$;

-- Writes what was read from a claimed file and completes its job, if its lease holds and its bytes are those of the claim.
-- `hashes`: the content_hash of the claim, and the SHA-256 of the bytes that were read. Returns null, or why not: as for
-- complete_embeddings. `facts`: {"mime", "encoding", "title", "author", "pages"}.
create function public.complete_embedding_file(
    id bigint, lease uuid, hashes bytea[], content text, facts jsonb
)
returns text
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '100ms'
as $$
#variable_conflict use_variable
declare
    target public.embedding_targets;
    records text[];
begin
    select * into target from embedding.parsing_target();
    if target.id is null then
        return 'lost';
    end if;
    perform embedding.open_table(target, 'row exclusive');
    execute format('select records from embedding.lock_%s($1, $2, $3)', target.id)
       into records using array[id], array[lease], hashes[1:1];
    if records is null then
        return (select refused.reason from embedding.refusals(
                    target, array[id], array[lease], hashes[1:1], target.model) as refused);
    end if;
    if jsonb_typeof(facts) = 'string' then
        facts := facts #>> '{}'; -- some clients of the Data API send JSON as a text within JSON
    end if;
    update public.embedding_files as file
       set content = complete_embedding_file.content, sha256 = hashes[2], mime = facts ->> 'mime',
           encoding = facts ->> 'encoding', title = facts ->> 'title', author = facts ->> 'author',
           pages = (facts ->> 'pages')::integer, parsed_at = now()
     where file.id = records[1]::bigint;
    perform embedding.finish_jobs(
        array[id], array[lease], hashes[1:1], target.model, array[null::integer], array[null::integer],
        array[null::real], array[null::text], array[null::interval], null);
    return null;
end $$;

select embedding.protect_functions('embedding.due_files');
select embedding.let_workers_call('public.claim_embedding_files', 'public.complete_embedding_file');
