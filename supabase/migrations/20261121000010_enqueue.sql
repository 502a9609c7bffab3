-- Why:   the triggers of watched tables put records into the queue, and remove those that were deleted.
-- Locks: the migration nothing. A call locks the jobs of its records until the transaction of the writer ends.
-- Undo:  drop function embedding.forget, embedding.enqueue, embedding.enqueue_one, embedding.suspend_target;

-- Suspends a target because of an error in its triggers; the first reason stays.
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
    null; -- without that table no worker works on the column anyway
end $$;

-- Makes one record pending. A worker that is embedding its old text loses its lease. `is_new`: before, this id belonged
-- to no row or to another row, so what the job says about the stored vector is not true for this row.
--
-- The UPDATE comes first: an edit of a row that has a job is then one statement. It uses `on conflict do
-- nothing` instead of an exception block, which would take a transaction id for each row. A conflict is a job that was
-- inserted at this moment, or a sequence that is behind its table, as on a promoted replica. It uses clock_timestamp,
-- so that the second of two edits in one transaction waits again. It is in plpgsql, whose plans last for a session:
-- SQL functions are planned at every call before Postgres 18.
create function embedding.enqueue_one(target_id integer, record_id text, owner uuid, is_new boolean)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    id_in_queue text := record_id;
    too_long text;
begin
    if octet_length(record_id) > 2000 then
        id_in_queue := embedding.shortened_id(record_id);
        too_long := embedding.key_too_long(record_id);
    end if;
    for round in 1 .. 3 loop
        if round > 1 or not is_new or too_long is not null then
            update public.embedding_queue as job
               set status = case when too_long is null then 'pending' else 'failed' end,
                   content = null,
                   user_id = enqueue_one.owner,
                   attempts = 0,
                   abandoned_claims = 0,
                   unwritten = 0,
                   passed_over = 0,
                   error_message = too_long,
                   error_class = case when too_long is not null then 'key_too_long' end,
                   available_at = clock_timestamp() + target.debounce,
                   priority = target.priority,
                   lease = null,
                   lease_expires_at = null,
                   worker = null,
                   content_hash = case when not is_new then job.content_hash end,
                   model = case when not is_new then job.model end,
                   tokens = case when not is_new then job.tokens end,
                   cost = case when not is_new then job.cost end,
                   truncated_to = case when not is_new then job.truncated_to end,
                   updated_at = now()
              from public.embedding_targets as target
             where target.id = enqueue_one.target_id and job.record_id = id_in_queue
               and job.table_name = target.table_name and job.embedding_column = target.embedding_column;
            if found then
                perform embedding.wake();
                return;
            end if;
        end if;
        insert into public.embedding_queue as job
            (target_id, table_name, record_id, embedding_column, user_id, priority, available_at,
             status, error_message, error_class)
        select target.id, target.table_name, id_in_queue, target.embedding_column, enqueue_one.owner,
               target.priority, clock_timestamp() + target.debounce,
               case when too_long is null then 'pending' else 'failed' end, too_long,
               case when too_long is not null then 'key_too_long' end
          from public.embedding_targets as target
         where target.id = enqueue_one.target_id
        on conflict do nothing;
        if found then
            perform embedding.wake();
            return;
        end if;
        if round = 2 then
            perform setval(pg_get_serial_sequence('public.embedding_queue', 'id'),
                           greatest(nextval(pg_get_serial_sequence('public.embedding_queue', 'id')), max(job.id)))
               from public.embedding_queue as job;
        end if;
    end loop;
    perform embedding.suspend_target(target_id, 'embedding_queue takes no new job');
end $$;

-- Makes the records of new rows pending, in the order given. Callers pass them in key order: two transactions that
-- enqueue the same rows in different orders would deadlock.
create function embedding.enqueue(target_id integer, record_ids text[], owners uuid[])
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    enqueued integer;
begin
    insert into public.embedding_queue as job
        (target_id, table_name, record_id, embedding_column, user_id, priority, available_at)
    select target.id, target.table_name, record.id, target.embedding_column, record.owner,
           target.priority, clock_timestamp() + target.debounce
      from public.embedding_targets as target,
           unnest(record_ids, owners) as record (id, owner)
     where target.id = enqueue.target_id
       and octet_length(record.id) <= 2000
    on conflict do nothing;
    get diagnostics enqueued = row_count;
    if enqueued < cardinality(record_ids) then -- some have jobs already, or for one of the reasons above
        for place in 1 .. cardinality(record_ids) loop
            perform embedding.enqueue_one(target_id, record_ids[place], owners[place], true);
        end loop;
    elsif enqueued > 0 then
        perform embedding.wake();
    end if;
end $$;

-- Removes the records that were deleted from their table from the queue.
create function embedding.forget(target_id integer, record_ids text[])
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    delete from public.embedding_queue as job
     where job.target_id = forget.target_id
       and job.record_id = any (array(
               select case when octet_length(gone.id) <= 2000 then gone.id else embedding.shortened_id(gone.id) end
                 from unnest(record_ids) as gone (id)));
end $$;

select embedding.protect_functions(
    'embedding.suspend_target', 'embedding.enqueue_one', 'embedding.enqueue', 'embedding.forget');
