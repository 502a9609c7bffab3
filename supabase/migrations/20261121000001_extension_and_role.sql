-- Why:   vectors need pgvector, and a worker should hold a credential that can do its job and
--        nothing else. On Supabase the extension belongs in `extensions`, elsewhere in `public`.
--        An extension that already exists, in either schema, stays where it is.
--        The schema `embedding` holds the internal functions of this API. Only its owner can create
--        anything in it, so a call of ours cannot resolve to a function of another role.
-- Locks: nothing that a running application uses.
-- Undo:  drop schema embedding cascade; drop role embedding_worker;
--        drop extension vector;  (drops every vector column!)

do $$
begin
    create schema embedding;
exception when duplicate_schema then
    raise exception 'there is a schema "embedding" already'
        using errcode = 'duplicate_schema',
              hint = 'These migrations keep their internal functions in a schema of that name. Rename yours.';
end $$;

do $$
begin
    if not exists (select from pg_extension where extname = 'vector') then
        if to_regnamespace('extensions') is not null then
            create extension vector with schema extensions;
        else
            create extension vector with schema public;
        end if;
    end if;
end $$;

-- Without CREATEROLE (some hosted databases) the migration goes on: the worker then runs as the
-- owner of the tables.
do $$
begin
    if to_regrole('embedding_worker') is null then
        create role embedding_worker nologin;
    end if;
exception
    when insufficient_privilege then
        raise notice 'role embedding_worker not created: %', sqlerrm;
    when duplicate_object or unique_violation then
        null; -- another database of this cluster was migrated in the same moment
end $$;
