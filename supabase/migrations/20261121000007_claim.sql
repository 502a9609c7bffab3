-- Why:   a worker takes jobs with `claim_embeddings` and is handed their texts.
-- Locks: row locks on what is claimed, for the length of the call. It waits for no lock at all: a
--        locked row or table is passed over. No transaction stays open behind it.
-- Undo:  drop function public.claim_embeddings, embedding.due_jobs, embedding.due_owners,
--        embedding.claim_singly, embedding.claim; drop sequence embedding.claim_rotation;
--        drop function embedding.visible_character; drop type embedding.claimed_job;
--
-- Nobody starves: live edits go before backfill, by priority; of one priority, the targets take turns,
-- and within a target the owners of its records do. What kills its worker is tried alone before it is
-- given up, so that the jobs it was claimed with do not go down with it.

-- What became of a job that a claim took up: see claim_embeddings.
create type embedding.claimed_job as (
    id bigint, target_id integer, status text, table_name text, record_id text, embedding_column text,
    content text, content_hash bytea, lease uuid, model text, dimensions integer, attempts smallint,
    alone boolean, truncate boolean, waited double precision
);

-- A regular expression for a character that is no white space: what Unicode calls so, whatever the locale
-- of the database, under the collation "C". A text without one is nothing to embed. No test proves that the
-- collation of a column does not count, since one that is not deterministic needs ICU.
create function embedding.visible_character()
returns text
language sql
immutable
set search_path = '', pg_temp
as $$ select '[^\s\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]' $$;

-- Leases the jobs `ids` (already locked by the caller, all of one target) and reads their texts.
-- Statement by statement, under READ COMMITTED, so that the texts are read with a snapshot younger
-- than the lease: one and the same statement can return the new job with the old text. `id = any`
-- wherever a job is meant: by statistics from when the queue was empty, reading all of it costs nothing.
create function embedding.claim(
    target public.embedding_targets,
    ids bigint[],
    claimer text,
    lease_for interval,
    default_model text
)
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
declare
    fence constant uuid := gen_random_uuid();
begin
    return query
    update public.embedding_queue as job
       set status = 'failed',
           error_class = 'no_answer',
           error_message = format('claimed %s times, never answered: it probably kills its worker', job.unanswered),
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (ids) and job.unanswered >= target.max_attempts
    returning job.id, job.target_id, 'failed', job.table_name, job.record_id, job.embedding_column, null::text,
              null::bytea, null::uuid, null::text, null::integer, job.attempts, false, false,
              null::double precision;

    update public.embedding_queue as job
       set status = 'processing', unanswered = job.unanswered + 1, worker = claimer,
           lease = fence, lease_expires_at = clock_timestamp() + lease_for, updated_at = now()
     where job.id = any (ids) and job.unanswered < target.max_attempts;

    return query execute format($sql$
        with eq_read as materialized (
            select eq_job.*, eq_found.*, coalesce(eq_job.eq_given, eq_found.eq_text) as eq_content
              from (select id as eq_id, record_id as eq_record, content as eq_given, attempts as eq_attempts,
                           unanswered as eq_unanswered, content_hash as eq_old_hash, model as eq_old_model,
                           case when priority >= $8
                                then extract(epoch from clock_timestamp() - available_at) end as eq_waited
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
                        when eq_content is null or eq_content collate "C" !~ %8$L then 'empty'
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
            delete from public.embedding_queue using eq_settled
             where id = any ($1) and id = eq_id and eq_status = 'dropped'
        ), eq_updated as (
            update public.embedding_queue
               set status = eq_status, lease = null, lease_expires_at = null, worker = null,
                   content = case when eq_status = 'pending' then content end,
                   attempts = case when eq_status = 'pending' then attempts else 0 end,
                   unanswered = 0,
                   available_at = case when eq_status = 'pending' then now() + interval '1 second'
                                       else available_at end,
                   content_hash = case when eq_status = 'skipped' then null else content_hash end,
                   model = case when eq_status = 'skipped' then null else model end,
                   tokens = case when eq_status = 'skipped' then null else tokens end,
                   cost = case when eq_status = 'skipped' then null else cost end,
                   truncated_to = case when eq_status = 'skipped' then null else truncated_to end,
                   completed_at = case when eq_status = 'pending' then completed_at else now() end,
                   updated_at = now()
              from eq_settled
             where id = any ($1) and id = eq_id and eq_status in ('pending', 'skipped', 'completed')
        )
        select eq_id, $5, eq_status, %7$L, eq_record, %4$L,
               case when eq_status = 'processing' then eq_content end, eq_hash, $2, $3, $4, eq_attempts,
               eq_unanswered > 1 and eq_unanswered >= $6, $7, eq_waited::double precision
          from eq_settled
        $sql$,
        coalesce(target.filter, 'true'),
        target.source,
        (parse_ident(target.relation))[2],
        target.embedding_column,
        target.relation,
        target.record_match_sql,
        target.table_name,
        embedding.visible_character())
    using ids, fence, coalesce(target.model, default_model), target.dimensions, target.id,
          target.max_attempts, target.on_too_long = 'truncate', target.priority;
end $$;

-- The owners behind `after_owner` that have jobs of a target and a priority due, in order, at most so many,
-- and since when.
create function embedding.due_owners(target_id integer, level smallint, after_owner integer, most integer)
returns table (owner integer, due_from timestamptz)
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
    owner := after_owner;
    while most > 0 loop
        select coalesce(uuid_hash(job.user_id), 0), job.available_at
          into after_owner, due_from
          from public.embedding_queue as job
         where job.target_id = due_owners.target_id and job.status = 'pending' and job.priority = level
           and coalesce(uuid_hash(job.user_id), 0) > due_owners.owner
         order by coalesce(uuid_hash(job.user_id), 0), job.available_at
         limit 1;
        exit when not found;
        owner := after_owner;
        if due_from <= now() then
            return next;
            most := most - 1;
        end if;
    end loop;
end $$;

-- Locks up to `batch` due jobs of a target and returns them: those whose lease has run out, then by
-- priority, and of one priority by turns of the owners, to each theirs in the order of their due times.
-- As many owners as there are jobs in a claim, from a place among them that is drawn by lot: however many
-- there are, and however much one of them has queued, it is soon everybody's turn. `level`, `first_owner`
-- and `first_due` are those of the due job that stands first in the index.
--
-- A job that is handed out for the last time comes alone: if its worker dies again, it is the one.
--
-- The plan is pinned. The planner takes a LIMIT that it does not know for a tenth of the table, and a
-- tenth of a million jobs for worth a sort. Where jobs begin is looked up once: while somebody holds an old
-- snapshot, all that was claimed since still stands in the index before them, and has to be passed.
create function embedding.due_jobs(
    target public.embedding_targets, batch integer,
    level smallint, first_owner integer, first_due timestamptz
)
returns bigint[]
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    lot constant integer := floor(random() * 4294967296) - 2147483648;
    last_chances bigint[];
    ids bigint[];
    more bigint[];
    owners integer[];
    dues timestamptz[];
begin
    select array_agg(expired.id) filter (where expired.last_chance),
           coalesce(array_agg(expired.id) filter (where not expired.last_chance), '{}')
      into last_chances, ids
      from (select job.id, job.unanswered > 0 and job.unanswered = target.max_attempts - 1 as last_chance
              from public.embedding_queue as job
             where job.target_id = target.id and job.status = 'processing' and job.lease_expires_at <= now()
             order by job.lease_expires_at limit batch
               for update skip locked) as expired;
    if ids = '{}' and last_chances is not null then
        return last_chances[1:1];
    end if;

    while level is not null and cardinality(ids) < batch loop
        select coalesce(array_agg(turn.owner), '{}'), coalesce(array_agg(turn.due_from), '{}')
          into owners, dues
          from embedding.due_owners(target.id, level, lot, batch) as turn;
        if cardinality(owners) < batch then -- round to the first ones
            select owners || coalesce(array_agg(turn.owner), '{}'), dues || coalesce(array_agg(turn.due_from), '{}')
              into owners, dues
              from (select first_owner as owner, first_due as due_from
                    union all
                    select * from embedding.due_owners(
                                      target.id, level, first_owner, batch - cardinality(owners))) as turn
             where turn.owner <> all (owners);
        end if;
        loop -- until nobody has more: what one does not need of their share goes to the others
            more := array(
                select due.id
                  from unnest(owners, dues) as turn (owner, due_from)
                 cross join lateral (
                       select job.id from public.embedding_queue as job
                        where job.target_id = target.id and job.status = 'pending' and job.priority = level
                          and coalesce(uuid_hash(job.user_id), 0) = turn.owner
                          and job.available_at between turn.due_from and now()
                          and job.id <> all (ids)
                        order by job.available_at, job.id
                        limit ceil((batch - cardinality(ids)) / cardinality(owners)::numeric)
                          for update skip locked) as due
                 limit batch - cardinality(ids));
            ids := ids || more;
            exit when more = '{}' or cardinality(ids) = batch;
        end loop;
        select job.priority, coalesce(uuid_hash(job.user_id), 0), job.available_at
          into level, first_owner, first_due
          from public.embedding_queue as job
         where job.target_id = target.id and job.status = 'pending' and job.priority < level
           and job.available_at <= now()
         order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
         limit 1;
    end loop;
    return ids;
end $$;

-- Claims jobs of which some cannot be read, or cannot lose their vector, one at a time: those fail alone.
create function embedding.claim_singly(
    target public.embedding_targets,
    ids bigint[],
    claimer text,
    lease_for interval,
    default_model text
)
returns setof embedding.claimed_job
language plpgsql
set search_path = '', pg_temp
as $$
declare
    one bigint;
begin
    foreach one in array ids loop
        begin
            perform from public.embedding_queue as job where job.id = one for update skip locked;
            if found then
                return query
                select * from embedding.claim(target, array[one], claimer, lease_for, default_model);
            end if;
        exception
            when transaction_rollback or insufficient_resources or operator_intervention or system_error then
                raise;
            when others then
                return query
                update public.embedding_queue as job
                   set status = 'failed', error_class = 'unreadable', error_message = sqlerrm, unanswered = 0,
                       lease = null, lease_expires_at = null, worker = null, updated_at = now()
                 where job.id = one
                returning job.id, job.target_id, 'failed', job.table_name, job.record_id, job.embedding_column,
                          null::text, null::bytea, null::uuid, null::text, null::integer, job.attempts, false, false,
                          null::double precision;
        end;
    end loop;
end $$;

-- Counts the claims, so that targets take turns whichever worker asks.
create sequence embedding.claim_rotation;

-- Claims up to `batch` due jobs of one target: the one with the highest priority, and of several the one
-- whose turn it is; never one of `except_targets`. Returns a row for each job it took up, with what became of it:
--
--   processing  handed out: embed `content`, then answer with its `id`, `lease` and `content_hash`;
--               `alone`: with nothing else under way in this process; `truncate`: if it is too long,
--               as much of its beginning as the model takes; `waited`: for how many seconds it has been
--               due, null for what comes below the priority of its target, as from a backfill
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
    only_column text default null,
    except_targets integer[] default '{}'
)
returns setof embedding.claimed_job
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    target public.embedding_targets;
    ids bigint[];
    blind_spot text;
    locked_table text;
    due_target integer;
    level smallint;
    first_owner integer;
    first_due timestamptz;
    turn constant bigint := nextval('embedding.claim_rotation');
begin
    for due_target, level, first_owner, first_due in
        select watched.id, next.priority, next.owner, next.available_at
          from public.embedding_targets as watched
          left join lateral (
                select job.priority, job.available_at,
                       coalesce(uuid_hash(job.user_id), 0) as owner
                  from public.embedding_queue as job
                 where job.target_id = watched.id and job.status = 'pending' and job.available_at <= now()
                 order by job.priority desc, coalesce(uuid_hash(job.user_id), 0),
                          job.available_at
                 limit 1) as next on true
          left join lateral (
                select job.priority from public.embedding_queue as job
                 where job.target_id = watched.id and job.status = 'processing' and job.lease_expires_at <= now()
                 limit 1) as expired on true
         cross join lateral (select greatest(next.priority, expired.priority) as priority) as due
         where watched.enabled and watched.problem is null and due.priority is not null
           and (only_table is null or watched.table_name = only_table)
           and (only_column is null or watched.embedding_column = only_column)
           and watched.id <> all (except_targets)
         order by due.priority desc,
                  (row_number() over (partition by due.priority order by watched.id) + turn)
                  % count(*) over (partition by due.priority)
    loop
        select * into target from public.embedding_targets as watched where watched.id = due_target;
        ids := '{}';
        begin
            -- The table before its jobs, the order of every writer; and without waiting.
            execute format('lock table only %s in row share mode nowait', target.relation);
            select spot.cause into blind_spot
              from embedding.blind_spot(target.relation::regclass, target.id, true) as spot limit 1;
            if found then
                update public.embedding_targets as broken set problem = blind_spot where broken.id = target.id;
                continue;
            end if;
            ids := embedding.due_jobs(target, batch, level, first_owner, first_due);
            if cardinality(ids) > 0 then
                return query select * from embedding.claim(target, ids, worker, lease_for, default_model);
                return;
            end if;
        exception
            when lock_not_available then
                locked_table := target.table_name;
            when syntax_error_or_access_rule_violation or invalid_schema_name then
                -- the table, a column or a right is missing: set aside, so that the others go on
                update public.embedding_targets as broken set problem = sqlerrm where broken.id = target.id;
            when transaction_rollback or insufficient_resources or operator_intervention or system_error then
                raise; -- nothing here is to blame
            when others then
                return query
                select * from embedding.claim_singly(target, ids, worker, lease_for, default_model);
                return;
        end;
    end loop;
    if locked_table is not null then
        raise exception 'table % is locked by another session', locked_table using errcode = 'lock_not_available';
    end if;
end $$;
