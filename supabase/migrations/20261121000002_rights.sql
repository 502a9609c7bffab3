-- Why:   a worker's credential can claim and complete jobs, and read nothing else: the functions that it calls run
--        with the rights of their owner. Every file revokes all rights on what it defines, also those that Supabase's
--        default privileges give to `anon` and `authenticated`, and then grants what workers need.
-- Locks: the migration nothing. Protecting a table takes a short ACCESS EXCLUSIVE lock on it.
-- Undo:  drop function embedding.let_workers_read, embedding.let_workers_call, embedding.protect_relation,
--        embedding.protect_functions, embedding.fix_text_forms, embedding.grant_to, embedding.everyone;
--
-- Two settings of every function are part of this. `search_path = '', pg_temp`: if pg_temp is left out, it
-- comes first in the search for types, and a caller could create a domain named `text`, whose check
-- would run with the rights of our owner. `row_security = off`: if it is forced on our owner, a hidden
-- row must raise an error, and not look deleted.

-- All roles but the owner: the public, and the roles of a Supabase project and of workers, if they exist.
create function embedding.everyone()
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select 'public' || coalesce(string_agg(', ' || quote_ident(rolname), ''), '')
      from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'embedding_worker');
$$;

-- Grants privileges to a role, if it exists.
create function embedding.grant_to(role text, privileges text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if to_regrole(role) is not null then
        execute format('grant %s to %I', privileges, role);
    end if;
end $$;

-- A source or filter turns values into text, and that text must be the same in every session: its hash is
-- compared with that of another session. The functions that it calls run under the same settings.
create function embedding.fix_text_forms(routine regprocedure)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    execute format(
        'alter function %s set datestyle = ''ISO, YMD'' set intervalstyle = ''postgres'' set timezone = ''UTC'' '
        'set extra_float_digits = 1 set bytea_output = ''hex'' set lc_monetary = ''C'' set lc_numeric = ''C'' '
        'set lc_time = ''C'' set quote_all_identifiers = off set standard_conforming_strings = on', routine);
end $$;

-- Lets only the owner call these functions. Those in `public`, the entry points of others, get fixed text forms.
create function embedding.protect_functions(variadic routines regproc[])
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    routine regprocedure;
begin
    foreach routine in array routines loop
        execute format('revoke all on function %s from %s', routine, embedding.everyone());
        if (select pronamespace from pg_proc where oid = routine) = 'public'::regnamespace then
            perform embedding.fix_text_forms(routine);
        end if;
    end loop;
end $$;

-- Lets workers, and the service role of a Supabase project, call these functions, and nobody else.
create function embedding.let_workers_call(variadic routines regproc[])
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    routine regprocedure;
begin
    perform embedding.protect_functions(variadic routines);
    foreach routine in array routines loop
        perform embedding.grant_to('embedding_worker', format('execute on function %s', routine));
        perform embedding.grant_to('service_role', format('execute on function %s', routine));
    end loop;
end $$;

-- Lets only the owner use a table with its sequences, a view or a sequence.
create function embedding.protect_relation(relation regclass)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    part record;
begin
    for part in
        select oid::regclass as name, case relkind when 'S' then 'sequence' else 'table' end as kind
          from pg_class
         where oid = relation
            or relkind = 'S' and oid in (select objid from pg_depend
                                          where classid = 'pg_class'::regclass and deptype = 'i'
                                            and refclassid = 'pg_class'::regclass and refobjid = relation)
    loop
        execute format('revoke all on %s %s from %s', part.kind, part.name, embedding.everyone());
    end loop;
    if (select relkind from pg_class where oid = relation) = 'r' then
        execute format('alter table %s enable row level security', relation);
    end if;
end $$;

-- Lets workers, and the service role of a Supabase project, read a table or view, and nobody else.
create function embedding.let_workers_read(relation regclass)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    perform embedding.protect_relation(relation);
    perform embedding.grant_to('embedding_worker', format('select on table %s', relation));
    perform embedding.grant_to('service_role', format('select on table %s', relation));
    if to_regrole('embedding_worker') is not null and (select relkind from pg_class where oid = relation) = 'r' then
        execute format('create policy embedding_worker_reads on %s for select to embedding_worker using (true)', relation);
    end if;
end $$;

do $$
begin
    execute format('revoke all on schema embedding from %s', embedding.everyone());
    perform embedding.grant_to('service_role', 'usage on schema embedding'); -- for search_embeddings
    perform embedding.grant_to('embedding_worker', format(
        'usage on schema public, %s', (select extnamespace::regnamespace from pg_extension where extname = 'vector')));
end $$;

select embedding.protect_functions(
    'embedding.everyone', 'embedding.grant_to', 'embedding.fix_text_forms', 'embedding.protect_functions',
    'embedding.let_workers_call', 'embedding.protect_relation', 'embedding.let_workers_read');
