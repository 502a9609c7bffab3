-- Why:   the vector and the end of its job are written in one statement, or not at all.
-- Locks: row locks, for the length of the call, the user's row before its job: the order in which a
--        writer to the table and its trigger take them. It waits for none: what somebody else holds
--        is passed over and reported.
-- Undo:  drop function public.complete_embeddings, public.embedding_refusals;
--
-- Two guards. The lease must still be the one that was handed out, and the text in the table must
-- still hash to what was embedded. An edit that bypassed the triggers leaves the lease as it was, and
-- only the hash tells; a job that was revoked may have the same text, and only the lease tells.
--
-- Jobs are looked up by id and lease alone. With `status = 'processing'` beside them the planner
-- takes the small index over leased jobs, and reads all of it for each one: quadratic in the batch.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Why the given jobs of a target were not completed:
--   lost     the lease is not theirs any more (edited, deleted, re-queued, expired): drop the vector
--   changed  the lease holds, but the row reads differently: it changed without its trigger, or its
--            source is not a function of the row; or the target has another model by now
--   locked   the lease holds, and somebody else holds the row or the job: try once more
create function public.embedding_refusals(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], model text
)
returns table (id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    return query execute format($sql$
        select eq_given.eq_id,
               case when eq_job.eq_record is null then 'lost'
                    when $4 <> $5 then 'changed'
                    when eq_job.eq_by_hand or eq_row.eq_same then 'locked'
                    else 'changed' end
          from unnest($1, $2, $3) as eq_given (eq_id, eq_lease, eq_hash)
          left join lateral (
                select record_id as eq_record, content is not null as eq_by_hand
                  from public.embedding_queue
                 where id = eq_given.eq_id and lease = eq_given.eq_lease) as eq_job on true
          left join lateral (
                select (%1$s) and sha256(convert_to((%2$s)::text, 'UTF8')) = eq_given.eq_hash as eq_same
                  from %3$s where %4$s) as eq_row on true
        $sql$, coalesce(target.filter, 'true'), target.source, target.relation, target.record_match_sql)
    using ids, leases, hashes, model, coalesce(target.model, model);
end $$;

-- Writes vectors (one for each id, in the order of `ids`, all made by `model`) into their rows and
-- completes their jobs, where both guards hold. Returns the jobs that were refused, with the
-- reason (see embedding_refusals); all others are done. `tokens` may be null.
-- Raises lock_not_available if the table is locked as a whole.
create function public.complete_embeddings(
    ids bigint[],
    leases uuid[],
    hashes bytea[],
    vectors vector[],
    model text,
    tokens integer[] default null
)
returns table (id bigint, reason text)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    done bigint[] := '{}';
    acknowledged bigint[];
begin
    if cardinality(ids) is distinct from cardinality(leases)
       or cardinality(ids) is distinct from cardinality(hashes)
       or cardinality(ids) is distinct from cardinality(vectors)
       or cardinality(ids) <> cardinality(tokens) then
        raise exception 'ids, leases, hashes, vectors and tokens must be of one length'
            using errcode = 'invalid_parameter_value';
    end if;
    for target in
        select watched.* from public.embedding_targets as watched
         where (watched.table_name, watched.embedding_column) in (
                   select job.table_name, job.embedding_column from public.embedding_queue as job
                    where job.id = any (ids))
    loop
        execute format('lock table only %s in row exclusive mode nowait', target.relation);
        execute format($sql$
            with eq_given as materialized (
                select eq_input.*, record_id as eq_record, content is not null as eq_by_hand
                  from unnest($1, $2, $3, $4, $5)
                       as eq_input (eq_id, eq_lease, eq_hash, eq_vector, eq_tokens)
                  join public.embedding_queue on id = eq_id and lease = eq_lease
                 where table_name = $7 and embedding_column = $8
            ), eq_row as materialized (
                select eq_given.*
                  from eq_given join %3$s on %4$s
                 where (%1$s)
                   and $6 = coalesce($9, $6)
                   and (eq_by_hand or sha256(convert_to((%2$s)::text, 'UTF8')) = eq_hash)
                   for no key update of %5$I skip locked
            ), eq_job as materialized (
                select eq_row.*
                  from eq_row join public.embedding_queue as eq_queue
                    on eq_queue.id = eq_id and eq_queue.lease = eq_lease
                   for update of eq_queue skip locked
            ), eq_written as (
                update %3$s set %6$I = eq_vector from eq_job where %4$s
            ), eq_completed as (
                update public.embedding_queue
                   set status = 'completed', content = null, attempts = 0, lease = null,
                       lease_expires_at = null, worker = null, error_message = null, error_class = null,
                       content_hash = eq_hash, model = $6, tokens = eq_tokens,
                       completed_at = clock_timestamp(), updated_at = now()
                  from eq_job where id = eq_id
            )
            select array_agg(eq_id) from eq_job
            $sql$,
            coalesce(target.filter, 'true'),
            target.source,
            target.relation,
            target.record_match_sql,
            (parse_ident(target.relation))[2],
            target.embedding_column)
           into acknowledged
          using ids, leases, hashes, vectors, tokens, model, target.table_name, target.embedding_column,
                target.model;
        done := done || coalesce(acknowledged, '{}');

        if cardinality(done) < cardinality(ids) then
            return query
            select refused.id, refused.reason
              from public.embedding_refusals(target, ids, leases, hashes, model) as refused
             where refused.id <> all (done)
               and refused.id in (select job.id from public.embedding_queue as job
                                   where job.table_name = target.table_name
                                     and job.embedding_column = target.embedding_column);
        end if;
    end loop;
    return query
    select given.id, 'lost' from unnest(ids) as given (id)
     where not exists (select from public.embedding_queue as job where job.id = given.id);
end $$;

