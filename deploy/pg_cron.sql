-- Jobs for pg_cron: docs/deployment.md, "pg_cron".
-- Why:   where pg_cron is, the database itself looks after what no trigger has seen and no worker sweeps. Each
--        minute, up to 1000 rows of each column that lack a vector are put into the queue: rows that arrived
--        by replication, or before the column was watched. Each night, jobs whose model failed for a time are tried
--        again, at most 10000 of each class; and what workers said that are gone, counters older than a week, and what
--        pg_cron writes down about these jobs are deleted.
-- Locks: nothing that a running application uses; the jobs themselves lock what `worker backfill` does.
-- Undo:  select cron.unschedule(jobname) from cron.job where jobname in ('embedding-backfill', 'embedding-retry', 'embedding-cleanup');
--
-- Without pg_cron it says so and does nothing. It may be run again: a job of the same name is replaced. Vectors
-- are still made by workers; this only puts rows into their queue.
do $migration$
begin
    if to_regclass('cron.job') is null then
        raise notice 'pg_cron is not enabled: nothing is scheduled; enable it, then run this file again';
        return;
    end if;
    perform cron.schedule('embedding-backfill', '* * * * *', $job$
        select public.backfill_embeddings(table_name, embedding_column, 1000)
          from public.embedding_targets
         where enabled and problem is null
    $job$);
    perform cron.schedule('embedding-retry', '7 3 * * *', $job$
        select public.requeue_embeddings('failed'::text, null::text, null::text, null::text, class, 0::bigint, 10000,
                                         null::timestamptz, 'sql'::text, null::bigint[])
          from unnest(array['provider_error', 'timed_out', 'bad_answer']) as class
    $job$);
    perform cron.schedule('embedding-cleanup', '17 3 * * *', $job$
        delete from public.embedding_workers where seen_at < now() - interval '1 day';
        delete from public.embedding_usage where minute < now() - interval '7 days';
        delete from cron.job_run_details
         where end_time < now() - interval '7 days'
           and jobid in (select jobid from cron.job where jobname in ('embedding-backfill', 'embedding-retry', 'embedding-cleanup'))
    $job$);
end $migration$;
