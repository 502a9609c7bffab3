-- Why:   the queue. One row for each (table, record, embedding column), for as long as the record exists: first it is
--        the job, then it records what the vector was made from.
-- Locks: nothing, the table is new.
-- Undo:  drop table public.embedding_queue;
--
-- `target_id` stands for `table_name` and `embedding_column` in four bytes: it halves the width of the indexes, and
-- makes a bulk insert a third cheaper. A trigger fills it in for inserts by hand.

create table public.embedding_queue (
    id bigint generated always as identity primary key,
    target_id integer not null,
    table_name text not null,
    record_id text not null,                       -- the key as text; a composite key as a JSON array
    embedding_column text not null,
    content text,                                  -- null: read the row. Given by hand: embed this text instead, once
    user_id uuid,                                  -- owner of the record, if its table names one
    status text not null default 'pending',
    attempts smallint not null default 0,          -- failures that its own row or text caused
    abandoned_claims smallint not null default 0,  -- claims in a row that were never answered
    unwritten smallint not null default 0,         -- times in a row that it was embedded but not written
    passed_over smallint not null default 0,       -- claims in a row that found its row locked
    error_message text,
    error_class text,
    available_at timestamptz not null default now(),
    priority smallint not null default 0,
    lease uuid,                                    -- the fence: a fresh one for each claim
    lease_expires_at timestamptz,
    worker text,
    content_hash bytea,                            -- sha256 of the text the stored vector was made from ...
    model text,                                    -- ... by which model (embedding.full_model), with how many tokens
    tokens integer,
    cost real,                                     -- US dollars that were paid for it; null: not known
    truncated_to integer,                          -- only that many characters were embedded; null: all of them
    unenhanced text,                               -- error class of the chat model without whose text it was embedded; null:
                                                   -- it was not
    vector_hash bigint,                            -- hash of the vector as it was stored (embedding.vector_hash_sql); null: not
                                                   -- known, as of a text in chunks
    completed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- the record first: one comparison then decides, where the names of the target are all the same
    constraint embedding_queue_one_per_record unique (record_id, table_name, embedding_column),
    constraint embedding_queue_known_status
        check (status in ('pending', 'processing', 'completed', 'failed', 'skipped')),
    constraint embedding_queue_failed_says_why check (status <> 'failed' or error_message is not null),
    -- so that the holder of the lease need not check the status
    constraint embedding_queue_leased_while_processing
        check ((status = 'processing') = (lease is not null) and (lease is null) = (lease_expires_at is null))
) with (
    -- Every job is updated twice in its life. Free space on the page keeps its versions together, and
    -- dead ones are vacuumed by count, not after a fifth of a large table is dead.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- The claim reads this index, for one target and one priority at a time, with the owners of the records in turns.
-- It uses a hash of the owners, since ids are often created in order of time, and starts at a random place.
-- Jobs without an owner count as jobs of one owner. A job that is never due is not in it, so that a claim does not pass by it:
-- the planner uses the index for a statement that repeats its condition.
create index embedding_queue_due
    on public.embedding_queue (target_id, priority desc, (coalesce(uuid_hash(user_id), 0)), available_at, id)
    where status = 'pending' and available_at < 'infinity';

-- Jobs that are never due.
create index embedding_queue_never_due
    on public.embedding_queue (target_id, id)
    where status = 'pending' and available_at = 'infinity';

-- Jobs whose worker died: an expired lease is due again, without a cleanup process.
create index embedding_queue_leased
    on public.embedding_queue (target_id, lease_expires_at)
    where status = 'processing';

-- Failed jobs by class, the latest first.
create index embedding_queue_failed
    on public.embedding_queue (target_id, error_class, updated_at desc, id desc)
    where status = 'failed';

-- A signed-in user reads the state of their own records.
create index embedding_queue_owner on public.embedding_queue (user_id) where user_id is not null;

select embedding.let_workers_read('public.embedding_queue');
select embedding.grant_to('service_role', 'insert, update, delete on table public.embedding_queue');

-- A signed-in user sees the state of their own records, and never a text or a lease.
do $$
begin
    if to_regrole('authenticated') is not null and to_regprocedure('auth.uid()') is not null then
        grant select (id, table_name, record_id, embedding_column, user_id, status, attempts,
                      error_class, available_at, completed_at, created_at, updated_at)
            on table public.embedding_queue to authenticated;
        create policy owners_read on public.embedding_queue for select to authenticated
            using (user_id = (select auth.uid()));
    end if;
end $$;
