-- Why:   while a step of a re-embedding waits for a lock, all others who need the table wait behind it, so it waits only a moment. A
--        lock_timeout of the role, the database or the server, such as the 8 seconds of Supabase's authenticator, made it wait that
--        long. Now only one that the caller has set counts.
-- Locks: nothing.
-- Undo:  create public.start_reembedding, public.swap_reembedding and embedding.lock_store again, as `..._start_reembedding.sql`,
--        `..._swap.sql` and `..._end_reembedding.sql` have them; drop function embedding.set_lock_timeout.

-- Sets how long this transaction waits for a lock, unless its session or the start of its connection has set that.
create function embedding.set_lock_timeout(wait text)
returns void
language sql
set search_path = '', pg_temp
as $$
    select set_config('lock_timeout', wait, true) from pg_settings
     where name = 'lock_timeout' and (setting = '0' or source not in ('session', 'client'));
$$;

-- Begins to embed the texts of a column with another model, in a second column beside it, or in side tables. The
-- same rows, text, chunks and enhancement; every edit is embedded by both from now on, and backfill_embeddings, for the new
-- column, enqueues what is there. Searches go on in the old one, unless they name the new model or are as wide as it.
-- `config` is kept for those who look at it later; its `type` is that of the new vectors, vector or halfvec, its `column`
-- the name, if it has one, and its `store` is column or table: without one that of the old vectors.
create or replace function public.start_reembedding(
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
    perform embedding.set_lock_timeout('100ms');
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

-- Lets the new target serve. It has to be ready, or the figures say that it is not verified: {"verified": false}.
create or replace function public.swap_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
begin
    perform embedding.set_lock_timeout('1s');
    reembedding := embedding.lock_reembedding(
        table_name, embedding_column,
        case when figures @> '{"verified": false}' then '{ready,verifying,indexing}' else '{ready}' end::text[]);
    perform embedding.serve(reembedding.new_target, reembedding.old_target, 'retired');
    return embedding.enter_state(reembedding, 'swapped', 'swapped', source, figures);
exception when lock_not_available then
    perform embedding.raise_locked(null, null);
end $$;

-- Locks a target, and its table against writers, whose jobs the caller can then change while readers go on. If a reader would
-- keep the caller from the drop or the rename at the end, it raises now, and not after the work.
create or replace function embedding.lock_store(target_id integer)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets;
    tables text;
begin
    perform embedding.set_lock_timeout('100ms');
    select * into target from public.embedding_targets as known where known.id = target_id for update;
    select string_agg(made.id::regclass::text, ', ') into tables
      from (select embedding.triggered_table(target_id)
             union all
            select to_regclass(beside) from unnest(embedding.side_tables(target)) as beside) as made (id)
     where made.id is not null;
    if tables is null then
        return target;
    end if;
    execute format('lock table %s in share row exclusive mode', tables);
    begin
        execute format('lock table %s in access exclusive mode', tables);
        raise sqlstate 'EQ001';
    exception when sqlstate 'EQ001' then -- gives this lock back
        return target;
    end;
end $$;

select embedding.protect_functions(
    'embedding.set_lock_timeout', 'embedding.lock_store', 'public.start_reembedding', 'public.swap_reembedding');
