-- Why:   a person sees all that is known of a job, and its text only on request, which is recorded.
-- Locks: nothing. It waits for a table that is locked as a whole for a second, and then does not read it.
-- Undo:  drop function public.reveal_embedding_text, public.embedding_job;

-- A job as a JSON object, or null: its columns but for its text, and of its target `target_model`, `dimensions`, `enabled` and
-- `problem`; whether its column is `in_chunks` and it has a text that was given by hand (`by_hand`); and the `desired_state` of
-- its worker, null without a command.
create function public.embedding_job(id bigint)
returns jsonb
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select to_jsonb(job) - 'content' || jsonb_build_object(
               'target_model', target.model, 'dimensions', target.dimensions, 'enabled', target.enabled,
               'problem', target.problem, 'in_chunks', target.chunk_format is not null, 'by_hand', job.content is not null,
               'desired_state', (select command.desired_state from public.embedding_command(job.worker) as command))
      from public.embedding_queue as job
      join public.embedding_targets as target on target.id = job.target_id
     where job.id = embedding_job.id;
$$;

-- The text of a job, at most 20,000 characters of it; null if there is no such job, it has no text, or its text cannot be read.
-- A worker sees only what a claim could show it. That somebody looked is recorded.
create function public.reveal_embedding_text(id bigint, source text default 'sql')
returns text
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
set lock_timeout = '1s'
as $$
declare
    most_characters constant integer := 20000;
    job public.embedding_queue;
    target public.embedding_targets;
begin
    select * into job from public.embedding_queue as known where known.id = reveal_embedding_text.id;
    select * into target from public.embedding_targets as watched
     where watched.id = job.target_id and watched.enabled and watched.problem is null;
    if target.id is null then
        return null;
    end if;
    perform embedding.audit(
        'text_revealed', job.table_name, job.embedding_column, source,
        jsonb_build_object('record_id', left(job.record_id, 200)));
    return (select read.beginning from embedding.readable_texts(target, array[job.id], null, most_characters) as read);
end $$;

select embedding.let_workers_call('public.embedding_job', 'public.reveal_embedding_text');
