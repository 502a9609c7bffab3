-- Why:   a re-embedding begins with a second column, or with side tables, that are watched like the first: so every edit
--        is embedded by both models from then on.
-- Locks: the migration nothing. A call of start_reembedding locks the table as watch_embeddings does when it adds a column. It
--        waits 100 ms for each lock, unless lock_timeout is set, and changes nothing if it does not get it: call it again.
-- Undo:  drop function public.start_reembedding, embedding.make_store, embedding.new_vector_type,
--        embedding.grant_column, embedding.column_grants, embedding.new_store_name, embedding.check_start, embedding.store_of,
--        embedding.record_event;

-- Adds a step of a re-embedding, which is in its new state already, to the audit.
create function embedding.record_event(
    reembedding public.embedding_reembeddings, event text, from_state text, source text, figures jsonb
)
returns void
language sql
set search_path = '', pg_temp
as $$
    select embedding.audit(event, reembedding.table_name, reembedding.embedding_column, source, figures, reembedding.id,
                           from_state, reembedding.state);
$$;

-- Where the vectors of a target are: in a column of the watched table, in a side table, or in chunks.
create function embedding.store_of(target public.embedding_targets)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when target.store_relation is not null then 'table' when target.chunk_format is null then 'column'
                else 'chunks' end;
$$;

-- Raises unless the vectors of a target can be made again in this way. The caller has locked it.
create function embedding.check_start(
    old public.embedding_targets, model text, dimensions integer, document_prompt text, query_prompt text, kind text,
    store text
)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    problem constant text := coalesce(old.problem, embedding.identity_problem(old));
    present public.embedding_reembeddings;
    cause text;
    cure text;
begin
    select * into present from embedding.open_reembedding(old.id);
    select checked.cause, checked.cure into cause, cure
      from (values
            (coalesce(model, '') !~ '^[^:]+:.+$', format('%s is not the name of a model', quote_nullable(model)),
             'Write provider:model, as in openai:text-embedding-3-small.'),
            (dimensions is null, 'the dimensions of the new vectors are not given', 'Give as many as the model has.'),
            (kind not in ('vector', 'halfvec'), format('the new column cannot be of type %s', quote_nullable(kind)),
             'The type is vector or halfvec; without one it is that of the old column.'),
            (store not in ('column', 'table') and store <> embedding.store_of(old)
             or old.chunk_format is not null and store <> 'chunks',
             format('the new vectors cannot be stored in %s', quote_nullable(store)),
             'The store is column or table; without one it is that of the old vectors. Chunks have tables of their own.'),
            (problem is not null, format('column %s of table %s is suspended: %s', old.embedding_column, old.table_name, problem),
             'Watch it again first.'),
            (present.id is not null,
             format('column %s of table %s is re-embedded already, with %s: it is %s',
                    present.embedding_column, present.table_name, present.new_model, present.state),
             'Finish that re-embedding first, or cancel it.'),
            (old.model = model and old.dimensions = dimensions
             and nullif(embedding.planned_prompt(document_prompt, null), '')
                 is not distinct from nullif(old.document_prompt, '')
             and embedding.planned_prompt(query_prompt, null) is not distinct from old.query_prompt
             and (kind is null or kind = embedding.kind_of_vectors(old)) and store = embedding.store_of(old),
             format('column %s of table %s has vectors of %s with %s dimensions already',
                    old.embedding_column, old.table_name, model, dimensions),
             'There is nothing to do. `worker reprocess` embeds texts again.'),
            (store = 'column' and (select relkind = 'p' from pg_class where oid = to_regclass(old.relation)),
             format('table %s is partitioned, and Postgres builds no index over one beside its writers', old.table_name),
             'Store the new vectors in a side table: `--store table`.'),
            (store = 'column' and (select reloftype <> 0 from pg_class where oid = to_regclass(old.relation)),
             format('table %s has the columns of a type, so it cannot get another one', old.table_name),
             'Store the new vectors in a side table: `--store table`.'))
           as checked (fails, cause, cure)
     where fails limit 1;
    if cause is not null then
        raise exception '%', cause using errcode = 'object_not_in_prerequisite_state', hint = cure;
    end if;
end $$;

-- A free name for the column of new vectors, and for a side table: `<named>_2`, or the next number.
create function embedding.new_store_name(old public.embedding_targets)
returns text
language plpgsql -- a later file defines what it calls
stable
set search_path = '', pg_temp
as $$
begin
    return (
        select candidate.name
          from (select coalesce(old.serves, old.embedding_column) as name) as named
         cross join generate_series(2, 1000) as number
         cross join lateral (
               select case when octet_length(named.name) <= 58 then named.name
                           else left(named.name, 10) || '_' || left(md5(named.name), 10) end || '_' || number) as candidate (name)
         where not exists (select from pg_attribute where attrelid = old.relation::regclass and attname = candidate.name)
           and to_regclass(embedding.name_store(old, candidate.name)) is null
           and not exists (select from public.embedding_targets as known
                            where known.table_name = old.table_name and candidate.name in (known.embedding_column, known.serves))
         order by number limit 1);
end $$;

-- The type of new vectors: `kind`, vector or halfvec, or that of the vectors that a target has, unless they are too wide for it.
create function embedding.new_vector_type(old public.embedding_targets, dimensions integer, kind text)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when coalesce(kind, embedding.kind_of_vectors(old)) = 'halfvec'
                then regexp_replace(embedding.vector_type(dimensions), '\.(half)?vec(tor)?\(', '.halfvec(')
                else embedding.vector_type(dimensions) end;
$$;

-- The rights on a column, as embedding.grant_column takes them. A role that is null is public.
create function embedding.column_grants(rights aclitem[])
returns jsonb
language sql
stable
set search_path = '', pg_temp
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'privilege', privilege_type, 'role', rolname, 'with_grant_option', is_grantable)), '[]')
      from aclexplode(rights) left join pg_roles on pg_roles.oid = grantee;
$$;

-- Gives rights on a column to the roles that still exist.
create function embedding.grant_column(relation text, column_name text, grants jsonb)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    given record;
begin
    for given in
        select * from jsonb_to_recordset(grants) as one (privilege text, role text, with_grant_option boolean)
         where role is null or to_regrole(quote_ident(role)) is not null
    loop
        execute format('grant %s (%I) on %s to %s%s', given.privilege, column_name, relation,
                       coalesce(quote_ident(given.role), 'public'),
                       case when given.with_grant_option then ' with grant option' end);
    end loop;
end $$;

-- Adds the column of new vectors beside that of a target, with its storage, and for those who may read it.
create function embedding.make_store(old public.embedding_targets, new_column text, vector_type text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    before pg_attribute;
begin
    if new_column <> new_column::name::text or exists (
           select from pg_attribute where attrelid = old.relation::regclass and attname = new_column) then
        raise exception 'table % cannot get a column % for the new vectors', old.table_name, new_column
            using errcode = 'invalid_parameter_value', hint = 'Give another name, or none: then it gets one that is free.';
    end if;
    select pg_attribute.* into before
      from embedding.as_stored(old) as stored
      join pg_attribute on attrelid = stored.relation::regclass and attname = stored.embedding_column;
    execute format('alter table %s add column %I %s', old.relation, new_column, vector_type);
    if before.attstorage <> (select typstorage from pg_type where oid = before.atttypid) then
        execute format('alter table %s alter column %I set storage %s', old.relation, new_column,
                       case before.attstorage when 'p' then 'plain' when 'e' then 'external' when 'x' then 'extended'
                                              else 'main' end);
    end if;
    perform embedding.grant_column(old.relation, new_column, embedding.column_grants(before.attacl));
end $$;

-- Begins to embed the texts of a column with another model, in a second column beside it, or in side tables. The
-- same rows, text, chunks and enhancement; every edit is embedded by both from now on, and backfill_embeddings, for the new
-- column, enqueues what is there. Searches go on in the old one, unless they name the new model or are as wide as it.
-- `config` is kept for those who look at it later; its `type` is that of the new vectors, vector or halfvec, its `column`
-- the name, if it has one, and its `store` is column or table: without one that of the old vectors.
create function public.start_reembedding(
    relation regclass, embedding_column text, model text, dimensions integer, document_prompt text default null,
    query_prompt text default null, config jsonb default null, source text default 'sql'
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    old public.embedding_targets;
    new public.embedding_targets;
    new_column text;
    vector_type text;
    store text;
    reembedding public.embedding_reembeddings;
begin
    old := embedding.lock_serving(public.embedding_table_name(relation), start_reembedding.embedding_column);
    store := coalesce(config ->> 'store', embedding.store_of(old));
    perform embedding.check_start(
        old, start_reembedding.model, start_reembedding.dimensions, start_reembedding.document_prompt,
        start_reembedding.query_prompt, config ->> 'type', store);
    perform set_config('lock_timeout', '100ms', true) where current_setting('lock_timeout') = '0';
    new_column := coalesce(config ->> 'column', embedding.new_store_name(old));
    vector_type := embedding.new_vector_type(old, start_reembedding.dimensions, config ->> 'type');
    if store = 'column' then
        perform embedding.make_store(old, new_column, vector_type);
    end if;
    new := (embedding.watch(relation, row(
        old.source, new_column, start_reembedding.model, old.filter, start_reembedding.dimensions,
        greatest(old.priority - 10, -32768)::smallint, old.debounce, old.on_change, old.on_too_long,
        start_reembedding.document_prompt, start_reembedding.query_prompt, old.language, old.chunk_format is not null,
        old.context, old.chunk_format, old.chunk_size, old.chunk_unit, old.max_chunks, old.enhance_model,
        old.enhance_prompt, old.enhance_on_failure, nullif(store, 'chunks')
    )::embedding.wanted_target, null)).target;
    if store <> 'column' then
        execute format('alter table %s alter column embedding type %s', coalesce(new.chunks_relation, new.store_relation),
                       vector_type);
    end if;
    update public.embedding_targets as shadow
       set serves = coalesce(old.serves, old.embedding_column), role = 'shadow',
           max_attempts = coalesce((config ->> 'max_retries')::smallint, old.max_attempts)
     where shadow.id = new.id;
    update public.embedding_targets as known -- otherwise workers with another EMBEDDING_MODEL would not keep it in step
       set model_is_default = false
     where known.id = old.id and known.model is not null;
    perform embedding.keep_match_function(old, null);
    insert into public.embedding_reembeddings (
        table_name, embedding_column, old_target, new_target, old_column, new_column, old_model, new_model, dimensions,
        config)
    values (old.table_name, coalesce(old.serves, old.embedding_column), old.id, new.id, old.embedding_column,
            new.embedding_column, old.model, new.model, new.dimensions, config)
    returning * into reembedding;
    perform embedding.record_event(reembedding, 'started', null, start_reembedding.source, config);
    return reembedding;
exception when lock_not_available then
    perform embedding.raise_locked(public.embedding_table_name(relation), start_reembedding.embedding_column);
end $$;

select embedding.protect_functions(
    'embedding.record_event', 'embedding.store_of', 'embedding.check_start', 'embedding.new_store_name',
    'embedding.new_vector_type', 'embedding.column_grants', 'embedding.grant_column', 'embedding.make_store', 'public.start_reembedding');
