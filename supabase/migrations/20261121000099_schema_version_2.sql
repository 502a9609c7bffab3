-- Why:   the schema of version 0.2, with batches of a Batch API.
-- Locks: nothing.
-- Undo:  create the function again as `..._schema_version.sql` has it.

create or replace function public.embedding_schema_version()
returns integer
language sql
immutable
set search_path = '', pg_temp
as $$ select 2 $$;

select embedding.let_workers_call('public.embedding_schema_version');
