-- Why:   a claim and a completion check their table each time. For most tables one read of the catalog shows that nothing is
--        wrong, and another that nothing was renamed, which takes a third of the time.
-- Locks: nothing.
-- Undo:  create embedding.check_table, embedding.check_identity and embedding.check_lengths again as `..._trust.sql`,
--        `..._identity.sql` and `..._complete.sql` have them.

-- Raises if the owner of this API must not, or cannot, work on a table. Called wherever its rows are read or written.
create or replace function embedding.check_table(relation text)
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
    if exists (
        select from pg_class as class
          join pg_namespace as namespace on namespace.oid = class.relnamespace
          join pg_namespace as ours on ours.nspname = 'embedding'
         where class.oid = to_regclass(relation) and class.relkind = 'r' and not class.relhassubclass
           and class.relowner = ours.nspowner and not class.relforcerowsecurity
           and namespace.nspowner in (ours.nspowner, 'pg_database_owner'::regrole)
    ) then
        return; -- as for most tables: embedding.table_problem takes longer
    elsif to_regclass(relation) is null then
        raise exception 'table % no longer exists', relation
            using errcode = 'undefined_table',
                  hint = 'If it was renamed, run `worker watch` for its column; if it was dropped, `worker unwatch`.';
    end if;
    select * into problem from embedding.table_problem(relation::regclass);
    if problem.cause is not null then
        raise exception '%', problem.cause using errcode = 'insufficient_privilege', hint = problem.hint;
    end if;
end $$;

-- Raises if a target must not be worked on (embedding.identity_problem). After a restore it records the new numbers.
create or replace function embedding.check_identity(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    problem text;
begin
    if target.relation_id = to_regclass(target.relation) and embedding.side_tables(target) = '{}'
       and not exists (
           select from jsonb_each_text(target.column_numbers) as known (name, number)
            where not exists (select from pg_attribute
                               where attrelid = target.relation_id and attname = known.name
                                 and attnum = known.number::smallint))
    then
        return; -- as for most targets: embedding.identity_problem takes longer
    end if;
    problem := embedding.identity_problem(target);
    if problem is not null then
        raise exception using errcode = 'undefined_object', message = problem;
    elsif target.relation_id <> target.relation::regclass then
        update public.embedding_targets as restored
           set relation_id = target.relation::regclass,
               column_numbers = (
                   select jsonb_object_agg(attname, attnum) from pg_attribute
                    where attrelid = target.relation::regclass and target.column_numbers ? attname)
         where restored.id = (select locked.id from public.embedding_targets as locked
                               where locked.id = target.id for update skip locked);
    end if;
end $$;

-- Raises unless arrays have the same length. Optional ones may be null.
create or replace function embedding.check_lengths(names text, lengths integer[], optional_lengths integer[])
returns void
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    if array_position(lengths, null) is not null
       or (lengths[1] <> any (lengths || optional_lengths)) is true then -- without a statement, which takes ten times as long
        raise exception '% must be of one length', names using errcode = 'invalid_parameter_value';
    end if;
end $$;

select embedding.protect_functions('embedding.check_table', 'embedding.check_identity', 'embedding.check_lengths');
select embedding.grant_to('service_role', 'execute on function embedding.check_table'); -- for search_embeddings
