-- Why:   a long text is embedded in chunks. Their vectors are in a table beside the watched one, and a second, narrow
--        table says where each chunk is in its text.
-- Locks: the migration nothing.
-- Undo:  unwatch_embeddings for each target in chunks, then drop function embedding.make_chunk_tables,
--        embedding.planned_full_text, embedding.plan_chunks, embedding.name_chunk_tables;
--
-- A chunk is known by the hash of everything that a model gets for it: a text that is edited keeps the vectors of all
-- chunks that are still in it, and equal chunks of a text have one vector. A place names the hash of its chunk, so an edit
-- that moves all others writes no vector and no entry of a vector index. A chunk is stored as soon as its vector is paid
-- for, and found by a search when a place names it.

-- The target with the names of its tables: `docs_chunks`, `docs_chunk_places` and `docs_passages`; for a column that is not
-- `embedding`, `docs_<column>_chunks` and so on. They keep their names. Raises if something else has one.
create function embedding.name_chunk_tables(target public.embedding_targets)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    part constant text[] := parse_ident(target.relation);
    stem constant text := part[2] || case when target.embedding_column = 'embedding' then ''
                                          else '_' || target.embedding_column end;
begin
    if target.chunks_relation is not null then
        return target;
    end if;
    target.chunks_relation := format('%I.%I', part[1], stem || '_chunks');
    target.places_relation := format('%I.%I', part[1], stem || '_chunk_places');
    target.passages_relation := format('%I.%I', part[1], stem || '_passages');
    perform embedding.check_side_names(target.chunks_relation, target.places_relation, target.passages_relation);
    return target;
end $$;

-- The target with the settings for chunks, of a table that its other fields name. Raises if they do not fit.
create function embedding.plan_chunks(
    before public.embedding_targets, target public.embedding_targets, wanted embedding.wanted_target
)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    is_in_chunks constant boolean := before.chunk_format is not null;
    cause text;
    cure text;
begin
    if before.id is not null and wanted.chunks <> is_in_chunks then
        raise exception 'column % of table % is embedded %', target.embedding_column, target.table_name,
                        case when is_in_chunks then 'in chunks' else 'as a whole' end
            using errcode = 'invalid_parameter_value',
                  hint = format('Run `worker unwatch %s --column %s` first, or give another name to the column.',
                                target.table_name, target.embedding_column);
    elsif not coalesce(wanted.chunks, is_in_chunks) then
        if num_nonnulls(wanted.context, wanted.format, wanted.chunk_size, wanted.chunk_unit, wanted.max_chunks) > 0 then
            raise exception 'a context, a format and a size of chunks are only for texts in chunks'
                using errcode = 'invalid_parameter_value',
                      hint = 'Give `chunks => true` as well (on the command line: --chunks).';
        end if;
        return target;
    end if;
    perform embedding.check_side_key(
        target, '{hash,content,context,embedding,vector_hash,position,first_char,last_char,page,heading_path}');
    target.context := case when wanted.context is null then before.context
                           else embedding.source_sql(target.relation::regclass, nullif(wanted.context, '')) end;
    target.chunk_format := coalesce(wanted.format, before.chunk_format, 'markdown');
    target.chunk_unit := coalesce(wanted.chunk_unit, before.chunk_unit, 'characters');
    target.chunk_size := coalesce(wanted.chunk_size, before.chunk_size,
                                  case target.chunk_unit when 'tokens' then 300 else 1250 end);
    target.max_chunks := coalesce(wanted.max_chunks, before.max_chunks, 20000);
    select checked.cause, checked.cure into cause, cure
      from (values
            (target.chunk_format = any ('{markdown,text,html,code}'), format('there is no format %s of chunks', target.chunk_format),
             'Formats are markdown, text, html and code.'),
            (target.chunk_unit = any ('{characters,tokens}'),
             format('there is no unit %s of the size of chunks', target.chunk_unit), 'Units are characters and tokens.'),
            (target.chunk_size between 50 and 100000,
             format('chunks cannot have %s %s', target.chunk_size, target.chunk_unit), 'Give a size from 50 to 100000.'),
            (target.max_chunks between 1 and 1000000, format('a text cannot have at most %s chunks', target.max_chunks),
             'Give a number of chunks from 1 to 1000000.')) as checked (fits, cause, cure)
     where not fits limit 1;
    if cause is not null then
        raise exception '%', cause using errcode = 'invalid_parameter_value', hint = cure;
    end if;
    return embedding.name_chunk_tables(target);
end $$;

-- SQL for the words of a target by which a search finds it; null without a language. Those of a text in chunks are
-- in the table of its chunks, and null before there is that table.
create function embedding.planned_full_text(target public.embedding_targets)
returns text
language plpgsql
set search_path = '', pg_temp
as $$
begin
    return case when target.chunk_format is null
                then embedding.full_text_sql(target.relation::regclass, target.source, target.language)
                else embedding.full_text_sql(to_regclass(target.chunks_relation),
                                             'coalesce(context, '''') || '' '' || content', target.language) end;
end $$;

-- Creates the tables of the chunks of a target and the view of its passages, as far as they are missing. A chunk has the hash of
-- its vector as it was stored (embedding.vector_hash_sql), and null where a trigger of somebody else could change the vector.
create function embedding.make_chunk_tables(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    keys constant text := embedding.key_list(target.key_columns);
    is_complete boolean := to_regclass(target.passages_relation) is not null;
begin
    if to_regclass(target.chunks_relation) is null then
        perform embedding.make_side_table(
            target, target.chunks_relation, 'hash bytea not null, content text not null, context text, embedding '
            || embedding.vector_type(target.dimensions) || ' not null, vector_hash bigint', 'hash');
        is_complete := false;
    end if;
    if to_regclass(target.places_relation) is null then
        perform embedding.make_side_table(
            target, target.places_relation, 'position integer not null, hash bytea not null, first_char integer not null, '
            'last_char integer not null, page integer, heading_path text', 'position');
        execute format('create index on %s (%s, hash)', target.places_relation, keys);
        is_complete := false;
    end if;
    if not is_complete then
        execute format(
            'create or replace view %s with (security_invoker = true) as select %s, place.position, place.first_char, '
            'place.last_char, place.page, place.heading_path, chunk.context, chunk.content, chunk.hash '
            'from %s as place join %s as chunk using (%s, hash)',
            target.passages_relation, 'place.' || replace(keys, ', ', ', place.'), target.places_relation,
            target.chunks_relation, keys);
        execute format('alter view %s owner to %s', target.passages_relation,
                       (select relowner::regrole from pg_class where oid = target.relation::regclass));
    end if;
end $$;

select embedding.protect_functions(
    'embedding.name_chunk_tables', 'embedding.plan_chunks', 'embedding.planned_full_text', 'embedding.make_chunk_tables');
