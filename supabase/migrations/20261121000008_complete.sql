-- Why:   the vector and the end of its job are written together, or not at all.
-- Locks: row locks, for the length of the call, the user's row before its job: the order in which a
--        writer to the table and its trigger take them. It waits for none: what somebody else holds
--        is passed over and reported.
-- Undo:  drop function public.complete_embeddings, embedding.complete, embedding.is_readable,
--        embedding.drift, embedding.refusals;
--
-- Two guards. The lease must still be the one that was handed out, and the text in the table must
-- still hash to what was embedded. An edit that bypassed the triggers leaves the lease as it was, and
-- only the hash tells; a job that was revoked may have the same text, and only the lease tells.
--
-- Jobs are looked up by id and lease alone, and by `id = any` wherever one is meant: a small queue, or
-- one whose statistics are from when it was empty, would be read as a whole. With `status = 'processing'`
-- beside them the planner takes the small index over leased jobs, and reads all of it for each one:
-- quadratic in the batch.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Why the given jobs of a target were not completed:
--   lost       the lease is not theirs any more (edited, deleted, re-queued, expired): drop the vector
--   changed    the lease holds, but the row reads differently: it changed without its trigger, or its
--              source is not a function of the row; or the target has another model by now
--   locked     the lease holds, and somebody else holds the row or the job: try once more
--   set_aside  the lease holds, but the table cannot be written to as it is now: give the job back
--   unwritable a constraint or a trigger of the table does not let this row be written: the job is failed
-- What stands there completed with this very text and model is not refused: it was completed by this
-- call, made before, whose answer was lost on its way.
create function embedding.refusals(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], model text
)
returns table (id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    return query execute format($sql$
        select eq_given.eq_id,
               case when not coalesce(eq_job.eq_held, false) then 'lost'
                    when $4 <> $5 then 'changed'
                    when eq_job.eq_by_hand or eq_row.eq_same then 'locked'
                    else 'changed' end
          from unnest($1, $2, $3) as eq_given (eq_id, eq_lease, eq_hash)
          left join lateral (
                select record_id as eq_record, content is not null as eq_by_hand,
                       lease is not null and lease = eq_given.eq_lease as eq_held,
                       status = 'completed' and content_hash = eq_given.eq_hash
                       and embedding_queue.model = $4 as eq_done
                  from public.embedding_queue
                 where id = eq_given.eq_id) as eq_job on true
          left join lateral (
                select (%1$s) and sha256(convert_to((%2$s)::text, 'UTF8')) = eq_given.eq_hash as eq_same
                  from %3$s where %4$s) as eq_row on true
         where eq_job.eq_done is not true
        $sql$, coalesce(target.filter, 'true'), target.source, target.relation, target.record_match_sql)
    using ids, leases, hashes, model, coalesce(target.model, model);
end $$;

-- Whether an error came of the table and not of a row in it: in words what is wrong with it, or null.
create function embedding.drift(target public.embedding_targets, error_state text, error_text text)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    width integer;
begin
    if starts_with(error_state, '42') or error_state in ('3F000', '0A000') then
        return error_text; -- a table, a column, a type or a right is missing, or it is a view by now
    end if;
    width := embedding.column_width(target.relation::regclass, target.embedding_column);
    if width is distinct from target.dimensions then
        return format('column %s holds %s dimensions by now, not %s', target.embedding_column,
                      coalesce(width::text, 'any number of'), coalesce(target.dimensions::text, 'any number'));
    end if;
    return null;
exception when datatype_mismatch then
    return sqlerrm; -- not a vector any more
end $$;

-- Whether the source and the filter can be read of the record of a job.
create function embedding.is_readable(target public.embedding_targets, id bigint)
returns boolean
language plpgsql
set search_path = '', pg_temp
as $$
begin
    execute format('select (%1$s), (%2$s)::text from (select $1 as eq_record) as eq_job, %3$s where %4$s',
                   coalesce(target.filter, 'true'), target.source, target.relation, target.record_match_sql)
      using (select job.record_id from public.embedding_queue as job where job.id = is_readable.id);
    return true;
exception
    when transaction_rollback or insufficient_resources or operator_intervention or system_error then
        raise;
    when others then
        return false;
end $$;

-- Writes what both guards let through, and returns those jobs. The rows and jobs are locked first, by
-- themselves: a lock that may find its row changed keeps a copy of all that it was joined with, and the
-- vectors would be copied six times on their way.
--
-- One wait is left: if the primary key is deferrable, an UPDATE of the vector that adds an index entry waits for a
-- transaction that has moved another row to the same key, and that one may be waiting for this row. The short
-- lock_timeout ends this before Postgres looks for a deadlock and ends the user's transaction.
create function embedding.complete(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], vectors vector[],
    model text, tokens integer[], truncated_to integer[], costs real[]
)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '100ms'
as $$
declare
    places integer[];
    records text[];
    written integer;
begin
    execute format($sql$
        with eq_given as materialized (
            select eq_input.*, record_id as eq_record, content is not null as eq_by_hand
              from unnest($1, $2, $3) with ordinality as eq_input (eq_id, eq_lease, eq_hash, eq_place)
              join public.embedding_queue on id = eq_id and lease = eq_lease
             where id = any ($1) and target_id = $4
        ), eq_row as materialized (
            select eq_given.*
              from eq_given join %3$s on %4$s
             where (%1$s)
               and $5 = coalesce($6, $5)
               and (eq_by_hand or sha256(convert_to((%2$s)::text, 'UTF8')) = eq_hash)
               for no key update of %5$I skip locked
        ), eq_job as materialized (
            select eq_row.*
              from eq_row join public.embedding_queue as eq_queue
                on eq_queue.id = eq_id and eq_queue.lease = eq_lease and eq_queue.id = any ($1)
               for update of eq_queue skip locked
        )
        select array_agg(eq_place order by eq_place), array_agg(eq_record order by eq_place) from eq_job
        $sql$,
        coalesce(target.filter, 'true'),
        target.source,
        target.relation,
        target.record_match_sql,
        (parse_ident(target.relation))[2])
       into places, records
      using ids, leases, hashes, target.id, model, target.model;
    if places is null then
        return '{}';
    elsif cardinality(places) < cardinality(ids) then
        select array_agg(given.id order by place), array_agg(given.hash order by place),
               array_agg(given.vector order by place), array_agg(given.tokens order by place),
               array_agg(given.truncated_to order by place), array_agg(given.cost order by place)
          into ids, hashes, vectors, tokens, truncated_to, costs
          from unnest(ids, hashes, vectors, tokens, truncated_to, costs)
               with ordinality as given (id, hash, vector, tokens, truncated_to, cost, place)
         where place = any (places);
    end if;

    execute format(
        'update %1$s set %2$I = eq_vector from unnest($1, $2) as eq_given (eq_record, eq_vector) where %3$s',
        target.relation, target.embedding_column, target.record_match_sql)
      using records, vectors;
    get diagnostics written = row_count;
    if written < cardinality(ids) then -- though they are locked, and there
        raise exception 'a trigger of the table drops the vector' using errcode = 'triggered_data_change_violation';
    end if;
    update public.embedding_queue as job
       set status = 'completed', content = null, attempts = 0, unanswered = 0, lease = null,
           lease_expires_at = null, worker = null, error_message = null, error_class = null,
           content_hash = given.hash, model = complete.model, tokens = given.tokens, cost = given.cost,
           truncated_to = given.truncated_to, completed_at = clock_timestamp(), updated_at = now()
      from unnest(ids, hashes, complete.tokens, complete.truncated_to, costs)
           as given (id, hash, tokens, truncated_to, cost)
     where job.id = any (ids) and job.id = given.id;
    return ids;
end $$;

-- Writes vectors (one for each id, in the order of `ids`, all made by `model`) into their rows and
-- completes their jobs, where both guards hold. Returns the jobs that were refused, with the
-- reason (see embedding.refusals); all others are done. `tokens`, `truncated_to` and `costs` (US dollars) may be null, as a
-- whole or for some. Raises lock_not_available if the table is locked as a whole.
create function public.complete_embeddings(
    ids bigint[],
    leases uuid[],
    hashes bytea[],
    vectors vector[],
    model text,
    tokens integer[] default null,
    truncated_to integer[] default null,
    costs real[] default null
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
    drift text;
    state text;
    cause text;
begin
    if cardinality(ids) is distinct from cardinality(leases)
       or cardinality(ids) is distinct from cardinality(hashes)
       or cardinality(ids) is distinct from cardinality(vectors)
       or cardinality(ids) <> cardinality(tokens)
       or cardinality(ids) <> cardinality(truncated_to)
       or cardinality(ids) <> cardinality(costs) then
        raise exception 'ids, leases, hashes, vectors, tokens, truncated_to and costs must be of one length'
            using errcode = 'invalid_parameter_value';
    end if;
    for target in
        select watched.* from public.embedding_targets as watched
         where watched.id in (select job.target_id from public.embedding_queue as job where job.id = any (ids))
    loop
        begin
            execute format('lock table only %s in row exclusive mode nowait', target.relation);
            -- raises if it holds no vectors any more: a text would take them as well
            perform embedding.column_width(target.relation::regclass, target.embedding_column);
            acknowledged := embedding.complete(
                target, ids, leases, hashes, vectors, model, tokens, truncated_to, costs);
            done := done || acknowledged;
            if cardinality(done) < cardinality(ids) then
                return query
                select refused.id, refused.reason
                  from embedding.refusals(target, ids, leases, hashes, model) as refused
                 where refused.id <> all (done)
                   and refused.id in (select job.id from public.embedding_queue as job
                                       where job.target_id = target.id);
            end if;
        exception
            when lock_not_available or transaction_rollback or insufficient_resources
              or operator_intervention or system_error then
                raise; -- nothing here is to blame
            when others then
                state := sqlstate;
                cause := sqlerrm;
                drift := embedding.drift(target, sqlstate, sqlerrm);
                if drift is not null then
                    update public.embedding_targets as broken set problem = drift where broken.id = target.id;
                    return query
                    select job.id, 'set_aside' from public.embedding_queue as job
                      join unnest(ids, leases) as given (id, lease) on given.id = job.id and given.lease = job.lease
                     where job.target_id = target.id;
                elsif cardinality(ids) = 1 then
                    if not embedding.is_readable(target, ids[1]) then
                        return query select ids[1], 'changed';
                    elsif starts_with(state, '22') then
                        raise; -- the row is fine: it is what the caller gave
                    else
                        perform public.fail_embeddings(ids, leases, 'unwritable', cause);
                        return query select ids[1], 'unwritable';
                    end if;
                else -- some row cannot be read any more, or cannot be written: one at a time
                    for place in 1 .. cardinality(ids) loop
                        return query
                        select * from public.complete_embeddings(
                            ids[place:place], leases[place:place], hashes[place:place], vectors[place:place],
                            model, tokens[place:place], truncated_to[place:place], costs[place:place]);
                    end loop;
                    return;
                end if;
        end;
    end loop;
    return query
    select given.id, 'lost' from unnest(ids) as given (id)
     where not exists (select from public.embedding_queue as job where job.id = given.id);
end $$;
