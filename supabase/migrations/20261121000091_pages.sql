-- Why:   people page through millions of jobs: each page costs the same, wherever it begins and whatever it is of.
-- Locks: nothing. Texts are not read.
-- Undo:  drop function public.page_embeddings, embedding.is_in_order, embedding.jobs_in_order, embedding.place_of_cursor,
--        embedding.place_of_job;

-- The place of a job in the order of the jobs in a state (null: of every state, by id).
create function embedding.place_of_job(job public.embedding_queue, only_status text)
returns embedding.job_place
language sql
immutable
set search_path = '', pg_temp
as $$
    select job.target_id, job.priority, coalesce(uuid_hash(job.user_id), 0),
           case only_status when 'pending' then job.available_at when 'processing' then job.lease_expires_at
                            when 'failed' then job.updated_at end,
           job.error_class, job.id;
$$;

-- The place that a cursor of page_embeddings names; null is before the first. Raises if it names none.
create function embedding.place_of_cursor(page_cursor text)
returns embedding.job_place
language plpgsql
immutable
set search_path = '', pg_temp
as $$
declare
    place embedding.job_place;
begin
    begin
        place := jsonb_populate_record(null::embedding.job_place, page_cursor::jsonb);
    exception when data_exception or program_limit_exceeded then
        place := null;
    end;
    if page_cursor is not null and num_nulls(place.target_id, place.priority, place.owner, place.id) > 0 then
        raise exception 'this is no cursor of page_embeddings'
            using errcode = 'invalid_parameter_value', hint = 'Begin with the first page, without a cursor.';
    end if;
    return place;
end $$;

-- At most `most` jobs after a place: of a record; or in a state, column by column in the order of embedding.next_jobs; or else
-- of every state and column, the latest first.
create function embedding.jobs_in_order(
    only_status text, only_table text, only_column text, only_error_class text, only_record text,
    after embedding.job_place, most integer
)
returns setof public.embedding_queue
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    before constant bigint := coalesce(after.id, 9223372036854775807);
begin
    if only_record is not null then
        return query
        select * from public.embedding_queue as job
         where job.record_id = only_record and job.id < before order by job.id desc limit most;
    elsif only_status in ('pending', 'processing', 'failed') then
        return query
        select job.*
          from (select target.id from public.embedding_targets as target
                 where target.id >= coalesce(after.target_id, 0)
                   and (only_table is null or target.table_name = only_table)
                   and (only_column is null or target.embedding_column = only_column)
                 order by target.id) as watched
         cross join lateral embedding.next_jobs(
                    watched.id, only_status, case when watched.id = after.target_id then after end, only_error_class, most) as job
         limit most;
    else
        return query
        select * from public.embedding_queue as job where job.id < before order by job.id desc limit most;
    end if;
end $$;

-- Whether all jobs of embedding.jobs_in_order are wanted, so that it need not look at more than a page has.
create function embedding.is_in_order(
    only_status text, only_table text, only_column text, only_error_class text, only_record text
)
returns boolean
language sql
immutable
set search_path = '', pg_temp
as $$
    select only_record is null
       and case when only_status in ('pending', 'processing', 'failed') then only_error_class is null or only_status = 'failed'
                else num_nonnulls(only_status, only_table, only_column, only_error_class) = 0 end;
$$;

-- A page of at most `max_rows` jobs, 500 at most, as a JSON object: `jobs`, with the columns of list_embeddings without the
-- preview, and `next_cursor`, the `after_cursor` of the next page; null: there is none. Each `only_` argument narrows them down.
--
-- Pending, processing and failed jobs come column by column: pending in the order of a claim, processing by the end of their
-- lease, failed by class, the latest first. Other jobs come in the order of their ids, the latest first. A call looks
-- at a bounded number of jobs, so a page can be short, or empty, and still have a next one.
create function public.page_embeddings(
    only_status text default null,
    only_table text default null,
    only_column text default null,
    only_error_class text default null,
    only_record text default null,
    after_cursor text default null,
    max_rows integer default 50
)
returns jsonb
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    with asked as materialized (
        select page.rows, embedding.place_of_cursor(after_cursor) as after,
               case when embedding.is_in_order(only_status, only_table, only_column, only_error_class, only_record)
                    then page.rows + 1 else 5000 end as looked
          from (select least(greatest(max_rows, 1), 500) as rows) as page
    ), looked as materialized (
        select job, row_number() over () as place
          from asked
         cross join lateral embedding.jobs_in_order(
                    only_status, only_table, only_column, only_error_class, only_record, asked.after, asked.looked) as job
    ), matched as materialized (
        select looked.job, looked.place, row_number() over (order by looked.place) as number
          from looked
         where (only_status is null or (looked.job).status = only_status)
           and (only_table is null or (looked.job).table_name = only_table)
           and (only_column is null or (looked.job).embedding_column = only_column)
           and (only_error_class is null or (looked.job).error_class = only_error_class)
    ), last as (
        select looked.job from looked, asked
         where looked.place = coalesce(
                   (select shown.place from matched as shown, matched as more
                     where shown.number = asked.rows and more.number = asked.rows + 1),
                   asked.looked)
    )
    select jsonb_build_object(
        'jobs', (select coalesce(jsonb_agg(jsonb_build_object(
                            'id', (job).id, 'table_name', (job).table_name, 'record_id', (job).record_id,
                            'embedding_column', (job).embedding_column, 'status', (job).status,
                            'attempts', (job).attempts, 'available_at', (job).available_at,
                            'lease_expires_at', (job).lease_expires_at, 'worker', (job).worker,
                            'error_class', (job).error_class, 'error_message', (job).error_message,
                            'updated_at', (job).updated_at) order by shown.place), '[]')
                   from matched as shown, asked where shown.number <= asked.rows),
        'next_cursor', (select to_jsonb(embedding.place_of_job(last.job, only_status))::text from last));
$$;

select embedding.protect_functions(
    'embedding.place_of_job', 'embedding.place_of_cursor', 'embedding.jobs_in_order', 'embedding.is_in_order');
select embedding.let_workers_call('public.page_embeddings');
