-- Why:   people say how much of a column should have vectors, and see how far from that it is.
-- Locks: the row of the target, for the length of a call.
-- Undo:  drop function public.set_embedding_goal;

-- Sets the percentage of the rows of a column that should have their vector; null removes it. It stays when the column is watched
-- again, and with the column when another model serves it.
create function public.set_embedding_goal(watched_table text, embedding_column text, percent real, source text default 'sql')
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    if percent <= 0 or percent > 100 then -- NaN is above all numbers
        raise exception 'the goal of a column cannot be % percent', percent
            using errcode = 'invalid_parameter_value', hint = 'Give a percentage above 0 and up to 100, or null for no goal.';
    end if;
    update public.embedding_targets as known
       set coverage_goal = percent, updated_at = now()
     where known.id = (
               select named.id from public.embedding_targets as named
                where named.table_name = watched_table
                  and set_embedding_goal.embedding_column in (named.serves, named.embedding_column)
                order by named.role = 'serving' desc limit 1);
    if not found then
        raise exception 'column % of table % is not watched', set_embedding_goal.embedding_column, watched_table
            using errcode = 'undefined_object', hint = '`worker targets` lists the watched columns.';
    end if;
    perform embedding.audit(
        'goal_set', watched_table, set_embedding_goal.embedding_column, source, jsonb_build_object('percent', percent));
end $$;

select embedding.let_workers_call('public.set_embedding_goal');
