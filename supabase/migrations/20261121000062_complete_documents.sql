-- Why:   a text in chunks is replaced at once: a search finds the passages of its old version until all chunks of the new
--        one are stored, and never both.
-- Locks: what embedding.complete locks: the user's row before its job, without waiting.
-- Undo:  drop function public.complete_documents, embedding.complete_in_chunks, embedding.replace_places,
--        embedding.unstaged;

-- Those of the given jobs, whose rows are locked, that have a place whose chunk is not stored.
create function embedding.unstaged(
    target public.embedding_targets, ids bigint[], records text[], place_ids bigint[], place_hashes bytea[]
)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    missing bigint[];
begin
    execute format($sql$
        select array(
            select distinct eq_id
              from unnest($1, $2) as eq_job (eq_id, eq_record)
              join unnest($3, $4) as eq_place (eq_place_id, eq_hash) on eq_place_id = eq_id
             where not exists (select from %s where %s and hash = eq_hash))
        $sql$, target.chunks_relation,
        embedding.record_match_sql(target.chunks_relation::regclass, target.key_columns))
       into missing
      using ids, records, place_ids, place_hashes;
    return missing;
end $$;

-- Replaces the places of texts, whose rows are locked, and deletes the chunks that no place names any more.
create function embedding.replace_places(
    target public.embedding_targets, ids bigint[], records text[], place_ids bigint[], place_hashes bytea[],
    first_chars integer[], last_chars integer[], pages integer[], heading_paths text[]
)
returns void
language plpgsql
set search_path = '', pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    of_chunks constant text := embedding.record_match_sql(target.chunks_relation::regclass, target.key_columns);
    of_places constant text := embedding.record_match_sql(target.places_relation::regclass, target.key_columns);
    keys constant text := embedding.key_list(target.key_columns);
begin
    execute format('delete from %s using unnest($1) as eq_job (eq_record) where %s', target.places_relation, of_places)
      using records;
    execute format($sql$
        insert into %1$s (%2$s, position, hash, first_char, last_char, page, heading_path)
        select %3$s, row_number() over (partition by eq_id order by eq_order) - 1, eq_hash, eq_first, eq_last, eq_page, eq_path
          from unnest($1, $2) as eq_job (eq_id, eq_record)
          join unnest($3, $4, $5, $6, $7, $8) with ordinality
               as eq_place (eq_place_id, eq_hash, eq_first, eq_last, eq_page, eq_path, eq_order) on eq_place_id = eq_id
        $sql$, target.places_relation, keys,
        array_to_string(embedding.key_values_sql(target.relation::regclass, target.key_columns, 'eq_record'), ', '))
      using ids, records, place_ids, place_hashes, first_chars, last_chars, pages, heading_paths;
    execute format($sql$
        delete from %1$s using unnest($1) as eq_job (eq_record)
         where %2$s and not exists (select from %3$s where %4$s)
        $sql$, target.chunks_relation, of_chunks, target.places_relation,
        embedding.same_key_sql(embedding.as_stored(target), target.places_relation))
      using records;
end $$;

-- Completes the jobs of texts in chunks that pass both guards and whose chunks are all stored. Returns them, and those that
-- lack a chunk.
create function embedding.complete_in_chunks(
    target public.embedding_targets, ids bigint[], leases uuid[], hashes bytea[], model text, tokens integer[], costs real[],
    place_ids bigint[], place_hashes bytea[], first_chars integer[], last_chars integer[], pages integer[],
    heading_paths text[], unenhanced text[], again_in interval[], out done bigint[], out missing bigint[]
)
language plpgsql
set search_path = '', pg_temp
set lock_timeout = '100ms'
as $$
declare
    places integer[];
    records text[];
begin
    done := '{}';
    missing := '{}';
    if model = coalesce(embedding.full_model(target), model) then
        execute format('select * from embedding.lock_%s($1, $2, $3)', target.id)
           into places, records
          using ids, leases, hashes;
    end if;
    if places is null then
        return;
    end if;
    missing := embedding.unstaged(
        target, array(select ids[place] from unnest(places) as locked (place)), records, place_ids, place_hashes);
    select array_agg(given.id order by place), array_agg(given.lease order by place), array_agg(given.hash order by place),
           array_agg(given.tokens order by place), array_agg(given.cost order by place), array_agg(given.class order by place),
           array_agg(given.again_in order by place), array_agg(locked.record order by place)
      into ids, leases, hashes, tokens, costs, unenhanced, again_in, records
      from unnest(ids, leases, hashes, tokens, costs, unenhanced, again_in)
           with ordinality as given (id, lease, hash, tokens, cost, class, again_in, place)
      join unnest(places, records) as locked (place, record) using (place)
     where given.id <> all (missing);
    if ids is not null then
        perform embedding.replace_places(
            target, ids, records, place_ids, place_hashes, first_chars, last_chars, pages, heading_paths);
        perform embedding.finish_jobs(ids, leases, hashes, model, tokens, null, costs, unenhanced, again_in, null);
        done := ids;
    end if;
end $$;

-- Completes the jobs of texts in chunks: `ids`, `leases`, `hashes`, `tokens`, `costs`, `unenhanced` and `again_in` (see
-- complete_embeddings) have one element for each text, and the other arrays one for each passage, in the order of the texts.
-- `place_ids`: the job of its text; `place_hashes`: its chunk, which stage_chunks has stored; `first_chars` and `last_chars`:
-- from which character, counted from 0, and before which one; `pages` and `heading_paths` may be null. A text without a passage
-- has nothing that a search could find. Returns the jobs that were refused, with a reason of complete_embeddings, or `unstaged`:
-- a chunk is not stored, since another session removed it. All others are completed. Raises lock_not_available if the table is
-- locked as a whole.
create function public.complete_documents(
    ids bigint[], leases uuid[], hashes bytea[], model text, tokens integer[], costs real[],
    place_ids bigint[], place_hashes bytea[], first_chars integer[], last_chars integer[], pages integer[],
    heading_paths text[], unenhanced text[] default null, again_in interval[] default null
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
    done bigint[];
    missing bigint[];
    middle constant integer := cardinality(ids) / 2;
    fault text;
    state text;
    cause text;
    context text;
begin
    perform embedding.check_lengths(
        'ids, leases, hashes, tokens, costs, unenhanced and again_in',
        array[cardinality(ids), cardinality(leases), cardinality(hashes)],
        array[cardinality(tokens), cardinality(costs), cardinality(unenhanced), cardinality(again_in)]);
    perform embedding.check_lengths(
        'place_ids, place_hashes, first_chars, last_chars, pages and heading_paths',
        array[cardinality(place_ids), cardinality(place_hashes), cardinality(first_chars), cardinality(last_chars)],
        array[cardinality(pages), cardinality(heading_paths)]);
    for target in select * from embedding.targets_of_jobs(ids) loop
        perform embedding.check_in_chunks(target, true);
        select opened.fault, opened.model, opened.document_prompt into fault, target.model, target.document_prompt
          from embedding.open_for_vectors(target, ids, leases, model) as opened;
        state := null;
        begin
            if fault is null then
                select completed.done, completed.missing into done, missing
                  from embedding.complete_in_chunks(
                           target, ids, leases, hashes, model, tokens, costs,
                           place_ids, place_hashes, first_chars, last_chars, pages, heading_paths, unenhanced,
                           again_in) as completed;
                if cardinality(done) < cardinality(ids) then -- it hashes their texts again
                    return query
                    select refused.id, case when refused.id = any (missing) then 'unstaged' else refused.reason end
                      from embedding.refusals(target, ids, leases, hashes, model) as refused
                      join public.embedding_queue as job on job.id = refused.id and job.target_id = target.id
                     where refused.id <> all (done);
                end if;
            end if;
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
        if fault is null and state is not null and middle > 0 then -- some row cannot be read or written: halving finds it
            return query
            select half.*
              from (values (1, middle), (middle + 1, cardinality(ids))) as part (first, last)
             cross join lateral public.complete_documents(
                       ids[first:last], leases[first:last], hashes[first:last], model, tokens[first:last],
                       costs[first:last], place_ids, place_hashes, first_chars, last_chars, pages, heading_paths,
                       unenhanced[first:last], again_in[first:last]) as half;
            return;
        elsif num_nonnulls(fault, state) > 0 then
            return query select * from embedding.refuse_documents(target, ids, leases, null, fault, state, cause);
        end if;
    end loop;
    return query
    select given.id, 'lost' from unnest(ids) as given (id)
     where not exists (select from public.embedding_queue as job where job.id = given.id);
end $$;

select embedding.protect_functions(
    'embedding.unstaged', 'embedding.replace_places', 'embedding.complete_in_chunks');
select embedding.let_workers_call('public.complete_documents');
