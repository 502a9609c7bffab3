-- Why:   a bad row must not block other rows: it fails alone. The target of an unusable table is suspended.
-- Locks: what a claim locks.
-- Undo:  drop function embedding.claim_in_parts, embedding.fail_unreadable, embedding.fault_of_table,
--        embedding.another_row_works;

-- Whether some row of a target can be read and written. True as well if it has at most one row, which may be the
-- cause. It tries the first 20 and the last 20 rows by key. Its writes are rolled back.
create function embedding.another_row_works(target public.embedding_targets)
returns boolean
language plpgsql
set search_path = '', pg_temp
as $$
declare
    bare_name constant text := (parse_ident(target.relation))[2];
    records text[];
    record text;
begin
    execute format($sql$
        select array(select eq_record from (
            (select %1$s as eq_record from %2$s order by %3$s limit 20)
            union (select %1$s from %2$s order by %4$s limit 20)) as eq_sample)
        $sql$,
        target.record_id_sql, target.relation,
        (select string_agg(format('%I.%I', bare_name, name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        (select string_agg(format('%I.%I desc', bare_name, name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)))
       into records;
    foreach record in array records loop
        begin
            execute format('select (%s), (%s)::text from (select $1 as eq_record) as eq_job, %s where %s',
                           coalesce(target.filter, 'true'), embedding.text_sql(target), target.relation,
                           target.record_match_sql)
              using record;
            execute format($sql$
                with eq_free as materialized (
                    select eq_record from (select $1 as eq_record) as eq_job, %1$s where %2$s
                       for no key update of %3$I skip locked)
                %4$s
                $sql$, target.relation, target.record_match_sql, bare_name,
                case when not embedding.is_column(target) then 'select from eq_free' -- the row itself is not written
                     else format('update %1$s set %3$I = %2$I.%3$I from eq_free where %4$s', target.relation, bare_name,
                                 target.embedding_column, target.record_match_sql) end)
              using record;
            raise exception using errcode = 'EQ000';
        exception
            when sqlstate 'EQ000' then
                return true;
            when others then
                null;
        end;
    end loop;
    return cardinality(records) < 2;
end $$;

-- What is wrong with the table of a target, if that caused an error; null: a row is the cause. The table is the
-- cause if its statements fail even without a row, if the column has changed, or if a table, a function or a
-- right is missing and no row works.
create function embedding.fault_of_table(target public.embedding_targets, error_state text, error_text text)
returns text
language plpgsql
set search_path = '', pg_temp
as $$
declare
    is_of_schema constant boolean := starts_with(error_state, '42') or error_state in ('3F000', '0A000');
    width integer;
begin
    begin
        perform embedding.claim(target, '{}', '', '0', '');
        perform embedding.settle(target, '{}');
    exception when others then
        return case when is_of_schema then error_text else sqlerrm end;
    end;
    begin
        width := embedding.stored_width(target);
    exception when others then
        return sqlerrm; -- no longer a vector
    end;
    if width is distinct from target.dimensions then
        return format('column %s holds %s dimensions by now, not %s', target.embedding_column,
                      coalesce(width::text, 'any number of'), coalesce(target.dimensions::text, 'any number'));
    elsif is_of_schema and not embedding.another_row_works(target) then
        return error_text;
    end if;
    return null;
end $$;

-- Fails jobs whose row cannot be read, or cannot lose its vector. If one took too long, the database may have been
-- busy: it is tried again later, if its target allows another attempt.
create function embedding.fail_unreadable(
    target public.embedding_targets, ids bigint[], cause text, took_too_long boolean
)
returns setof embedding.claimed_job
language sql
set search_path = '', pg_temp
as $$
    update public.embedding_queue as job
       set status = case when took_too_long and job.attempts + 1 < target.max_attempts
                         then 'pending' else 'failed' end,
           attempts = least(job.attempts + took_too_long::integer, 32767), abandoned_claims = 0,
           available_at = now() + embedding.growing_pause('1 minute', job.attempts, '1 hour'),
           error_class = 'unreadable', error_message = cause,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (ids)
    returning job.id, job.target_id, job.status, job.table_name, job.record_id, job.embedding_column,
              null::text, null::bytea, null::uuid, null::text, null::text, null::integer, job.attempts, false, false,
              null::double precision, null::jsonb, null::bytea[], null::jsonb, false;
$$;

-- Claims jobs, some of which cannot be read or cannot lose their vector: only those fail. Halving finds them.
create function embedding.claim_in_parts(
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
    middle constant integer := cardinality(ids) / 2;
    state text;
    cause text;
    context text;
begin
    for try in 1 .. 3 loop
        begin
            return query select * from embedding.claim(target, ids, claimer, lease_for, default_model, anyway);
            return;
        exception when others or query_canceled or assert_failure then
            get stacked diagnostics context = pg_exception_context;
            state := sqlstate;
            cause := embedding.describe_error(sqlstate, sqlerrm, context);
            if middle > 0 and embedding.is_timeout(state) or embedding.is_of_the_server(state, context) then
                raise;
            end if;
        end;
        exit when middle > 0 or not embedding.may_pass(state) or embedding.is_timeout(state);
    end loop;
    if middle > 0 then
        return query select * from embedding.claim_in_parts(
            target, ids[:middle], claimer, lease_for, default_model, anyway);
        return query select * from embedding.claim_in_parts(
            target, ids[middle + 1:], claimer, lease_for, default_model, anyway);
    else
        return query select * from embedding.fail_unreadable(target, ids, cause, embedding.is_timeout(state));
    end if;
end $$;

select embedding.protect_functions(
    'embedding.another_row_works', 'embedding.fault_of_table', 'embedding.fail_unreadable',
    'embedding.claim_in_parts');
