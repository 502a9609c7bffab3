-- Why:   four steps of a re-embedding went further than they may. The last vectors could be dropped although the new ones cannot
--        serve; workers embedded what a conversion was to cast, after a pause; new vectors that were never verified counted as
--        verified after a swap without verification, and a rollback; and those that did not pass another verification stayed ready.
-- Locks: nothing.
-- Undo:  create embedding.serve, public.advance_reembedding, public.resume_reembedding and public.rollback_reembedding again as
--        `..._swap.sql` has them, and public.finish_reembedding as `..._end_reembedding.sql` has it; drop function
--        embedding.check_serves;

-- Raises if a target cannot serve searches.
create function embedding.check_serves(target public.embedding_targets)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    problem constant text := coalesce(
        target.problem, embedding.identity_problem(target),
        case when to_regclass(target.relation) is null then format('table %s no longer exists', target.relation) end);
begin
    if problem is not null then
        raise exception 'column % of table % cannot serve searches: %', target.embedding_column, target.table_name, problem
            using errcode = 'object_not_in_prerequisite_state',
                  hint = case when to_regclass(target.relation) is not null then 'Watch it again first.'
                              else 'Watch it again first; or, if it was dropped, finish the re-embedding, and unwatch its columns.' end;
    end if;
end $$;

-- Lets one target of a re-embedding serve the named column in place of the other, which gets `role`. They exchange
-- their priorities and goals, and the match function is overwritten. Nothing of it locks the watched table.
create or replace function embedding.serve(next_target integer, present_target integer, present_role text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    next public.embedding_targets;
    present public.embedding_targets;
begin
    perform from public.embedding_targets as known where known.id in (next_target, present_target) order by known.id for update;
    select * into next from public.embedding_targets as known where known.id = next_target;
    select * into present from public.embedding_targets as known where known.id = present_target;
    perform embedding.check_serves(next);
    update public.embedding_targets as known
       set role = present_role, priority = next.priority, coverage_goal = next.coverage_goal where known.id = present.id;
    update public.embedding_targets as known
       set role = 'serving', priority = present.priority, coverage_goal = present.coverage_goal where known.id = next.id;
    perform embedding.keep_match_function(next, null);
end $$;

-- Moves a re-embedding from one stage to the next, filling, indexing, verifying, ready, or back to filling; and from ready back to
-- verifying. `next` the same as `expected` records a `problem` among the figures.
create or replace function public.advance_reembedding(
    table_name text, embedding_column text, expected text, next text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if not coalesce((expected, next) in (
           ('filling', 'indexing'), ('indexing', 'verifying'), ('verifying', 'ready'), ('indexing', 'filling'),
           ('verifying', 'filling'), ('ready', 'filling'), ('ready', 'verifying'))
           or expected = next and expected in ('filling', 'indexing', 'verifying', 'ready'), false) then
        raise exception 'a re-embedding does not go from % to %', quote_nullable(expected), quote_nullable(next)
            using errcode = 'invalid_parameter_value',
                  hint = 'It goes from filling to indexing, verifying and ready, and back to filling; from ready also to verifying.';
    end if;
    return embedding.enter_state(
        embedding.lock_reembedding(table_name, embedding_column, array[expected]), next,
        case when expected = next then 'problem' else next end, source, figures);
end $$;

-- Goes on filling them. Those of a conversion are cast first: embedding.cast_embeddings lets workers begin.
create or replace function public.resume_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding constant public.embedding_reembeddings := embedding.lock_reembedding(table_name, embedding_column, '{paused}');
begin
    update public.embedding_targets as new set enabled = true
     where new.id = reembedding.new_target and reembedding.config @> '{"cast": true}' is not true;
    return embedding.enter_state(reembedding, 'filling', 'resumed', source, figures);
end $$;

-- Lets the old target serve again, which was kept in step. The re-embedding is back in the state in which it was swapped: new
-- vectors that were not verified then are not now.
create or replace function public.rollback_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings;
    swapped_in text;
begin
    perform embedding.set_lock_timeout('1s');
    reembedding := embedding.lock_reembedding(table_name, embedding_column, '{swapped}');
    perform embedding.serve(reembedding.old_target, reembedding.new_target, 'shadow');
    select swap.from_state into swapped_in
      from public.embedding_audit as swap
     where swap.reembedding_id = reembedding.id and swap.event = 'swapped' order by swap.id desc limit 1;
    return embedding.enter_state(reembedding, coalesce(swapped_in, 'ready'), 'rolled_back', source, figures);
exception when lock_not_available then
    perform embedding.raise_locked(null, null);
end $$;

-- Ends a re-embedding that was swapped: the old vectors go, and with them the way back.
create or replace function public.finish_reembedding(
    table_name text, embedding_column text, source text default 'sql', figures jsonb default null
)
returns public.embedding_reembeddings
language plpgsql
set search_path = '', pg_temp
as $$
declare
    reembedding public.embedding_reembeddings := embedding.lock_reembedding(table_name, embedding_column, '{swapped}');
    old public.embedding_targets;
    new public.embedding_targets;
begin
    select * into new from public.embedding_targets as known where known.id = reembedding.new_target;
    if to_regclass(new.relation) is not null or exists (select from pg_class where oid = new.relation_id) then
        perform embedding.check_serves(new); -- else the old vectors are the last ones; without the table there are none
    end if;
    select * into old from public.embedding_targets as known where known.id = reembedding.old_target;
    perform embedding.check_dependents(old);
    reembedding := embedding.enter_state(
        reembedding, 'finished', 'finished', source, coalesce(figures, '{}') || embedding.kept_with_store(old));
    perform embedding.drop_store(old.id);
    return reembedding;
exception when lock_not_available then
    perform embedding.raise_locked(table_name, embedding_column);
end $$;

select embedding.protect_functions(
    'embedding.check_serves', 'embedding.serve', 'public.advance_reembedding', 'public.resume_reembedding',
    'public.rollback_reembedding', 'public.finish_reembedding');
