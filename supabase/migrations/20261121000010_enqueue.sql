-- Why:   the triggers of watched tables put records into the queue, and remove those that were deleted.
-- Locks: the migration nothing. A call locks the jobs of its records until the transaction of the writer ends.
-- Undo:  drop function embedding.forget, embedding.enqueue, embedding.enqueue_edited, embedding.enqueue_new,
--        embedding.suspend_target;

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

-- Makes new records pending, in the order given. Callers pass them in key order: two transactions that enqueue the
-- same rows in different orders would deadlock. Raises unique_violation if one of them has a job, if a sequence is
-- behind its table, as on a promoted replica, or if an id is too long: embedding.enqueue takes those too, and takes a
-- third longer.
create function embedding.enqueue_new(target_id integer, record_ids text[], owners uuid[])
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    inserted integer;
begin
    insert into public.embedding_queue
        (target_id, table_name, record_id, embedding_column, user_id, priority, available_at)
    select target.id, target.table_name, record.id, target.embedding_column, record.owner,
           target.priority, clock_timestamp() + target.debounce
      from public.embedding_targets as target
     cross join unnest(record_ids, owners) as record (id, owner)
     where target.id = enqueue_new.target_id and octet_length(record.id) <= 2000;
    get diagnostics inserted = row_count;
    if inserted > 0 then
        perform embedding.wake();
    end if;
    if inserted < cardinality(record_ids) then
        raise unique_violation;
    end if;
end $$;

-- Makes the jobs of edited records pending. A worker that is embedding the old text of one loses its lease. Returns
-- whether all of them have a job; embedding.enqueue is for records that have none, or another owner.
--
-- The plan is pinned: with statistics from when the queue was empty, the planner would read all of it. It uses
-- clock_timestamp, so that the second of two edits in one transaction waits again.
create function embedding.enqueue_edited(target_id integer, record_ids text[])
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    updated integer;
begin
    update public.embedding_queue as job
       set status = 'pending', content = null, attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0,
           error_message = null, error_class = null, available_at = clock_timestamp() + target.debounce,
           priority = target.priority, lease = null, lease_expires_at = null, worker = null, updated_at = now()
      from public.embedding_targets as target
     where target.id = enqueue_edited.target_id and job.record_id = any (record_ids)
       and job.table_name = target.table_name and job.embedding_column = target.embedding_column;
    get diagnostics updated = row_count;
    perform embedding.wake();
    return updated = cardinality(record_ids);
end $$;

-- Makes records pending, whether they have a job or not. `are_new`: before, these ids belonged to no row or to other
-- rows, so what their jobs say about the stored vectors is not true for these rows.
--
-- The INSERT uses `on conflict do nothing` instead of an exception block, which would take a transaction id for each
-- call. The plan is pinned as above.
create function embedding.enqueue(target_id integer, record_ids text[], owners uuid[], are_new boolean)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    queued_ids text[];
    too_long text[]; -- why an id is, or null
    updated integer := 0;
    inserted integer;
begin
    select array_agg(case when octet_length(id) <= 2000 then id else embedding.shortened_id(id) end order by place),
           array_agg(case when octet_length(id) > 2000 then embedding.key_too_long(id) end order by place)
      into queued_ids, too_long
      from unnest(record_ids) with ordinality as given (id, place);
    for round in 1 .. 3 loop
        if round > 1 or not are_new then
            update public.embedding_queue as job
               set status = case when record.too_long is null then 'pending' else 'failed' end,
                   content = null,
                   user_id = record.owner,
                   attempts = 0,
                   abandoned_claims = 0,
                   unwritten = 0,
                   passed_over = 0,
                   error_message = record.too_long,
                   error_class = case when record.too_long is not null then 'key_too_long' end,
                   available_at = clock_timestamp() + target.debounce,
                   priority = target.priority,
                   lease = null,
                   lease_expires_at = null,
                   worker = null,
                   content_hash = case when not are_new then job.content_hash end,
                   model = case when not are_new then job.model end,
                   tokens = case when not are_new then job.tokens end,
                   cost = case when not are_new then job.cost end,
                   truncated_to = case when not are_new then job.truncated_to end,
                   unenhanced = case when not are_new then job.unenhanced end,
                   vector_hash = case when not are_new then job.vector_hash end,
                   updated_at = now()
              from public.embedding_targets as target
             cross join unnest(queued_ids, owners, too_long) as record (id, owner, too_long)
             where target.id = enqueue.target_id and job.record_id = record.id
               and job.table_name = target.table_name and job.embedding_column = target.embedding_column;
            get diagnostics updated = row_count;
            exit when updated = cardinality(record_ids);
        end if;
        insert into public.embedding_queue
            (target_id, table_name, record_id, embedding_column, user_id, priority, available_at,
             status, error_message, error_class)
        select target.id, target.table_name, record.id, target.embedding_column, record.owner,
               target.priority, clock_timestamp() + target.debounce,
               case when record.too_long is null then 'pending' else 'failed' end, record.too_long,
               case when record.too_long is not null then 'key_too_long' end
          from public.embedding_targets as target
         cross join unnest(queued_ids, owners, too_long) as record (id, owner, too_long)
         where target.id = enqueue.target_id
        on conflict do nothing;
        get diagnostics inserted = row_count;
        -- an id can be given twice, by statements within the triggers of others
        exit when updated + inserted >= (select count(distinct id) from unnest(record_ids) as given (id));
        if round = 2 then -- the sequence is behind its table
            perform setval(pg_get_serial_sequence('public.embedding_queue', 'id'),
                           greatest(nextval(pg_get_serial_sequence('public.embedding_queue', 'id')), max(job.id)))
               from public.embedding_queue as job;
        elsif round = 3 then
            perform embedding.suspend_target(target_id, 'embedding_queue takes no new job');
        end if;
    end loop;
    perform embedding.wake();
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
    'embedding.suspend_target', 'embedding.enqueue_new', 'embedding.enqueue_edited', 'embedding.enqueue',
    'embedding.forget');
