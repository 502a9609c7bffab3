-- Why:   if writes to a table do not fire our triggers, its vectors must not count as in step.
-- Locks: nothing.
-- Undo:  drop function embedding.blind_spot;

-- Why the triggers of a target do not see every row that the queue reads, and what to do; no row: they see all.
-- `installed` false checks only the table, before its triggers exist.
create function embedding.blind_spot(relation regclass, target_id integer, installed boolean)
returns table (cause text, hint text)
language plpgsql -- whose plans last for a session
stable
set search_path = '', pg_temp
as $$
#variable_conflict use_column
begin
    if installed
       and exists (select from pg_class
                    where pg_class.oid = blind_spot.relation and relkind = 'r' and relpersistence <> 't'
                      and not relhassubclass and not relhasrules)
       and not exists (select from pg_inherits where inhrelid = blind_spot.relation)
       and (select count(distinct tgtype) from pg_trigger
             where tgrelid = blind_spot.relation and tgtype in (4, 8, 16, 17, 32)
               and tgfoid = to_regproc('embedding.trigger_' || blind_spot.target_id)) = 5
    then
        return; -- as most tables: the rest takes longer
    end if;
    return query
    with class as (
        select pg_class.*, public.embedding_table_name(blind_spot.relation) as name
          from pg_class where pg_class.oid = blind_spot.relation
    ), own as ( -- as above: insert 4, delete 8, update 16, truncate 32; by row 1 more
        select pg_trigger.tgtype::integer as type
          from pg_trigger
         where pg_trigger.tgrelid = blind_spot.relation
           and pg_trigger.tgfoid = to_regproc(format('embedding.trigger_%s', blind_spot.target_id))
    )
    select format('table %s is temporary', class.name), 'Watch a table that every session sees.'
      from class where class.relpersistence = 't'
    union all
    select format('table %s has a child table by inheritance, %s', class.name,
                  public.embedding_table_name(min(child.inhrelid)::regclass)),
           'The statements of the queue would read its rows as well. Watch the child tables, partition the table, '
           || format('or run `alter table %s no inherit %s`.', min(child.inhrelid)::regclass, blind_spot.relation)
      from class join pg_inherits as child on child.inhparent = class.oid
     where class.relkind = 'r'
     group by class.name
    union all
    select format('table %s has a rule for UPDATE, %s', class.name, rule.rulename),
           format('It would rewrite the statements of the queue. Run `drop rule %I on %s`; a trigger can do the same.',
                  rule.rulename, blind_spot.relation)
      from class join pg_rewrite as rule on rule.ev_class = class.oid
     where class.relkind in ('r', 'p') and rule.ev_type = '2'
    union all
    select format('table %s lacks its trigger for %s', class.name, string_agg(event.name, ', ')),
           'Run `worker watch` for the column again.'
      from class, (values ('INSERT', 4), ('UPDATE', 16), ('DELETE', 8), ('TRUNCATE', 32)) as event (name, bit)
     where blind_spot.installed and class.relkind in ('r', 'p')
       and (not exists (select from own where own.type & event.bit <> 0)
            -- an UPDATE needs one by row, and one by statement too if those for INSERT are by statement
            or event.name = 'UPDATE'
               and (not exists (select from own where own.type & 17 = 17)
                    or exists (select from own where own.type & 5 = 4)
                       and not exists (select from own where own.type & 17 = 16)))
     group by class.name
    union all
    select format('table %s has become a part of %s, and is also written through it', class.name,
                  public.embedding_table_name(min(parent.inhparent)::regclass)),
           'Run `worker watch` for the column again.'
      from class join pg_inherits as parent on parent.inhrelid = class.oid
     where blind_spot.installed and exists (select from own where own.type & 1 = 0 and own.type & 12 <> 0)
     group by class.name;
end $$;

select embedding.protect_functions('embedding.blind_spot');
