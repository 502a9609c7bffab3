-- Why:   people see what was done in a period.
-- Locks: nothing.
-- Undo:  drop function public.embedding_stats, embedding.usage_since, embedding.failed_since, embedding.percentile;

-- The percentile of a histogram in milliseconds, by linear interpolation within its bucket; null without counts.
-- Bucket i, from 0, counts durations above 10^((i-1)/4) ms (the first: from 0) up to 10^(i/4) ms; the last, with
-- index 27, counts all above 53 minutes.
create function embedding.percentile(counts bigint[], share double precision)
returns double precision
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when bucket.place = 1 then 0 else power(10, (bucket.place - 2) / 4.0) end
           + (power(10, (bucket.place - 1) / 4.0)
              - case when bucket.place = 1 then 0 else power(10, (bucket.place - 2) / 4.0) end)
             * (share * bucket.total - bucket.before) / bucket.count
      from (select entry.place, entry.count,
                   sum(entry.count) over () as total,
                   sum(entry.count) over (order by entry.place) - entry.count as before
              from unnest(counts) with ordinality as entry (count, place)) as bucket
     where bucket.count > 0 and bucket.before + bucket.count >= share * bucket.total
     order by bucket.place
     limit 1;
$$;

-- How many of the `total` failed jobs of a target and class have failed since `start`. It counts up to 10,000 of them in
-- the index of failed jobs; if there are more, up to as many that failed before, and subtracts those. `exact` is false
-- if there are more of both: then more than `failed` have failed since. The plan is pinned, and made for the arguments.
create function embedding.failed_since(
    target_id integer, class text, total bigint, start timestamptz, out failed bigint, out exact boolean
)
language plpgsql
stable
set search_path = '', pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    most_jobs constant integer := 10000;
    before bigint;
begin
    failed := (select count(*)
                 from (select from public.embedding_queue as job
                        where job.target_id = failed_since.target_id and job.status = 'failed'
                          and (job.error_class = class or job.error_class is null and class is null)
                          and job.updated_at >= start
                        limit most_jobs) as counted);
    exact := failed < most_jobs;
    if exact then
        return;
    end if;
    before := (select count(*)
                 from (select from public.embedding_queue as job
                        where job.target_id = failed_since.target_id and job.status = 'failed'
                          and (job.error_class = class or job.error_class is null and class is null)
                          and job.updated_at < start
                        limit most_jobs) as counted);
    exact := before < most_jobs;
    if exact then
        failed := greatest(total - before, failed);
    end if;
end $$;

-- What was done from `start` on, as in embedding_stats.
create function embedding.usage_since(start timestamptz)
returns table (
    completed bigint, failed bigint, requests bigint, tokens bigint, cost double precision,
    request_p50_ms double precision, request_p95_ms double precision,
    lag_p50_ms double precision, lag_p95_ms double precision
)
language sql
stable
set search_path = '', pg_temp
as $$
    with counted as materialized (
        select usage.* from public.embedding_usage as usage where usage.minute >= usage_since.start
    ), totals as (
        select coalesce(sum(counted.completed), 0)::bigint as completed,
               coalesce(sum(counted.failed), 0)::bigint as failed,
               coalesce(sum(counted.requests), 0)::bigint as requests,
               coalesce(sum(counted.tokens), 0)::bigint as tokens,
               case when bool_and(counted.cost is not null) is not false
                    then coalesce(sum(counted.cost), 0) end::double precision as cost
          from counted
    ), request as (
        select array_agg(bucket.count order by bucket.place) as counts
          from (select entry.place, sum(entry.count)::bigint as count
                  from counted, unnest(counted.request_ms) with ordinality as entry (count, place)
                 group by entry.place) as bucket
    ), lag_ as (
        select array_agg(bucket.count order by bucket.place) as counts
          from (select entry.place, sum(entry.count)::bigint as count
                  from counted, unnest(counted.lag_ms) with ordinality as entry (count, place)
                 group by entry.place) as bucket
    )
    select totals.*,
           embedding.percentile(request.counts, 0.5), embedding.percentile(request.counts, 0.95),
           embedding.percentile(lag_.counts, 0.5), embedding.percentile(lag_.counts, 0.95)
      from totals, request, lag_;
$$;

-- What was done in the last `since`, of the 7 days that embedding_usage goes back. Milliseconds are null if
-- nothing was measured, `cost` (US dollars) if a price is not known. `hours`: what was done in each hour, and how many
-- seconds of that hour are in the period. `failures`: the jobs that failed in that time and still are; unless
-- `failed_exact`, there are more.
create function public.embedding_stats(since interval default '1 day')
returns table (
    completed bigint, failed bigint, requests bigint, tokens bigint, cost double precision,
    request_p50_ms double precision, request_p95_ms double precision,
    lag_p50_ms double precision, lag_p95_ms double precision,
    hours jsonb, failures jsonb
)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    with window_ as materialized (
        select date_trunc('minute', now() - since, 'UTC') as start
    ), by_hour as (
        select date_trunc('hour', counted.minute, 'UTC') as hour,
               sum(counted.completed) as completed, sum(counted.failed) as failed
          from public.embedding_usage as counted, window_
         where counted.minute >= window_.start
         group by 1
    ), hours as (
        select jsonb_agg(jsonb_build_object(
                   'hour', by_hour.hour, 'completed', by_hour.completed, 'failed', by_hour.failed,
                   'seconds', greatest(extract(epoch from
                       least(by_hour.hour + interval '1 hour', now())
                       - greatest(by_hour.hour, window_.start)), 60))
                   order by by_hour.hour) as hours
          from by_hour, window_
    ), classes as (
        select known.error_class, sum(recent.failed)::bigint as failed, bool_and(recent.exact) as failed_exact,
               max(known.latest_at) as latest_at,
               (array_agg(known.latest_message order by known.latest_at desc))[1] as latest_message
          from public.embedding_failures as known
          join public.embedding_targets as target using (table_name, embedding_column)
         cross join window_
         cross join lateral embedding.failed_since(target.id, known.error_class, known.failed, window_.start) as recent
         where known.latest_at >= window_.start
         group by known.error_class
    )
    select done.*,
           coalesce(hours.hours, '[]'),
           coalesce((select jsonb_agg(to_jsonb(classes) order by classes.failed desc, classes.error_class)
                       from classes), '[]')
      from window_ cross join lateral embedding.usage_since(window_.start) as done cross join hours;
$$;

select embedding.protect_functions('embedding.percentile', 'embedding.failed_since', 'embedding.usage_since');
select embedding.let_workers_call('public.embedding_stats');
