-- Why:   people see the jobs themselves, with the beginnings of their texts.
-- Locks: nothing. It waits for a table that is locked as a whole for a second, and then does not read it.
-- Undo:  drop function public.list_embeddings, embedding.next_jobs, embedding.next_pending; drop type embedding.job_place;

-- The place of a job in the order of an index: see embedding.next_jobs.
create type embedding.job_place as (
    target_id integer, priority smallint, owner integer, at timestamptz, error_class text, id bigint
);

-- The next pending jobs of a target after a place, in the order of a claim: the rest of a priority, those below it, and at last
-- those that are never due, by id. See embedding.next_jobs.
create function embedding.next_pending(target_id integer, after embedding.job_place, most integer)
returns setof public.embedding_queue
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    last_never_due bigint := case when after.at = 'infinity' then after.id end;
    room integer := most;
    taken integer;
begin
    if last_never_due is null then
        return query
        select * from public.embedding_queue as job
         where job.target_id = next_pending.target_id and job.status = 'pending' and job.available_at < 'infinity'
           and job.priority = after.priority
           and (coalesce(uuid_hash(job.user_id), 0), job.available_at, job.id) > (after.owner, after.at, after.id)
         order by coalesce(uuid_hash(job.user_id), 0), job.available_at, job.id
         limit room;
        get diagnostics taken = row_count;
        room := room - taken;
        return query
        select * from public.embedding_queue as job
         where job.target_id = next_pending.target_id and job.status = 'pending' and job.available_at < 'infinity'
           and job.priority < coalesce(after.priority::integer, 32768)
         order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at, job.id
         limit room;
        get diagnostics taken = row_count;
        room := room - taken;
    end if;
    return query
    select * from public.embedding_queue as job
     where job.target_id = next_pending.target_id and job.status = 'pending' and job.available_at = 'infinity'
       and job.id > coalesce(last_never_due, 0)
     order by job.id
     limit room;
end $$;

-- The next jobs of a target in one of three states after a place (null: the first), in the order of its index: pending in the
-- order of a claim, processing by the end of their lease, failed by class, the latest first. It reads only as many as
-- requested, whatever the length of the queue: the plan is pinned, as in embedding.due_jobs, and each statement reads one range.
-- `only_error_class` is for failed jobs.
create function embedding.next_jobs(
    target_id integer, wanted_status text, after embedding.job_place, only_error_class text, most integer
)
returns setof public.embedding_queue
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    taken integer;
    room integer;
    class constant text := coalesce(only_error_class, after.error_class, case when after.id is null then '' end);
    last_id constant bigint := 9223372036854775807;
begin
    case wanted_status
        when 'pending' then
            return query select * from embedding.next_pending(target_id, after, most);
        when 'processing' then
            return query
            select * from public.embedding_queue as job
             where job.target_id = next_jobs.target_id and job.status = 'processing'
               and job.lease_expires_at >= coalesce(after.at, '-infinity')
               and (job.lease_expires_at, job.id) > (coalesce(after.at, '-infinity'), coalesce(after.id, 0))
             order by job.lease_expires_at, job.id
             limit most;
        when 'failed' then -- the rest of a class, the classes after it, and jobs without a class
            return query
            select * from public.embedding_queue as job
             where job.target_id = next_jobs.target_id and job.status = 'failed' and job.error_class = class
               and (job.updated_at, job.id)
                   < (coalesce(after.at, 'infinity'), coalesce(after.id, last_id))
             order by job.updated_at desc, job.id desc
             limit most;
            get diagnostics taken = row_count;
            room := most - taken;
            if only_error_class is not null then
                return;
            end if;
            return query
            select * from public.embedding_queue as job
             where job.target_id = next_jobs.target_id and job.status = 'failed' and job.error_class > class
             order by job.error_class, job.updated_at desc, job.id desc
             limit room;
            get diagnostics taken = row_count;
            return query
            select * from public.embedding_queue as job
             where job.target_id = next_jobs.target_id and job.status = 'failed' and job.error_class is null
               and (job.updated_at, job.id)
                   < (case when class is null then after.at else 'infinity' end, case when class is null then after.id else last_id end)
             order by job.updated_at desc, job.id desc
             limit room - taken;
        else
            raise exception 'jobs that are % are not listed', wanted_status
                using errcode = 'invalid_parameter_value', hint = 'Ask for pending, processing or failed.';
    end case;
end $$;

-- The jobs in the given states, state by state, with the beginning of the text of each (null if it has none, it
-- cannot be read, or its column is not worked on: a worker sees only what a claim could show it): up to `max_rows`,
-- 1000 at most. It reads the first jobs of each column, in the order of embedding.next_jobs, and sorts them together:
-- processing by the end of the lease, pending by priority and due time, failed by class, the latest first.
create function public.list_embeddings(
    statuses text[] default array['processing', 'pending', 'failed'],
    only_table text default null,
    only_column text default null,
    max_rows integer default 20,
    preview_characters integer default 200
)
returns table (
    id bigint, table_name text, record_id text, embedding_column text, status text, attempts smallint,
    available_at timestamptz, lease_expires_at timestamptz, worker text,
    error_class text, error_message text, updated_at timestamptz, preview text
)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
    with listed as materialized (
        select first.*,
               row_number() over (
                   order by asked.place,
                            case when first.status = 'pending' and first.available_at < 'infinity'
                                 then -first.priority::integer end, -- those that are never due come last
                            case first.status when 'processing' then first.lease_expires_at
                                              when 'pending' then first.available_at end,
                            case when first.status = 'failed' then first.error_class end,
                            first.updated_at desc, first.id) as place
          from unnest(statuses) with ordinality as asked (status, place)
         cross join public.embedding_targets as target
         cross join lateral embedding.next_jobs(
                    target.id, asked.status, null, null, least(max_rows, 1000)) as first
         where (only_table is null or target.table_name = only_table)
           and (only_column is null or target.embedding_column = only_column)
         order by place
         limit least(max_rows, 1000)
    ), previews as materialized (
        select read.id, read.beginning
          from (select target_id, array_agg(id) as ids from listed group by target_id) as page
          join public.embedding_targets as target
            on target.id = page.target_id and target.enabled and target.problem is null
         cross join lateral embedding.readable_texts(
                    target, page.ids, null, least(preview_characters, 20000)) as read
    )
    select listed.id, listed.table_name, listed.record_id, listed.embedding_column, listed.status,
           listed.attempts, listed.available_at, listed.lease_expires_at, listed.worker,
           listed.error_class, listed.error_message, listed.updated_at, previews.beginning
      from listed left join previews on previews.id = listed.id
     order by listed.place;
$$;

select embedding.protect_functions('embedding.next_pending', 'embedding.next_jobs');
select embedding.let_workers_call('public.list_embeddings');
