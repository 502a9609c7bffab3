-- Why:   the queue. One row for each (table, record, embedding column), for as long as the record
--        exists: it is the job, and afterwards the record of what the vector was made from.
-- Locks: nothing, the table is new.
-- Undo:  drop table public.embedding_queue;
create table public.embedding_queue (
    id bigint generated always as identity primary key,
    table_name text not null,
    record_id text not null,                       -- the key as text; a composite key as a JSON array
    embedding_column text not null,
    content text,                                  -- null: read the row. Given by hand: embed this text instead, once
    user_id uuid,                                  -- owner of the record, if its table names one
    status text not null default 'pending',
    attempts smallint not null default 0,          -- how often it was claimed; handing it back takes one off
    error_message text,
    error_class text,
    available_at timestamptz not null default now(),
    priority smallint not null default 0,
    lease uuid,                                    -- the fence: a fresh one for each claim
    lease_expires_at timestamptz,
    worker text,
    content_hash bytea,                            -- sha256 of the text the stored vector was made from …
    model text,                                    -- … and by which model, with how many tokens
    tokens integer,
    completed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint embedding_queue_one_per_record unique (table_name, record_id, embedding_column),
    constraint embedding_queue_known_status
        check (status in ('pending', 'processing', 'completed', 'failed', 'skipped')),
    constraint embedding_queue_failed_says_why check (status <> 'failed' or error_message is not null),
    -- so that who holds the lease need not ask for the status
    constraint embedding_queue_leased_while_processing
        check ((status = 'processing') = (lease is not null) and (lease is null) = (lease_expires_at is null))
) with (
    -- Every job is updated twice in its life. Room on the page keeps its versions together, and
    -- the dead ones are swept by count, not after a fifth of a large table has died.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- The claim walks this one in its order, for one target at a time.
create index embedding_queue_due
    on public.embedding_queue (table_name, embedding_column, priority desc, available_at, id)
    where status = 'pending';

-- Jobs whose worker died: an expired lease is due again, with no janitor.
create index embedding_queue_leased
    on public.embedding_queue (table_name, embedding_column, lease_expires_at)
    where status = 'processing';

create index embedding_queue_failed
    on public.embedding_queue (table_name, embedding_column, error_class)
    where status = 'failed';

-- A signed-in user looks at the state of their own records.
create index embedding_queue_owner on public.embedding_queue (user_id) where user_id is not null;
