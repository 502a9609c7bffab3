-- Why:   before a re-embedding begins, and before its old vectors are dropped, their owner learns also of what Postgres does not
--        know to depend on them.
-- Locks: nothing.
-- Undo:  drop function embedding.left_behind.

-- What is left as it is although it may use the old vectors: vector indexes besides the best one, which alone the new vectors get
-- as well; and functions and procedures whose text has the names of the table and the column, or, if they are called by a
-- trigger of the table, that of the column. Such a text may mean something else. Names are quoted and have their schema.
create function embedding.left_behind(relation regclass, column_name text)
returns table (kind text, name text)
language sql
stable
set search_path = '', pg_temp
as $$
    select 'index', more.index::text
      from embedding.find_vectors(public.embedding_table_name(relation), column_name) as stored
     cross join lateral embedding.vector_indexes_of(stored.relation, stored.number)
           with ordinality as more (index, definition, is_valid, serves_searches, place)
     where more.place > 1
     union all
    select case routine.prokind when 'p' then 'procedure' else 'function' end, routine.oid::regprocedure::text
      from pg_proc as routine
      join pg_class as watched on watched.oid = relation
     where routine.prosqlbody is null
       and routine.pronamespace <> all (array['pg_catalog', 'information_schema', 'embedding']::regnamespace[])
       and not coalesce(routine.proconfig @> array['lc_monetary=C', 'quote_all_identifiers=off'], false) -- our own have them
       and not exists (select from embedding.match_functions() as written where written.routine = routine.oid)
       and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = routine.oid and deptype = 'e')
       and routine.prosrc ~* format('\m%s\M', regexp_replace(column_name, '(\W)', '\\\1', 'g'))
       and (routine.prosrc ~* format('\m%s\M', regexp_replace(watched.relname, '(\W)', '\\\1', 'g'))
            or exists (select from pg_trigger where tgrelid = watched.oid and tgfoid = routine.oid))
     order by 1, 2;
$$;

select embedding.protect_functions('embedding.left_behind');
