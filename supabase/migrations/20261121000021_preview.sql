-- Why:   people see what watch_embeddings would change, and how many rows it would embed, before they call it.
-- Locks: ACCESS SHARE on the table, until the transaction ends.
-- Undo:  drop function public.preview_watch_embeddings, embedding.count_to_embed;

-- How many records a plan would embed again: those that become pending and whose text, model or vector differs from
-- the recorded one. If the text of some row cannot be read, all that become pending are counted.
create function embedding.count_to_embed(plan embedding.watch_plan, default_model text)
returns bigint
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target constant public.embedding_targets := plan.target;
    records bigint;
begin
    if target.id is null or not plan.looks_again then
        return 0;
    end if;
    execute format($sql$
        select count(*)
          from (select record_id as eq_record, content_hash as eq_hash, model as eq_model, unenhanced as eq_unenhanced
                  from public.embedding_queue where target_id = $1 and status <> 'pending') as eq_job
         cross join lateral (
               select (%1$s)::text as eq_text, %2$s as eq_has_vector from %3$s where %4$s and (%5$s)) as eq_row
         where eq_text collate "C" ~ $2
           and ($3 and eq_has_vector and eq_model = $4 and eq_unenhanced is null
                and eq_hash = sha256(convert_to(eq_text, 'UTF8'))) is not true
        $sql$,
        embedding.text_sql(target),
        case when target.column_numbers ? target.embedding_column
               or to_regclass(coalesce(target.places_relation, target.store_relation)) is not null
             then embedding.has_vector_sql(target) else 'false' end,
        target.relation, target.record_match_sql, coalesce(target.filter, 'true'))
       into records
      using target.id, embedding.visible_character(), plan.trusts_vectors,
            case when target.document_prompt is not null or (plan.before).document_prompt is null
                 then embedding.full_model(target, default_model) end;
    return records;
exception
    when transaction_rollback or insufficient_resources or operator_intervention or system_error then
        raise;
    when others then
        return (select count(*) from public.embedding_queue as job
                 where job.target_id = target.id and job.status <> 'pending');
end $$;

-- What watch_embeddings would change if it were called with these arguments, and how many records a worker with this
-- default model would embed again. Changes nothing.
create function public.preview_watch_embeddings(
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
    default_model text default null,
    out is_watched boolean,
    out width integer,
    out changes text[],
    out to_embed bigint
)
language plpgsql
set search_path = '', pg_temp
as $$
declare
    plan constant embedding.watch_plan := embedding.plan_watch(relation, row(
        source, embedding_column, model, filter, dimensions, priority, debounce, on_change, on_too_long,
        document_prompt, query_prompt, language, chunks, context, format, chunk_size, chunk_unit, max_chunks,
        enhance, enhance_prompt, enhance_on_failure, store
    )::embedding.wanted_target);
begin
    is_watched := (plan.target).id is not null;
    width := (plan.target).dimensions;
    to_embed := embedding.count_to_embed(plan, default_model);
    select coalesce(array_agg(format('%s: %s -> %s', setting, coalesce(nullif(was, ''), 'none'),
                                     coalesce(nullif(becomes, ''), 'none'))
                              order by place), '{}')
      into changes
      from unnest('{problem,table_name,embedding_column,source,filter,model,document_prompt,query_prompt,model_is_default,'
                  'dimensions,priority,debounce,on_change,on_too_long,language,context,chunk_format,chunk_size,chunk_unit,max_chunks,'
                  'enhance_model,enhance_prompt,enhance_on_failure}'::text[]) with ordinality as listed (setting, place)
     cross join lateral (select case when setting ~ '^(document|query)_prompt$' then 'that of the model' end) as unset (is_shown_as)
     cross join lateral (
           select coalesce(to_jsonb(plan.before) ->> setting, is_shown_as),
                  coalesce(to_jsonb(plan.target) ->> setting, is_shown_as)) as value (was, becomes)
     where is_watched and was is distinct from becomes
       and not coalesce((plan.before).model <> (plan.target).model and becomes = is_shown_as, false); -- goes without saying
    if is_watched and match_function <> exists (
        select from embedding.match_functions() as written where written.target_id = (plan.target).id
    ) then
        changes := changes || format('match_function: %s -> %s', (not match_function)::text, match_function::text);
    end if;
end $$;

select embedding.protect_functions('embedding.count_to_embed', 'public.preview_watch_embeddings');
