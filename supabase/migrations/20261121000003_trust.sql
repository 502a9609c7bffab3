-- Why:   the functions of this API work on tables with the rights of its owner. They must work only on tables whose
--        owners that role trusts.
-- Locks: nothing.
-- Undo:  drop function embedding.check_table, embedding.table_problem, embedding.is_ours, embedding.trusts;

-- Whether a role may run code with the rights of the owner of this API: it is that owner, it can act as that owner (a
-- superuser can), or the owner was granted that role. A superuser has the rights of every role without a grant, so
-- for one only the first two count.
create function embedding.trusts(role oid)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$
    select pg_has_role(owned_by.role, owner.oid, 'member')
           or not owner.rolsuper and pg_has_role(owner.oid, owned_by.role, 'usage')
      from pg_namespace as namespace
      join pg_roles as owner on owner.oid = namespace.nspowner
      join pg_database as database on database.datname = current_database()
     cross join lateral (
           -- nobody is a member of pg_database_owner but the owner of the database
           select case when trusts.role = 'pg_database_owner'::regrole then database.datdba else trusts.role end
     ) as owned_by (role)
     where namespace.nspname = 'embedding';
$$;

-- Whether a function was created by this API, or does not exist: other roles can use the same name or comment.
create function embedding.is_ours(routine regprocedure)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$ select coalesce((select embedding.trusts(proowner) from pg_proc where oid = routine), true) $$;

-- Why the owner of this API must not, or cannot, work on a table; null: nothing is wrong. Triggers, constraints, rules,
-- policies and generated columns run with the rights of the role that reads or writes a row. So a table, and each table
-- that inherits from it, must belong to a role that the owner trusts, and no other role may be able to put
-- another table in its place. Rows that row level security hides would look deleted.
create function embedding.table_problem(table_id oid, out cause text, out hint text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    api_owner constant regrole := (select nspowner from pg_namespace where nspname = 'embedding');
    watched pg_class;
    part record;
    namespace record;
begin
    select * into watched from pg_class where oid = table_id;
    if watched.relkind not in ('r', 'p') then
        cause := format('%s is %s and not a table', table_id::regclass,
                        case watched.relkind when 'v' then 'a view' when 'm' then 'a materialized view'
                                             when 'f' then 'a foreign table' else 'something else' end);
        hint := 'Watch the table that holds the rows.';
        return;
    end if;

    with recursive tree (id) as (
        select table_id
        union
        select child.inhrelid from tree join pg_inherits as child on child.inhparent = tree.id
    )
    select class.oid::regclass as name, class.relowner::regrole as owner
      into part
      from tree join pg_class as class on class.oid = tree.id
     where class.relowner <> api_owner and not embedding.trusts(class.relowner)
     limit 1;
    if found then
        cause := format('table %s belongs to %s, whose triggers and constraints would run with the rights of %s',
                        part.name, part.owner, api_owner);
        hint := format('Run `alter table %s owner to %s`; or, if %s may do all that %s may, `grant %4$s to %3$s`.',
                       part.name, api_owner, part.owner, api_owner);
        return;
    end if;

    select nspname, nspowner::regrole as owner into namespace
      from pg_namespace
     where oid = watched.relnamespace and nspowner <> api_owner and nspowner <> 'pg_database_owner'::regrole
       and not embedding.trusts(nspowner);
    if found then
        cause := format('schema %I belongs to %s, who could put another table in the place of %s',
                        namespace.nspname, namespace.owner, table_id::regclass);
        hint := format('Run `alter schema %I owner to %s`.', namespace.nspname, api_owner);
        return;
    end if;

    if watched.relrowsecurity
       and (watched.relforcerowsecurity or not pg_has_role(api_owner, watched.relowner, 'usage'))
       and not exists (select from pg_roles where oid = api_owner and (rolsuper or rolbypassrls))
    then
        cause := format('row-level security of table %s hides rows from %s', table_id::regclass, api_owner);
        hint := case when watched.relforcerowsecurity
                     then format('Run `alter table %s no force row level security`, or as a superuser ', table_id::regclass)
                     else 'Run as a superuser ' end
                || format('`alter role %s bypassrls`.', api_owner);
    end if;
end $$;

-- Raises if the owner of this API must not, or cannot, work on a table. Called wherever its rows are read or written.
create function embedding.check_table(relation text)
returns void
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    problem record;
begin
    if to_regclass(relation) is null then
        raise exception 'table % no longer exists', relation
            using errcode = 'undefined_table',
                  hint = 'If it was renamed, run `worker watch` for its column; if it was dropped, `worker unwatch`.';
    end if;
    select * into problem from embedding.table_problem(relation::regclass);
    if problem.cause is not null then
        raise exception '%', problem.cause using errcode = 'insufficient_privilege', hint = problem.hint;
    end if;
end $$;

select embedding.protect_functions(
    'embedding.trusts', 'embedding.is_ours', 'embedding.table_problem', 'embedding.check_table');
select embedding.grant_to('service_role', 'execute on function embedding.check_table'); -- for search_embeddings
