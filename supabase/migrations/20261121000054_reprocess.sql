-- Why:   jobs whose text or id matches a pattern are embedded again.
-- Locks: row locks on the jobs that match; a locked job is being edited, and is skipped. It waits for a table
--        that is locked as a whole for a second, and then raises.
-- Undo:  drop function public.reprocess_embeddings, embedding.check_pattern;

-- Raises if the part after the ~ of a pattern is not a regular expression.
create function embedding.check_pattern(pattern text)
returns void
language plpgsql
immutable
set search_path = '', pg_temp
as $$
begin
    -- not in a WHERE: the planner would also evaluate a glob without its first letter
    if starts_with(pattern, '~') then
        perform '' ~ substr(pattern, 2);
    end if;
exception
    when invalid_regular_expression then
        raise exception '%', sqlerrm
            using errcode = 'invalid_regular_expression',
                  hint = 'The part after the ~ must be a regular expression of Postgres.';
end $$;

-- Makes jobs pending again, as requeue_embeddings does, whatever their status, whose text or record id matches
-- `pattern`: see embedding.texts; only of columns that are worked on. It checks up to `batch` jobs after `after_id`,
-- in the order of their ids, and returns how many matched, the last id that it checked (null: there are no more), and
-- up to three of the matches. With `dry_run` it writes nothing. Raises lock_not_available if a table is locked as a
-- whole, since its texts cannot be matched.
create function public.reprocess_embeddings(
    pattern text,
    only_table text default null,
    only_column text default null,
    after_id bigint default 0,
    batch integer default 2000,
    dry_run boolean default false,
    source text default 'sql'
)
returns table (matched integer, looked_to bigint, examples jsonb)
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
set statement_timeout = '5s' -- of a call over the Data API, as in requeue_embeddings
as $$
declare
    target public.embedding_targets;
    page bigint[];
    found bigint[];
    all_found bigint[] := '{}';
    more_examples jsonb;
begin
    perform embedding.check_pattern(pattern);
    matched := 0;
    examples := '[]';
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
        exception
            when lock_not_available then
                raise exception 'table % is locked by another session', target.table_name
                    using errcode = 'lock_not_available';
            when syntax_error_or_access_rule_violation or invalid_schema_name then
                continue; -- the table no longer exists
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
        matched := embedding.reset_jobs(
            array(select wanted.id from public.embedding_queue as wanted
                   where wanted.id = any (all_found) order by wanted.id
                     for update skip locked),
            false);
        perform embedding.wake();
    end if;
    if not dry_run then
        perform embedding.audit_batch(
            'reprocessed', only_table, only_column, source, jsonb_build_object('pattern', left(pattern, 200)), after_id = 0,
            matched, looked_to);
    end if;
    return next;
end $$;

select embedding.protect_functions('embedding.check_pattern');
select embedding.let_workers_call('public.reprocess_embeddings');
