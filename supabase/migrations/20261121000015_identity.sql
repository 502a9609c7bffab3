-- Why:   a target knows its table and its columns by number as well as by name. After a rename a name can lead to the
--        column of another model.
-- Locks: nothing but, after a restore, the row of the target, without waiting.
-- Undo:  drop function embedding.open_table, embedding.check_identity, embedding.identity_problem,
--        embedding.triggered_table;

-- The table that has the triggers of a target, whatever its name is now.
create function embedding.triggered_table(target_id integer)
returns oid
language sql
stable
set search_path = '', pg_temp
as $$
    select min(pg_trigger.tgrelid)
      from pg_trigger
      join pg_proc as called on called.oid = pg_trigger.tgfoid
      join pg_namespace as namespace on namespace.oid = called.pronamespace
     where namespace.nspname = 'embedding' and called.proname = format('trigger_%s', target_id)
       and pg_trigger.tgparentid = 0;
$$;

-- Why a target must not be worked on: its table or one of its columns is not the one that was watched under that
-- name, since it was renamed, or dropped and created again; or a side table is missing or not tied to it. Null: nothing has
-- changed, or the table is missing. All
-- SQL of a target uses names, so it would read another text or write into the column of another model. A restored
-- dump has other numbers, but has our triggers: then the names count.
create function embedding.identity_problem(target public.embedding_targets)
returns text
language plpgsql -- whose plans last for a session
stable
security definer -- reads only the catalogs, but calls a function that other roles may not
set search_path = '', pg_temp
set row_security = off
as $$
declare
    part constant text[] := parse_ident(target.relation);
    present_id constant oid := (
        select class.oid from pg_class as class
         where class.relname = part[2]
           and class.relnamespace = (select namespace.oid from pg_namespace as namespace where nspname = part[1]));
    problem text;
begin
    if present_id is null then
        return null;
    elsif present_id <> target.relation_id then
        if present_id is distinct from embedding.triggered_table(target.id) then
            problem := format('%s is not the table that was watched', target.relation);
        end if;
    else
        select format('column %s.%I %s', target.table_name, known.name,
                      case when present.attname is null then 'was renamed or dropped'
                           else 'is not the one that was watched' end)
          into problem
          from jsonb_each_text(target.column_numbers) as known (name, number)
          left join pg_attribute as present on present.attrelid = present_id and present.attname = known.name
         where present.attnum is distinct from known.number::smallint
         order by present.attname is null desc, known.name
         limit 1;
    end if;
    if problem is null then
        select format(case when to_regclass(made.name) is null then '%1$s, which holds the %3$s of %2$s, is missing'
                           else '%1$s has lost its foreign key to %2$s' end, made.name, target.table_name,
                      case when target.store_relation is null then 'chunks' else 'vectors' end)
          into problem
          from unnest(embedding.side_tables(target)) as made (name)
         where not exists (select from pg_constraint
                            where contype = 'f' and conrelid = to_regclass(made.name) and confrelid = present_id)
         limit 1;
    end if;
    return problem || format('; run `worker watch %s --column %s`', target.table_name, target.embedding_column);
end $$;

-- Raises if a target must not be worked on (embedding.identity_problem). After a restore it records the new numbers.
create function embedding.check_identity(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    problem constant text := embedding.identity_problem(target);
begin
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

-- Locks the table of a target, without waiting, and raises if it must not be worked on. The caller locks jobs only after
-- that: the order of every writer.
create function embedding.open_table(target public.embedding_targets, lock_mode text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    beside text;
begin
    execute format('lock table only %s in %s mode nowait', target.relation, lock_mode);
    perform embedding.check_table(target.relation);
    perform embedding.check_identity(target);
    foreach beside in array embedding.side_tables(target) loop
        execute format('lock table only %s in %s mode nowait', beside, lock_mode);
        perform embedding.check_table(beside);
    end loop;
end $$;

select embedding.protect_functions('embedding.triggered_table', 'embedding.check_identity', 'embedding.open_table');
select embedding.let_workers_call('embedding.identity_problem');
