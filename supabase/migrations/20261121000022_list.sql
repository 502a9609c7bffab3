-- Why:   a person sees the jobs themselves with the beginnings of their texts, has those embedded again whose
--        text or id matches a pattern, and sees what was done in a span of time.
-- Locks: reading, nothing. Reprocessing, row locks on the jobs that match; one that is locked is being edited, and
--        passed over. A table that is locked as a whole is waited for a second; then it is left unread by a list,
--        and reprocessing raises.
-- Undo:  drop function public.list_embeddings, public.reprocess_embeddings, embedding.readable_texts,
--        embedding.texts, embedding.first_jobs, public.embedding_stats, embedding.percentile;

-- The first jobs of a target in one of three states, in the order of the index that is kept of them: pending as a
-- claim meets them, processing by the end of their lease, failed by their class, the latest first. As
-- many as asked for are read, whatever the length of the queue: the plan is pinned, as in embedding_due_jobs.
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

-- The beginnings of the texts of jobs of a target, as a model would be given them now; null: there is none. With a
-- `pattern`, of those whose text or record id matches it: a glob of the whole (* any characters, ? one), or
-- behind a ~ a regular expression of a part.
create function embedding.texts(
    target public.embedding_targets, ids bigint[], pattern text, characters integer
)
returns table (id bigint, beginning text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return query execute format($sql$
        select eq_id, convert_from(convert_to(left(eq_content, $3), 'UTF8'), 'UTF8') -- raises if it is no text: SQL_ASCII
          from (select eq_job.*, coalesce(eq_given, eq_text) as eq_content
                  from (select id as eq_id, record_id as eq_record, content as eq_given
                          from public.embedding_queue
                         where id = any ($1)) as eq_job
                  left join lateral (
                        select (%1$s)::text as eq_text from %2$s where %3$s and (%4$s)) as eq_found on true) as eq_read
         where $2 is null
            or eq_content collate pg_catalog."default" %5$s $2 or eq_record collate pg_catalog."default" %5$s $2
        $sql$,
        target.source, target.relation, target.record_match_sql, coalesce(target.filter, 'true'),
        case when starts_with(pattern, '~') then '~' else 'like' end)
    using ids,
          case when starts_with(pattern, '~') then substr(pattern, 2)
               else translate(regexp_replace(pattern, '[\\%_]', '\\\&', 'g'), '*?', '%_') end,
          characters;
end $$;

-- The same, without the jobs whose text cannot be read: halving finds a row that raises an error among many.
create function embedding.readable_texts(
    target public.embedding_targets, ids bigint[], pattern text, characters integer
)
returns table (id bigint, beginning text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    middle constant integer := cardinality(ids) / 2;
begin
    begin
        perform embedding.check_table(target.relation);
        -- no row is read: if this fails, the table cannot be read now, or not any more
        perform from embedding.texts(target, '{}', pattern, characters);
    exception when others then
        return;
    end;
    return query select * from embedding.texts(target, ids, pattern, characters);
exception
    when others or query_canceled or assert_failure then
        if embedding.is_timeout(sqlstate) then
            raise;
        elsif middle > 0 then
            return query
            select * from embedding.readable_texts(target, ids[:middle], pattern, characters)
            union all
            select * from embedding.readable_texts(target, ids[middle + 1:], pattern, characters);
        end if;
end $$;

-- The jobs in the given states, state by state, with the beginning of the text of each (null if it has none, it
-- cannot be read, or its column is not worked on: a worker sees here what a claim could show it): up to `max_rows`,
-- 1000 at most. Of each column the first ones are looked at, in the order of embedding.first_jobs; together they
-- come: processing by the end of the lease, pending by priority and due time, failed by class, the latest first.
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

-- Makes jobs pending again, as requeue_embeddings does, whatever their status, whose text or record id matches
-- `pattern`: see embedding.texts; of the columns that are worked on. Looks at `batch` jobs behind `after_id`, in the
-- order of their ids, and returns how many matched, up to which id it looked (null: there are no more), and up to
-- three of the matches. With `dry_run` it writes nothing. Raises lock_not_available if a table is locked as a whole:
-- which of its texts match is not known.
create function public.reprocess_embeddings(
    pattern text,
    only_table text default null,
    only_column text default null,
    after_id bigint default 0,
    batch integer default 2000,
    dry_run boolean default false
)
returns table (matched integer, looked_to bigint, examples jsonb)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min'
as $$
declare
    target public.embedding_targets;
    page bigint[];
    found bigint[];
    all_found bigint[] := '{}';
    more_examples jsonb;
begin
    begin
        -- not by a WHERE: the planner would try what stands behind the first letter of a glob as well
        if starts_with(pattern, '~') then
            perform '' ~ substr(pattern, 2);
        end if;
    exception
        when invalid_regular_expression then
            raise exception '%', sqlerrm
                using errcode = 'invalid_regular_expression',
                      hint = 'What stands behind the ~ is read as a regular expression of Postgres.';
    end;
    matched := 0;
    examples := '[]';
    page := array(select job.id from public.embedding_queue as job
                   where job.id > after_id
                     and (only_table is null or job.table_name = only_table)
                     and (only_column is null or job.embedding_column = only_column)
                   order by job.id limit batch);
    looked_to := page[cardinality(page)];
    for target in
        select * from public.embedding_targets as watched
         where watched.enabled and watched.problem is null
           and watched.id in (select job.target_id from public.embedding_queue as job where job.id = any (page))
         order by watched.id
    loop
        begin
            execute format('lock table only %s in access share mode', target.relation);
        exception
            when lock_not_available then
                raise exception 'table % is locked by another session', target.table_name
                    using errcode = 'lock_not_available';
            when syntax_error_or_access_rule_violation or invalid_schema_name then
                continue; -- there is no such table any more
        end;
        select coalesce(array_agg(read.id), '{}'),
               coalesce(jsonb_agg(jsonb_build_object(
                   'table_name', job.table_name, 'embedding_column', job.embedding_column,
                   'record_id', job.record_id, 'status', job.status, 'preview', read.beginning)
                   order by job.id) filter (where read.number <= 3), '[]')
          into found, more_examples
          from (select *, row_number() over (order by texts.id) as number
                  from embedding.readable_texts(
                           target,
                           array(select one.id from public.embedding_queue as one
                                  where one.id = any (page) and one.target_id = target.id),
                           pattern, 200) as texts) as read
          join public.embedding_queue as job on job.id = read.id;
        all_found := all_found || found;
        examples := examples || more_examples;
    end loop;
    examples := jsonb_path_query_array(examples, '$[0 to 2]');
    if dry_run then
        matched := cardinality(all_found);
    elsif all_found <> '{}' then
        update public.embedding_queue as job
           set status = 'pending', attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0, available_at = now(), content_hash = null,
               error_message = null, error_class = null,
               lease = null, lease_expires_at = null, worker = null, updated_at = now()
         where job.id in (select wanted.id from public.embedding_queue as wanted
                           where wanted.id = any (all_found) order by wanted.id
                             for update skip locked);
        get diagnostics matched = row_count;
        perform embedding.wake();
    end if;
    return next;
end $$;

-- The length in milliseconds below which `share` of what a histogram counts lies, by linear interpolation within
-- its bucket. Null of nothing. Bucket i, from 0, has what took above 10^((i-1)/4) ms, the first from 0, up to
-- 10^(i/4) ms; the last, of index 27, all that took longer than 53 minutes.
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

-- What was done in the last `since`, of the 7 days that embedding_usage goes back. Milliseconds are null where
-- nothing was measured, `cost` (US dollars) where a price is not known. `hours`: what was done by the hour, and how
-- many seconds of that hour are meant. `failures`: the jobs that failed in that time and still are.
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
    ), counted as materialized (
        select usage.* from public.embedding_usage as usage, window_ where usage.minute >= window_.start
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
    ), by_hour as (
        select date_trunc('hour', counted.minute, 'UTC') as hour,
               sum(counted.completed) as completed, sum(counted.failed) as failed
          from counted
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
        select job.error_class, count(*) as failed, max(job.updated_at) as latest_at,
               (array_agg(job.error_message order by job.updated_at desc))[1] as latest_message
          from public.embedding_queue as job, window_
         where job.status = 'failed' and job.updated_at >= window_.start
         group by job.error_class
    )
    select totals.*,
           embedding.percentile(request.counts, 0.5), embedding.percentile(request.counts, 0.95),
           embedding.percentile(lag_.counts, 0.5), embedding.percentile(lag_.counts, 0.95),
           coalesce(hours.hours, '[]'),
           coalesce((select jsonb_agg(to_jsonb(classes) order by classes.failed desc, classes.error_class)
                       from classes), '[]')
      from totals, request, lag_, hours;
$$;
