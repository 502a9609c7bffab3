-- Why:   vectors need pgvector, and a worker should hold a credential that can do its job and
--        nothing else. On Supabase the extension belongs into `extensions`; elsewhere into
--        `public`. An extension that is already there, in either schema, stays where it is.
--        The schema `embedding` holds what only the functions of this API call. Nobody but its owner
--        can create anything in it, so a call of ours cannot resolve to a function of somebody else.
--        The functions of this API work on tables with the rights of its owner. Here is also whom that
--        owner trusts, and what is said of an error that a table raised.
-- Locks: nothing that a running application uses.
-- Undo:  drop schema embedding cascade; drop role embedding_worker;
--        drop extension vector;  (drops every vector column!)

do $$
begin
    create schema embedding;
exception when duplicate_schema then
    raise exception 'there is a schema "embedding" already'
        using errcode = 'duplicate_schema',
              hint = 'These migrations keep their internal functions in a schema of that name: rename yours.';
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

-- Why the owner of this API must not, or cannot, work on a table; null: nothing is wrong. Triggers, constraints, rules,
-- policies and generated columns run with the rights of the role that reads or writes a row. So a table, and each table
-- that inherits from it, must belong to a role that the owner trusts, and nobody else may be able to put
-- another table in its place. Rows that row level security hides would be taken for deleted ones.
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
    select * into problem from embedding.table_problem(relation::regclass);
    if problem.cause is not null then
        raise exception '%', problem.cause using errcode = 'insufficient_privilege', hint = problem.hint;
    end if;
end $$;

-- What is kept of an error: never a value of a row. Postgres puts values, in quotation marks, into messages
-- (`invalid input syntax for type integer: "..."`); what a function of the user raises can hold anything. The message
-- stays as it is where it names nothing but objects: where our own statement could not be parsed, or was
-- refused by us, and in the classes of constraints, rights, locks and resources. The arguments are sqlstate, sqlerrm
-- and pg_exception_context, whose first line is where it happened.
create function embedding.describe_error(error_state text, error_text text, context text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case
           when context ~ '^PL/pgSQL\W\S+ embedding\.'
                or context ~ '^PL/pgSQL assignment "' and error_state = '42703' -- in a trigger
                or context ~ '^SQL\W\S+ \W?lock table only '
                then error_text
           when context ~ '^PL/(?!pgSQL)|^PL/pgSQL[^\n]* (RAISE|ASSERT)(\n|$)'
                then format('SQLSTATE %s', error_state)
           when error_state ~ '^(23|25|40|42|53|54|55|57|58)'
                and error_state !~ '^42(601|602|622|703|704|883|P01)$' -- of a name that is made from a value
                then error_text
           else format('%s (SQLSTATE %s)', regexp_replace(error_text, '(["\u00ab\u00bb\u201e\u201c\u201d]|0x).*', '"..."'), error_state)
           end || case when routine.name !~ '^(embedding\.|public\.(claim|complete)_embeddings$)'
                       then format(' in function %s', routine.name) else '' end
      from (select (regexp_match(context, '^(?:PL/\w+|SQL) function "?([^\s("]+)', 'n'))[1]) as routine (name);
$$;
