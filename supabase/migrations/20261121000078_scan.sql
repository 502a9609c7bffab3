-- Why:   a scan compares a folder with the files that are known, and records what differs.
-- Locks: row locks on the folder and on the files that are recorded, for the length of a call.
-- Undo:  drop function public.finish_embedding_scan, public.record_embedding_files, public.known_embedding_files,
--        public.start_embedding_scan, embedding.hold_scan;
--
-- One host scans a folder at a time. The lease ends by itself if that host dies.

-- Begins a scan of a folder, unless another host scans it. Returns the lease, or null.
create function public.start_embedding_scan(folder uuid, lease_for interval)
returns uuid
language sql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    update public.embedding_folders as known
       set scan_lease = gen_random_uuid(), scan_lease_expires_at = clock_timestamp() + lease_for
     where known.id = folder and known.enabled and coalesce(known.scan_lease_expires_at < clock_timestamp(), true)
    returning known.scan_lease;
$$;

-- Locks the folder of a scan and extends its lease. Raises if another host has it now.
create function embedding.hold_scan(folder uuid, lease uuid, lease_for interval)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    update public.embedding_folders as known
       set scan_lease_expires_at = clock_timestamp() + lease_for
     where known.id = folder and known.scan_lease = lease;
    if not found then
        raise exception 'the scan of this folder took too long, and another host may have begun one'
            using errcode = 'data_exception', hint = 'The next scan finds what this one did not record.';
    end if;
end $$;

-- The files of a folder that are known, at most `batch` of them after the file `after_id`, in the order of their ids.
create function public.known_embedding_files(folder uuid, after_id bigint default 0, batch integer default 1000)
returns table (id bigint, path text, size bigint, stamp text, sha256 bytea, is_missing boolean)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select file.id, file.path, file.size, file.stamp, file.sha256, file.missing_since is not null
      from public.embedding_files as file
     where file.folder_id = folder and file.id > after_id
     order by file.id limit batch;
$$;

-- Records files that a scan has found: new ones (`id` null), and known ones under their path, which may be another one than
-- before. `versions` null: the bytes are those that are known. Otherwise their hash is not known until they are parsed: else a
-- file that was given other bytes, and its old ones again, would pass as unchanged. Extends the lease of the scan, and raises if
-- it is lost.
create function public.record_embedding_files(
    folder uuid, lease uuid, lease_for interval, ids bigint[], paths text[], sizes bigint[], modified timestamptz[],
    stamps text[], versions text[]
)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    perform embedding.check_lengths(
        'ids, paths, sizes, modified, stamps and versions',
        array[cardinality(ids), cardinality(paths), cardinality(sizes), cardinality(modified), cardinality(stamps),
              cardinality(versions)], '{}');
    perform embedding.hold_scan(folder, lease, lease_for);
    -- files can have exchanged their names, so first those that had one of these names give it up
    update public.embedding_files as file
       set path = format(e'\x01%s', file.id)
      from unnest(ids, paths) as found (id, path)
     where file.folder_id = folder and file.path = found.path and file.id <> found.id;
    update public.embedding_files as file
       set path = found.path, size = found.size, modified_at = found.modified_at, stamp = found.stamp,
           version = coalesce(found.version, file.version), missing_since = null,
           sha256 = case when found.version is null then file.sha256 end
      from unnest(ids, paths, sizes, modified, stamps, versions) as found (id, path, size, modified_at, stamp, version)
     where file.id = found.id and file.folder_id = folder;
    insert into public.embedding_files (folder_id, path, size, modified_at, stamp, version)
    select folder, found.path, found.size, found.modified_at, found.stamp, coalesce(found.version, found.stamp)
      from unnest(ids, paths, sizes, modified, stamps, versions) as found (id, path, size, modified_at, stamp, version)
     where found.id is null
    on conflict on constraint embedding_files_one_per_path do nothing; -- it was given twice
end $$;

-- Ends a scan: `missing` are the known files that it did not find, which are deleted when that is so for `grace`. With a
-- `problem` it was not complete, or found nothing: then `missing` is empty, and nothing is deleted. Returns how many files were
-- deleted. Raises if the lease is lost.
create function public.finish_embedding_scan(
    folder uuid, lease uuid, files bigint, missing bigint[], grace interval, skipped jsonb, seconds real, problem text
)
returns bigint
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_variable
declare
    deleted bigint := 0;
begin
    if jsonb_typeof(skipped) = 'string' then
        skipped := skipped #>> '{}'; -- some clients of the Data API send JSON as a text within JSON
    end if;
    perform embedding.hold_scan(folder, lease, '0');
    if problem is null then
        update public.embedding_files as file set missing_since = now()
         where file.id = any (missing) and file.folder_id = folder and file.missing_since is null;
        delete from public.embedding_files as file
         where file.folder_id = folder and file.missing_since is not null and file.missing_since <= now() - grace
           and file.id = any (missing);
        get diagnostics deleted = row_count;
    end if;
    update public.embedding_folders as known
       set files = finish_embedding_scan.files, skipped = finish_embedding_scan.skipped, problem = finish_embedding_scan.problem,
           scan_seconds = seconds, scanned_at = now(), scan_lease = null, scan_lease_expires_at = null
     where known.id = folder;
    return deleted;
end $$;

select embedding.protect_functions('embedding.hold_scan');
select embedding.let_workers_call(
    'public.start_embedding_scan', 'public.known_embedding_files', 'public.record_embedding_files',
    'public.finish_embedding_scan');
