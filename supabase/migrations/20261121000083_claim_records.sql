-- Why:   records are embedded or restored although their jobs are not due: those that a restore or a repair names.
-- Locks: what a claim locks. It waits for none: it leaves alone what another session holds.
-- Undo:  drop function public.placed_chunks, public.claim_records, embedding.delete_overwritten, embedding.open_job;

-- Locks the job of a record for a claim, and inserts it if it is missing. Null: there is no such row, another session holds
-- the job, or a worker has a lease for it.
create function embedding.open_job(target public.embedding_targets, record_id text)
returns bigint
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    job public.embedding_queue;
begin
    select * into job from public.embedding_queue as known
     where known.record_id = open_job.record_id and known.target_id = target.id;
    if job.id is null then
        execute format('insert into public.embedding_queue '
                       '(target_id, table_name, record_id, embedding_column, user_id, priority) '
                       'select $2, $3, %s, $4, %s, $5 from (select $1 as eq_record) as eq_asked, %s where %s '
                       'on conflict do nothing returning id',
                       target.record_id_sql, embedding.owner_sql((parse_ident(target.relation))[2], target.user_column),
                       target.relation, target.record_match_sql)
           into job.id
          using record_id, target.id, target.table_name, target.embedding_column, target.priority;
        return job.id;
    end if;
    select * into job from public.embedding_queue as free
     where free.id = job.id and (free.lease_expires_at > clock_timestamp()) is not true
       for update skip locked;
    if job.abandoned_claims + job.unwritten > 0 or job.content_hash is not null then
        update public.embedding_queue as free
           set abandoned_claims = 0, unwritten = 0, -- so that the claim does not fail it
               content_hash = null -- if it is not completed, the next claim does not take it for unchanged
         where free.id = job.id;
    end if;
    return job.id;
end $$;

-- Deletes the chunks of a text whose vectors are not the ones that were written, so that they count as missing.
create function embedding.delete_overwritten(target public.embedding_targets, record_id text)
returns void
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    name constant text := quote_ident((parse_ident(target.chunks_relation))[2]);
begin
    execute format('delete from %s using (select $1 as eq_record) as eq_asked where %s and not %s', target.chunks_relation,
                   embedding.record_match_sql(target.chunks_relation::regclass, target.key_columns),
                   embedding.is_intact_sql(target, name || '.embedding', name || '.vector_hash'))
      using record_id;
end $$;

-- Claims the given records of a column, like claim_embeddings, but whatever the status of their jobs, and although their text and
-- model may be unchanged; chunks that were overwritten are not `stored`. Returns a row for each record, in their order, up to the
-- text that brings them to 4,000,000 characters: also `dropped` for one that does not exist, and `pending` for one whose job
-- another session holds. With `dry_run` it returns the same and changes nothing.
create function public.claim_records(
    watched_table text, embedding_column text, record_ids text[], worker text, lease_for interval,
    default_model text default null, dry_run boolean default false
)
returns setof embedding.claimed_job
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
as $$
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    characters bigint := 0;
    claimed embedding.claimed_job[] := '{}';
    record_id text;
    id bigint;
    job embedding.claimed_job;
begin
    perform embedding.open_table(target, 'row share');
    begin
        foreach record_id in array record_ids loop
            id := embedding.open_job(target, record_id);
            if id is null then
                job := null;
                job.record_id := record_id;
                job.status := case when exists (select from public.embedding_queue as known where known.record_id = job.record_id
                                                   and known.target_id = target.id) then 'pending' else 'dropped' end;
                claimed := claimed || job;
                continue;
            end if;
            if target.chunk_format is not null then
                perform embedding.delete_overwritten(target, record_id);
            end if;
            for job in
                select * from embedding.claim_in_parts(target, array[id], worker, lease_for, default_model, true)
            loop
                claimed := claimed || job;
                characters := characters + coalesce(length(job.content), 0);
            end loop;
            exit when characters >= 4000000;
        end loop;
        if dry_run then
            raise exception using errcode = 'EQ000';
        end if;
    exception when sqlstate 'EQ000' then null;
    end;
    return query select * from unnest(claimed);
end $$;

-- The chunks of texts that a search finds and whose vectors are the ones that were written: a row for each of the given records.
create function public.placed_chunks(watched_table text, embedding_column text, record_ids text[])
returns table (record_id text, hashes bytea[])
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set jit = off
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    name constant text := quote_ident((parse_ident(target.chunks_relation))[2]);
begin
    perform embedding.check_in_chunks(target, true);
    return query execute format($sql$
        select eq_record, array(select %1$s.hash from %2$s where %3$s and %4$s and exists (
                   select from %5$s where %6$s and %7$I.hash = %1$s.hash offset 0))
          from unnest($1) as eq_asked (eq_record)$sql$,
        name, target.chunks_relation, embedding.record_match_sql(target.chunks_relation::regclass, target.key_columns),
        embedding.is_intact_sql(target, name || '.embedding', name || '.vector_hash'), target.places_relation,
        embedding.record_match_sql(target.places_relation::regclass, target.key_columns),
        (parse_ident(target.places_relation))[2])
    using record_ids;
end $$;

select embedding.protect_functions('embedding.open_job', 'embedding.delete_overwritten');
select embedding.let_workers_call('public.claim_records', 'public.placed_chunks');
