-- Why:   a claim chooses quickly among millions of due jobs, and no target or owner starves.
-- Locks: row locks on the claimed jobs, for the length of the call. It skips locked rows.
-- Undo:  drop function embedding.due_jobs, embedding.due_targets, embedding.is_claimable, embedding.due_owners; drop
--        sequence embedding.claim_rotation;
--
-- Live edits come before backfill, by priority. Within a priority the targets take turns, and within a target the owners
-- of its records. A job that crashes its workers is tried alone before it is failed, so that the jobs that were claimed
-- with it are not failed as well.

-- Counts the claims, so that targets take turns whichever worker asks.
create sequence embedding.claim_rotation;

-- The owners after `after_owner` with due jobs of a target and a priority, in order, at most `most` of them, and
-- since when their jobs are due.
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
         where job.target_id = due_owners.target_id and job.status = 'pending' and job.available_at < 'infinity'
           and job.priority = level and coalesce(uuid_hash(job.user_id), 0) > due_owners.owner
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

-- Whether a claim with these arguments may take jobs of a target: see claim_embeddings.
create function embedding.is_claimable(
    target public.embedding_targets, default_model text, only_table text, only_column text, except_targets integer[]
)
returns boolean
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    return target.enabled and target.problem is null and target.kind = 'embed'
       and (target.model_is_default and target.model <> default_model) is not true
       and (only_table is null or target.table_name = only_table)
       and (only_column is null or target.embedding_column = only_column)
       and target.id <> all (except_targets);
end $$;

-- The targets that have due jobs, in the order in which a claim tries them: by the priority of their first due job,
-- then in turns. `level`, `first_owner` and `first_due` are those of that job; null if only leases have run out.
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
               and job.available_at < 'infinity' -- the condition of the index
             order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
             limit 1) as next on true
      left join lateral (
            select job.priority from public.embedding_queue as job
             where job.target_id = watched.id and job.status = 'processing' and job.lease_expires_at <= now()
             limit 1) as expired on true
     cross join lateral (select greatest(next.priority, expired.priority) as priority) as due
     where due.priority is not null
       and embedding.is_claimable(watched, default_model, only_table, only_column, except_targets)
     order by due.priority desc,
              (row_number() over (partition by due.priority order by watched.id) + turn)
              % count(*) over (partition by due.priority);
end $$;

-- Locks up to `batch` due jobs of a target and returns them: first expired leases, then by priority. Within a
-- priority the owners take turns, each with their jobs in the order of the due times. A claim takes as many
-- owners as jobs, starting at a random owner, so that each owner is served soon, however many there are and
-- however much one has queued. `level`, `first_owner` and `first_due` are those of the due job that comes first
-- in the index.
--
-- A job on its last claim is returned alone: if its worker dies again, this job is the cause.
--
-- The plan is pinned: the planner assumes that an unknown LIMIT is a tenth of the table, and would sort a tenth of
-- a million jobs. The start of the jobs is looked up once: while another session holds an old snapshot, jobs
-- claimed since then are still in the index before the others, and have to be skipped.
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
        if cardinality(owners) < batch then -- continue with the first ones
            select owners || coalesce(array_agg(turn.owner), '{}'), dues || coalesce(array_agg(turn.due_from), '{}')
              into owners, dues
              from (select first_owner as owner, first_due as due_from
                    union all
                    select * from embedding.due_owners(
                                      target.id, level, first_owner, batch - cardinality(owners))) as turn
             where turn.owner <> all (owners);
        end if;
        loop -- until no owner has more: the unused share of one owner goes to the others
            more := array(
                select due.id
                  from unnest(owners, dues) as turn (owner, due_from)
                 cross join lateral (
                       select job.id from public.embedding_queue as job
                        where job.target_id = target.id and job.status = 'pending' and job.priority = level
                          and coalesce(uuid_hash(job.user_id), 0) = turn.owner
                          and job.available_at between turn.due_from and now() and job.available_at < 'infinity'
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
           and job.available_at <= now() and job.available_at < 'infinity'
         order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
         limit 1;
    end loop;
    return ids;
end $$;

select embedding.protect_relation('embedding.claim_rotation');
select embedding.protect_functions('embedding.due_owners', 'embedding.is_claimable', 'embedding.due_targets', 'embedding.due_jobs');
