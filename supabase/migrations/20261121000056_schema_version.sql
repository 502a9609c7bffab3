-- Why:   a worker compares the version of this schema with its own, and says which of the two is older.
-- Locks: nothing.
-- Undo:  drop function public.embedding_schema_version;

-- The worker compares this with its own number and says which of the two is older.
create function public.embedding_schema_version()
returns integer
language sql
immutable
set search_path = '', pg_temp
as $$ select 1 $$;

select embedding.let_workers_call('public.embedding_schema_version');
