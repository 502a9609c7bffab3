-- Why:   a worker claims jobs into a batch and submits it. What it has done is recorded step by step, so that another worker can go on
--        if it dies: the row of the batch, its jobs, its input file, the batch of the provider.
-- Locks: what a claim locks, and the row of the batch, for the length of a call. begin_embedding_batch may wait for a call of
--        backfill_embeddings, since it refers to the target.
-- Undo:  drop function public.submit_embedding_batch, public.record_embedding_batch_file, public.extend_embedding_batch,
--        public.claim_embedding_batch, embedding.claim_whole, public.begin_embedding_batch;

-- Begins a batch for the column that has waited longest, among those that a claim with these arguments may take, whose jobs wait
-- for a batch, and whose pause after a failure is over. No row: there is none, or another worker prepares its next batch.
create function public.begin_embedding_batch(
    worker text, lease_for interval, default_model text default null, only_table text default null,
    only_column text default null, except_targets integer[] default '{}'
)
returns setof public.embedding_batches
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    return query
    insert into public.embedding_batches as known
           (target_id, table_name, embedding_column, model, worker, lease_expires_at)
    select target.id, target.table_name, target.embedding_column, embedding.full_model(target, default_model),
           begin_embedding_batch.worker, clock_timestamp() + lease_for
      from public.embedding_batch_backfills as requested
      join public.embedding_targets as target on target.id = requested.target_id
     where embedding.is_claimable(target, default_model, only_table, only_column, except_targets)
       and coalesce(target.model, default_model) is not null
       and coalesce(requested.retry_at <= clock_timestamp(), true)
       and (select true from public.embedding_queue as job
             where job.target_id = target.id and job.status = 'pending' and job.available_at = 'infinity' limit 1)
       and not exists (select from public.embedding_batches as other
                        where other.target_id = target.id and other.state = 'preparing')
     order by (select max(other.id) from public.embedding_batches as other where other.target_id = target.id) nulls first,
              requested.requested_at
     limit 1
    on conflict do nothing -- another one was faster
    returning known.*;
end $$;

-- Claims jobs of a target, as claim_embeddings does: of several that raise an error, only the row at fault fails, and a target
-- whose table is at fault is suspended.
create function embedding.claim_whole(
    target public.embedding_targets, ids bigint[], claimer text, lease_for interval, default_model text
)
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
declare
    cause text;
    fault text;
    context text;
begin
    begin
        return query select * from embedding.claim(target, ids, claimer, lease_for, default_model);
        return;
    exception when others or query_canceled or assert_failure then
        get stacked diagnostics context = pg_exception_context;
        cause := embedding.describe_error(sqlstate, sqlerrm, context);
        if embedding.is_of_the_server(sqlstate, context) then
            raise;
        elsif not embedding.is_timeout(sqlstate) then
            fault := embedding.fault_of_table(target, sqlstate, cause);
        elsif cardinality(ids) > 1 then
            raise; -- the timeout of this statement is used up: the caller has to claim fewer
        end if;
    end;
    if fault is not null then
        update public.embedding_targets as broken set problem = fault where broken.id = target.id;
    else
        return query select * from embedding.claim_in_parts(target, ids, claimer, lease_for, default_model);
    end if;
end $$;

-- Claims up to `most` jobs that wait for a batch into a batch that is being prepared, and returns a row for each, with its result,
-- as claim_embeddings does; the lease of those in processing does not run out. No row at all: none waits, the target cannot be
-- claimed from, or another worker has the batch by now. Raises lock_not_available if the table is locked as a whole.
create function public.claim_embedding_batch(id bigint, worker text, most integer, default_model text default null)
returns setof embedding.claimed_job
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    fault text;
    context text;
    ids bigint[];
begin
    select watched.* into target
      from public.embedding_batches as batch
      join public.embedding_targets as watched on watched.id = batch.target_id
     where batch.id = claim_embedding_batch.id and batch.worker = claim_embedding_batch.worker and batch.state = 'preparing'
       and embedding.is_claimable(watched, default_model, null, null, '{}')
       and num_nonnulls(watched.chunk_format, watched.enhance_model) = 0
       for no key update of batch;
    if not found then
        return;
    end if;
    begin
        perform embedding.open_table(target, 'row share');
        select spot.cause into fault from embedding.blind_spot(target.relation::regclass, target.id, true) as spot limit 1;
    exception when syntax_error_or_access_rule_violation or invalid_schema_name then
        get stacked diagnostics context = pg_exception_context;
        fault := embedding.describe_error(sqlstate, sqlerrm, context); -- the table or a right is missing
    end;
    if fault is not null then
        update public.embedding_targets as broken set problem = fault where broken.id = target.id;
        return;
    end if;
    ids := array(select job.id from public.embedding_queue as job
                  where job.target_id = target.id and job.status = 'pending' and job.available_at = 'infinity'
                  order by job.id limit most
                    for update skip locked);
    return query
    with eq_claimed as materialized (
        select * from embedding.claim_whole(
            target, ids, 'batch ' || claim_embedding_batch.id, interval '1000 years', default_model)
    ), eq_recorded as (
        insert into embedding.batch_jobs (batch_id, job_id, lease, content_hash)
        select claim_embedding_batch.id, claimed.id, claimed.lease, claimed.content_hash
          from eq_claimed as claimed where claimed.status = 'processing'
    )
    select * from eq_claimed;
end $$;

-- Extends the lease of the batch; with a `lease_for` of 0 another worker can continue it at once. Returns false if another worker
-- has it by now, or it has ended.
create function public.extend_embedding_batch(id bigint, worker text, lease_for interval)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_batches as known
       set lease_expires_at = clock_timestamp() + lease_for
     where known.id = extend_embedding_batch.id and known.worker = extend_embedding_batch.worker and known.ended_at is null;
    return found;
end $$;

-- Records the file that is uploaded, with its texts, bytes, tokens and cost, as estimates. Returns false if another worker has the
-- batch by now.
create function public.record_embedding_batch_file(
    id bigint, worker text, input_file text, texts integer, bytes bigint, tokens bigint, cost double precision
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_batches as known
       set input_file = record_embedding_batch_file.input_file, texts = record_embedding_batch_file.texts,
           bytes = record_embedding_batch_file.bytes, tokens = record_embedding_batch_file.tokens,
           cost = record_embedding_batch_file.cost
     where known.id = record_embedding_batch_file.id and known.worker = record_embedding_batch_file.worker
       and known.state = 'preparing';
    return found;
end $$;

-- Records that the provider has the batch. It is to be looked at in `look_in`, by any worker. Returns false if another worker has
-- it by now: what was created must then be cancelled.
create function public.submit_embedding_batch(
    id bigint, worker text, provider_batch text, expires_at timestamptz, look_in interval
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    update public.embedding_batches as known
       set state = 'submitted', provider_batch = submit_embedding_batch.provider_batch, submitted_at = clock_timestamp(),
           expires_at = submit_embedding_batch.expires_at, look_at = clock_timestamp() + look_in, lease_expires_at = null
     where known.id = submit_embedding_batch.id and known.worker = submit_embedding_batch.worker and known.state = 'preparing';
    return found;
end $$;

select embedding.protect_functions('embedding.claim_whole');
select embedding.let_workers_call(
    'public.begin_embedding_batch', 'public.claim_embedding_batch', 'public.extend_embedding_batch',
    'public.record_embedding_batch_file', 'public.submit_embedding_batch');
