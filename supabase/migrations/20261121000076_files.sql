-- Why:   folders of files become searchable. A file has a row as soon as a scan has found it, and its text follows when a worker
--        has parsed it. The text is embedded in chunks like that of any other table.
-- Locks: nothing, the tables are new.
-- Undo:  drop table public.embedding_files, public.embedding_folders;
--
-- A file keeps its row, and so its chunks, when it is renamed or moved within its folder. `version` changes with the bytes of
-- the file, and only then its text is parsed again.

create table public.embedding_folders (
    id uuid primary key default gen_random_uuid(),
    name text not null unique,                     -- as people call it
    kind text not null,                            -- directory | s3 | storage
    location text not null,                        -- the path of the directory, or `bucket/prefix`
    include text[] not null default '{}',          -- patterns of the paths in it; none: all files
    exclude text[] not null default '{}',
    hosts text[] not null default '{}',            -- those that have the directory; not of a bucket, which any host reads
    enabled boolean not null default true,         -- false: it is neither scanned nor parsed
    problem text,                                  -- why the last scan deleted nothing, or ended early; null: nothing was wrong
    files bigint,                                  -- in the last scan that ended
    skipped jsonb not null default '{}',           -- ... what was left out, by reason: {"outside": 2}
    scanned_at timestamptz,
    scan_seconds real,
    scan_lease uuid,                               -- the fence of the scan that is under way
    scan_lease_expires_at timestamptz,
    created_at timestamptz not null default now(),
    constraint embedding_folders_known_kind check (kind in ('directory', 's3', 'storage')),
    constraint embedding_folders_leased check (num_nulls(scan_lease, scan_lease_expires_at) in (0, 2))
);

create table public.embedding_files (
    id bigint generated always as identity primary key,
    folder_id uuid not null references public.embedding_folders on delete cascade,
    path text not null,                            -- within the folder, with / between its parts
    name text not null generated always as (regexp_replace(path, '^.*/', '')) stored,
    size bigint not null,                          -- bytes
    modified_at timestamptz,
    stamp text not null,                           -- what a scan compares: size and time of a file, or the ETag of an object
    version text not null,                         -- the stamp of these bytes: a file that was only touched keeps it
    sha256 bytea,                                  -- of the bytes that were parsed
    mime text,                                     -- these are known when the file has been parsed
    encoding text,
    title text,
    author text,
    pages integer,
    content text,                                  -- its text as Markdown, a form feed between pages
    missing_since timestamptz,                     -- since when scans do not find it
    found_at timestamptz not null default now(),
    parsed_at timestamptz,
    words tsvector not null generated always as (
        to_tsvector('simple', regexp_replace(path || ' ' || coalesce(title, '') || ' ' || coalesce(author, ''),
                                             '[^[:alnum:]]+', ' ', 'g'))) stored,
    constraint embedding_files_one_per_path unique (folder_id, path)
);

create index embedding_files_words on public.embedding_files using gin (words);

select embedding.let_workers_read('public.embedding_folders');
select embedding.let_workers_read('public.embedding_files');

-- A worker reads no text but those that it claims.
do $$
begin
    if to_regrole('embedding_worker') is not null then
        revoke select on table public.embedding_files from embedding_worker;
        grant select (id, folder_id, path, name, size, modified_at, stamp, version, sha256, mime, encoding, title, author, pages,
                      missing_since, found_at, parsed_at, words)
            on table public.embedding_files to embedding_worker;
    end if;
end $$;
