-- Why:   a column holds vectors of one model. Its model is recorded with the first vectors, and the vectors are
--        cleared when it changes.
-- Locks: the migration nothing. A change of the model of a column locks its table against writers until the
--        transaction ends: see embedding.change_model.
-- Undo:  drop function embedding.change_model cascade; drop function embedding.record_model, embedding.full_model;

-- The full name of the model of a target: `provider:model`, and if it gets a prompt before each text, `#` and the prompt.
-- Vectors of one model with different prompts cannot be compared: so jobs, the cache and the check whether a text is
-- unchanged hold full names. The prompt before the words of a search is not part of it, since it changes no vector.
create function embedding.full_model(target public.embedding_targets, default_model text default null)
returns text
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    return coalesce(target.model, default_model) || coalesce('#' || nullif(target.document_prompt, ''), '');
end $$;

-- Records the model and the document prompt of the first vectors of a column, as far as nobody chose them, and returns
-- the target. If two workers have different defaults, one succeeds, and both get its model. A column that was filled
-- before they were recorded has those of its jobs. The caller must hold no other lock: this waits for another
-- session that writes the target, such as a backfill, up to a second.
create function embedding.record_model(target_id integer, full_model text)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '1s'
as $$
declare
    target public.embedding_targets;
begin
    select * into target from public.embedding_targets as found where found.id = record_model.target_id;
    full_model := coalesce(
        (select job.model from public.embedding_queue as job
          where job.target_id = target.id and job.status = 'completed' and job.model <> ''
            and split_part(job.model, '#', 1) = coalesce(target.model, split_part(job.model, '#', 1)) limit 1),
        full_model);
    update public.embedding_targets as first
       set model = split_part(full_model, '#', 1),
           model_is_default = first.model is null or first.model_is_default,
           document_prompt = coalesce(first.document_prompt, regexp_replace(full_model, '^[^#]*#?', ''))
     where first.id = target.id and (first.model is null or first.document_prompt is null)
       and split_part(full_model, '#', 1) = coalesce(first.model, split_part(full_model, '#', 1));
    select * into target from public.embedding_targets as found where found.id = record_model.target_id;
    return target;
end $$;

-- At any time a column holds vectors of one model, one document prompt and one width. When one of them changes, the old
-- vectors are cleared in the same transaction and their records become pending. The table is locked first: without other
-- writers, locking its rows in any order cannot deadlock. A prompt that becomes undecided may become another one.
create function embedding.change_model()
returns trigger
language plpgsql
set search_path = '', pg_temp
as $$
begin
    new.model_is_default := new.model_is_default and old.model is not distinct from new.model;
    if to_regclass(new.relation) is not null and (
        new.chunk_format is not null -- no job has the model of a vector that is stored before its text is complete
        or exists (
            select from public.embedding_queue as job
             where job.target_id = new.id
               and (job.model <> embedding.full_model(new)
                    or job.model is not null and (old.dimensions <> new.dimensions or new.document_prompt is null)))
    ) then
        execute format('lock table %s in exclusive mode', new.relation);
        perform embedding.clear_all(new);
        perform embedding.requeue_target(new, true);
    end if;
    return new;
end $$;

create trigger embedding_targets_change_model
    before update of model, document_prompt, dimensions on public.embedding_targets
    for each row
    when (
        old.model is distinct from new.model and (old.model is not null or not new.model_is_default)
        or old.document_prompt is distinct from new.document_prompt and old.document_prompt is not null
        or old.dimensions <> new.dimensions
    )
    execute function embedding.change_model();

select embedding.protect_functions('embedding.full_model', 'embedding.record_model', 'embedding.change_model');
