-- Why:   watch_embeddings checks everything before it changes anything, and the preview shows the same plan.
-- Locks: nothing.
-- Undo:  drop function embedding.plan_watch, embedding.trusts_vectors, embedding.plan_table, embedding.plan_settings,
--        embedding.plan_model, embedding.planned_prompt, embedding.check_names; drop type embedding.wanted_target,
--        embedding.watch_plan;

-- Raises if the table or one of its columns has a name that the statements of the queue use themselves.
create function embedding.check_names(relation regclass)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reserved_name name;
begin
    select name into reserved_name
      from (select attname from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
            union all select relname from pg_class where oid = relation) as used (name)
     where starts_with(name, 'eq_') limit 1;
    if reserved_name is not null then
        raise exception 'table % cannot be watched under the name %',
                        public.embedding_table_name(relation), reserved_name
            using errcode = 'reserved_name',
                  hint = 'The statements of the queue use names that begin with eq_. Rename yours.';
    end if;
end $$;

-- The effect of a call of watch_embeddings. `before`: the present target, null if the column is not watched;
-- `target`: the new one; `looks_again`: whether all its records become pending; `trusts_vectors`: whether the column
-- is the one whose vectors the queue recorded, so that vectors of the same text and model stay.
create type embedding.watch_plan as (
    before public.embedding_targets,
    target public.embedding_targets,
    columns_read text[],
    looks_again boolean,
    trusts_vectors boolean
);

-- What watch_embeddings gets about a target. A null keeps what the target has.
create type embedding.wanted_target as (
    source text, embedding_column text, model text, filter text, dimensions integer, priority smallint,
    debounce interval, on_change text, on_too_long text, document_prompt text, query_prompt text, language text,
    chunks boolean, context text, format text, chunk_size integer, chunk_unit text, max_chunks integer,
    enhance text, enhance_prompt text, enhance_on_failure text, store text
);

-- The prompt of a target, null for that of the model, by what watch_embeddings gets: null keeps the present one, '' is
-- that of the model, `none` is none.
create function embedding.planned_prompt(wanted text, present text)
returns text
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    if length(wanted) > 500 then -- each job holds it
        raise exception 'a prompt has at most 500 characters, not %', length(wanted)
            using errcode = 'invalid_parameter_value', hint = 'Put what belongs to every text into the source.';
    end if;
    return case when wanted is null then present when wanted = 'none' then '' else nullif(wanted, '') end;
end $$;

-- The target with the wanted model and prompts. Another model forgets the prompts.
create function embedding.plan_model(before public.embedding_targets, wanted embedding.wanted_target)
returns public.embedding_targets
language plpgsql
immutable
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets := before;
begin
    if wanted.model ~ '#' then
        raise exception 'the name of a model cannot contain #'
            using errcode = 'invalid_parameter_value', hint = 'Give its prompt as document_prompt.';
    end if;
    target.model := coalesce(nullif(wanted.model, ''), before.model);
    target.model_is_default := target.model is not null and coalesce(wanted.model = '', before.model_is_default, false);
    if before.model <> target.model then
        target.document_prompt := null;
        target.query_prompt := null;
    end if;
    target.document_prompt := embedding.planned_prompt(wanted.document_prompt, target.document_prompt);
    target.query_prompt := embedding.planned_prompt(wanted.query_prompt, target.query_prompt);
    return target;
end $$;

-- The target with the wanted settings, for a table that may be watched. Raises if its column or its source is not given.
create function embedding.plan_settings(
    relation regclass, before public.embedding_targets, wanted embedding.wanted_target
)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets := embedding.plan_model(before, wanted);
begin
    target.problem := null;
    target.table_name := public.embedding_table_name(relation);
    target.embedding_column := wanted.embedding_column;
    target.source := coalesce(embedding.source_sql(relation, wanted.source), before.source);
    target.filter := nullif(coalesce(wanted.filter, before.filter), '');
    target.priority := coalesce(wanted.priority, before.priority, 0);
    target.debounce := coalesce(wanted.debounce, before.debounce, '0');
    target.on_change := coalesce(wanted.on_change, before.on_change, 'keep');
    target.on_too_long := coalesce(wanted.on_too_long, before.on_too_long, 'fail');
    target.language := nullif(coalesce(wanted.language, before.language), '');
    if target.embedding_column is null then
        raise exception 'the embedding column is not given'
            using errcode = 'invalid_parameter_value',
                  hint = 'Name it: watch_embeddings(table, source, embedding_column).';
    elsif target.source is null then
        raise exception 'column % of table % is not watched yet', target.embedding_column, target.table_name
            using errcode = 'invalid_parameter_value',
                  hint = 'Give its source: a column, several, or an SQL expression (on the command line: --source).';
    end if;
    return target;
end $$;

-- The target with the names and numbers of its table and of its columns, as they are now.
create function embedding.plan_table(relation regclass, target public.embedding_targets)
returns public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    bare_name name;
begin
    select relname, format('%I.%I', nspname, relname) into bare_name, target.relation
      from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = plan_table.relation;
    target.relation_id := relation;
    target.key_columns := embedding.key_columns(relation);
    target.record_id_sql := embedding.record_id_sql(relation, bare_name, target.key_columns);
    target.record_match_sql := embedding.record_match_sql(relation, target.key_columns);
    target.user_column := (
        select attname from pg_attribute
         where attrelid = relation and attname = 'user_id' and atttypid = 'uuid'::regtype and not attisdropped);
    return target;
end $$;

-- Whether the vectors that a target has stay valid with a plan, as far as text and model are the same. Those that were made
-- with another chat model or by another prompt do not.
create function embedding.trusts_vectors(before public.embedding_targets, target public.embedding_targets)
returns boolean
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    if (before.enhance_model, before.enhance_prompt) is distinct from (target.enhance_model, target.enhance_prompt) then
        return false;
    end if;
    return coalesce(
        case when not embedding.is_column(target) then
                  not exists (select from unnest(embedding.side_tables(target)) as made (name) where to_regclass(name) is null)
                  and (before.context, before.chunk_format, before.chunk_size, before.chunk_unit, before.max_chunks)
                      is not distinct from
                      (target.context, target.chunk_format, target.chunk_size, target.chunk_unit, target.max_chunks)
             when before.relation_id = target.relation_id then
                  before.column_numbers -> before.embedding_column = target.column_numbers -> target.embedding_column
             else embedding.triggered_table(before.id) = target.relation_id end, false);
end $$;

-- Checks what is wanted, and replaces nulls by what the target has. Raises an error with a hint if the column cannot be
-- watched in this way.
create function embedding.plan_watch(relation regclass, wanted embedding.wanted_target)
returns embedding.watch_plan
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    plan embedding.watch_plan;
    before public.embedding_targets;
    target public.embedding_targets;
    cause text;
    hint text;
begin
    perform embedding.check_table(relation::text);
    perform embedding.check_names(relation);
    for cause, hint in select * from embedding.blind_spot(relation, null, false) limit 1 loop
        raise exception '%', cause using errcode = 'wrong_object_type', hint = hint;
    end loop;
    if wanted.chunks or wanted.store = 'table' then -- no column of the table holds them
        wanted.embedding_column := coalesce(wanted.embedding_column, 'embedding');
    end if;
    wanted.embedding_column := embedding.stored_column(
        public.embedding_table_name(relation), wanted.embedding_column);
    select * into before from embedding.find_target_of(relation, wanted.embedding_column);
    before.problem := coalesce(before.problem, embedding.identity_problem(before));
    target := embedding.plan_settings(relation, before, wanted);
    target := embedding.plan_table(relation, target);
    target := embedding.plan_chunks(before, target, wanted);
    target := embedding.plan_store(before, target, wanted);
    target := embedding.plan_enhancement(before, target, wanted);
    select columns, numbers into plan.columns_read, target.column_numbers
      from embedding.columns_read(relation, embedding.text_sql(target), target.filter);
    target.full_text := embedding.planned_full_text(target);
    if embedding.is_column(target) and target.column_numbers ? target.embedding_column then
        raise exception 'column % cannot be made from itself', target.embedding_column
            using errcode = 'invalid_parameter_value',
                  hint = 'The source and the filter must not read the embedding column.';
    end if;
    target.column_numbers := target.column_numbers || (
        select jsonb_object_agg(attname, attnum) from pg_attribute
         where attrelid = relation
           and attname = any (target.key_columns || target.user_column
                              || case when embedding.is_column(target) then target.embedding_column end));
    target.dimensions := case
        when embedding.is_column(target)
            then embedding.planned_width(relation, target.embedding_column, wanted.dimensions)
        else embedding.planned_side_width(target, wanted.dimensions) end;

    if before.id is not null then
        perform embedding.check_reembedding(before, 'changed', target);
    end if;
    plan.before := before;
    plan.trusts_vectors := embedding.trusts_vectors(before, target);
    plan.looks_again := not plan.trusts_vectors
        or (before.source, before.filter, before.model, before.document_prompt, before.record_match_sql, before.problem)
           is distinct from (target.source, target.filter, target.model, target.document_prompt,
                             target.record_match_sql, target.problem);
    plan.target := target;
    return plan;
end $$;

select embedding.protect_functions('embedding.check_names', 'embedding.planned_prompt', 'embedding.plan_model',
    'embedding.plan_settings', 'embedding.plan_table', 'embedding.trusts_vectors', 'embedding.plan_watch');
