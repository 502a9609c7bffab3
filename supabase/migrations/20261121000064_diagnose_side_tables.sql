-- Why:   each check finds one thing that can be wrong with side tables.
-- Locks: nothing. The checks read the catalogs.
-- Undo:  drop function embedding.diagnose_side_tables_missing, embedding.diagnose_side_tables_unprotected,
--        embedding.diagnose_side_table_rights; drop view embedding.side_relations;

-- The side tables of all targets, and the views of their passages, with what the catalogs have under their names.
create view embedding.side_relations
with (security_invoker = true)
as
select target.id, watched.name, target.table_name, target.embedding_column, target.relation, made.relation as made,
       to_regclass(made.relation) as made_id, watched.relation_id
  from public.embedding_targets as target
  join embedding.watched_columns as watched using (id)
 cross join lateral unnest(
       array[target.chunks_relation, target.places_relation, target.passages_relation, target.store_relation]) as made (relation)
 where made.relation is not null and watched.relation_id is not null;

-- A side table is missing.
create function embedding.diagnose_side_tables_missing()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'side_tables_missing', made.name,
           format('%s no longer exist%s', string_agg(made.made, ' and ' order by made.made),
                  case when count(*) = 1 then 's' end),
           format('Run `worker watch %s --column %s`: it creates what is missing.',
                  made.table_name, made.embedding_column)
      from embedding.side_relations as made
     where made.made_id is null
     group by made.id, made.name, made.table_name, made.embedding_column;
$$;

-- Passages or vectors are shown to roles that may not see their rows.
create function embedding.diagnose_side_tables_unprotected()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'side_tables_unprotected', made.name,
           format('%s has row-level security, but %s shows what is made from all rows', made.table_name, made.made),
           format(case part.relkind when 'v' then 'Run `alter view %s set (security_invoker = true)`.'
                                    else 'Run `alter table %s enable row level security`.' end, made.made)
      from embedding.side_relations as made
      join pg_class as part on part.oid = made.made_id
      join pg_class as watched on watched.oid = made.relation_id
     where watched.relrowsecurity
       and case part.relkind
           when 'v' then not exists (select from pg_options_to_table(part.reloptions)
                                      where option_name = 'security_invoker' and option_value::boolean)
           else not part.relrowsecurity end;
$$;

-- Roles whose rights on side tables differ from those on the columns that the texts are made from: they were copied when
-- the table was watched.
create function embedding.diagnose_side_table_rights()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    with compared as (
        select made.id, made.name, made.table_name, made.embedding_column, made.made, reader.name as reader,
               has_table_privilege(reader.name, made.made_id, 'select') as reads_made,
               not exists (
                   select from public.embedding_targets as target,
                               jsonb_object_keys(target.column_numbers) as read (name)
                    where target.id = made.id
                      and not has_column_privilege(reader.name, made.relation_id, read.name, 'select')) as reads_texts
          from embedding.side_relations as made
         cross join lateral (
               select distinct coalesce(role.rolname, 'public') as name
                 from (select relacl from pg_class where oid in (made.made_id, made.relation_id)
                        union all
                       select attacl from pg_attribute where attrelid = made.relation_id) as known (acl)
                cross join lateral aclexplode(known.acl) as acl
                 left join pg_roles as role on role.oid = acl.grantee) as reader
         where made.made_id is not null
    )
    select case when reads_texts then 'warning' else 'problem' end, 'side_table_rights', name,
           format(case when reads_texts then '%s may read %s, but not %s' else '%s may not read all of %s, but may read %s' end,
                  string_agg(distinct reader, ' and '), table_name, string_agg(distinct made, ' and ')),
           format('Run `worker watch %s --column %s`: it copies the rights.', table_name, embedding_column)
      from compared
     where reads_made <> reads_texts
     group by id, name, table_name, embedding_column, reads_texts;
$$;

select embedding.protect_relation('embedding.side_relations');
select embedding.protect_functions(
    'embedding.diagnose_side_tables_missing', 'embedding.diagnose_side_tables_unprotected', 'embedding.diagnose_side_table_rights');
