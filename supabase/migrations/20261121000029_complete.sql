-- Why:   a worker writes its vectors with `complete_embeddings`, which returns the jobs that it refuses, and why.
-- Locks: what embedding.complete locks. It waits for nothing: it reports what another session holds.
-- Undo:  drop function public.complete_embeddings, embedding.refuse_row, embedding.refuse_target,
--        embedding.open_for_vectors, embedding.targets_of_jobs, embedding.check_in_chunks, embedding.check_lengths, embedding.is_readable,
--        embedding.refusals;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Why the given jobs of a target were not completed:
--   lost       the lease is no longer theirs (edited, deleted, requeued, expired): drop the vector
--   changed    the lease holds, but the text differs: it changed without its trigger, or the source is not
--              a function of the row
--   other_model  the lease holds, but the column holds vectors of another model: release the job
--   locked     the lease holds, but another session holds the row or the job: try once more
--   suspended  the lease holds, but the table cannot be written now: release the job
--   unwritable a constraint or a trigger of the table does not let this row be written: the job is failed
-- A job that is completed with this text and model is not refused: an earlier call completed it, whose
-- answer was lost.
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
                    when $4 <> $5 then 'other_model'
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
        $sql$, coalesce(target.filter, 'true'), embedding.text_sql(target), target.relation, target.record_match_sql)
    using ids, leases, hashes, model, coalesce(embedding.full_model(target), model);
end $$;

-- Whether the source and the filter can be evaluated for the record of a job.
create function embedding.is_readable(target public.embedding_targets, id bigint)
returns boolean
language plpgsql
set search_path = '', pg_temp
as $$
begin
    execute format('select (%1$s), (%2$s)::text from (select $1 as eq_record) as eq_job, %3$s where %4$s',
                   coalesce(target.filter, 'true'), embedding.text_sql(target), target.relation, target.record_match_sql)
      using (select job.record_id from public.embedding_queue as job where job.id = is_readable.id);
    return true;
exception when others or query_canceled or assert_failure then
    return false;
end $$;

-- Raises unless arrays have the same length. Optional ones may be null.
create function embedding.check_lengths(names text, lengths integer[], optional_lengths integer[])
returns void
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    if array_position(lengths, null) is not null
       or (select count(distinct length) from unnest(lengths || optional_lengths) as given (length)) > 1 then
        raise exception '% must be of one length', names using errcode = 'invalid_parameter_value';
    end if;
end $$;

-- Raises unless a target is in chunks, or is not.
create function embedding.check_in_chunks(target public.embedding_targets, expected boolean)
returns void
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    if (target.chunk_format is not null) <> expected then
        raise exception 'column % of table % is embedded %', target.embedding_column, target.table_name,
                        case when expected then 'as a whole' else 'in chunks' end
            using errcode = 'invalid_parameter_value',
                  hint = case when expected then 'Call complete_embeddings.'
                              else 'Call stage_chunks, then complete_documents.' end;
    end if;
end $$;

-- The targets of these jobs. The plan is pinned: one from when the queue was small would read all of it.
create function embedding.targets_of_jobs(ids bigint[])
returns setof public.embedding_targets
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    return query
    select target.* from public.embedding_targets as target
     where target.id in (select job.target_id from public.embedding_queue as job where job.id = any (ids));
end $$;

-- Prepares a target for vectors of a model: records the model if these are the first vectors of the column, and locks
-- the table. Returns the model of the column with its prompt, and what is wrong with the target (null: nothing).
create function embedding.open_for_vectors(
    target public.embedding_targets, ids bigint[], leases uuid[], new_model text,
    out model text, out document_prompt text, out fault text
)
language plpgsql
set search_path = '', pg_temp
as $$
declare
    context text;
begin
    model := target.model;
    document_prompt := target.document_prompt;
    if (model is null or document_prompt is null) and exists (
        select from public.embedding_queue as job
          join unnest(ids, leases) as given (id, lease) on given.id = job.id and given.lease = job.lease
    ) then -- before any lock
        select recorded.model, recorded.document_prompt into model, document_prompt
          from embedding.record_model(target.id, new_model) as recorded;
    end if;
    perform embedding.open_table(target, 'row exclusive');
exception when syntax_error_or_access_rule_violation or invalid_schema_name then
    get stacked diagnostics context = pg_exception_context;
    fault := embedding.describe_error(sqlstate, sqlerrm, context); -- the table or a right is missing
end $$;

-- Suspends a target, and refuses those of the given jobs that belong to it and still hold their lease.
create function embedding.refuse_target(
    target public.embedding_targets, ids bigint[], leases uuid[], fault text
)
returns table (id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
begin
    update public.embedding_targets as broken set problem = fault where broken.id = target.id;
    return query
    select job.id, 'suspended' from public.embedding_queue as job
      join unnest(ids, leases) as given (id, lease) on given.id = job.id and given.lease = job.lease
     where job.target_id = target.id;
end $$;

-- Refuses the one job whose vector could not be written because of an error. Raises if the vector is the cause.
create function embedding.refuse_row(
    target public.embedding_targets, id bigint, lease uuid, vector vector, error_state text, cause text
)
returns table (refused_id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    refused_id := id;
    if cardinality(string_to_array(vector::text, ',')) <> target.dimensions then
        raise exception '%', cause using errcode = error_state; -- the row is fine: the argument is wrong
    elsif not embedding.is_timeout(error_state) and not embedding.is_readable(target, id) then
        reason := 'changed';
    else
        perform public.fail_embeddings(
                    array[id], array[lease], 'unwritable'::text, cause,
                    case when embedding.is_timeout(error_state) then interval '1 minute' end);
        reason := 'unwritable';
    end if;
    return next;
end $$;

-- Writes vectors (one for each id, in the order of `ids`, all made by `model`: its full name, see
-- embedding.full_model) into their rows and completes their jobs, if both guards hold. Returns the jobs that were
-- refused, with the reason (see embedding.refusals); all others are completed. `tokens`, `truncated_to` and `costs`
-- (US dollars) may be null, as a whole or in part. So may `unenhanced`: the error class of the chat model without whose text a
-- vector was made, and `again_in`: the time after which such a job is pending again. Raises lock_not_available if the table is
-- locked as a whole.
create function public.complete_embeddings(
    ids bigint[], leases uuid[], hashes bytea[], vectors vector[], model text,
    tokens integer[] default null, truncated_to integer[] default null, costs real[] default null,
    unenhanced text[] default null, again_in interval[] default null
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
    middle constant integer := cardinality(ids) / 2;
    fault text;
    state text;
    cause text;
    context text;
begin
    perform embedding.check_lengths(
        'ids, leases, hashes, vectors, tokens, truncated_to, costs, unenhanced and again_in',
        array[cardinality(ids), cardinality(leases), cardinality(hashes), cardinality(vectors)],
        array[cardinality(tokens), cardinality(truncated_to), cardinality(costs), cardinality(unenhanced), cardinality(again_in)]);
    for target in select * from embedding.targets_of_jobs(ids) loop
        perform embedding.check_in_chunks(target, false);
        select opened.fault, opened.model, opened.document_prompt into fault, target.model, target.document_prompt
          from embedding.open_for_vectors(target, ids, leases, model) as opened;
        for try in 1 .. 3 loop
            exit when fault is not null;
            begin
                -- raises if it is no longer a vector column: a text column would accept vectors as well
                perform embedding.stored_width(target);
                acknowledged := embedding.complete(
                    target, ids, leases, hashes, vectors, model, tokens, truncated_to, costs, unenhanced, again_in);
                if cardinality(done) + cardinality(acknowledged) < cardinality(ids) then
                    return query
                    select refused.id, refused.reason
                      from embedding.refusals(target, ids, leases, hashes, model) as refused
                      join public.embedding_queue as job on job.id = refused.id and job.target_id = target.id
                     where refused.id <> all (done || acknowledged);
                end if;
                done := done || acknowledged;
                state := null;
            exception when others or query_canceled or assert_failure then
                state := sqlstate;
                get stacked diagnostics context = pg_exception_context;
                cause := embedding.describe_error(sqlstate, sqlerrm, context);
                if embedding.is_of_the_server(state, context) then
                    raise;
                elsif not embedding.is_timeout(state) then
                    fault := embedding.fault_of_table(target, state, cause);
                elsif cardinality(ids) > 1 then
                    raise; -- the timeout of this statement is used up: the caller has to write fewer
                end if;
            end;
            exit when state is null or middle > 0 or not embedding.may_pass(state) or embedding.is_timeout(state);
        end loop;
        if fault is not null then
            return query select * from embedding.refuse_target(target, ids, leases, fault);
        elsif state is not null and middle > 0 then -- some row cannot be read or written: halving finds it
            return query
            select half.*
              from (values (1, middle), (middle + 1, cardinality(ids))) as part (first, last)
             cross join lateral public.complete_embeddings(
                       ids[first:last], leases[first:last], hashes[first:last], vectors[first:last], model, tokens[first:last],
                       truncated_to[first:last], costs[first:last], unenhanced[first:last], again_in[first:last]) as half;
            return;
        elsif state is not null then
            return query select * from embedding.refuse_row(target, ids[1], leases[1], vectors[1], state, cause);
        end if;
    end loop;
    if cardinality(done) < cardinality(ids) then
        return query
        select given.id, 'lost' from unnest(ids) as given (id)
         where not exists (select from public.embedding_queue as job where job.id = given.id);
    end if;
end $$;

select embedding.protect_functions(
    'embedding.refusals', 'embedding.is_readable', 'embedding.check_lengths', 'embedding.check_in_chunks',
    'embedding.targets_of_jobs', 'embedding.open_for_vectors', 'embedding.refuse_target', 'embedding.refuse_row');
select embedding.let_workers_call('public.complete_embeddings');
