-- Why:   people write to the queue by hand, and these triggers make that work as they expect.
-- Locks: a short lock on embedding_queue while its triggers are made.
-- Undo:  drop function embedding.queue_by_hand, embedding.find_target cascade;

-- A change of the status by hand takes the lease from a running worker; a change to pending also resets the
-- job.
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
    new.abandoned_claims := 0;
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

-- The functions of this schema remove the lease themselves, and change the due time or the attempts of jobs
-- that they make pending; a person at a prompt does not. This distinguishes the two.
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

-- People name a target by its table and column. A job for a column that is not watched would wait for
-- ever, so the insert raises at once.
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

select embedding.protect_functions('embedding.queue_by_hand', 'embedding.find_target');
