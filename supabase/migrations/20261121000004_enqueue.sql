-- Why:   the two ways into the queue. `embedding.enqueue` serves the triggers of watched tables;
--        people write to the queue by hand, and the triggers here make that mean what they expect.
-- Locks: a short lock on embedding_queue while its triggers are made.
-- Undo:  drop the functions (cascade drops their triggers).

-- Sets a target aside because of something that its triggers ran into; the first reason stays.
create function embedding.suspend_target(target_id integer, reason text)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_targets as target
       set problem = 'an edit could not be queued: ' || reason
     where target.id = target_id and target.problem is null;
exception when undefined_table then
    null; -- without that table nobody works on the column anyway
end $$;

-- Puts records into the queue, in the order given (the callers give key order: two transactions
-- that enqueue the same rows in another order would deadlock). A record that is there already
-- becomes pending again, and the fence of a worker that is embedding its old text is taken away.
-- In plpgsql, whose plans last for a session: SQL functions are planned at every call before
-- Postgres 18, which made each write of a text cost three times as much. By clock_timestamp, so that
-- the second of two edits in one transaction waits anew.
create function embedding.enqueue(target_id integer, record_ids text[], owners uuid[])
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    longest constant integer := 2000; -- an index row ends at 2704 bytes, and holds two names as well
    enqueued integer;
begin
    insert into public.embedding_queue as job
        (target_id, table_name, record_id, embedding_column, user_id, priority, available_at)
    select target.id, target.table_name, record.id, target.embedding_column, record.owner,
           target.priority, clock_timestamp() + target.debounce
      from public.embedding_targets as target,
           unnest(record_ids, owners) as record (id, owner)
     where target.id = enqueue.target_id
       and octet_length(record.id) <= longest
    on conflict on constraint embedding_queue_one_per_record do update
       set status = 'pending',
           content = null,
           user_id = excluded.user_id,
           attempts = 0,
           unanswered = 0,
           unwritten = 0,
           passed_over = 0,
           error_message = null,
           error_class = null,
           available_at = excluded.available_at,
           priority = excluded.priority,
           lease = null,
           lease_expires_at = null,
           worker = null,
           updated_at = now();
    get diagnostics enqueued = row_count;
    if enqueued > 0 then
        perform embedding.wake();
    end if;
    if enqueued < cardinality(record_ids) then
        perform embedding.suspend_target(target_id, format('a key is longer than %s bytes', longest));
    end if;
end $$;

-- Takes the records that are gone from their table out of the queue.
create function embedding.forget(target_id integer, record_ids text[])
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    delete from public.embedding_queue as job
     where job.target_id = forget.target_id and job.record_id = any (record_ids);
end $$;

-- A hand-made change of the status takes the fence from a running worker; one to pending starts the
-- job over as well.
create function embedding.queue_by_hand()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    new.lease := null;
    new.lease_expires_at := null;
    new.worker := null;
    new.updated_at := now();
    new.unanswered := 0;
    new.unwritten := 0;
    new.passed_over := 0;
    if new.status = 'pending' then
        new.attempts := 0;
        new.error_message := null;
        new.error_class := null;
        if new.available_at is not distinct from old.available_at then
            new.available_at := now();
        end if;
        perform embedding.wake();
    end if;
    return new;
end $$;

-- The functions of this schema take the lease away themselves, and move the due time or the attempts
-- of what they make pending; a person at a prompt does not: that is how the two are told apart.
create trigger embedding_queue_by_hand
    before update of status on public.embedding_queue
    for each row
    when (
        new.status <> 'processing' and new.lease is not null
        or new.status = 'pending'
           and (new.available_at is not distinct from old.available_at
                or new.lease is not distinct from old.lease and new.attempts > 0 and new.attempts = old.attempts)
    )
    execute function embedding.queue_by_hand();

-- People name a target by its table and column. A job for a column that nobody watches would wait for
-- ever; say so at once.
create function embedding.find_target()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    select target.id into new.target_id
      from public.embedding_targets as target
     where target.table_name = new.table_name
       and target.embedding_column = new.embedding_column;
    if new.target_id is null then
        raise exception 'column % of table % is not watched', new.embedding_column, new.table_name
            using errcode = 'foreign_key_violation',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    end if;
    perform embedding.wake();
    return new;
end $$;

create trigger embedding_queue_find_target
    before insert on public.embedding_queue
    for each row
    when (new.target_id is null)
    execute function embedding.find_target();
