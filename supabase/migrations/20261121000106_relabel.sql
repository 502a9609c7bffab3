-- Why:   to rename a column, its jobs get its new name. For a million jobs that took 16 s, in which no writer could go on. Now most
--        get it before the table is locked.
-- Locks: the migration nothing. relabel_reembedded locks only the jobs that it renames, without waiting.
-- Undo:  create embedding.enqueue_edited and embedding.enqueue again as `..._enqueue.sql` has them, and
--        public.rename_reembedded as `..._end_reembedding.sql` has it; drop function public.relabel_reembedded;
--
-- Until the column is renamed, its jobs can have either name, so the triggers find them by their target.

-- Makes the jobs of edited records pending. A worker that is embedding the old text of one loses its lease. Returns
-- whether all of them have a job; embedding.enqueue is for records that have none, or another owner.
--
-- The plan is pinned: with statistics from when the queue was empty, the planner would read all of it. It uses
-- clock_timestamp, so that the second of two edits in one transaction waits again.
create or replace function embedding.enqueue_edited(target_id integer, record_ids text[])
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
       and job.table_name = target.table_name and job.target_id = target.id;
    get diagnostics updated = row_count;
    perform embedding.wake();
    return updated = cardinality(record_ids);
end $$;

-- Makes records pending, whether they have a job or not. `are_new`: before, these ids belonged to no row or to other
-- rows, so what their jobs say about the stored vectors is not true for these rows.
--
-- The INSERT uses `on conflict do nothing` instead of an exception block, which would take a transaction id for each
-- call. The plan is pinned as above.
create or replace function embedding.enqueue(target_id integer, record_ids text[], owners uuid[], are_new boolean)
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
               and job.table_name = target.table_name and job.target_id = target.id;
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
           and not exists (select from public.embedding_queue as job where job.record_id = record.id
                              and job.table_name = target.table_name and job.target_id = target.id)
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

-- Gives the next jobs of a column the name that it is about to get from rename_reembedded, at most `batch` of those after the job
-- `after_id`. Returns the last of them; null: there are no more. It skips a job that another session holds, as
-- rename_reembedded finds what is left.
create function public.relabel_reembedded(
    table_name text, embedding_column text, after_id bigint default 0, batch integer default 2000
)
returns bigint
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target constant public.embedding_targets := embedding.lock_serving(table_name, embedding_column);
    last_id bigint;
begin
    perform embedding.check_rename(target);
    select max(next.id) into last_id
      from (select job.id from public.embedding_queue as job
             where job.target_id = target.id and job.id > after_id order by job.id limit batch) as next;
    update public.embedding_queue as job set embedding_column = target.serves
     where job.id = any (array(
               select free.id from public.embedding_queue as free
                where free.target_id = target.id and free.id > after_id and free.id <= last_id
                  and free.embedding_column <> target.serves
                  for update skip locked));
    return last_id;
end $$;

-- Gives the jobs of a target that have no other name yet the one that it serves. A record can have two jobs, of both names: by hand,
-- or by a backfill. Then the older one stays, and is due.
create function embedding.relabel_rest(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    rest constant bigint[] := array(
        select job.id from public.embedding_queue as job
         where job.target_id = target.id and job.embedding_column <> target.serves);
begin
    with twice as (
        delete from public.embedding_queue as job using public.embedding_queue as named
         where job.id = any (rest)
           and named.record_id = job.record_id and named.table_name = job.table_name
           and named.embedding_column = target.serves and named.target_id = target.id
        returning named.id
    )
    update public.embedding_queue as job set status = 'pending', available_at = now()
      from twice where job.id = twice.id;
    update public.embedding_queue as job set embedding_column = target.serves where job.id = any (rest);
end $$;

-- After a re-embedding is finished, gives the new column the name of the old one, with its comment and its grants; a side table is
-- renamed to fit, and new tables of chunks get the names of the old ones.
create or replace function public.rename_reembedded(table_name text, embedding_column text, source text default 'sql')
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target public.embedding_targets := embedding.lock_serving(table_name, embedding_column);
    reembedding public.embedding_reembeddings := embedding.check_rename(target);
begin
    target := embedding.lock_store(target.id);
    perform embedding.relabel_rest(target);
    target := embedding.rename_store(target, (
        select event.figures from public.embedding_audit as event
         where event.reembedding_id = reembedding.id and event.event = 'finished'));
    update public.embedding_targets as known
       set embedding_column = target.embedding_column, serves = null, column_numbers = target.column_numbers,
           chunks_relation = target.chunks_relation, places_relation = target.places_relation,
           passages_relation = target.passages_relation, store_relation = target.store_relation, updated_at = now()
     where known.id = target.id;
    perform embedding.keep_match_function(target, null);
    perform embedding.record_event(reembedding, 'renamed', reembedding.state, source, null);
    return reembedding;
exception when lock_not_available then
    perform embedding.raise_locked(table_name, embedding_column);
end $$;

select embedding.protect_functions(
    'embedding.enqueue_edited', 'embedding.enqueue', 'embedding.relabel_rest', 'public.relabel_reembedded',
    'public.rename_reembedded');
