-- Why:   the steps of a claim: lease, read, judge, settle.
-- Locks: row locks on the jobs and, without waiting, on rows that lose their vector or that another session may be
--        writing, for the length of the call.
-- Undo:  drop function embedding.claim, embedding.stored_chunks, embedding.chunking, embedding.claim_documents,
--        embedding.settle, embedding.read_sql, embedding.lease_jobs, embedding.fail_exhausted;
--        drop type embedding.claimed_job, embedding.judged_job;
--
-- The steps are separate statements, under READ COMMITTED, so that the texts are read with a snapshot younger than
-- the lease: a single statement could return the new job with the old text.
--
-- Most claims find only texts to embed, so the plan of reading and judging is kept for the session, in a function of
-- the target, and the rest runs only if it is needed. The plans are pinned: with statistics from when a table was
-- empty, the planner would read all of it. Jobs and rows are looked up in a subquery with an offset, which the planner
-- runs for each of them, by index; to turn hash joins off would do the same to the subqueries of a source. An offset also
-- keeps the planner from computing a hash at each of its uses.

-- The result of a claim for one job: see claim_embeddings.
create type embedding.claimed_job as (
    id bigint, target_id integer, status text, table_name text, record_id text, embedding_column text,
    content text, content_hash bytea, lease uuid, model text, document_prompt text, dimensions integer, attempts smallint,
    isolated boolean, truncate boolean, waited double precision, chunking jsonb, stored bytea[], enhancement jsonb, unenhanced boolean
);

-- A leased job with its row. `verdict`: `ready` to be embedded, or why not. `is_open`: the row has to be locked before
-- the job is settled. `unenhanced`: its vector was made from this text by this model, but without its chat model.
create type embedding.judged_job as (
    id bigint, record_id text, attempts smallint, abandoned_claims smallint, waited double precision,
    content text, content_hash bytea, verdict text, is_open boolean, unenhanced boolean
);

-- Fails the jobs that were claimed, or embedded, too often without an end.
create function embedding.fail_exhausted(target public.embedding_targets, ids bigint[], fence uuid)
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
     where job.id = any (ids) and job.lease is distinct from fence
       and (job.abandoned_claims >= target.max_attempts or job.unwritten >= 2 * target.max_attempts)
    returning job.id, job.target_id, 'failed', job.table_name, job.record_id, job.embedding_column, null::text,
              null::bytea, null::uuid, null::text, null::text, null::integer, job.attempts, false, false,
              null::double precision, null::jsonb, null::bytea[], null::jsonb, false;
end $$;

-- Leases the jobs to a worker, except those that embedding.fail_exhausted fails. Returns the lease and how many have it.
create function embedding.lease_jobs(
    target public.embedding_targets, ids bigint[], claimer text, lease_for interval,
    out fence uuid, out leased bigint
)
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
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

-- The body of the function that reads the rows of the leased jobs of a target, and judges them. `eq_touched`: a session
-- has locked this version of the row, and may be writing it.
create function embedding.read_sql(target public.embedding_targets)
returns text
language plpgsql -- since SQL functions are planned at every call before Postgres 18
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
        #variable_conflict use_column
        begin
            return query
            select eq_id, eq_record, eq_attempts, eq_abandoned, eq_waited, eq_content, eq_hash, eq_verdict,
                   eq_verdict in ('outside', 'empty') and eq_has_stored or eq_verdict = 'ready' and eq_touched,
                   eq_verdict = 'ready' and eq_is_same
              from unnest(ids) as eq_given (eq_id)
             cross join lateral (
                    select record_id as eq_record, content as eq_by_hand, attempts as eq_attempts,
                           abandoned_claims as eq_abandoned, content_hash as eq_old_hash, model as eq_old_model,
                           unenhanced as eq_unenhanced,
                           case when priority >= live_priority and isfinite(available_at)
                                then extract(epoch from clock_timestamp() - available_at)::double precision
                           end as eq_waited
                      from public.embedding_queue
                     where id = eq_id and lease = fence
                    offset 0) as eq_job
              left join lateral (
                    select true as eq_exists, coalesce((%1$s), false) as eq_inside, (%2$s)::text as eq_text,
                           %3$s as eq_has_vector, %8$s as eq_has_stored, %4$I.xmax <> 0 as eq_touched
                      from %5$s
                     where %6$s
                    offset 0) as eq_found on true
             cross join lateral (select coalesce(%9$s, eq_text) as eq_content offset 0) as eq_chosen
             cross join lateral (select sha256(convert_to(eq_content, 'UTF8')) as eq_hash offset 0) as eq_hashed
             cross join lateral (
                    select coalesce(eq_has_vector and eq_hash = eq_old_hash and eq_old_model = current_model, false)
                           as eq_is_same
                    offset 0) as eq_compared
             cross join lateral (
                    select case when eq_exists is null then 'gone'
                                when not eq_inside then 'outside'
                                when eq_content is null or eq_content collate "C" !~ %7$L then 'empty'
                                when eq_is_same and eq_unenhanced is null then 'unchanged'
                                else 'ready' end as eq_verdict
                    offset 0) as eq_judged;
        end $body$,
        coalesce(target.filter, 'true'), embedding.text_sql(target), embedding.has_vector_sql(target),
        (parse_ident(target.relation))[2], target.relation, target.record_match_sql, embedding.visible_character(),
        embedding.has_stored_sql(target), embedding.text_by_hand_sql(target));
end $$;

-- Settles judged jobs that are not simply ready, except those whose row is locked: clears vectors, and drops, ends or
-- postpones jobs. Returns the status of each; a dropped job is `dropped`.
create function embedding.settle(
    target public.embedding_targets, judged embedding.judged_job[], out ids bigint[], out statuses text[]
)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    execute format($sql$
        with eq_judged as materialized (
            select id as eq_id, record_id as eq_record, verdict as eq_verdict, is_open as eq_open from unnest($1)
        ), eq_locked as materialized (
            -- Rows that lose their vector, and rows to embed that another session may be writing. A row with
            -- an xmax of 0 is not locked: it is left alone.
            select eq_id, eq_record, eq_verdict
              from eq_judged join %1$s on %2$s
             where eq_open
               for no key update of %3$I skip locked
        ), %4$s, eq_settled as materialized (
            select eq_id,
                   case when eq_open and eq_id not in (select eq_id from eq_locked) then 'pending'
                        when eq_verdict in ('gone', 'outside') then 'dropped'
                        when eq_verdict = 'empty' then 'skipped'
                        when eq_verdict = 'unchanged' then 'completed'
                        else 'processing' end as eq_status
              from eq_judged
        ), eq_dropped as (
            delete from public.embedding_queue using eq_settled
             where id = any ($2) and id = eq_id and eq_status = 'dropped'
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
                   unenhanced = case when eq_status = 'skipped' then null else unenhanced end,
                   vector_hash = case when eq_status = 'skipped' then null else vector_hash end,
                   completed_at = case when eq_status = 'pending' then completed_at else now() end,
                   updated_at = now()
              from eq_settled
             where id = any ($2) and id = eq_id and eq_status in ('pending', 'skipped', 'completed')
        )
        select array_agg(eq_id), array_agg(eq_status) from eq_settled
        $sql$,
        target.relation, target.record_match_sql, (parse_ident(target.relation))[2], embedding.clear_sql(target))
       into ids, statuses
      using judged, array(select job.id from unnest(judged) as job);
    set constraints all immediate; -- a deferred trigger raises its error now, not at the commit
end $$;

-- Claims texts in chunks one by one, until they have 4,000,000 characters. The other jobs are left as they are.
create function embedding.claim_documents(
    target public.embedding_targets, ids bigint[], claimer text, lease_for interval, default_model text, anyway boolean
)
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
declare
    most constant integer := 4000000;
    characters bigint := 0;
    document embedding.claimed_job;
begin
    for place in 1 .. cardinality(ids) loop
        for document in
            select * from embedding.claim(target, ids[place:place], claimer, lease_for, default_model, anyway)
        loop
            return next document;
            characters := characters + coalesce(length(document.content), 0);
        end loop;
        exit when characters >= most;
    end loop;
end $$;

-- How a worker has to cut texts into chunks.
create function embedding.chunking(target public.embedding_targets)
returns jsonb
language sql
immutable
set search_path = '', pg_temp
as $$
    select jsonb_build_object('format', target.chunk_format, 'size', target.chunk_size, 'unit', target.chunk_unit,
                              'most', target.max_chunks);
$$;

-- The hashes of the chunks of a record whose vectors are stored.
create function embedding.stored_chunks(target public.embedding_targets, record_id text)
returns bytea[]
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    hashes bytea[];
begin
    execute format('select array(select %I.hash from (select $1 as eq_record) as eq_job, %s, %s where %s and %s)',
                   (parse_ident(target.chunks_relation))[2], target.relation, target.chunks_relation,
                   target.record_match_sql, embedding.same_key_sql(target, target.chunks_relation))
       into hashes
      using record_id;
    return hashes;
end $$;

-- Claims the jobs `ids` (already locked by the caller, all of one target) and reads their texts. `anyway`: also if text and
-- model are those of the stored vector.
create function embedding.claim(
    target public.embedding_targets,
    ids bigint[],
    claimer text,
    lease_for interval,
    default_model text,
    anyway boolean default false
)
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
declare
    fence uuid;
    leased bigint;
    judged embedding.judged_job[];
    unready embedding.judged_job[];
    settled_ids bigint[];
    statuses text[];
begin
    if target.chunk_format is not null and cardinality(ids) > 1 then
        return query select * from embedding.claim_documents(target, ids, claimer, lease_for, default_model, anyway);
        return;
    end if;
    select lease.fence, lease.leased into fence, leased
      from embedding.lease_jobs(target, ids, claimer, lease_for) as lease;
    if leased < cardinality(ids) then
        return query select * from embedding.fail_exhausted(target, ids, fence);
    end if;
    -- as it is by now: a change of the target that comes later takes the lease back
    select * into target from public.embedding_targets as watched where watched.id = target.id;
    execute format('select array_agg(job) from embedding.read_%s($1, $2, $3, $4) as job', target.id)
       into judged
      using ids, fence, embedding.full_model(target, default_model), target.priority;
    if cardinality(judged) > leased then
        raise exception 'the record id matches more than one row' using errcode = 'cardinality_violation';
    end if;
    unready := array(select job from unnest(judged) as job
                      where job.is_open or job.verdict <> 'ready' and not (anyway and job.verdict = 'unchanged'));
    if unready <> '{}' then
        select settled.ids, settled.statuses into settled_ids, statuses
          from embedding.settle(target, unready) as settled;
    end if;
    return query
    select job.id, target.id, coalesce(settled.status, 'processing'), target.table_name, job.record_id,
           target.embedding_column,
           case when coalesce(settled.status, 'processing') = 'processing' then job.content end,
           job.content_hash, fence, coalesce(target.model, default_model), target.document_prompt, target.dimensions,
           job.attempts,
           job.abandoned_claims > 1 and job.abandoned_claims >= target.max_attempts,
           target.on_too_long = 'truncate', job.waited,
           case when target.chunk_format is not null then embedding.chunking(target) end,
           case when target.chunk_format is not null then embedding.stored_chunks(target, job.record_id) end,
           case when target.enhance_model is not null then embedding.enhancement(target) end, job.unenhanced
      from unnest(judged) as job
      left join unnest(settled_ids, statuses) as settled (id, status) on settled.id = job.id;
end $$;

select embedding.protect_functions(
    'embedding.fail_exhausted', 'embedding.lease_jobs', 'embedding.claim_documents', 'embedding.chunking',
    'embedding.stored_chunks', 'embedding.read_sql', 'embedding.settle', 'embedding.claim');
