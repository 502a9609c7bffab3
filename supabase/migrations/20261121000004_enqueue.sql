-- Why:   the two ways into the queue. `enqueue_embeddings` serves the triggers of watched tables;
--        people write to the queue by hand, and the triggers here make that mean what they expect.
-- Locks: a short lock on embedding_queue while its triggers are made.
-- Undo:  drop the functions (cascade drops their triggers).

-- Puts records into the queue, in the order given (the callers give key order: two transactions
-- that enqueue the same rows in another order would deadlock). A record that is there already
-- becomes pending again, and the fence of a worker that is embedding its old text is taken away.
create function public.enqueue_embeddings(target_id integer, record_ids text[], owners uuid[])
returns void
language sql
security definer
set search_path = ''
as $$
    insert into public.embedding_queue as job
        (table_name, record_id, embedding_column, user_id, priority, available_at)
    select target.table_name, record.id, target.embedding_column, record.owner,
           target.priority, now() + target.debounce
      from public.embedding_targets as target,
           unnest(record_ids, owners) as record (id, owner)
     where target.id = target_id
    on conflict on constraint embedding_queue_one_per_record do update
       set status = 'pending',
           content = null,
           user_id = excluded.user_id,
           attempts = 0,
           error_message = null,
           error_class = null,
           available_at = excluded.available_at,
           priority = excluded.priority,
           lease = null,
           lease_expires_at = null,
           worker = null,
           updated_at = now();
$$;

-- Takes the records that are gone from their table out of the queue.
create function public.forget_embeddings(target_id integer, record_ids text[])
returns void
language sql
security definer
set search_path = ''
as $$
    delete from public.embedding_queue as job
     using public.embedding_targets as target
     where target.id = target_id
       and job.table_name = target.table_name
       and job.embedding_column = target.embedding_column
       and job.record_id = any (record_ids);
$$;

-- A hand-made change to pending starts the job over and takes the fence from a running worker.
create function public.embedding_queue_start_over()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.attempts := 0;
    new.available_at := now();
    new.error_message := null;
    new.error_class := null;
    new.lease := null;
    new.lease_expires_at := null;
    new.worker := null;
    new.updated_at := now();
    return new;
end $$;

-- The functions of this schema move the lease or the due time when they change a status, a person
-- at a prompt does not: that is how the two are told apart.
create trigger embedding_queue_start_over
    before update of status on public.embedding_queue
    for each row
    when (
        new.status = 'pending'
        and new.lease is not distinct from old.lease
        and new.available_at is not distinct from old.available_at
    )
    execute function public.embedding_queue_start_over();

-- A job for a column that nobody watches would wait for ever; say so at once.
create function public.embedding_queue_must_be_watched()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if not exists (
        select from public.embedding_targets as target
         where target.table_name = new.table_name
           and target.embedding_column = new.embedding_column
    ) then
        raise exception 'column % of table % is not watched', new.embedding_column, new.table_name
            using errcode = 'foreign_key_violation',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    end if;
    return new;
end $$;

-- Depth 0: only a statement of somebody's own, never one that a trigger of a watched table runs.
create trigger embedding_queue_must_be_watched
    before insert on public.embedding_queue
    for each row
    when (pg_trigger_depth() = 0)
    execute function public.embedding_queue_must_be_watched();
