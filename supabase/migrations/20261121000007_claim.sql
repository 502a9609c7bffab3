-- Why:   a worker takes jobs with `claim_embeddings` and is handed their texts.
-- Locks: row locks on what is claimed, for the length of the call. It waits for no lock at all: a
--        locked row or table is passed over. No transaction stays open behind it.
-- Undo:  drop function public.claim_embeddings, public.embedding_claim;

-- Leases the jobs `ids` (already locked by the caller, all of one target) and reads their texts.
-- Statement by statement, under READ COMMITTED, so that the texts are read with a snapshot younger
-- than the lease: one and the same statement can return the new job with the old text.
create function public.embedding_claim(
    target public.embedding_targets,
    ids bigint[],
    claimer text,
    lease_for interval,
    default_model text
)
returns table (
    id bigint, status text, table_name text, record_id text, embedding_column text, content text,
    content_hash bytea, lease uuid, model text, dimensions integer, attempts smallint
)
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    fence constant uuid := gen_random_uuid();
begin
    return query
    update public.embedding_queue as job
       set status = 'failed',
           error_class = 'no_answer',
           error_message = format('claimed %s times, never answered: it probably kills its worker', job.attempts),
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (ids) and job.attempts >= target.max_attempts
    returning job.id, 'failed', job.table_name, job.record_id, job.embedding_column, null::text,
              null::bytea, null::uuid, null::text, null::integer, job.attempts;

    update public.embedding_queue as job
       set status = 'processing', attempts = job.attempts + 1, worker = claimer,
           lease = fence, lease_expires_at = clock_timestamp() + lease_for, updated_at = now()
     where job.id = any (ids) and job.attempts < target.max_attempts;

    return query execute format($sql$
        with eq_read as materialized (
            select eq_job.*, eq_found.*, coalesce(eq_job.eq_given, eq_found.eq_text) as eq_content
              from (select id as eq_id, record_id as eq_record, content as eq_given, attempts as eq_attempts,
                           content_hash as eq_old_hash, model as eq_old_model
                      from public.embedding_queue
                     where id = any ($1) and lease = $2) as eq_job
              left join lateral (
                    select true as eq_exists, coalesce((%1$s), false) as eq_inside, (%2$s)::text as eq_text,
                           %3$I.%4$I is not null as eq_has_vector
                      from %5$s
                     where %6$s) as eq_found on true
        ), eq_judged as materialized (
            select eq_read.*, eq_hash.*,
                   case when eq_exists is null then 'gone'
                        when not eq_inside then 'outside'
                        when eq_content is null or eq_content !~ '\S' then 'empty'
                        when eq_has_vector and eq_hash = eq_old_hash and eq_old_model = $3 then 'unchanged'
                        else 'ready' end as eq_verdict
              from eq_read
             cross join lateral (select sha256(convert_to(eq_content, 'UTF8')) as eq_hash) as eq_hash
        ), eq_locked as materialized (
            -- rows that must lose their vector; one that somebody is writing comes back later
            select eq_id, eq_record
              from eq_judged join %5$s on %6$s
             where eq_verdict in ('outside', 'empty') and eq_has_vector
               for no key update of %3$I skip locked
        ), eq_cleared as (
            update %5$s set %4$I = null from eq_locked where %6$s
        ), eq_settled as materialized (
            select eq_judged.*,
                   case when eq_verdict in ('outside', 'empty') and eq_has_vector
                             and eq_id not in (select eq_id from eq_locked) then 'pending'
                        when eq_verdict in ('gone', 'outside') then 'dropped'
                        when eq_verdict = 'empty' then 'skipped'
                        when eq_verdict = 'unchanged' then 'completed'
                        else 'processing' end as eq_status
              from eq_judged
        ), eq_dropped as (
            delete from public.embedding_queue using eq_settled where id = eq_id and eq_status = 'dropped'
        ), eq_updated as (
            update public.embedding_queue
               set status = eq_status, lease = null, lease_expires_at = null, worker = null,
                   content = case when eq_status = 'pending' then content end,
                   attempts = case when eq_status = 'pending' then attempts - 1 else 0 end,
                   available_at = case when eq_status = 'pending' then now() + interval '1 second'
                                       else available_at end,
                   content_hash = case when eq_status = 'skipped' then null else content_hash end,
                   model = case when eq_status = 'skipped' then null else model end,
                   tokens = case when eq_status = 'skipped' then null else tokens end,
                   completed_at = case when eq_status = 'pending' then completed_at else now() end,
                   updated_at = now()
              from eq_settled
             where id = eq_id and eq_status in ('pending', 'skipped', 'completed')
        )
        select eq_id, eq_status, %7$L, eq_record, %4$L,
               case when eq_status = 'processing' then eq_content end, eq_hash, $2, $3, $4, eq_attempts
          from eq_settled
        $sql$,
        coalesce(target.filter, 'true'),
        target.source,
        (parse_ident(target.relation))[2],
        target.embedding_column,
        target.relation,
        target.record_match_sql,
        target.table_name)
    using ids, fence, coalesce(target.model, default_model), target.dimensions;
end $$;

-- Claims up to `batch` due jobs of one target: the one whose next job has the highest priority and
-- waits longest. Returns a row for each job it took up, with what became of it:
--
--   processing  handed out: embed `content`, then answer with its `id`, `lease` and `content_hash`
--   completed   text and model are those of the stored vector: nothing to do
--   skipped     nothing to embed: the vector is null
--   dropped     the record is gone or has left the filter: so are its vector and its job
--   failed      claimed `max_attempts` times without an answer, or its text cannot be read
--   pending     somebody is writing the row at this moment: it comes back
--
-- No row at all means that nothing is due. A lease that has run out is due again.
-- Raises lock_not_available if all that is due lies in tables that are locked as a whole.
create function public.claim_embeddings(
    worker text,
    batch integer default 100,
    lease_for interval default '5 minutes',
    default_model text default null,
    only_table text default null,
    only_column text default null
)
returns table (
    id bigint, status text, table_name text, record_id text, embedding_column text, content text,
    content_hash bytea, lease uuid, model text, dimensions integer, attempts smallint
)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    ids bigint[];
    one bigint;
    locked_table text;
begin
    for target in
        select watched.*
          from public.embedding_targets as watched
          left join lateral (
                select job.priority, job.available_at from public.embedding_queue as job
                 where job.table_name = watched.table_name and job.embedding_column = watched.embedding_column
                   and job.status = 'pending' and job.available_at <= now()
                 order by job.priority desc, job.available_at, job.id limit 1) as next on true
          left join lateral (
                select true as waits from public.embedding_queue as job
                 where job.table_name = watched.table_name and job.embedding_column = watched.embedding_column
                   and job.status = 'processing' and job.lease_expires_at <= now() limit 1) as expired on true
         where watched.enabled and watched.problem is null
           and (only_table is null or watched.table_name = only_table)
           and (only_column is null or watched.embedding_column = only_column)
           and (next.available_at is not null or expired.waits)
         order by next.priority desc nulls last, next.available_at, watched.id
    loop
        begin
            -- The table before its jobs, the order of every writer; and without waiting.
            execute format('lock table only %s in row share mode nowait', target.relation);
            ids := array(
                select job.id from public.embedding_queue as job
                 where job.table_name = target.table_name and job.embedding_column = target.embedding_column
                   and job.status = 'processing' and job.lease_expires_at <= now()
                 order by job.lease_expires_at limit batch
                   for update skip locked);
            ids := ids || array(
                select job.id from public.embedding_queue as job
                 where job.table_name = target.table_name and job.embedding_column = target.embedding_column
                   and job.status = 'pending' and job.available_at <= now()
                 order by job.priority desc, job.available_at, job.id limit batch - cardinality(ids)
                   for update skip locked);
            if cardinality(ids) > 0 then
                return query select * from public.embedding_claim(target, ids, worker, lease_for, default_model);
                return;
            end if;
        exception
            when lock_not_available then
                locked_table := target.table_name;
            when syntax_error_or_access_rule_violation or invalid_schema_name then
                -- the table, a column or a right is missing: set aside, so that the others go on
                update public.embedding_targets as broken set problem = sqlerrm where broken.id = target.id;
            when data_exception or cardinality_violation or plpgsql_error or external_routine_exception then
                -- some row cannot be read (its key, or the source over it): find it, one at a time
                foreach one in array ids loop
                    begin
                        perform from public.embedding_queue as job where job.id = one for update skip locked;
                        if found then
                            return query select * from public.embedding_claim(
                                target, array[one], worker, lease_for, default_model);
                        end if;
                    exception
                      when data_exception or cardinality_violation or plpgsql_error or external_routine_exception then
                        return query
                        update public.embedding_queue as job
                           set status = 'failed', error_class = 'unreadable', error_message = sqlerrm,
                               lease = null, lease_expires_at = null, worker = null, updated_at = now()
                         where job.id = one
                        returning job.id, 'failed', job.table_name, job.record_id, job.embedding_column,
                                  null::text, null::bytea, null::uuid, null::text, null::integer, job.attempts;
                    end;
                end loop;
                return;
        end;
    end loop;
    if locked_table is not null then
        raise exception 'table % is locked by another session', locked_table using errcode = 'lock_not_available';
    end if;
end $$;
