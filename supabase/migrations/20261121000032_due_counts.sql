-- Why:   people and workers see how many jobs are due now, and since when, without a claim.
-- Locks: nothing.
-- Undo:  drop function embedding.count_due, embedding.count_pending, public.count_due_embeddings;

-- How many jobs a claim would find due now, of all columns or of one. Exact; it reads only the index of due jobs, not
-- the watched tables.
create function public.count_due_embeddings(only_table text default null, only_column text default null)
returns bigint
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select coalesce(sum(due.jobs), 0)::bigint
      from public.embedding_targets as target
     cross join lateral (
           select count(*) as jobs from public.embedding_queue as job
            where job.target_id = target.id and job.status = 'pending' and job.available_at <= now()
              and job.available_at < 'infinity'
           union all
           select count(*) from public.embedding_queue as job
            where job.target_id = target.id and job.status = 'processing' and job.lease_expires_at <= now()) as due
     where target.enabled and target.problem is null and target.kind = 'embed'
       and (only_table is null or target.table_name = only_table)
       and (only_column is null or target.embedding_column = only_column);
$$;

-- How many jobs of these owners, each of one priority, are pending and due, up to a bound. The plan is pinned by its
-- caller, embedding.count_due.
create function embedding.count_pending(target_id integer, levels integer[], owners integer[], most_jobs integer)
returns bigint
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return (
        select count(*)
          from (select
                  from unnest(levels, owners) as turn (level, owner)
                 cross join lateral (
                       select from public.embedding_queue as job
                        where job.target_id = count_pending.target_id and job.status = 'pending'
                          and job.priority = turn.level and coalesce(uuid_hash(job.user_id), 0) = turn.owner
                          and job.available_at <= now() and job.available_at < 'infinity'
                        limit most_jobs) as job
                 limit most_jobs) as counted);
end $$;

-- How many jobs of a target are due, and since when the oldest is; `pending` is the number of its pending jobs. It reads
-- the first job of each owner in the index of due jobs, and counts those that are scheduled for later, or never due: the
-- others are due.
-- Above a limit, it counts those that are due, up to another one. `due_exact` is false above that limit, or with too many
-- owners to check: more may then be due, and the oldest may be older.
create function embedding.count_due(
    target_id integer, pending bigint, out due bigint, out oldest_due timestamptz, out due_exact boolean
)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    most_jobs constant integer := 10000;
    most_owners constant integer := 500;
    most_waiting constant integer := 1000;
    level integer := 32768; -- above every priority
    owner integer := 0;
    earliest timestamptz;
    waiting bigint; -- jobs that are never due or scheduled for later
    levels integer[] := '{}';
    owners integer[] := '{}';
begin
    due_exact := true;
    waiting := (
        select count(*)
          from (select from public.embedding_queue as job
                 where job.target_id = count_due.target_id and job.status = 'pending' and job.available_at = 'infinity'
                 limit most_waiting) as never_due);
    loop
        select coalesce(uuid_hash(job.user_id), 0), job.available_at
          into owner, earliest
          from public.embedding_queue as job
         where job.target_id = count_due.target_id and job.status = 'pending' and job.available_at < 'infinity'
           and job.priority = level and coalesce(uuid_hash(job.user_id), 0) > owner
         order by coalesce(uuid_hash(job.user_id), 0), job.available_at
         limit 1;
        if not found then
            select job.priority, coalesce(uuid_hash(job.user_id), 0), job.available_at
              into level, owner, earliest
              from public.embedding_queue as job
             where job.target_id = count_due.target_id and job.status = 'pending' and job.available_at < 'infinity'
               and job.priority < level
             order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at
             limit 1;
            exit when not found;
        end if;
        if cardinality(owners) = most_owners then
            due_exact := false;
            exit;
        end if;
        if waiting < most_waiting then
            waiting := waiting + (
                select count(*)
                  from (select from public.embedding_queue as job
                         where job.target_id = count_due.target_id and job.status = 'pending' and job.priority = level
                           and coalesce(uuid_hash(job.user_id), 0) = owner
                           and job.available_at > now() and job.available_at < 'infinity'
                         limit most_waiting - waiting) as later);
        end if;
        continue when earliest > now();
        oldest_due := least(oldest_due, earliest);
        levels := levels || level;
        owners := owners || owner;
    end loop;

    if waiting < most_waiting and due_exact then
        due := pending - waiting;
    else
        due := embedding.count_pending(target_id, levels, owners, most_jobs);
        due_exact := due_exact and due < most_jobs;
    end if;
    due := due + (select count(*)
                    from public.embedding_queue as job
                   where job.target_id = count_due.target_id and job.status = 'processing'
                     and job.lease_expires_at <= now());
end $$;

select embedding.protect_functions('embedding.count_pending');
select embedding.let_workers_call('public.count_due_embeddings', 'embedding.count_due');
