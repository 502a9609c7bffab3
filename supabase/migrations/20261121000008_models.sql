-- Why:   a column holds vectors of one model. Its model is recorded with the first vectors, and the vectors are
--        cleared when it changes.
-- Locks: the migration nothing. A change of the model of a column locks its table against writers until the
--        transaction ends: see embedding.change_model.
-- Undo:  drop function embedding.change_model cascade; drop function embedding.record_model;

-- Records the model of the first vectors of a column, which the worker chose by its default, and returns the model
-- that the column has. If two workers have different defaults, one succeeds, and both get its model. A column that was
-- filled before models were recorded has that of its jobs. The caller must hold no other lock: this waits for another
-- session that writes the target, such as a backfill, up to a second.
create function embedding.record_model(target_id integer, model text)
returns text
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '1s'
as $$
begin
    update public.embedding_targets as target
       set model = coalesce((select job.model from public.embedding_queue as job
                              where job.target_id = record_model.target_id and job.model <> '' limit 1),
                            record_model.model),
           model_is_default = true
     where target.id = record_model.target_id and target.model is null;
    return (select target.model from public.embedding_targets as target where target.id = record_model.target_id);
end $$;

-- At any time a column holds vectors of one model and one width. When either changes, the old vectors are cleared in
-- the same transaction and their records become pending. The table is locked first: without other writers,
-- locking its rows in any order cannot deadlock.
create function embedding.change_model()
returns trigger
language plpgsql
set search_path = '', pg_temp
as $$
begin
    new.model_is_default := new.model_is_default and old.model is not distinct from new.model;
    if to_regclass(new.relation) is not null and exists (
        select from public.embedding_queue as job
         where job.target_id = new.id and (job.model <> new.model or job.model is not null and old.dimensions <> new.dimensions)
    ) then
        execute format('lock table %s in exclusive mode', new.relation);
        execute format('update %1$s set %2$I = null where %2$I is not null', new.relation, new.embedding_column);
        perform embedding.requeue_target(new, true);
    end if;
    return new;
end $$;

create trigger embedding_targets_change_model
    before update of model, dimensions on public.embedding_targets
    for each row
    when (
        old.model is distinct from new.model and (old.model is not null or not new.model_is_default)
        or old.dimensions <> new.dimensions
    )
    execute function embedding.change_model();

select embedding.protect_functions('embedding.record_model', 'embedding.change_model');
