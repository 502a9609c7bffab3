-- Why:   damaged vectors that neither the cache nor a backup has are made again.
-- Locks: row locks on the jobs, for the length of a call; it waits for none.
-- Undo:  drop function public.embedding_repair_cost, public.requeue_damaged_embeddings;

-- Makes the jobs of records whose vectors are damaged (see find_damaged_embeddings) pending, ten priorities below live edits, to
-- be embedded even if their text and model have not changed. Of a text in chunks only the damaged chunks are embedded. Jobs that
-- are not completed by now are left alone. `cost`: US dollars that this will cost, as an estimate. Returns how many there were.
create function public.requeue_damaged_embeddings(
    watched_table text, embedding_column text, record_ids text[], cost double precision default 0
)
returns bigint
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    requeued bigint;
begin
    if target.chunk_format is not null then
        perform embedding.delete_overwritten(target, damaged.record_id) from unnest(record_ids) as damaged (record_id);
    end if;
    requeued := embedding.reset_jobs(
        array(select damaged.id from public.embedding_queue as damaged
               where damaged.record_id = any (record_ids) and damaged.target_id = target.id and damaged.status = 'completed'
               order by damaged.id
                 for update skip locked),
        false, greatest(target.priority - 10, -32768));
    update public.embedding_checks as known
       set cost = known.cost + requeue_damaged_embeddings.cost
     where known.target_id = target.id and requeue_damaged_embeddings.cost > 0;
    perform embedding.wake();
    return requeued;
end $$;

-- US dollars that the repairs of the last 24 hours cost, by their estimates, and those that have not ended.
create function public.embedding_repair_cost()
returns double precision
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select coalesce(sum((entry.figures ->> 'cost')::double precision), 0)
           + (select coalesce(sum(known.cost), 0) from public.embedding_checks as known)
      from public.embedding_audit as entry
     where entry.event = 'repaired' and entry.at > now() - interval '24 hours';
$$;

select embedding.let_workers_call('public.requeue_damaged_embeddings', 'public.embedding_repair_cost');
