-- Why:   statistics by minute and model: rate, tokens and cost. Their size, and the work to write them, grows with time
--        and not with the number of texts, since heartbeats write them.
-- Locks: the rows of the running minute, for the length of a heartbeat. Only other heartbeats use them, and all lock
--        them in the order of the models.
-- Undo:  drop function public.embedding_rate, embedding.count_usage, embedding.counts_and, embedding.counts_since;
--        drop table public.embedding_usage;

create table public.embedding_usage (
    minute timestamptz not null,
    model text not null,
    completed bigint not null default 0,           -- jobs
    failed bigint not null default 0,
    requests bigint not null default 0,
    tokens bigint not null default 0,
    seconds double precision not null default 0,   -- of work, of all workers together
    cost numeric,                                  -- US dollars; null: the price of some of it is not known
    request_ms bigint[] not null default '{}',     -- histograms, see embedding.percentile: how long requests took ...
    lag_ms bigint[] not null default '{}',         -- ... and jobs, from when they were due until they had their vector
    primary key (minute, model)
);

-- The increase of the counts of a histogram. A count that is missing, or lower than before, adds nothing.
create function embedding.counts_since(before bigint[], after bigint[])
returns bigint[]
language sql
immutable
set search_path = '', pg_temp
as $$
    select coalesce(array_agg(greatest(coalesce(pair.after, 0) - coalesce(pair.before, 0), 0) order by pair.place), '{}')
      from unnest(before, after) with ordinality as pair (before, after, place);
$$;

-- The sum of the counts of two histograms.
create function embedding.counts_and(one bigint[], other bigint[])
returns bigint[]
language sql
immutable
set search_path = '', pg_temp
as $$
    select coalesce(array_agg(coalesce(pair.one, 0) + coalesce(pair.other, 0) order by pair.place), '{}')
      from unnest(one, other) with ordinality as pair (one, other, place);
$$;

-- Adds to the running minute what a worker has done since its last report: the difference between two
-- reports, both with totals since it started. Returns the totals to store: the higher of each pair, so that
-- a call that is repeated, or arrives late, adds nothing.
create function embedding.count_usage(before jsonb, after jsonb)
returns jsonb
language sql
set search_path = '', pg_temp
as $$
    with said as materialized (
        select * from jsonb_to_recordset(before) as entry (
            model text, completed bigint, failed bigint, requests bigint, tokens bigint,
            seconds double precision, cost numeric, request_ms bigint[], lag_ms bigint[])
    ), says as materialized (
        select * from jsonb_to_recordset(after) as entry (
            model text, completed bigint, failed bigint, requests bigint, tokens bigint,
            seconds double precision, cost numeric, request_ms bigint[], lag_ms bigint[])
    ), known as materialized (
        select model,
               greatest(said.completed, says.completed, 0) as completed,
               greatest(said.failed, says.failed, 0) as failed,
               greatest(said.requests, says.requests, 0) as requests,
               greatest(said.tokens, says.tokens, 0) as tokens,
               greatest(said.seconds, says.seconds, 0) as seconds,
               greatest(said.cost, says.cost) as cost,
               embedding.counts_and(
                   said.request_ms, embedding.counts_since(said.request_ms, says.request_ms)) as request_ms,
               embedding.counts_and(
                   said.lag_ms, embedding.counts_since(said.lag_ms, says.lag_ms)) as lag_ms
          from said full join says using (model)
    ), news as materialized (
        select model,
               known.completed - coalesce(said.completed, 0) as completed,
               known.failed - coalesce(said.failed, 0) as failed,
               known.requests - coalesce(said.requests, 0) as requests,
               known.tokens - coalesce(said.tokens, 0) as tokens,
               known.seconds - coalesce(said.seconds, 0) as seconds,
               case when says.cost is not null then known.cost - coalesce(said.cost, 0) end as cost,
               embedding.counts_since(said.request_ms, says.request_ms) as request_ms,
               embedding.counts_since(said.lag_ms, says.lag_ms) as lag_ms
          from known join says using (model) left join said using (model)
    ), counted as (
        insert into public.embedding_usage as counted
               (minute, model, completed, failed, requests, tokens, seconds, cost, request_ms, lag_ms)
        select date_trunc('minute', now(), 'UTC'), model, completed, failed, requests, tokens, seconds, cost,
               request_ms, lag_ms
          from news
         where completed > 0 or failed > 0 or requests > 0 or tokens > 0 or cost > 0
         order by model
        on conflict on constraint embedding_usage_pkey do update
           set completed = counted.completed + excluded.completed,
               failed = counted.failed + excluded.failed,
               requests = counted.requests + excluded.requests,
               tokens = counted.tokens + excluded.tokens,
               seconds = counted.seconds + excluded.seconds,
               cost = counted.cost + excluded.cost, -- unknown if either is
               request_ms = embedding.counts_and(counted.request_ms, excluded.request_ms),
               lag_ms = embedding.counts_and(counted.lag_ms, excluded.lag_ms)
    )
    select coalesce(jsonb_agg(to_jsonb(known) order by model), '[]') from known;
$$;

-- The jobs a second that a worker has completed with a model in the last week. Null if there was none.
create function public.embedding_rate(model text)
returns double precision
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select sum(counted.completed) / nullif(sum(counted.seconds), 0)
      from public.embedding_usage as counted
     where counted.model = embedding_rate.model;
$$;

select embedding.let_workers_read('public.embedding_usage');
select embedding.protect_functions('embedding.counts_since', 'embedding.counts_and', 'embedding.count_usage');
select embedding.let_workers_call('public.embedding_rate');
