-- Why:   people see the jobs themselves, with the beginnings of their texts.
-- Locks: nothing. It waits for a table that is locked as a whole for a second, and then does not read it.
-- Undo:  drop function public.list_embeddings, embedding.first_jobs;

-- The first jobs of a target in one of three states, in the order of its index: pending in the order of a claim,
-- processing by the end of their lease, failed by class, the latest first. It reads only as many as requested,
-- whatever the length of the queue: the plan is pinned, as in embedding.due_jobs.
create function embedding.first_jobs(target_id integer, wanted_status text, most integer)
returns setof public.embedding_queue
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
begin
    case wanted_status
        when 'pending' then
            return query
            select * from public.embedding_queue as job
             where job.target_id = first_jobs.target_id and job.status = 'pending'
             order by job.priority desc, coalesce(uuid_hash(job.user_id), 0), job.available_at, job.id
             limit most;
        when 'processing' then
            return query
            select * from public.embedding_queue as job
             where job.target_id = first_jobs.target_id and job.status = 'processing'
             order by job.lease_expires_at
             limit most;
        when 'failed' then
            return query
            select * from public.embedding_queue as job
             where job.target_id = first_jobs.target_id and job.status = 'failed'
             order by job.error_class, job.updated_at desc
             limit most;
        else
            raise exception 'jobs that are % are not listed', wanted_status
                using errcode = 'invalid_parameter_value', hint = 'Ask for pending, processing or failed.';
    end case;
end $$;

-- The jobs in the given states, state by state, with the beginning of the text of each (null if it has none, it
-- cannot be read, or its column is not worked on: a worker sees only what a claim could show it): up to `max_rows`,
-- 1000 at most. It reads the first jobs of each column, in the order of embedding.first_jobs, and sorts them together:
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
                            case when first.status = 'pending' then -first.priority::integer end,
                            case first.status when 'processing' then first.lease_expires_at
                                              when 'pending' then first.available_at end,
                            case when first.status = 'failed' then first.error_class end,
                            first.updated_at desc, first.id) as place
          from unnest(statuses) with ordinality as asked (status, place)
         cross join public.embedding_targets as target
         cross join lateral embedding.first_jobs(
                    target.id, asked.status, least(max_rows, 1000)) as first
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

select embedding.protect_functions('embedding.first_jobs');
select embedding.let_workers_call('public.list_embeddings');
