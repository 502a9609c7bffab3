-- Why:   rows that were there before their column was watched have no job and no vector.
-- Locks: SHARE row locks on the rows it enqueues, for the length of a call; it waits for none.
-- Undo:  drop function public.backfill_embeddings, embedding.missing_sql, embedding.after_cursor_sql;

-- The condition for the rows behind the place to which a target's backfill has come.
create function embedding.after_cursor_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when target.backfill_cursor is null then 'true' else
               format('(%s) > (%s)',
                   string_agg(format('%I.%I', class.relname, key.name), ', ' order by key.ordinal),
                   string_agg(format('%L::%s',
                       case when cardinality(target.key_columns) = 1 then target.backfill_cursor
                            else target.backfill_cursor::jsonb ->> (key.ordinal::integer - 1) end,
                       format_type(attribute.atttypid, attribute.atttypmod)), ', ' order by key.ordinal)) end
      from unnest(target.key_columns) with ordinality as key (name, ordinal)
      join pg_class as class on class.oid = target.relation::regclass
      join pg_attribute as attribute on attribute.attrelid = class.oid and attribute.attname = key.name;
$$;

-- The condition for the rows that lack a vector and have no job that says why.
create function embedding.missing_sql(target public.embedding_targets)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select format('%I.%I is null and (%s) and not exists (select from public.embedding_queue as eq_job '
                  'where eq_job.record_id = %s and eq_job.target_id = %s and eq_job.status <> ''completed'')',
                  (parse_ident(target.relation))[2], target.embedding_column, coalesce(target.filter, 'true'),
                  embedding.queued_id_sql(target.record_id_sql), target.id);
$$;

-- Enqueues the next rows of a target that lack a vector, at most `batch` of them, in key order and
-- ten priorities below live edits. Returns how many it found; call it until that is 0. It goes on
-- where the call before ended, whoever made that one. Rows whose job failed, or that have nothing
-- to embed, are left alone: requeue_embeddings is for those.
--
-- It takes the row before its job, as every writer to the table does, and skips a row that somebody
-- is writing: so it never waits and cannot be part of a deadlock. The round that begins after the
-- last row picks up what was skipped; 0 is what a whole round found.
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
    bare_name text;
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
    bare_name := (parse_ident(target.relation))[2];

    loop
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
                   set status = 'pending', priority = $4, attempts = 0, unanswered = 0,
                       available_at = now(), updated_at = now()
                 where eq_job.status = 'completed'
            ), eq_cursor as (
                update public.embedding_targets
                   set backfill_cursor = case when (select count(*) from eq_row) = $3
                                              then (select eq_record from eq_row order by eq_place desc limit 1) end
                 where id = $5
            )
            select count(*) from eq_row
            $sql$,
            target.record_id_sql,
            coalesce(quote_ident(bare_name) || '.' || quote_ident(target.user_column), 'null::uuid'),
            bare_name,
            target.relation,
            embedding.missing_sql(target),
            embedding.after_cursor_sql(target),
            (select string_agg(format('%I.%I', bare_name, name), ', ' order by ordinal)
               from unnest(target.key_columns) with ordinality as key (name, ordinal)),
            embedding.queued_id_sql('eq_record'))
           into found_rows
          using target.table_name, target.embedding_column, batch, target.priority - 10, target.id;
        exit when found_rows > 0 or target.backfill_cursor is null;
        target.backfill_cursor := null; -- the round is over: once more from the first row on
    end loop;
    return found_rows;
end $$;
