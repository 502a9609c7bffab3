-- Why:   texts can be sent to the Batch API of a provider, which costs half and answers within a day. What was sent is recorded
--        here, so that any worker can collect it, and none sends it again.
-- Locks: a short lock on embedding_targets while it is referenced and gets a trigger.
-- Undo:  select cancel_waiting_embeddings(table, column, null) for each column, and cancel_embedding_batch for each batch; when
--        all have ended: drop trigger embedding_targets_leave_batches on public.embedding_targets;
--        drop function embedding.leave_batches, embedding.stop_waiting; drop table embedding.batch_jobs,
--        public.embedding_batches, public.embedding_batch_backfills;
--
-- A job that waits for a batch is pending, and never due: its `available_at` is infinity. An edit makes it due at once, as always.
-- A job in a batch is in processing, with a lease that does not run out, under the name `batch <id>`.

-- The columns whose jobs wait for batches. The row stays when all are embedded.
create table public.embedding_batch_backfills (
    target_id integer primary key references public.embedding_targets (id) on delete cascade,
    max_cost double precision,                     -- US dollars for all batches since it was requested; null: no limit
    spent double precision not null default 0,     -- what those that have ended cost
    most_tokens bigint,                            -- as many may be under way, as the provider said; null: it refused none yet
    retry_at timestamptz,                          -- no batch is sent before; null: at once
    failures integer not null default 0,           -- attempts in a row to send a batch that failed, ...
    error_class text,                              -- ... and why the last one did
    error_message text,
    requested_at timestamptz not null default clock_timestamp(),
    constraint embedding_batch_backfills_max_cost_above_zero check (max_cost > 0)
);

-- The batches. `texts`, `bytes` and `tokens` are those of the input file, and `cost` is an estimate, until the batch ends: then
-- tokens and cost are what the provider counts.
create table public.embedding_batches (
    id bigint generated always as identity primary key,
    token uuid not null default gen_random_uuid() unique, -- by which the provider's batch is found
    target_id integer references public.embedding_targets (id) on delete set null,
    table_name text not null,                      -- as it was named then
    embedding_column text not null,
    model text not null,                           -- embedding.full_model
    state text not null default 'preparing',
    provider_state text,                           -- as it was seen last
    provider_batch text,                           -- the ids that the provider gave to the batch ...
    input_file text,                               -- ... and to its input
    worker text,                                   -- who works on it, or did last
    lease_expires_at timestamptz,                  -- null: nobody does
    look_at timestamptz,                           -- when it is to be looked at next; null: at once
    texts integer,
    bytes bigint,
    tokens bigint,
    cost double precision,                         -- US dollars; null: the price is not known
    completed integer not null default 0,          -- jobs, once it has ended
    failed integer not null default 0,
    stale integer not null default 0,              -- jobs that were edited, deleted or requeued meanwhile
    released integer not null default 0,           -- jobs that it gave back after it was sent
    cancel_requested_at timestamptz,
    error_class text,
    error_message text,
    created_at timestamptz not null default clock_timestamp(),
    submitted_at timestamptz,
    expires_at timestamptz,                        -- when the provider gives up
    ended_at timestamptz,
    constraint embedding_batches_known_state
        check (state in ('preparing', 'submitted', 'completed', 'failed', 'expired', 'cancelled')),
    constraint embedding_batches_ended check ((state in ('preparing', 'submitted')) = (ended_at is null)),
    constraint embedding_batches_submitted check (state <> 'submitted' or provider_batch is not null),
    constraint embedding_batches_leased_while_under_way check (ended_at is null or lease_expires_at is null)
);

create unique index embedding_batches_one_preparing on public.embedding_batches (target_id) where state = 'preparing';

-- The jobs of the batches that are under way: as they were claimed. A job can be in several batches, and has the lease of one.
create table embedding.batch_jobs (
    batch_id bigint not null references public.embedding_batches (id),
    job_id bigint not null,
    lease uuid not null,
    content_hash bytea not null,
    primary key (batch_id, job_id)
);

create index batch_jobs_of_a_text on embedding.batch_jobs (batch_id, content_hash);

-- Lets up to `batch` jobs of a target (null: all) that wait for a batch be due now, below live edits. Returns how many.
create function embedding.stop_waiting(target_id integer, batch integer default null)
returns integer
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    jobs integer;
begin
    update public.embedding_queue as job
       set available_at = clock_timestamp(), updated_at = now()
     where job.id = any (array(
               select waiting.id from public.embedding_queue as waiting
                where waiting.target_id = stop_waiting.target_id and waiting.status = 'pending'
                  and waiting.available_at = 'infinity'
                order by waiting.id limit batch
                  for update skip locked));
    get diagnostics jobs = row_count;
    return jobs;
end $$;

-- A target that is embedded in chunks, or with a chat model, from now on, sends no batches.
create function embedding.leave_batches()
returns trigger
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    delete from public.embedding_batch_backfills as known where known.target_id = new.id;
    perform embedding.stop_waiting(new.id);
    return null;
end $$;

create trigger embedding_targets_leave_batches
    after update of chunk_format, enhance_model on public.embedding_targets
    for each row
    when (num_nonnulls(new.chunk_format, new.enhance_model) > num_nonnulls(old.chunk_format, old.enhance_model))
    execute function embedding.leave_batches();

select embedding.let_workers_read('public.embedding_batch_backfills');
select embedding.let_workers_read('public.embedding_batches');
select embedding.protect_relation('embedding.batch_jobs');
alter table embedding.batch_jobs disable row level security; -- which is for tables that others may read
select embedding.protect_functions('embedding.stop_waiting', 'embedding.leave_batches');
