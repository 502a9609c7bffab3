-- Why:   a vector and the end of its job are written together or not at all. The steps: lock, write, finish.
-- Locks: row locks, for the length of the call, the user's row before its job: the order in which a writer to the
--        table and its trigger take them. It waits for none: it skips what another session holds.
-- Undo:  drop function embedding.complete, embedding.finish_jobs, embedding.write_vectors, embedding.lock_sql,
--        embedding.is_rewritten;
--
-- There are two guards. The lease must still be that of the claim, and the text in the table must still have the hash
-- of the text that was embedded. An edit that bypassed the triggers keeps the lease: only the hash shows it. A job
-- that was claimed again may have the same text: only the lease shows it.
--
-- The plan of locking is kept for the session, in a function of the target, and is pinned like that of a claim. Jobs are
-- looked up only by id and lease: with `status = 'processing'` as well, the planner would take the small index over
-- leased jobs, and read all of it for each job.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Whether a text of these jobs has changed while their vectors were written: a trigger of the table that fires on
-- every update can do that.
create function embedding.is_rewritten(target public.embedding_targets, ids bigint[], hashes bytea[])
returns boolean
language plpgsql
set search_path = '', pg_temp
as $$
declare
    rewritten boolean;
begin
    if not embedding.is_column(target) then
        return false; -- the row itself is not written
    end if;
    execute format($sql$
        select exists (
            select from unnest($1, $2) as eq_given (eq_id, eq_hash)
              join (select id as eq_job, record_id as eq_record from public.embedding_queue
                     where id = any ($1) and content is null) as eq_job on eq_job = eq_id
              join %1$s on %2$s
             where sha256(convert_to((%3$s)::text, 'UTF8')) is distinct from eq_hash)
        $sql$, target.relation, target.record_match_sql, embedding.text_sql(target))
       into rewritten
      using ids, hashes;
    return rewritten;
end $$;

-- The body of the function that locks the rows and jobs of a target that pass both guards. It returns their places in the
-- arrays, in order, and their records. This step does not use the vectors: a lock that may find its row changed keeps a
-- copy of everything it was joined with, and would copy the vectors six times.
create function embedding.lock_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
        #variable_conflict use_column
        begin
            with eq_row as materialized (
                select eq_given.*, eq_job.eq_record
                  from unnest(ids, leases, hashes) with ordinality as eq_given (eq_id, eq_lease, eq_hash, eq_place)
                 cross join lateral (
                        select record_id as eq_record, content is not null as eq_by_hand
                          from public.embedding_queue
                         where id = eq_id and lease = eq_lease and target_id = %1$s
                        offset 0) as eq_job
                 cross join lateral (
                        select from %4$s
                         where %5$s
                           and (%2$s)
                           and (eq_by_hand or sha256(convert_to((%3$s)::text, 'UTF8')) = eq_hash)
                           for no key update of %6$I skip locked) as eq_locked
            ), eq_job as materialized (
                select eq_row.*
                  from eq_row
                 cross join lateral (
                        select from public.embedding_queue as eq_queue
                         where eq_queue.id = eq_id and eq_queue.lease = eq_lease
                           for update skip locked) as eq_locked
            )
            select array_agg(eq_place::integer order by eq_place), array_agg(eq_record order by eq_place)
              into places, records
              from eq_job;
        end $body$,
        target.id, coalesce(target.filter, 'true'), embedding.text_sql(target), target.relation, target.record_match_sql,
        (parse_ident(target.relation))[2]);
end $$;

-- Writes vectors for locked rows: one for each record, with the hash of its text for each id. Returns the hash of each vector as
-- it is stored. Only a trigger can store another one than is given: without one, nothing is read. Raises if a trigger of
-- the table prevents that. Its plan is not kept: the settings that pin a plan would apply to those triggers as well.
create function embedding.write_vectors(
    target public.embedding_targets, records text[], vectors vector[], ids bigint[], hashes bytea[]
)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
as $$
declare
    is_seen constant boolean := embedding.has_other_triggers(target);
    vector_hashes bigint[];
    written integer;
begin
    execute embedding.write_sql(target, 'unnest($1, $2) as eq_given (eq_record, eq_vector)', 'eq_vector')
      using records, vectors;
    get diagnostics written = row_count;
    if written <> cardinality(ids) then -- although the rows exist and are locked
        raise exception 'a trigger of the table drops the vector' using errcode = 'triggered_data_change_violation';
    elsif is_seen and embedding.is_rewritten(target, ids, hashes) then
        raise exception 'a trigger of the table changes the text when the vector is written'
            using errcode = 'triggered_data_change_violation';
    end if;
    set constraints all immediate; -- a deferred trigger raises its error now, not at the commit
    if not is_seen then
        return embedding.hash_vectors(target, vectors);
    end if;
    vector_hashes := embedding.hash_stored(target, records);
    if array_position(vector_hashes, null) is not null then
        raise exception 'a trigger of the table removes the vector' using errcode = 'triggered_data_change_violation';
    end if;
    return vector_hashes;
end $$;

-- Completes locked jobs. Raises if the lease of one of them is not the given one (null: it has none). Those that are `unenhanced`
-- are marked, and with a time in `again_in` pending again after it: with a text that was given by hand, if there is one.
create function embedding.finish_jobs(
    ids bigint[], leases uuid[], hashes bytea[], model text, tokens integer[], truncated_to integer[], costs real[],
    unenhanced text[], again_in interval[], vector_hashes bigint[]
)
returns void
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    finished integer;
begin
    update public.embedding_queue as job
       set status = case when given.pause is null then 'completed' else 'pending' end,
           available_at = coalesce(clock_timestamp() + given.pause, job.available_at),
           error_class = case when given.pause is not null then 'not_enhanced' end,
           error_message = 'embedded without the text of its chat model: ' || case when given.pause is not null then given.class end,
           content = case when given.pause is not null then job.content end,
           attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0,
           lease = null, lease_expires_at = null, worker = null,
           content_hash = given.hash, model = finish_jobs.model, tokens = given.tokens, cost = given.cost,
           truncated_to = given.truncated_to, unenhanced = given.class, vector_hash = given.vector_hash,
           completed_at = clock_timestamp(), updated_at = now()
      from (select of_job.*, case when of_job.class is not null then of_job.again_in end as pause
              from unnest(ids, leases, hashes, finish_jobs.tokens, finish_jobs.truncated_to, costs, finish_jobs.unenhanced,
                          finish_jobs.again_in, vector_hashes)
                   as of_job (id, lease, hash, tokens, truncated_to, cost, class, again_in, vector_hash)) as given
     where job.id = given.id and job.lease is not distinct from given.lease;
    get diagnostics finished = row_count;
    if finished <> cardinality(ids) then -- although they are locked
        raise exception 'a trigger of the table queues the row again when its vector is written'
            using errcode = 'triggered_data_change_violation';
    end if;
end $$;

-- Completes the jobs that pass both guards, and returns them.
--
-- One wait remains: if the primary key is deferrable, an UPDATE of the vector that adds an index entry waits for a
-- transaction that has moved another row to the same key, which may be waiting for this row. The short lock_timeout
-- ends this wait before Postgres detects a deadlock and aborts the transaction of the user.
create function embedding.complete(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], vectors vector[],
    model text, tokens integer[], truncated_to integer[], costs real[], unenhanced text[], again_in interval[]
)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '100ms'
as $$
declare
    places integer[];
    records text[];
begin
    if model = coalesce(embedding.full_model(target), model) then
        execute format('select * from embedding.lock_%s($1, $2, $3)', target.id)
           into places, records
          using ids, leases, hashes;
    end if;
    if places is null then
        return '{}';
    elsif cardinality(places) < cardinality(ids) then
        select array_agg(given.id order by place), array_agg(given.lease order by place),
               array_agg(given.hash order by place), array_agg(given.vector order by place),
               array_agg(given.tokens order by place), array_agg(given.truncated_to order by place),
               array_agg(given.cost order by place), array_agg(given.class order by place),
               array_agg(given.again_in order by place)
          into ids, leases, hashes, vectors, tokens, truncated_to, costs, unenhanced, again_in
          from unnest(ids, leases, hashes, vectors, tokens, truncated_to, costs, unenhanced, again_in)
               with ordinality as given (id, lease, hash, vector, tokens, truncated_to, cost, class, again_in, place)
         where place = any (places);
    end if;
    perform embedding.finish_jobs(
        ids, leases, hashes, model, tokens, truncated_to, costs, unenhanced, again_in,
        embedding.write_vectors(target, records, vectors, ids, hashes));
    return ids;
end $$;

select embedding.protect_functions(
    'embedding.is_rewritten', 'embedding.lock_sql', 'embedding.write_vectors', 'embedding.finish_jobs',
    'embedding.complete');
