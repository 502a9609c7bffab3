-- Why:   vectors need pgvector, and a worker should hold a credential that can do its job and
--        nothing else. On Supabase the extension belongs into `extensions`; elsewhere into
--        `public`. An extension that is already there, in either schema, stays where it is.
-- Locks: nothing that a running application uses.
-- Undo:  drop role embedding_worker; drop extension vector;  (the second drops every vector column!)

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
