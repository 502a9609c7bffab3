-- Why:   a text can change without a write to its row, which no trigger sees: an enum value is renamed, a generated
--        column gets another expression, a function in a source is replaced, a session turned the triggers off.
-- Locks: row locks on the jobs that recheck_embeddings makes pending, for the length of a call; it waits for none.
-- Undo:  drop function public.recheck_embeddings, embedding.changed_jobs, embedding.text_differs_sql;

-- The condition that the text of a row, eq_text, is not the one with the hash eq_old_hash, which was embedded.
create function embedding.text_differs_sql()
returns text
language sql
immutable
set search_path = '', pg_temp
as $$ select 'eq_old_hash is distinct from sha256(convert_to(eq_text, ''UTF8''))' $$;

-- Those of the given jobs of a target whose row has changed since they ended: another text, no vector, a vector of
-- another model, a row that is deleted or outside the filter, or a text where there was none. A row that cannot be
-- read counts as changed: the claim finds out what is wrong with it. Halving finds such a row among many. Without
-- jobs it raises any error of the target as a whole. `only_text`: a row without a vector has not changed by that.
create function embedding.changed_jobs(target public.embedding_targets, ids bigint[], only_text boolean default false)
returns bigint[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    middle constant integer := cardinality(ids) / 2;
    changed bigint[];
begin
    execute format($sql$
        select array(
            select eq_id
              from (select id as eq_id, record_id as eq_record, status as eq_status, content_hash as eq_old_hash,
                           model as eq_old_model
                      from public.embedding_queue
                     where id = any ($1) and status in ('completed', 'skipped')) as eq_job
              left join lateral (
                    select coalesce((%1$s), false) as eq_inside, (%2$s)::text as eq_text,
                           %3$s as eq_has_vector
                      from %4$s where %5$s) as eq_found on true
             where eq_inside is not true
                or case eq_status when 'skipped' then eq_text collate "C" ~ $2
                                  else not (eq_has_vector or $4) or eq_old_model <> $3
                                       or %6$s end)
        $sql$,
        coalesce(target.filter, 'true'), embedding.text_sql(target), embedding.has_vector_sql(target),
        target.relation, target.record_match_sql, embedding.text_differs_sql())
       into changed using ids, embedding.visible_character(), embedding.full_model(target), only_text;
    return changed;
exception
    when others then
        if cardinality(ids) = 0 then
            raise;
        elsif middle = 0 then
            return ids;
        end if;
        return embedding.changed_jobs(target, ids[:middle], only_text)
               || embedding.changed_jobs(target, ids[middle + 1:], only_text);
end $$;

-- Compares the texts of jobs that are completed or skipped with what was embedded, and makes those that differ
-- pending, ten priorities below live edits. Texts that did not change cost nothing. It checks up to `batch` jobs after
-- `after_id`, in the order of their ids, and returns how many it compared, how many of them differ, and the last id that
-- it checked (null: there are no more). It skips jobs of columns that are disabled or suspended. With `dry_run`
-- it writes nothing. Raises lock_not_available if a table is locked as a whole.
create function public.recheck_embeddings(
    only_table text default null,
    only_column text default null,
    after_id bigint default 0,
    batch integer default 2000,
    dry_run boolean default false
)
returns table (checked integer, changed integer, looked_to bigint)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '1min' -- of a call over the Data API, as in requeue_embeddings
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
    page bigint[];
    ids bigint[];
    requeued integer;
begin
    checked := 0;
    changed := 0;
    select jobs.ids, jobs.looked_to into page, looked_to
      from embedding.jobs_after(after_id, batch, only_table, only_column) as jobs;
    for target in
        select * from public.embedding_targets as watched
         where watched.enabled and watched.problem is null
           and watched.id in (select job.target_id from public.embedding_queue as job where job.id = any (page))
         order by watched.id
    loop
        begin
            execute format('lock table only %s in access share mode', target.relation);
            perform embedding.check_table(target.relation);
            perform embedding.changed_jobs(target, '{}');
        exception
            when lock_not_available then
                raise exception 'table % is locked by another session', target.table_name
                    using errcode = 'lock_not_available';
            when others then
                continue; -- it cannot be read now: the next claim reports why
        end;
        ids := array(select job.id from public.embedding_queue as job
                      where job.id = any (page) and job.target_id = target.id
                        and job.status in ('completed', 'skipped')
                      order by job.id);
        checked := checked + cardinality(ids);
        ids := embedding.changed_jobs(target, ids);
        requeued := cardinality(ids);
        if not dry_run then
            requeued := embedding.reset_jobs(
                array(select wanted.id from public.embedding_queue as wanted
                       where wanted.id = any (ids) and wanted.status in ('completed', 'skipped')
                       order by wanted.id
                         for update skip locked),
                true, greatest(target.priority - 10, -32768));
        end if;
        changed := changed + requeued;
    end loop;
    if changed > 0 and not dry_run then
        perform embedding.wake();
    end if;
    return next;
end $$;

select embedding.protect_functions('embedding.text_differs_sql', 'embedding.changed_jobs');
select embedding.let_workers_call('public.recheck_embeddings');
