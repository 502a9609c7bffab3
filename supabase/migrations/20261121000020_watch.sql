-- Why:   `watch_embeddings` registers a column to be kept in step with its text, and installs the triggers that put
--        changed rows into the queue; `unwatch_embeddings` removes both.
-- Locks: the migration nothing. A call of watch_embeddings takes SHARE ROW EXCLUSIVE on the table while its
--        triggers are created (writers wait, readers do not), and ACCESS EXCLUSIVE if it has to add the column.
-- Undo:  select unwatch_embeddings(table, column) for each target, then drop function public.watch_embeddings,
--        public.unwatch_embeddings, embedding.unwatch, embedding.refresh_owners, embedding.audit_watch, embedding.watch,
--        embedding.store_target;
--
-- Everything here runs with the rights of the caller, who must own the table.

-- Inserts a target, or updates it, and returns it as it is stored.
create function embedding.store_target(target public.embedding_targets)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    stored public.embedding_targets;
begin
    insert into public.embedding_targets as known (
        table_name, embedding_column, kind, source, filter, model, document_prompt, query_prompt, model_is_default, dimensions,
        priority, debounce, on_change, on_too_long, language, full_text, context, chunk_format, chunk_size, chunk_unit,
        max_chunks, enhance_model, enhance_prompt, enhance_on_failure, chunks_relation, places_relation, passages_relation,
        store_relation, relation, relation_id, column_numbers, key_columns, record_id_sql, record_match_sql, user_column)
    values (
        target.table_name, target.embedding_column, coalesce(target.kind, 'embed'), target.source, target.filter, target.model, target.document_prompt,
        target.query_prompt, target.model_is_default, target.dimensions, target.priority, target.debounce,
        target.on_change, target.on_too_long, target.language, target.full_text, target.context, target.chunk_format,
        target.chunk_size, target.chunk_unit, target.max_chunks, target.enhance_model, target.enhance_prompt,
        target.enhance_on_failure, target.chunks_relation, target.places_relation, target.passages_relation,
        target.store_relation, target.relation, target.relation_id, target.column_numbers, target.key_columns,
        target.record_id_sql, target.record_match_sql, target.user_column)
    on conflict on constraint embedding_targets_one_per_column do update
       set source = excluded.source, filter = excluded.filter, model = excluded.model,
           document_prompt = excluded.document_prompt, query_prompt = excluded.query_prompt,
           model_is_default = excluded.model_is_default, dimensions = excluded.dimensions, priority = excluded.priority,
           debounce = excluded.debounce, on_change = excluded.on_change, on_too_long = excluded.on_too_long,
           language = excluded.language, full_text = excluded.full_text, context = excluded.context,
           chunk_format = excluded.chunk_format, chunk_size = excluded.chunk_size, chunk_unit = excluded.chunk_unit,
           max_chunks = excluded.max_chunks, enhance_model = excluded.enhance_model,
           enhance_prompt = excluded.enhance_prompt, enhance_on_failure = excluded.enhance_on_failure,
           chunks_relation = excluded.chunks_relation,
           places_relation = excluded.places_relation, passages_relation = excluded.passages_relation,
           store_relation = excluded.store_relation,
           relation = excluded.relation, relation_id = excluded.relation_id,
           column_numbers = excluded.column_numbers, key_columns = excluded.key_columns,
           record_id_sql = excluded.record_id_sql, record_match_sql = excluded.record_match_sql,
           user_column = excluded.user_column, problem = null, updated_at = now(),
           backfill_cursor = case when known.key_columns = excluded.key_columns then known.backfill_cursor end
    returning known.* into stored;
    return stored;
end $$;

-- Keeps `embedding_column` in step with `source` (a column, several, or an SQL expression over the
-- row), for the rows for which `filter` is true. Rows that are already there are enqueued by
-- backfill_embeddings, or by their next edit. With `dimensions` a missing column is added.
--
-- Another call changes the target: an argument that is null or left out keeps what the target has, and an empty filter
-- removes it. If the text or the filter changes, or a problem had suspended the target, the records become pending;
-- those whose text is the same complete without a call of the model. Another model or document prompt clears the vectors
-- (see embedding.change_model); an empty model keeps the model, but as the default of a worker, not as a choice. An empty
-- prompt is what the model is made for, and `none` is none; another model forgets the prompts. If the column
-- is not the one that was watched under this name, all records are embedded again. If it raises an error, it has
-- changed nothing.
--
-- `match_function` true creates a function `match_<table>` for apps, false drops it; null keeps an existing
-- one in step. `language` lets searches use the words of the text as well, in a text search configuration; an empty one
-- ends that. The index that this needs is built by the statements of embedding_index_statements, since a build
-- within a transaction would block writers; if it no longer fits, it is dropped here.
--
-- With `chunks` the text is embedded in chunks of at most `chunk_size` characters, or tokens as `chunk_unit` says, cut as
-- `format` needs it (markdown, text, html, code), each with the `context` before it, an SQL expression or columns like
-- `source`. Tables for them are made beside the table (embedding.make_chunk_tables); a text with more than `max_chunks` fails.
--
-- With `enhance`, a chat model (`provider:model`) writes context for each chunk, or a description of a whole text that is
-- embedded instead of it, by `enhance_prompt` (an empty one is embedding.default_enhance_prompt). `enhance_on_failure`: `wait`
-- leaves the text pending until the chat model works, `raw` embeds it without, and again later. An empty `enhance` ends that.
-- Another chat model or prompt makes all records pending, to be embedded again.
--
-- `store` says where the vectors are: in a `column` of the table, or in a side `table`, which is made beside it
-- (embedding.make_side_table). It cannot be changed. `audit_source` is where the call comes from: see embedding.audit.
create function public.watch_embeddings(
    relation regclass,
    source text default null,
    embedding_column text default null,
    model text default null,
    filter text default null,
    dimensions integer default null,
    priority smallint default null,
    debounce interval default null,
    on_change text default null,
    on_too_long text default null,
    match_function boolean default null,
    document_prompt text default null,
    query_prompt text default null,
    language text default null,
    chunks boolean default null,
    context text default null,
    format text default null,
    chunk_size integer default null,
    chunk_unit text default null,
    max_chunks integer default null,
    enhance text default null,
    enhance_prompt text default null,
    enhance_on_failure text default null,
    store text default null,
    audit_source text default 'sql'
)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    done constant embedding.watch_plan := embedding.watch(relation, row(
        source, embedding_column, model, filter, dimensions, priority, debounce, on_change, on_too_long,
        document_prompt, query_prompt, language, chunks, context, format, chunk_size, chunk_unit, max_chunks,
        enhance, enhance_prompt, enhance_on_failure, store
    )::embedding.wanted_target, match_function);
begin
    perform embedding.audit_watch(done.before, done.target, audit_source);
    return done.target;
end $$;

-- Does what watch_embeddings does, and returns what it did.
create function embedding.watch(relation regclass, wanted embedding.wanted_target, match_function boolean)
returns embedding.watch_plan
language plpgsql
set search_path = '', pg_temp
as $$
declare
    plan embedding.watch_plan := embedding.plan_watch(relation, wanted);
    target public.embedding_targets := plan.target;
    watched public.embedding_targets;
begin
    if not embedding.is_column(target) then
        perform embedding.make_side_tables(target);
        target.full_text := embedding.planned_full_text(target);
    elsif not target.column_numbers ? target.embedding_column then
        perform embedding.add_column(relation, target.embedding_column, target.dimensions);
        target.column_numbers := target.column_numbers || (
            select jsonb_build_object(attname, attnum) from pg_attribute
             where attrelid = relation and attname = target.embedding_column);
    end if;
    if (target.table_name, target.embedding_column) <> ((plan.before).table_name, (plan.before).embedding_column) then
        perform embedding.follow_names(target.id, target.table_name, target.embedding_column);
    end if;

    watched := embedding.store_target(target);
    perform embedding.make_triggers(watched, plan.columns_read);
    if (plan.before).user_column is distinct from watched.user_column and (plan.before).id is not null then
        perform embedding.refresh_owners(watched);
    end if;
    perform embedding.drop_full_text_index(plan.before, watched.full_text);
    perform embedding.keep_match_function(watched, match_function);
    if plan.looks_again then
        perform embedding.requeue_target(watched, plan.trusts_vectors);
    end if;
    plan.target := watched;
    return plan;
end $$;

-- Adds a call of watch_embeddings to the audit, with the names of the settings that changed; not one that changed nothing.
create function embedding.audit_watch(before public.embedding_targets, after public.embedding_targets, source text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    changed constant jsonb := (
        select jsonb_agg(setting order by setting) from jsonb_each(to_jsonb(after)) as now_set (setting, value)
         where setting <> 'updated_at' and value is distinct from to_jsonb(before) -> setting);
begin
    if changed is not null then
        perform embedding.audit(
            'watched', after.table_name, after.embedding_column, source,
            jsonb_strip_nulls(jsonb_build_object(
                'model', after.model, 'changed', case when before.id is not null then changed end)));
    end if;
end $$;

-- Copies the owners of the rows into the jobs of a target, whose table has got or lost its column for owners. An edit
-- changes the owner of a job only if that of the row changes.
create function embedding.refresh_owners(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    execute format($sql$
        update public.embedding_queue
           set user_id = eq_owner
          from (select %1$s as eq_record, %2$s as eq_owner from %3$s) as eq_row
         where target_id = $1 and record_id = %4$s and user_id is distinct from eq_owner
        $sql$,
        target.record_id_sql,
        embedding.owner_sql((parse_ident(target.relation))[2], target.user_column),
        target.relation, embedding.queued_id_sql('eq_record'))
      using target.id;
end $$;

-- Stops keeping the column in step, unless it is re-embedded: removes its triggers, its functions, its index over words and its jobs, but not its
-- vectors; only those in side tables go with these. It also works after the table was dropped or renamed, by
-- the name it was watched under. Returns whether the column was watched.
create function public.unwatch_embeddings(watched_table text, embedding_column text, source text default 'sql')
returns boolean
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if not embedding.unwatch(watched_table, embedding_column) then
        return false;
    end if;
    perform embedding.audit('unwatched', watched_table, embedding_column, source, null);
    return true;
end $$;

-- Does what unwatch_embeddings does.
create function embedding.unwatch(watched_table text, embedding_column text)
returns boolean
language plpgsql
set search_path = '', pg_temp
set client_min_messages = warning
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
begin
    delete from public.embedding_targets as gone
     where gone.table_name = watched_table
       and gone.embedding_column = embedding.stored_column(watched_table, unwatch.embedding_column)
    returning gone.* into target;
    if target.id is null then
        return false;
    end if;
    perform embedding.check_reembedding(target, 'unwatched');
    perform embedding.drop_functions(target.id);
    perform embedding.keep_match_function(target, null);
    perform embedding.drop_full_text_index(target);
    perform embedding.drop_side_tables(target);
    delete from public.embedding_queue as job where job.target_id = target.id;
    delete from public.embedding_checks as checked where checked.target_id = target.id;
    return true;
end $$;

select embedding.protect_functions(
    'embedding.store_target', 'embedding.watch', 'embedding.audit_watch', 'public.watch_embeddings',
    'public.unwatch_embeddings', 'embedding.unwatch', 'embedding.refresh_owners');
