-- Why:   a column that is searched for words has an index over them, which is built, kept in step and dropped with it.
-- Locks: nothing.
-- Undo:  drop function public.embedding_index_statements, embedding.drop_full_text_index, embedding.full_text_indexes,
--        embedding.full_text_index_name, embedding.uses_full_text_index_sql;

-- Whether a search of the caller may use an index over the words of a target: the index is there, and no row-level
-- security applies to the caller, under which Postgres does not use it. As SQL, for the match functions.
create function embedding.uses_full_text_index_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format($sql$not row_security_active(%1$L) and exists (
        select from pg_index where indrelid = %1$L::regclass and indisvalid and indpred is null
                               and pg_get_indexdef(indexrelid, 1, false) = %2$L)$sql$,
        worded.relation, worded.full_text)
      from embedding.as_worded(target) as worded;
$$;

-- The name of the index over the words of a target: `<table>_<column>_full_text`. While a column is re-embedded, both targets
-- have the same.
create function embedding.full_text_index_name(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when octet_length(long) <= 63 then long
                else left(long, 20) || '_' || left(md5(long), 10) || '_full_text' end -- 4 bytes a character at most
      from format('%s_%s_full_text', (parse_ident(target.relation))[2],
                  coalesce(target.serves, target.embedding_column)) as long;
$$;

-- The indexes of a target over its words: those that fit, and one under the name of ours.
create function embedding.full_text_indexes(target public.embedding_targets)
returns table (index regclass, fits boolean, is_ours boolean, is_usable boolean)
language sql
stable
set search_path = '', pg_temp
as $$
    select found.index, found.fits, found.is_ours, found.is_usable
      from (select index.indexrelid::regclass as index,
                   index.indpred is null and coalesce(pg_get_indexdef(index.indexrelid, 1, false) = target.full_text, false) as fits,
                   class.relname = embedding.full_text_index_name(target) as is_ours,
                   index.indisvalid or exists (
                       select from pg_stat_progress_create_index as build
                        where build.index_relid = index.indexrelid) as is_usable
              from pg_index as index
              join pg_class as class on class.oid = index.indexrelid
              join pg_am as method on method.oid = class.relam
             where index.indrelid = to_regclass(target.relation) and method.amname = 'gin') as found
     where found.fits or found.is_ours;
$$;

-- Drops our index over the words of a target, unless it still fits after a change, or another target of the table uses it.
create function embedding.drop_full_text_index(before public.embedding_targets, full_text text default null)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    ours regclass;
begin
    if before.full_text is distinct from drop_full_text_index.full_text and not exists (
        select from public.embedding_targets as other
         where other.id <> before.id and other.relation = before.relation and other.full_text = before.full_text
           and before.chunk_format is null and other.chunk_format is null
    ) then
        for ours in select index from embedding.full_text_indexes(embedding.as_worded(before)) where fits and is_ours loop
            execute format('drop index %s', ours);
        end loop;
    end if;
end $$;

-- The statements that build the index over the words of a column, in their order; none if it has one or needs none.
-- They drop an index of its name that does not fit, or whose build was interrupted. They block no writers, unless
-- `blocks_writers`, without which they cannot run within a transaction.
create function public.embedding_index_statements(
    watched_table text, embedding_column text, blocks_writers boolean default false
)
returns setof text
language sql
stable
set search_path = '', pg_temp
as $$
    select wanted.statement
      from public.embedding_targets as watched
     cross join lateral embedding.as_worded(watched) as target
      join pg_class as class on class.oid = to_regclass(target.relation)
     cross join lateral (select case when class.relkind = 'r' and not blocks_writers then ' concurrently ' else ' ' end) as build (how)
     cross join lateral (
           select 1, 'drop index' || how || ours.index from embedding.full_text_indexes(target) as ours where ours.is_ours
            union all
           select 2, format('create index%s%I on %s using gin (%s)', how, embedding.full_text_index_name(target),
                            target.relation, target.full_text)) as wanted (place, statement)
     where watched.table_name = watched_table and watched.embedding_column = embedding_index_statements.embedding_column
       and target.language is not null
       and not exists (select from embedding.full_text_indexes(target) as fitting where fitting.fits and fitting.is_usable)
     order by wanted.place;
$$;

select embedding.protect_functions(
    'embedding.uses_full_text_index_sql', 'embedding.full_text_index_name', 'embedding.full_text_indexes',
    'embedding.drop_full_text_index', 'public.embedding_index_statements');
select embedding.grant_to('service_role', 'execute on function embedding.uses_full_text_index_sql');
