-- Why:   a backup records what its vectors belong to, so that a restore can tell whether they fit.
-- Locks: an ACCESS SHARE lock on the watched table, for the length of a call.
-- Undo:  drop function public.describe_embeddings;

-- Returns the key of a watched table with the types of its columns, the type of the vectors (`vector` or `halfvec`), and what
-- tells this database from others: a copy of its files has the same `database_id`, a dump that is restored elsewhere another.
create function public.describe_embeddings(watched_table text, embedding_column text)
returns table (database_id text, key_columns text[], key_types text[], vector_type text)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
begin
    return query
        select (select format('%s/%s', system_identifier, oid)
                  from pg_control_system() cross join pg_database where datname = current_database()),
               target.key_columns,
               array(select format_type(attribute.atttypid, attribute.atttypmod)
                       from unnest(target.key_columns) with ordinality as key (name, place)
                       join pg_attribute as attribute
                         on attribute.attrelid = target.relation::regclass and attribute.attname = key.name
                      order by place),
               embedding.kind_of_vectors(target);
end $$;

select embedding.let_workers_call('public.describe_embeddings');
