-- Why:   a re-embedding moves from state to state, and people swap its targets, and swap them back, at any moment.
-- Locks: the migration nothing. A call locks the row of a re-embedding and, to swap, the rows of its two targets; never
--        the watched table. To swap, it waits a second for them, unless lock_timeout is set, and changes nothing if it does not
--        get them: call it again.
-- Undo:  drop function public.rollback_reembedding, public.swap_reembedding, public.advance_reembedding,
--        public.resume_reembedding, public.pause_reembedding, embedding.serve, embedding.enter_state,
--        embedding.lock_reembedding, embedding.lock_serving;

-- The serving target of a named column, locked. Raises if there is none.
create function embedding.lock_serving(watched_table text, named_column text)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
declare
    serving public.embedding_targets;
begin
    select * into serving from public.embedding_targets as known
     where known.table_name = watched_table and coalesce(known.serves, known.embedding_column) = named_column
       and known.role = 'serving' and known.kind = 'embed'
       for update;
    if not found then
        raise exception 'column % of table % is not watched', named_column, watched_table
            using errcode = 'undefined_object',
                  hint = 'Register it first: select watch_embeddings(table, source, embedding_column).';
    end if;
    return serving;
end $$;

-- The latest re-embedding of a named column, locked. Raises unless it is in one of the expected states: of two operators at
-- once, the second waits here, and learns what the first did.
create function embedding.lock_reembedding(watched_table text, named_column text, expected text[])
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
    latest public.embedding_audit;
begin
    select * into reembedding from public.embedding_reembeddings as known
     where known.table_name = watched_table and known.embedding_column = named_column
     order by known.id desc limit 1
       for update;
    if not found then
        raise exception 'column % of table % is not re-embedded', named_column, watched_table
            using errcode = 'undefined_object',
                  hint = 'Begin it first: select start_reembedding(table, embedding_column, model, dimensions).';
    elsif reembedding.state <> all (expected) then
        select * into latest from public.embedding_audit as event
         where event.reembedding_id = reembedding.id order by event.id desc limit 1;
        raise exception 'the re-embedding of column % of table % is %, not %', named_column, watched_table, reembedding.state,
                        array_to_string(expected, ' or ')
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('The last step, %s, was taken by %s (%s) at %s.', latest.event, latest.actor, latest.source,
                                date_trunc('second', latest.at));
    end if;
    return reembedding;
end $$;

-- Moves a locked re-embedding to its next state, with the event. A `problem` among the figures is why a stage failed.
create function embedding.enter_state(
    reembedding public.embedding_reembeddings, next text, event text, source text, figures jsonb
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    moved public.embedding_reembeddings;
begin
    update public.embedding_reembeddings as known
       set state = next, problem = figures ->> 'problem', updated_at = now(),
           swapped_at = case when next = 'swapped' then now()
                             when next = 'finished' then known.swapped_at end,
           ended_at = case when next in ('finished', 'cancelled') then now() end
     where known.id = reembedding.id and known.state = reembedding.state
    returning known.* into moved;
    perform embedding.record_event(moved, event, reembedding.state, source, figures);
    return moved;
end $$;

-- Stops filling the new vectors. Edits are queued meanwhile.
create function public.pause_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding constant public.embedding_reembeddings := embedding.lock_reembedding(table_name, embedding_column, '{filling}');
begin
    update public.embedding_targets as new set enabled = false where new.id = reembedding.new_target;
    return embedding.enter_state(reembedding, 'paused', 'paused', source, figures);
end $$;

-- Goes on filling them.
create function public.resume_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding constant public.embedding_reembeddings := embedding.lock_reembedding(table_name, embedding_column, '{paused}');
begin
    update public.embedding_targets as new set enabled = true where new.id = reembedding.new_target;
    return embedding.enter_state(reembedding, 'filling', 'resumed', source, figures);
end $$;

-- Moves a re-embedding from one stage to the next, filling, indexing, verifying, ready, or back to filling. `next` the same as
-- `expected` records a `problem` among the figures.
create function public.advance_reembedding(
    table_name text, embedding_column text, expected text, next text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if not coalesce((expected, next) in (
           ('filling', 'indexing'), ('indexing', 'verifying'), ('verifying', 'ready'), ('indexing', 'filling'),
           ('verifying', 'filling'), ('ready', 'filling'))
           or expected = next and expected in ('filling', 'indexing', 'verifying', 'ready'), false) then
        raise exception 'a re-embedding does not go from % to %', quote_nullable(expected), quote_nullable(next)
            using errcode = 'invalid_parameter_value',
                  hint = 'It goes from filling to indexing, verifying and ready, and back to filling.';
    end if;
    return embedding.enter_state(
        embedding.lock_reembedding(table_name, embedding_column, array[expected]), next,
        case when expected = next then 'problem' else next end, source, figures);
end $$;

-- Lets one target of a re-embedding serve the named column in place of the other, which gets `role`. They exchange
-- their priorities and goals, and the match function is overwritten. Nothing of it locks the watched table.
create function embedding.serve(next_target integer, present_target integer, present_role text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    next public.embedding_targets;
    present public.embedding_targets;
    problem text;
begin
    perform from public.embedding_targets as known where known.id in (next_target, present_target) order by known.id for update;
    select * into next from public.embedding_targets as known where known.id = next_target;
    select * into present from public.embedding_targets as known where known.id = present_target;
    problem := coalesce(next.problem, embedding.identity_problem(next),
                        case when to_regclass(next.relation) is null then format('table %s no longer exists', next.relation) end);
    if problem is not null then
        raise exception 'column % of table % cannot serve searches: %', next.embedding_column, next.table_name, problem
            using errcode = 'object_not_in_prerequisite_state', hint = 'Watch it again first.';
    end if;
    update public.embedding_targets as known
       set role = present_role, priority = next.priority, coverage_goal = next.coverage_goal where known.id = present.id;
    update public.embedding_targets as known
       set role = 'serving', priority = present.priority, coverage_goal = present.coverage_goal where known.id = next.id;
    perform embedding.keep_match_function(next, null);
end $$;

-- Lets the new target serve. It has to be ready, or the figures say that it is not verified: {"verified": false}.
create function public.swap_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
begin
    perform set_config('lock_timeout', '1s', true) where current_setting('lock_timeout') = '0';
    reembedding := embedding.lock_reembedding(
        table_name, embedding_column,
        case when figures @> '{"verified": false}' then '{ready,verifying,indexing}' else '{ready}' end::text[]);
    perform embedding.serve(reembedding.new_target, reembedding.old_target, 'retired');
    return embedding.enter_state(reembedding, 'swapped', 'swapped', source, figures);
exception when lock_not_available then
    perform embedding.raise_locked(null, null);
end $$;

-- Lets the old target serve again, which was kept in step.
create function public.rollback_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
begin
    perform set_config('lock_timeout', '1s', true) where current_setting('lock_timeout') = '0';
    reembedding := embedding.lock_reembedding(table_name, embedding_column, '{swapped}');
    perform embedding.serve(reembedding.old_target, reembedding.new_target, 'shadow');
    return embedding.enter_state(reembedding, 'ready', 'rolled_back', source, figures);
exception when lock_not_available then
    perform embedding.raise_locked(null, null);
end $$;

select embedding.protect_functions(
    'embedding.lock_serving', 'embedding.lock_reembedding', 'embedding.enter_state', 'embedding.serve',
    'public.pause_reembedding', 'public.resume_reembedding', 'public.advance_reembedding', 'public.swap_reembedding',
    'public.rollback_reembedding');
