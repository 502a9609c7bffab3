-- Why:   a worker takes jobs with `claim_embeddings` and is handed their texts.
-- Locks: row locks on what is claimed, for the length of the call. It waits for no lock at all: a
--        locked row or table is passed over. No transaction stays open behind it.
-- Undo:  drop function public.claim_embeddings, embedding.due_jobs, embedding.due_owners, embedding.due_targets,
--        embedding.claim_in_parts, embedding.fail_unreadable, embedding.fault_of_table, embedding.another_row_works,
--        embedding.may_pass, embedding.is_of_the_server, embedding.is_timeout, embedding.growing_pause, embedding.claim; drop sequence embedding.claim_rotation;
--        drop function embedding.visible_character; drop type embedding.claimed_job;
--
-- Nobody starves: live edits go before backfill, by priority; of one priority, the targets take turns,
-- and within a target the owners of its records do. What kills its worker is tried alone before it is
-- given up, so that the jobs it was claimed with do not go down with it.

-- What became of a job that a claim took up: see claim_embeddings.
create type embedding.claimed_job as (
    id bigint, target_id integer, status text, table_name text, record_id text, embedding_column text,
    content text, content_hash bytea, lease uuid, model text, dimensions integer, attempts smallint,
    isolated boolean, truncate boolean, waited double precision
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

-- How long a job waits that came back `times` times in a row before: `first`, doubled each time up to
-- `most`, and up to half as much again, so that jobs that came back together do not stay together.
create function embedding.growing_pause(first interval, times integer, most interval)
returns interval
language sql
volatile
set search_path = '', pg_temp
as $$ select least(first * power(2, least(times, 20)), most) * (1 + random() / 2) $$;

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
    most_unwritten constant integer := 2 * target.max_attempts;
    leased bigint;
    read_rows bigint;
begin
    return query
    update public.embedding_queue as job
       set status = 'failed',
           error_class = case when job.abandoned_claims >= target.max_attempts then 'no_answer' else 'unwritten' end,
           error_message = case when job.abandoned_claims >= target.max_attempts
               then format('claimed %s times, never answered: it probably kills its worker', job.abandoned_claims)
               else format('embedded %s times, never written: %s', job.unwritten,
                           coalesce(job.error_message, 'its workers did not come back')) end,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id = any (ids) and (job.abandoned_claims >= target.max_attempts or job.unwritten >= most_unwritten)
    returning job.id, job.target_id, 'failed', job.table_name, job.record_id, job.embedding_column, null::text,
              null::bytea, null::uuid, null::text, null::integer, job.attempts, false, false,
              null::double precision;

    update public.embedding_queue as job
       set status = 'processing', abandoned_claims = job.abandoned_claims + 1, worker = claimer,
           unwritten = least(job.unwritten + (job.lease is not null)::integer, 32767),
           lease = fence, lease_expires_at = clock_timestamp() + lease_for, updated_at = now()
     where job.id = any (ids) and job.abandoned_claims < target.max_attempts and job.unwritten < most_unwritten;
    get diagnostics leased = row_count;

    return query execute format($sql$
        with eq_read as materialized (
            select eq_job.*, eq_found.*, coalesce(eq_job.eq_given, eq_found.eq_text) as eq_content
              from (select id as eq_id, record_id as eq_record, content as eq_given, attempts as eq_attempts,
                           abandoned_claims as eq_abandoned, content_hash as eq_old_hash, model as eq_old_model,
                           case when priority >= $8 and isfinite(available_at)
                                then extract(epoch from clock_timestamp() - available_at) end as eq_waited
                      from public.embedding_queue
                     where id = any ($1) and lease = $2) as eq_job
              left join lateral (
                    select true as eq_exists, coalesce((%1$s), false) as eq_inside, (%2$s)::text as eq_text,
                           %3$I.%4$I is not null as eq_has_vector, %3$I.xmax <> 0 as eq_touched
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
            -- Rows that lose their vector, and those whose text is to be paid for that somebody may be
            -- writing. A row with an xmax of 0 is locked by nobody: it is not touched.
            select eq_id, eq_record, eq_verdict
              from eq_judged join %5$s on %6$s
             where eq_verdict in ('outside', 'empty') and eq_has_vector or eq_verdict = 'ready' and eq_touched
               for no key update of %3$I skip locked
        ), eq_cleared as (
            update %5$s set %4$I = null from eq_locked where eq_verdict <> 'ready' and %6$s
        ), eq_settled as materialized (
            select eq_judged.*,
                   case when (eq_verdict in ('outside', 'empty') and eq_has_vector
                              or eq_verdict = 'ready' and eq_touched)
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
                   abandoned_claims = 0,
                   unwritten = case when eq_status = 'pending' then unwritten else 0 end,
                   passed_over = case when eq_status = 'pending' then least(passed_over + 1, 32767) else 0 end,
                   available_at = case when eq_status = 'pending'
                                       then now() + embedding.growing_pause('2 seconds', passed_over, '1 minute')
                                       else available_at end,
                   error_class = case when eq_status = 'pending' then 'locked' end,
                   error_message = case when eq_status = 'pending' then 'its row was locked' end,
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
               eq_abandoned > 1 and eq_abandoned >= $6, $7, eq_waited::double precision
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
    get diagnostics read_rows = row_count;
    if read_rows > leased then
        raise exception 'the record id matches more than one row' using errcode = 'cardinality_violation';
    end if;
    set constraints all immediate; -- what a deferred trigger has against a row comes now, not at the commit
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

-- The targets that have due jobs, in the order in which a claim tries them: by the priority of their first due job,
-- then by turns. `level`, `first_owner` and `first_due` are those of that job; null if only leases have run out.
--
-- The plan is pinned: with statistics from when the queue was empty, the planner sorts every pending job.
create function embedding.due_targets(
    default_model text, only_table text, only_column text, except_targets integer[]
)
returns table (target_id integer, level smallint, first_owner integer, first_due timestamptz)
language plpgsql
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
#variable_conflict use_column
declare
    turn constant bigint := nextval('embedding.claim_rotation');
begin
    return query
    select watched.id, next.priority, next.owner, next.available_at
      from public.embedding_targets as watched
      left join lateral (
            select job.priority, job.available_at, coalesce(uuid_hash(job.user_id), 0) as owner
              from public.embedding_queue as job
             where job.target_id = watched.id and job.status = 'pending' and job.available_at <= now()
             order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
             limit 1) as next on true
      left join lateral (
            select job.priority from public.embedding_queue as job
             where job.target_id = watched.id and job.status = 'processing' and job.lease_expires_at <= now()
             limit 1) as expired on true
     cross join lateral (select greatest(next.priority, expired.priority) as priority) as due
     where watched.enabled and watched.problem is null and due.priority is not null
       and (watched.model_is_default and watched.model <> due_targets.default_model) is not true
       and (due_targets.only_table is null or watched.table_name = due_targets.only_table)
       and (due_targets.only_column is null or watched.embedding_column = due_targets.only_column)
       and watched.id <> all (due_targets.except_targets)
     order by due.priority desc,
              (row_number() over (partition by due.priority order by watched.id) + turn)
              % count(*) over (partition by due.priority);
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
      from (select job.id, job.abandoned_claims > 0 and job.abandoned_claims = target.max_attempts - 1 as last_chance
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

-- Whether an error is the end of the time that a statement may take. An error of this class can also be
-- raised by a trigger, or by an administrator who cancels a statement: both are over at once. The time is that of the
-- session where a function has another one, since the statement began before the function. By now(), since it begins to
-- run when the statement is parsed, before its statement_timestamp().
create function embedding.is_timeout(error_state text)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$
    select error_state = '57014' and coalesce(clock_timestamp() - now() >= (
               select min(timeout) from (
                   select current_setting('statement_timeout')::interval
                    union all
                   select reset_val::bigint * interval '1 ms' from pg_settings
                    where name = 'statement_timeout') as known (timeout)
                where timeout > '0'), false);
$$;

-- Whether an error is that of a server without room, memory or connections, or that shuts down: no row is to blame, and
-- the worker waits. A trigger or a source that raises an error of such a class is to blame: the context says so.
create function embedding.is_of_the_server(error_state text, context text)
returns boolean
language sql
immutable
set search_path = '', pg_temp
as $$
    select error_state ~ '^(53|57P|58)' and context !~ '^PL/(?!pgSQL)|^PL/pgSQL[^\n]* (RAISE|ASSERT)(\n|$)';
$$;

-- Whether an error may be over when the same is tried again: a deadlock, a lack of memory, a cancelled statement.
create function embedding.may_pass(error_state text)
returns boolean
language sql
immutable
set search_path = '', pg_temp
as $$ select left(error_state, 2) in ('40', '53', '55', '57', '58') $$;

-- Whether some row of a target can be read and written; also if it has one row at most, since that row may be
-- to blame. It looks at the first 20 rows and the last 20 rows by key. What it writes is rolled back.
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
                           coalesce(target.filter, 'true'), target.source, target.relation, target.record_match_sql)
              using record;
            execute format($sql$
                with eq_free as materialized (
                    select eq_record from (select $1 as eq_record) as eq_job, %1$s where %2$s
                       for no key update of %3$I skip locked)
                update %1$s set %4$I = %3$I.%4$I from eq_free where %2$s
                $sql$, target.relation, target.record_match_sql, bare_name, target.embedding_column)
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

-- What is wrong with the table of a target, if that is what an error came of; null: a row is to blame. It is
-- the table if its statements fail also where they meet no row, if the column is another one by now, or if a
-- table, a function or a right is missing, and no row works.
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
    exception when others then
        return case when is_of_schema then error_text else sqlerrm end;
    end;
    begin
        width := embedding.column_width(target.relation::regclass, target.embedding_column);
    exception when others then
        return sqlerrm; -- not a vector any more
    end;
    if width is distinct from target.dimensions then
        return format('column %s holds %s dimensions by now, not %s', target.embedding_column,
                      coalesce(width::text, 'any number of'), coalesce(target.dimensions::text, 'any number'));
    elsif is_of_schema and not embedding.another_row_works(target) then
        return error_text;
    end if;
    return null;
end $$;

-- Fails jobs whose row cannot be read, or cannot lose its vector. One that took too long may have met a busy
-- database: it is tried again later, as long as its target allows another attempt.
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
              null::text, null::bytea, null::uuid, null::text, null::integer, job.attempts, false, false,
              null::double precision;
$$;

-- Claims jobs of which some cannot be read, or cannot lose their vector: those fail alone. Halving finds them.
create function embedding.claim_in_parts(
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
    middle constant integer := cardinality(ids) / 2;
    state text;
    cause text;
    context text;
begin
    for try in 1 .. 3 loop
        begin
            return query select * from embedding.claim(target, ids, claimer, lease_for, default_model);
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
        return query select * from embedding.claim_in_parts(target, ids[:middle], claimer, lease_for, default_model);
        return query select * from embedding.claim_in_parts(target, ids[middle + 1:], claimer, lease_for, default_model);
    else
        return query select * from embedding.fail_unreadable(target, ids, cause, embedding.is_timeout(state));
    end if;
end $$;

-- Counts the claims, so that targets take turns whichever worker asks.
create sequence embedding.claim_rotation;

-- Claims up to `batch` due jobs of one target: the one with the highest priority, and of several the one
-- whose turn it is; never one of `except_targets`. Returns a row for each job it took up, with what became of it:
--
--   processing  handed out: embed `content`, then answer with its `id`, `lease` and `content_hash`;
--               `isolated`: with nothing else under way in this process; `truncate`: if it is too long,
--               as much of its beginning as the model takes; `waited`: for how many seconds it has been
--               due, null for what comes below the priority of its target, as from a backfill
--   completed   text and model are those of the stored vector: nothing to do
--   skipped     nothing to embed: the vector is null
--   dropped     the record is gone or has left the filter: so are its vector and its job
--   failed      claimed `max_attempts` times without an answer, embedded twice as often without being written,
--               or its text cannot be read
--   pending     somebody is writing the row at this moment, or to read it took too long: it comes back
--
-- No row at all means that nothing is due. A lease that has run out is due again. A column that nobody named a model
-- for, and that holds vectors of another model than `default_model`, is passed over.
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
    fault text;
    cause text;
    blind_spot text;
    locked_table text;
    due_target integer;
    level smallint;
    first_owner integer;
    first_due timestamptz;
    context text;
begin
    for due_target, level, first_owner, first_due in
        select * from embedding.due_targets(default_model, only_table, only_column, except_targets)
    loop
        select * into target from public.embedding_targets as watched where watched.id = due_target;
        begin
            -- The table before its jobs, the order of every writer; and without waiting.
            execute format('lock table only %s in row share mode nowait', target.relation);
            perform embedding.check_table(target.relation);
            perform embedding.check_identity(target);
            select spot.cause into blind_spot
              from embedding.blind_spot(target.relation::regclass, target.id, true) as spot limit 1;
            if found then
                update public.embedding_targets as broken set problem = blind_spot where broken.id = target.id;
                continue;
            end if;
        exception
            when lock_not_available then
                locked_table := target.table_name;
                continue;
            when syntax_error_or_access_rule_violation or invalid_schema_name then
                -- the table or a right is missing: set aside, so that the others go on
                get stacked diagnostics context = pg_exception_context;
                update public.embedding_targets as broken
                   set problem = embedding.describe_error(sqlstate, sqlerrm, context)
                 where broken.id = target.id;
                continue;
        end;
        ids := embedding.due_jobs(target, batch, level, first_owner, first_due);
        if ids = '{}' then
            continue;
        end if;
        begin
            return query select * from embedding.claim(target, ids, worker, lease_for, default_model);
            return;
        exception when others or query_canceled or assert_failure then
            get stacked diagnostics context = pg_exception_context;
            cause := embedding.describe_error(sqlstate, sqlerrm, context);
            if embedding.is_of_the_server(sqlstate, context) then
                raise;
            elsif not embedding.is_timeout(sqlstate) then
                fault := embedding.fault_of_table(target, sqlstate, cause);
            elsif cardinality(ids) > 1 then
                raise; -- within this statement there is no time limit any more: the caller has to ask for fewer
            else
                return query select * from embedding.fail_unreadable(target, ids, cause, true);
                return;
            end if;
        end;
        if fault is null then
            return query select * from embedding.claim_in_parts(target, ids, worker, lease_for, default_model);
            return;
        end if;
        update public.embedding_targets as broken set problem = fault where broken.id = target.id;
    end loop;
    if locked_table is not null then
        raise exception 'table % is locked by another session', locked_table using errcode = 'lock_not_available';
    end if;
end $$;
