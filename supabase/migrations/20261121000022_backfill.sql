-- Why:   rows that existed before their column was watched have no job and no vector.
-- Locks: SHARE row locks on the rows that backfill_embeddings enqueues, for the length of a call. It waits for none
--        of them.
-- Undo:  drop function public.backfill_embeddings, embedding.enqueue_missing, embedding.missing_sql,
--        embedding.may_be_inside, embedding.beside_record_sql;

-- The condition that the key of a row compares so (`>`, `<=`) with that of a record. True without a record.
create function embedding.beside_record_sql(target public.embedding_targets, operator text, record_id text)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when record_id is null then 'true' else
               format('(%s) %s (%s)',
                   (select string_agg(format('%I.%I', (parse_ident(target.relation))[2], key.name), ', ' order by key.place)
                      from unnest(target.key_columns) with ordinality as key (name, place)),
                   operator,
                   array_to_string(embedding.key_values_sql(
                       target.relation::regclass, target.key_columns, quote_literal(record_id)), ', ')) end;
$$;

-- Whether a record is inside the filter of its target. True if that is not known, since the filter raises an error.
create function embedding.may_be_inside(target public.embedding_targets, record_id text)
returns boolean
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    inside boolean;
begin
    execute format('select %s from (select $1 as eq_record) as eq_job, %s where %s',
                   target.filter, target.relation, target.record_match_sql)
       into inside using record_id;
    return inside;
exception when others or query_canceled or assert_failure then
    if embedding.is_timeout(sqlstate) then
        raise;
    end if;
    return true;
end $$;

-- The condition for the rows that lack a vector and have no job that explains it. The job is looked up for each row
-- separately: `not exists` becomes a join, and with statistics from when the queue was empty the planner compares
-- each row with every job. `row_by_row`: also rows for which the filter raises an error; the filter is then
-- evaluated for each row separately, which is a hundred times slower.
create function embedding.missing_sql(target public.embedding_targets, row_by_row boolean)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('not (%s) and (%s) and (select true from public.embedding_queue as eq_job '
                  'where eq_job.record_id = %s and eq_job.target_id = %s and eq_job.status <> ''completed'' '
                  'limit 1) is null',
                  embedding.has_vector_sql(target),
                  case when row_by_row and target.filter is not null
                       then format('embedding.may_be_inside((select eq_target from public.embedding_targets as eq_target '
                                   'where eq_target.id = %s), %s)', target.id, target.record_id_sql)
                       else coalesce(target.filter, 'true') end,
                  embedding.queued_id_sql(target.record_id_sql), target.id);
$$;

-- Enqueues the next rows of a target after its cursor, and moves the cursor: see backfill_embeddings.
create function embedding.enqueue_missing(target public.embedding_targets, batch integer, row_by_row boolean)
returns integer
language plpgsql
set search_path = '', pg_temp
as $$
declare
    bare_name constant text := (parse_ident(target.relation))[2];
    found_rows integer;
begin
    execute format($sql$
        with eq_row as materialized (
            select %1$s as eq_record, %2$s as eq_owner, row_number() over () as eq_place
              from (select %3$I.* from %4$s
                     where (%5$s) and (%6$s)
                     order by %7$s
                     limit $3
                       for share of %3$I skip locked) as %3$I
        ), eq_enqueued as (
            insert into public.embedding_queue as eq_job
                (target_id, table_name, record_id, embedding_column, user_id, priority,
                 status, error_message, error_class)
            select $5, $1, %8$s, $2, eq_owner, $4, case when eq_long is null then 'pending' else 'failed' end,
                   eq_long, case when eq_long is not null then 'key_too_long' end
              from eq_row cross join lateral (select embedding.key_too_long(eq_record) as eq_long) as eq_key
             order by eq_place
            on conflict on constraint embedding_queue_one_per_record do update
               set status = 'pending', priority = $4, available_at = now(), updated_at = now()
             where eq_job.status = 'completed' -- which has nothing else to reset
        ), eq_cursor as (
            update public.embedding_targets
               set backfill_cursor = case when (select count(*) from eq_row) = $3
                                          then (select eq_record from eq_row order by eq_place desc limit 1) end
             where id = $5
        )
        select count(*) from eq_row
        $sql$,
        target.record_id_sql,
        embedding.owner_sql(bare_name, target.user_column),
        bare_name,
        target.relation,
        embedding.missing_sql(target, row_by_row),
        embedding.beside_record_sql(target, '>', target.backfill_cursor),
        (select string_agg(format('%I.%I', bare_name, name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        embedding.queued_id_sql('eq_record'))
       into found_rows
      using target.table_name, target.embedding_column, batch, greatest(target.priority - 10, -32768), target.id;
    return found_rows;
end $$;

-- Enqueues the next rows of a target that lack a vector, at most `batch` of them, in key order and
-- ten priorities below live edits. Returns how many it found; call it until that is 0. It continues after
-- the previous call, also that of another session. It skips rows whose job failed or that have nothing to
-- embed: use requeue_embeddings for those. A row for which the filter raises an error is enqueued as well: the
-- claim fails it, with the error as its reason.
--
-- It locks the row before its job, as every writer to the table does, and skips locked rows: so it never
-- waits and cannot deadlock. The round that begins after the last row enqueues what was skipped; 0 means
-- that a whole round found nothing.
create function public.backfill_embeddings(watched_table text, embedding_column text, batch integer default 1000)
returns integer
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    found_rows integer;
begin
    select * into target from public.embedding_targets as watched
     where watched.table_name = watched_table
       and watched.embedding_column = backfill_embeddings.embedding_column
       for update; -- two backfills of one target take turns
    if target.id is null then
        raise exception 'column % of table % is not watched', backfill_embeddings.embedding_column, watched_table
            using errcode = 'undefined_object',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    end if;
    perform embedding.check_table(target.relation);
    perform embedding.check_identity(target);
    loop
        begin
            found_rows := embedding.enqueue_missing(target, batch, false);
        exception when others or query_canceled or assert_failure then
            if target.filter is null or embedding.is_timeout(sqlstate) then
                raise;
            end if;
            -- raises again if the filter fails even without a row
            execute format('select from %s where (%s) limit 0', target.relation, target.filter);
            found_rows := embedding.enqueue_missing(target, batch, true);
        end;
        exit when found_rows > 0 or target.backfill_cursor is null;
        target.backfill_cursor := null; -- the round is over: start again from the first row
    end loop;
    return found_rows;
end $$;

select embedding.protect_functions(
    'embedding.beside_record_sql', 'embedding.may_be_inside', 'embedding.missing_sql',
    'embedding.enqueue_missing');
select embedding.let_workers_call('public.backfill_embeddings');
