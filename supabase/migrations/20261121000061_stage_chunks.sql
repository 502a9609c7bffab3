-- Why:   a vector of a chunk is stored as soon as it is paid for, in small transactions: a text of thousands of chunks
--        needs no long one, and a worker that is killed pays for little again.
-- Locks: KEY SHARE row locks on the rows whose chunks are stored, for the length of the call: what the foreign key takes.
--        It waits for none: it reports what another session holds.
-- Undo:  drop function public.stage_chunks, embedding.stage_in_parts, embedding.refuse_documents, embedding.stage,
--        embedding.lock_documents;

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- Locks the rows of those of the given jobs that are of a target and still leased. Returns each job of the target with the
-- record id of its locked row, or with the reason why there is none: `lost` or `locked`.
create function embedding.lock_documents(target public.embedding_targets, ids bigint[], leases uuid[])
returns table (id bigint, record_id text, reason text)
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return query execute format($sql$
        select eq_id, case when eq_free then eq_record end,
               case when not eq_held or eq_exists is null then 'lost' when eq_free is null then 'locked' end
          from (select distinct * from unnest($1, $2)) as eq_given (eq_id, eq_lease)
         cross join lateral (
                select record_id as eq_record, coalesce(lease = eq_lease, false) as eq_held
                  from public.embedding_queue where id = eq_id and target_id = $3 offset 0) as eq_job
          left join lateral (select true as eq_exists from %1$s where %2$s offset 0) as eq_found on true
          left join lateral (
                select true as eq_free from %1$s where %2$s and eq_held for key share of %3$I skip locked) as eq_locked on true
        $sql$, target.relation, target.record_match_sql, (parse_ident(target.relation))[2])
    using ids, leases, target.id;
end $$;

-- Stores chunks of a target whose jobs are still leased. Returns the other jobs, with the reason. If a job loses its lease
-- meanwhile, its text may be completed before these chunks are visible, and they would stay for ever: so it starts again.
create function embedding.stage(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], contents text[], contexts text[],
    vectors vector[]
)
returns table (id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '100ms'
as $$
declare
    insertion constant text := format($sql$
        insert into %1$s (%2$s, hash, content, context, embedding, vector_hash)
        select %3$s, eq_hash, eq_content, eq_context, eq_vector, %4$s
          from unnest($1, $2) as eq_locked (eq_id, eq_record)
          join unnest($3, $4, $5, $6, $7) as eq_chunk (eq_chunk_id, eq_hash, eq_content, eq_context, eq_vector)
            on eq_chunk_id = eq_id
        on conflict do nothing -- an earlier call stored it
        $sql$,
        target.chunks_relation,
        embedding.key_list(target.key_columns),
        array_to_string(embedding.key_values_sql(target.relation::regclass, target.key_columns, 'eq_record'), ', '),
        case when embedding.has_other_triggers(target) then 'null' else embedding.vector_hash_sql(target, 'eq_vector') end);
    documents jsonb;
    locked_ids bigint[];
    records text[];
begin
    loop
        begin
            select jsonb_agg(document) filter (where document.reason is not null),
                   array_agg(document.id) filter (where document.reason is null),
                   array_agg(document.record_id) filter (where document.reason is null)
              into documents, locked_ids, records
              from embedding.lock_documents(target, ids, leases) as document;
            execute insertion using locked_ids, records, ids, hashes, contents, contexts, vectors;
            exit when not exists (
                select from unnest(ids, leases) as given (id, lease)
                  left join public.embedding_queue as job on job.id = given.id
                 where given.id = any (locked_ids) and job.lease is distinct from given.lease);
            raise exception using errcode = 'EQ000';
        exception when sqlstate 'EQ000' then null;
        end;
    end loop;
    return query select * from jsonb_to_recordset(documents) as refused (id bigint, reason text);
end $$;

-- Refuses the jobs of a target whose chunks or places could not be written: all of them because of a fault of its table, or the
-- first because of an error. Raises if the vector of its chunk is the cause.
create function embedding.refuse_documents(
    target public.embedding_targets, ids bigint[], leases uuid[], vector vector, fault text, error_state text, cause text
)
returns table (id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if fault is not null then
        return query select * from embedding.refuse_target(target, ids, leases, fault);
    elsif embedding.may_pass(error_state) and not embedding.is_timeout(error_state) then
        return query select ids[1], 'locked';
    else
        return query select * from embedding.refuse_row(target, ids[1], leases[1], vector, error_state, cause);
    end if;
end $$;

-- Stores chunks of a target, some of which a constraint or a trigger of their table may refuse: halving finds them, and only
-- their documents are refused.
create function embedding.stage_in_parts(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], contents text[], contexts text[],
    vectors vector[]
)
returns table (id bigint, reason text)
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    middle constant integer := cardinality(ids) / 2;
    fault text;
    state text;
    cause text;
    context text;
begin
    begin
        return query select * from embedding.stage(target, ids, leases, hashes, contents, contexts, vectors);
        return;
    exception when others or query_canceled or assert_failure then
        state := sqlstate;
        get stacked diagnostics context = pg_exception_context;
        cause := embedding.describe_error(sqlstate, sqlerrm, context);
        if embedding.is_of_the_server(state, context) or embedding.is_timeout(state) and middle > 0 then
            raise;
        elsif not embedding.may_pass(state) then
            fault := embedding.fault_of_table(target, state, cause);
        end if;
    end;
    if fault is null and middle > 0 then
        return query
        select half.*
          from (values (1, middle), (middle + 1, cardinality(ids))) as part (first, last)
         cross join lateral embedding.stage_in_parts(
                   target, ids[first:last], leases[first:last], hashes[first:last], contents[first:last],
                   contexts[first:last], vectors[first:last]) as half;
    else
        return query select * from embedding.refuse_documents(target, ids, leases, vectors[1], fault, state, cause);
    end if;
end $$;

-- Stores the vectors of chunks, all made by `model` (its full name, see embedding.full_model), with what a search returns:
-- the content of each chunk, and what its model got before that. `ids` and `leases` have an element for each chunk, those of the job
-- of its text. A chunk that is stored already stays as it is. No search finds a chunk before complete_documents. Returns the
-- jobs whose chunks were not stored, with a reason of complete_embeddings.
create function public.stage_chunks(
    ids bigint[], leases uuid[], hashes bytea[], contents text[], contexts text[], vectors vector[], model text
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
    fault text;
begin
    perform embedding.check_lengths(
        'ids, leases, hashes, contents, contexts and vectors',
        array[cardinality(ids), cardinality(leases), cardinality(hashes), cardinality(contents), cardinality(vectors)],
        array[cardinality(contexts)]);
    for target in select * from embedding.targets_of_jobs(ids) loop
        perform embedding.check_in_chunks(target, true);
        select opened.fault, opened.model, opened.document_prompt into fault, target.model, target.document_prompt
          from embedding.open_for_vectors(target, ids, leases, model) as opened;
        if fault is not null then
            return query select distinct * from embedding.refuse_target(target, ids, leases, fault);
        elsif model = coalesce(embedding.full_model(target), model) then
            return query -- each once: a job that was failed for one of its chunks has lost its lease for the others
            select distinct on (refused.id) refused.*
              from embedding.stage_in_parts(target, ids, leases, hashes, contents, contexts, vectors) as refused
             order by refused.id, refused.reason = 'lost', refused.reason <> 'unwritable';
        else
            return query
            select job.id, 'other_model' from public.embedding_queue as job
             where job.target_id = target.id and job.id = any (ids);
        end if;
    end loop;
    return query
    select distinct given.id, 'lost' from unnest(ids) as given (id)
     where not exists (select from public.embedding_queue as job where job.id = given.id);
end $$;

select embedding.protect_functions(
    'embedding.lock_documents', 'embedding.stage', 'embedding.refuse_documents', 'embedding.stage_in_parts');
select embedding.let_workers_call('public.stage_chunks');
