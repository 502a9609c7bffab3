-- Why:   some problems of a column show only in its vectors.
-- Locks: nothing. It reads a few rows of each watched table, and skips a table that is locked as a whole.
-- Undo:  drop function public.sample_embeddings, embedding.sample_column;

-- Compares these jobs of a column with their rows, for at most a second. Finds vectors that are lost, whose text is still the one
-- that was embedded, and texts that changed without a write. Damage that a check has already found is not reported twice.
create function embedding.sample_column(target public.embedding_targets, ids bigint[])
returns setof embedding.finding
language plpgsql
set search_path = '', pg_temp
as $$
declare
    until constant timestamptz := clock_timestamp() + interval '1 second';
    column_name constant text := format('%s.%I', target.table_name, target.embedding_column);
    changed bigint[];
    differing bigint[];
    looked integer := 0;
    lost integer := 0;
    differ integer := 0;
begin
    begin
        execute format('lock table only %s in access share mode nowait', target.relation);
        perform embedding.check_table(target.relation);
        perform embedding.changed_jobs(target, '{}');
        while looked < cardinality(ids) and clock_timestamp() < until loop
            changed := embedding.changed_jobs(target, ids[looked + 1:looked + 10]);
            differing := embedding.changed_jobs(target, changed, true);
            lost := lost + cardinality(changed) - cardinality(differing);
            differ := differ + cardinality(differing);
            looked := least(looked + 10, cardinality(ids));
        end loop;
    exception when others then
        return; -- it cannot be read now: diagnose_embeddings or the next claim reports why
    end;
    return query
    select 'problem', 'vectors_damaged', column_name, format('%s of %s vectors of the sample are lost', lost, looked),
           format('Run `worker verify %s --column %s --repair`.', target.table_name, target.embedding_column)
     where lost > 0 and not exists (select from embedding.diagnose_damage() as known where known.subject = column_name)
    union all
    select 'problem', 'texts_changed', column_name,
           format('%s of %s texts differ from what was embedded, and no trigger saw it', differ, looked),
           format('Run `worker recheck --table %s --column %s`, then `worker process`.', target.table_name, target.embedding_column)
     where differ > 0;
end $$;

-- Finds problems that only the vectors show: columns that hold vectors of more than one model, vectors that are lost, and texts
-- that changed without a write. It compares `sample` random jobs of each column with their rows, for at most a second per
-- column. Returns rows like those of diagnose_embeddings.
create function public.sample_embeddings(sample integer default 100)
returns table (level text, check_name text, subject text, cause text, hint text)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
#variable_conflict use_column
declare
    counted constant numeric := 1024 * 1024 * 1024; -- bytes of the queue: about a second
    sampled constant numeric := 64 * 1024 * 1024;   -- and as much as gives each column its sample
    size constant numeric := greatest(pg_relation_size('public.embedding_queue'), 1);
    jobs bigint[];
    target_ids integer[];
    target public.embedding_targets;
begin
    return query
    select 'problem', 'several_models', format('%s.%I', target.table_name, target.embedding_column),
           'the column holds vectors of more than one model, which cannot be compared: '
               || string_agg(format('%s (%s)', found.model, found.jobs), ', ' order by found.jobs desc, found.model),
           format('Run `worker recheck --table %s --column %s`, then `worker process`.',
                  target.table_name, target.embedding_column)
      from (select job.target_id, job.model, count(*) as jobs
              from public.embedding_queue as job tablesample system (least(100, 100 * counted / size))
             where job.status = 'completed' and job.model is not null
             group by job.target_id, job.model) as found
      join public.embedding_targets as target on target.id = found.target_id
     group by target.id
    having count(*) > 1
     order by 3;

    select array_agg(picked.id), array_agg(picked.target_id) into jobs, target_ids
      from (select job.id, job.target_id,
                   row_number() over (partition by job.target_id order by random()) as place
              from public.embedding_queue as job tablesample system (least(100, 100 * sampled / size))
             where job.status in ('completed', 'skipped')) as picked
     where picked.place <= sample;
    for target in
        select * from public.embedding_targets as watched
         where watched.enabled and watched.problem is null and watched.id = any (target_ids)
         order by watched.table_name, watched.embedding_column
    loop
        return query
        select * from embedding.sample_column(
            target, array(select picked.id from unnest(jobs, target_ids) as picked (id, target_id)
                           where picked.target_id = target.id));
    end loop;
end $$;

select embedding.protect_functions('embedding.sample_column');
select embedding.let_workers_call('public.sample_embeddings');
