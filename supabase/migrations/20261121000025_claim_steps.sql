-- Why:   the steps of a claim: lease, read, judge, settle.
-- Locks: row locks on the jobs and, without waiting, on rows that lose their vector or that another session may be
--        writing, for the length of the call.
-- Undo:  drop function embedding.claim, embedding.settle_sql, embedding.judge_sql, embedding.read_sql,
--        embedding.lease_jobs, embedding.fail_exhausted; drop type embedding.claimed_job;
--
-- The steps are separate statements, under READ COMMITTED, so that the texts are read with a snapshot younger than
-- the lease: a single statement could return the new job with the old text. Reading, judging and settling are parts
-- of one statement. Every look-up of a job has `id = any`: with statistics from when the queue was empty, the planner
-- would read all of it.

-- The result of a claim for one job: see claim_embeddings.
create type embedding.claimed_job as (
    id bigint, target_id integer, status text, table_name text, record_id text, embedding_column text,
    content text, content_hash bytea, lease uuid, model text, dimensions integer, attempts smallint,
    isolated boolean, truncate boolean, waited double precision
);

-- Fails the jobs that were claimed, or embedded, too often without an end.
create function embedding.fail_exhausted(target public.embedding_targets, ids bigint[])
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
begin
    return query
    update public.embedding_queue as job
       set status = 'failed',
           error_class = case when job.abandoned_claims >= target.max_attempts then 'no_answer' else 'unwritten' end,
           error_message = case when job.abandoned_claims >= target.max_attempts
               then format('claimed %s times, never answered: it probably kills its worker', job.abandoned_claims)
               else format('embedded %s times, never written: %s', job.unwritten,
                           coalesce(job.error_message, 'its workers did not come back')) end,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (ids)
       and (job.abandoned_claims >= target.max_attempts or job.unwritten >= 2 * target.max_attempts)
    returning job.id, job.target_id, 'failed', job.table_name, job.record_id, job.embedding_column, null::text,
              null::bytea, null::uuid, null::text, null::integer, job.attempts, false, false,
              null::double precision;
end $$;

-- Leases the jobs to a worker, except those that embedding.fail_exhausted fails. Returns the lease and how many have it.
create function embedding.lease_jobs(
    target public.embedding_targets, ids bigint[], claimer text, lease_for interval,
    out fence uuid, out leased bigint
)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    fence := gen_random_uuid();
    update public.embedding_queue as job
       set status = 'processing', abandoned_claims = job.abandoned_claims + 1, worker = claimer,
           unwritten = least(job.unwritten + (job.lease is not null)::integer, 32767),
           lease = fence, lease_expires_at = clock_timestamp() + lease_for, updated_at = now()
     where job.id = any (ids)
       and job.abandoned_claims < target.max_attempts and job.unwritten < 2 * target.max_attempts;
    get diagnostics leased = row_count;
end $$;

-- SQL that reads the rows of the leased jobs, with their texts. `eq_touched`: a session has locked this version of the
-- row, and may be writing it.
create function embedding.read_sql(target public.embedding_targets)
returns text
language plpgsql -- here and below, since SQL functions are planned at every call before Postgres 18
stable
set search_path = '', pg_temp
as $$
begin
    return format($sql$
        eq_read as materialized (
            select eq_job.*, eq_found.*, coalesce(eq_job.eq_given, eq_found.eq_text) as eq_content
              from (select id as eq_id, record_id as eq_record, content as eq_given, attempts as eq_attempts,
                           abandoned_claims as eq_abandoned, content_hash as eq_old_hash, model as eq_old_model,
                           case when priority >= $8 and isfinite(available_at)
                                then extract(epoch from clock_timestamp() - available_at) end as eq_waited
                      from public.embedding_queue
                     where id = any ($1) and lease = $2) as eq_job
              left join lateral (
                    select true as eq_exists, coalesce((%1$s), false) as eq_inside, (%2$s)::text as eq_text,
                           %3$I.%4$I is not null as eq_has_vector, %3$I.xmax <> 0 as eq_touched
                      from %5$s
                     where %6$s) as eq_found on true
        )$sql$,
        coalesce(target.filter, 'true'), target.source, (parse_ident(target.relation))[2], target.embedding_column,
        target.relation, target.record_match_sql);
end $$;

-- SQL that decides the result of each job.
create function embedding.judge_sql()
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($sql$
        eq_judged as materialized (
            select eq_read.*, eq_hash.*,
                   case when eq_exists is null then 'gone'
                        when not eq_inside then 'outside'
                        when eq_content is null or eq_content collate "C" !~ %L then 'empty'
                        when eq_has_vector and eq_hash = eq_old_hash and eq_old_model = $3 then 'unchanged'
                        else 'ready' end as eq_verdict
              from eq_read
             cross join lateral (select sha256(convert_to(eq_content, 'UTF8')) as eq_hash) as eq_hash
        )$sql$, embedding.visible_character());
end $$;

-- SQL that applies the results, except to jobs whose row is locked: clears vectors, and drops, ends or postpones jobs.
create function embedding.settle_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($sql$
        eq_locked as materialized (
            -- Rows that lose their vector, and rows to embed that another session may be writing. A row with
            -- an xmax of 0 is not locked: it is left alone.
            select eq_id, eq_record, eq_verdict
              from eq_judged join %1$s on %2$s
             where eq_verdict in ('outside', 'empty') and eq_has_vector or eq_verdict = 'ready' and eq_touched
               for no key update of %3$I skip locked
        ), eq_cleared as (
            update %1$s set %4$I = null from eq_locked where eq_verdict <> 'ready' and %2$s
        ), eq_settled as materialized (
            select eq_judged.*,
                   case when (eq_verdict in ('outside', 'empty') and eq_has_vector
                              or eq_verdict = 'ready' and eq_touched)
                             and eq_id not in (select eq_id from eq_locked) then 'pending'
                        when eq_verdict in ('gone', 'outside') then 'dropped'
                        when eq_verdict = 'empty' then 'skipped'
                        when eq_verdict = 'unchanged' then 'completed'
                        else 'processing' end as eq_status
              from eq_judged
        ), eq_dropped as (
            delete from public.embedding_queue using eq_settled
             where id = any ($1) and id = eq_id and eq_status = 'dropped'
        ), eq_updated as (
            update public.embedding_queue
               set status = eq_status, lease = null, lease_expires_at = null, worker = null,
                   content = case when eq_status = 'pending' then content end,
                   attempts = case when eq_status = 'pending' then attempts else 0 end,
                   abandoned_claims = 0,
                   unwritten = case when eq_status = 'pending' then unwritten else 0 end,
                   passed_over = case when eq_status = 'pending' then least(passed_over + 1, 32767) else 0 end,
                   available_at = case when eq_status = 'pending'
                                       then now() + embedding.growing_pause('2 seconds', passed_over, '1 minute')
                                       else available_at end,
                   error_class = case when eq_status = 'pending' then 'locked' end,
                   error_message = case when eq_status = 'pending' then 'its row was locked' end,
                   content_hash = case when eq_status = 'skipped' then null else content_hash end,
                   model = case when eq_status = 'skipped' then null else model end,
                   tokens = case when eq_status = 'skipped' then null else tokens end,
                   cost = case when eq_status = 'skipped' then null else cost end,
                   truncated_to = case when eq_status = 'skipped' then null else truncated_to end,
                   completed_at = case when eq_status = 'pending' then completed_at else now() end,
                   updated_at = now()
              from eq_settled
             where id = any ($1) and id = eq_id and eq_status in ('pending', 'skipped', 'completed')
        )$sql$,
        target.relation, target.record_match_sql, (parse_ident(target.relation))[2], target.embedding_column);
end $$;

-- Claims the jobs `ids` (already locked by the caller, all of one target) and reads their texts.
create function embedding.claim(
    target public.embedding_targets,
    ids bigint[],
    claimer text,
    lease_for interval,
    default_model text
)
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
declare
    fence uuid;
    leased bigint;
    read_rows bigint;
begin
    return query select * from embedding.fail_exhausted(target, ids);
    select lease.fence, lease.leased into fence, leased
      from embedding.lease_jobs(target, ids, claimer, lease_for) as lease;

    return query execute format($sql$
        with %s, %s, %s
        select eq_id, $5, eq_status, %L, eq_record, %L,
               case when eq_status = 'processing' then eq_content end, eq_hash, $2, $3, $4, eq_attempts,
               eq_abandoned > 1 and eq_abandoned >= $6, $7, eq_waited::double precision
          from eq_settled
        $sql$,
        embedding.read_sql(target), embedding.judge_sql(), embedding.settle_sql(target),
        target.table_name, target.embedding_column)
    using ids, fence, coalesce(target.model, default_model), target.dimensions, target.id,
          target.max_attempts, target.on_too_long = 'truncate', target.priority;
    get diagnostics read_rows = row_count;
    if read_rows > leased then
        raise exception 'the record id matches more than one row' using errcode = 'cardinality_violation';
    end if;
    set constraints all immediate; -- a deferred trigger raises its error now, not at the commit
end $$;

select embedding.protect_functions(
    'embedding.fail_exhausted', 'embedding.lease_jobs', 'embedding.read_sql', 'embedding.judge_sql',
    'embedding.settle_sql', 'embedding.claim');
