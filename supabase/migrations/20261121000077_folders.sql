-- Why:   people add folders and remove them. The first one creates the target whose jobs are the files to parse.
-- Locks: the migration nothing. add_embedding_folder takes SHARE ROW EXCLUSIVE on embedding_files when it creates the target.
-- Undo:  drop function public.remove_embedding_folder, public.add_embedding_folder, embedding.parsing_target,
--        embedding.start_parsing;
--
-- To parse a file is a job like any other: its text is the version of the file, and its result the content. So there are
-- leases, attempts, reasons of failures and requeues for files as well. The jobs of a folder are those of one owner, so
-- folders take turns.

-- The target whose jobs are the files to parse. No row: no folder was added yet.
create function embedding.parsing_target()
returns setof public.embedding_targets
language sql
stable
set search_path = '', pg_temp
as $$ select * from public.embedding_targets where kind = 'parse' $$;

-- Creates that target, unless it exists.
create function embedding.start_parsing()
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    files constant regclass := 'public.embedding_files';
    target public.embedding_targets;
    wanted embedding.wanted_target;
    columns_read text[];
begin
    if exists (select from embedding.parsing_target()) then
        return;
    end if;
    wanted.source := 'version';
    wanted.embedding_column := 'content';
    wanted.model := 'parse:1';
    wanted.document_prompt := 'none';
    target := embedding.plan_table(files, embedding.plan_settings(files, target, wanted));
    target.kind := 'parse';
    target.user_column := 'folder_id';
    select columns, numbers into columns_read, target.column_numbers
      from embedding.columns_read(files, target.source, null);
    target.column_numbers := target.column_numbers || (
        select jsonb_object_agg(attname, attnum) from pg_attribute
         where attrelid = files and attname in ('id', 'folder_id', 'content'));
    target := embedding.store_target(target);
    perform embedding.make_triggers(target, columns_read);
end $$;

-- Adds a folder, to be scanned by workers on `host`, or adds this host to those that have a folder of this name and location: the
-- same files, on a shared mount. Raises if the name belongs to another one. Only the owner of the tables may do this.
create function public.add_embedding_folder(
    name text, kind text, location text, include text[] default '{}', exclude text[] default '{}', host text default null
)
returns public.embedding_folders
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    folder public.embedding_folders;
begin
    perform embedding.start_parsing();
    insert into public.embedding_folders as known (name, kind, location, include, exclude, hosts)
    values (add_embedding_folder.name, add_embedding_folder.kind, add_embedding_folder.location,
            coalesce(add_embedding_folder.include, '{}'), coalesce(add_embedding_folder.exclude, '{}'),
            array_remove(array[host], null))
    on conflict on constraint embedding_folders_name_key do update
       set include = excluded.include, exclude = excluded.exclude, enabled = true,
           hosts = array(select distinct one from unnest(known.hosts || excluded.hosts) as one order by one)
     where (known.kind, known.location) = (excluded.kind, excluded.location)
    returning known.* into folder;
    if not found then
        raise exception 'there is a folder % already, with other files', add_embedding_folder.name
            using errcode = 'duplicate_object', hint = 'Give this one another name (on the command line: --name).';
    end if;
    perform embedding.wake();
    return folder;
end $$;

-- Removes a folder with its files and their chunks. Returns how many files it had; null: there is no such folder.
create function public.remove_embedding_folder(name text)
returns bigint
language plpgsql
set search_path = '', pg_temp
as $$
declare
    folder public.embedding_folders;
    removed bigint;
begin
    select * into folder from public.embedding_folders as known where known.name = remove_embedding_folder.name for update;
    if not found then
        return null;
    end if;
    delete from public.embedding_files as file where file.folder_id = folder.id;
    get diagnostics removed = row_count;
    delete from public.embedding_folders as known where known.id = folder.id;
    return removed;
end $$;

select embedding.protect_functions(
    'embedding.parsing_target', 'embedding.start_parsing', 'public.add_embedding_folder', 'public.remove_embedding_folder');
