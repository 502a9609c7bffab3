-- Why:   vectors of a backup are written to the rows whose text is still the one they were made from, without a call of the
--        model.
-- Locks: what embedding.complete locks. It waits for nothing: it reports what another session holds.
-- Undo:  drop function public.restore_embeddings, embedding.restore, embedding.check_restored, embedding.write_restored,
--        embedding.lock_restored, embedding.judge_restored; drop type embedding.judged_vector;
--
-- A restore locks rows and jobs and completes them as a completion does: a restored row cannot be told from an embedded one.
-- The hash of the text is its guard as well; instead of a lease, the job must be as it was when it was judged. A worker that is
-- embedding such a text loses its lease.

-- The type of the vectors is looked up here, since pgvector may live in `extensions` or in `public`.
select set_config('search_path', extnamespace::regnamespace::text, true) from pg_extension where extname = 'vector';

-- What a restore does with a vector: see restore_embeddings. `place`: in its arguments; `record_id`: as the queue has it;
-- `job_version`: of its job, null if there is none; `by_hand`: that job has its text.
create type embedding.judged_vector as (
    place integer, outcome text, record_id text, hash bytea, job_version xid, by_hand boolean, owner uuid
);

-- What a restore would do with vectors of `model`. It locks nothing.
create function embedding.judge_restored(
    target public.embedding_targets, records text[], hashes bytea[], vectors vector[], model text, overwrite boolean
)
returns embedding.judged_vector[]
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    judged embedding.judged_vector[];
begin
    execute format($sql$
        select array_agg((eq_place, eq_outcome, eq_own_id, eq_hash, eq_version, eq_by_hand is not null,
                          eq_owner)::embedding.judged_vector order by eq_place)
          from unnest($1, $2, $3) with ordinality as eq_given (eq_record, eq_hash, eq_vector_hash, eq_place)
          left join lateral (
                select %1$s as eq_own_id, %2$s as eq_owner, coalesce((%3$s), false) as eq_inside, (%4$s)::text as eq_text,
                       %5$s as eq_vector
                  from %6$s where %7$s offset 0) as eq_row on true
          left join lateral (
                select xmin as eq_version, status as eq_status, content as eq_by_hand,
                       content_hash as eq_old_hash, model as eq_old_model, vector_hash as eq_written
                  from public.embedding_queue where record_id = eq_own_id and target_id = %8$s offset 0) as eq_job on true
         cross join lateral (select coalesce(%9$s, eq_text) as eq_content offset 0) as eq_chosen
         cross join lateral (
                select case when eq_status = 'completed' and eq_old_hash = eq_hash and eq_old_model = $4 then %10$s end
                       as eq_stored_hash
                offset 0) as eq_compared
         cross join lateral (
                select case when eq_own_id is null then 'gone'
                            when eq_stored_hash = eq_vector_hash and coalesce(eq_written = eq_stored_hash, true) then 'present'
                            when not eq_inside or eq_content is null or eq_content collate "C" !~ %11$L then 'gone'
                            when sha256(convert_to(eq_content, 'UTF8')) is distinct from eq_hash then 'stale'
                            when octet_length(eq_own_id) > 2000 then 'refused'
                            when not $5 and coalesce(eq_written = eq_stored_hash, eq_stored_hash is not null) then 'other_vector'
                            else 'restored' end as eq_outcome
                offset 0) as eq_judged$sql$,
        target.record_id_sql, embedding.owner_sql((parse_ident(target.relation))[2], target.user_column),
        coalesce(target.filter, 'true'), embedding.text_sql(target), embedding.vector_of_sql(target), target.relation,
        target.record_match_sql, target.id, embedding.text_by_hand_sql(target),
        embedding.vector_hash_sql(target, 'eq_vector'), embedding.visible_character())
       into judged
      using records, hashes, embedding.hash_vectors(target, vectors), model, overwrite;
    return judged;
end $$;

-- Locks the rows and jobs of judged vectors, and inserts missing jobs. Leaves out what another session holds or has changed.
create function embedding.lock_restored(target public.embedding_targets, judged embedding.judged_vector[])
returns table (place integer, record_id text, id bigint, lease uuid)
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return query execute format($sql$
        with eq_row as materialized (
            select eq_given.*
              from (select place as eq_place, record_id as eq_record, hash as eq_hash, job_version as eq_version,
                           by_hand as eq_by_hand, owner as eq_owner from unnest($1)) as eq_given
             cross join lateral (
                    select from %1$s where %2$s and (%3$s) and (eq_by_hand or sha256(convert_to((%4$s)::text, 'UTF8')) = eq_hash)
                       for no key update of %5$I skip locked) as eq_locked
        ), eq_job as materialized (
            select eq_place, eq_record, eq_locked.*
              from eq_row
             cross join lateral (
                   select id, lease from public.embedding_queue as eq_queue
                    where record_id = eq_record and target_id = $2 and xmin = eq_version
                      for update skip locked) as eq_locked
        ), eq_new as (
            insert into public.embedding_queue (target_id, table_name, record_id, embedding_column, user_id, priority)
            select $2, $3, eq_record, $4, eq_owner, $5 from eq_row where eq_version is null
            on conflict do nothing
            returning record_id, id
        )
        select * from eq_job
         union all
        select eq_place, eq_record, eq_new.id, null from eq_new join eq_row on eq_record = eq_new.record_id$sql$,
        target.relation, target.record_match_sql, coalesce(target.filter, 'true'), embedding.text_sql(target),
        (parse_ident(target.relation))[2])
    using judged, target.id, target.table_name, target.embedding_column, target.priority;
end $$;

-- Writes judged vectors, completes their jobs, and returns their places. Leaves out those whose row or job is locked by another
-- session, or has changed since. See embedding.complete about the lock_timeout.
create function embedding.write_restored(
    target public.embedding_targets, judged embedding.judged_vector[], vectors vector[], model text, tokens integer[],
    costs real[], truncated_to integer[], unenhanced text[]
)
returns integer[]
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '100ms'
as $$
declare
    given record;
begin
    select array_agg(place) as places, array_agg(locked.record_id) as records, array_agg(locked.id) as ids,
           array_agg(locked.lease) as leases, array_agg(wanted.hash) as hashes, array_agg(one.vector) as vectors,
           array_agg(one.tokens) as tokens, array_agg(one.cost) as costs, array_agg(one.truncated_to) as truncated_to,
           array_agg(one.class) as unenhanced
      into given
      from unnest(vectors, tokens, costs, truncated_to, unenhanced)
           with ordinality as one (vector, tokens, cost, truncated_to, class, place)
      join unnest(judged) as wanted using (place)
      join embedding.lock_restored(target, judged) as locked using (place);
    if given.ids is not null then
        perform embedding.finish_jobs(
            given.ids, given.leases, given.hashes, write_restored.model, given.tokens, given.truncated_to, given.costs,
            given.unenhanced, null, embedding.write_vectors(target, given.records, given.vectors, given.ids, given.hashes));
    end if;
    return coalesce(given.places, '{}');
end $$;

-- Raises if a target has vectors of another model, as far as its model is known, or of another width.
create function embedding.check_restored(target public.embedding_targets, model text, vectors vector[])
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    known public.embedding_targets := target;
    width integer;
begin
    known.model := coalesce(target.model, split_part(check_restored.model, '#', 1));
    known.document_prompt := coalesce(target.document_prompt, regexp_replace(check_restored.model, '^[^#]*#?', ''));
    if embedding.full_model(known) is distinct from check_restored.model then
        raise exception 'column % of table % holds vectors of %, not of %', target.embedding_column, target.table_name,
                        embedding.full_model(known), check_restored.model
            using errcode = 'invalid_parameter_value',
                  hint = 'Vectors of two models cannot be compared. Restore them into a column of their own model.';
    end if;
    execute format('select coalesce(%1$s.vector_dims(given), 0) from unnest($1) as given '
                   'where given is null or %1$s.vector_dims(given) <> $2 limit 1',
                   (select extnamespace::regnamespace from pg_extension where extname = 'vector'))
       into width using vectors, target.dimensions;
    if width is not null then
        raise exception 'column % of table % holds vectors of % dimensions, not %', target.embedding_column, target.table_name,
                        target.dimensions, width
            using errcode = 'invalid_parameter_value', hint = 'Restore them into a column of their width.';
    end if;
end $$;

-- Restores vectors of a target, and returns the outcome for each. Raises if one of them cannot be written.
create function embedding.restore(
    target public.embedding_targets, records text[], hashes bytea[], vectors vector[], model text, tokens integer[],
    costs real[], truncated_to integer[], unenhanced text[], overwrite boolean, dry_run boolean
)
returns table (record_id text, outcome text, cause text)
language plpgsql
set search_path = '', pg_temp
as $$
declare
    judged constant embedding.judged_vector[] := embedding.judge_restored(
        target, records, hashes, vectors, restore.model, overwrite);
    chosen embedding.judged_vector[] := '{}';
    written integer[] := '{}';
    judged_again embedding.judged_vector[];
begin
    if not dry_run then
        chosen := array(select one from unnest(judged) as one where one.outcome = 'restored');
    end if;
    if chosen <> '{}' and num_nulls(target.model, target.document_prompt) > 0 then
        select recorded.model, recorded.document_prompt into target.model, target.document_prompt
          from embedding.record_model(target.id, restore.model) as recorded;
        perform embedding.check_restored(target, restore.model, vectors);
    end if;
    if chosen <> '{}' then
        written := embedding.write_restored(
            target, chosen, vectors, restore.model, tokens, costs, truncated_to, unenhanced);
    end if;
    if cardinality(written) < cardinality(chosen) then -- some were locked or edited meanwhile
        judged_again := embedding.judge_restored(target, records, hashes, vectors, restore.model, overwrite);
    end if;
    return query
    select records[place], case when dry_run or one.outcome <> 'restored' or done.place is not null then one.outcome
                                else coalesce(nullif(again.outcome, 'restored'), 'locked') end,
           case when one.outcome = 'refused' then embedding.key_too_long(one.record_id) end
      from unnest(judged) as one
      left join unnest(written) as done (place) using (place)
      left join unnest(judged_again) as again using (place)
     order by place;
end $$;

-- Writes vectors of a backup, all made by `model` (its full name, see embedding.full_model), to the rows of a watched column
-- whose text has the hash that is given with them, and completes their jobs. Returns for each record what became of it:
--
--   restored      its vector is written; with `dry_run`, which writes nothing: would be written
--   present       its job is completed, and it has this vector
--   other_vector  it has another vector of this text and model, which is kept unless `overwrite` is true
--   stale         its text is another one by now
--   gone          there is no such row, it is outside the filter, or it has no text
--   locked        another session holds the row or its job: try again
--   refused       the row cannot be read, or a trigger or a constraint does not let it be written: `cause` says why
--
-- Raises lock_not_available if the table is locked as a whole, and if the column has another model or width. For a column in
-- chunks use claim_records, stage_chunks and complete_documents.
create function public.restore_embeddings(
    watched_table text, embedding_column text, record_ids text[], hashes bytea[], vectors vector[], model text,
    tokens integer[] default null, costs real[] default null, truncated_to integer[] default null,
    unenhanced text[] default null, overwrite boolean default false, dry_run boolean default false
)
returns table (record_id text, outcome text, cause text)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    target constant public.embedding_targets := embedding.open_verified(watched_table, embedding_column);
    middle constant integer := cardinality(record_ids) / 2;
    state text;
    context text;
    fault text;
begin
    perform embedding.check_lengths(
        'record_ids, hashes, vectors, tokens, costs, truncated_to and unenhanced',
        array[cardinality(record_ids), cardinality(hashes), cardinality(vectors)],
        array[cardinality(tokens), cardinality(costs), cardinality(truncated_to), cardinality(unenhanced)]);
    perform embedding.check_in_chunks(target, false);
    perform embedding.open_table(target, case when dry_run then 'access share' else 'row exclusive' end);
    perform embedding.stored_width(target); -- raises if it is no longer a vector column
    perform embedding.check_restored(target, model, vectors);
    begin
        return query select * from embedding.restore(
            target, record_ids, hashes, vectors, model, tokens, costs, truncated_to, unenhanced, overwrite, dry_run);
        return;
    exception when others or query_canceled or assert_failure then
        state := sqlstate;
        get stacked diagnostics context = pg_exception_context;
        cause := embedding.describe_error(sqlstate, sqlerrm, context);
        if embedding.is_of_the_server(state, context) or embedding.is_timeout(state) and middle > 0
           or context ~ '^PL/pgSQL\W\S+ embedding\.check_restored' then -- its jobs have another model
            raise;
        elsif not embedding.may_pass(state) then
            fault := embedding.fault_of_table(target, state, cause);
        end if;
    end;
    if fault is not null then
        raise exception '%', fault using errcode = 'object_not_in_prerequisite_state';
    elsif middle > 0 then -- some row cannot be read or written: halving finds it
        return query
        select half.*
          from (values (1, middle), (middle + 1, cardinality(record_ids))) as part (first, last)
         cross join lateral public.restore_embeddings(
                   watched_table, embedding_column, record_ids[first:last], hashes[first:last], vectors[first:last], model,
                   tokens[first:last], costs[first:last], truncated_to[first:last], unenhanced[first:last], overwrite,
                   dry_run) as half;
    elsif embedding.may_pass(state) and not embedding.is_timeout(state) then
        return query select record_ids[1], 'locked', null::text;
    else
        return query select record_ids[1], 'refused', cause;
    end if;
end $$;

select embedding.protect_functions(
    'embedding.judge_restored', 'embedding.lock_restored', 'embedding.write_restored',
    'embedding.check_restored', 'embedding.restore');
select embedding.let_workers_call('public.restore_embeddings');
