-- Why:   a worker claims jobs with `claim_embeddings` and gets their texts.
-- Locks: row locks on the claimed jobs, for the length of the call. It never waits for a lock: it skips locked rows
--        and tables. No transaction stays open after it.
-- Undo:  drop function public.claim_embeddings;

-- Claims up to `batch` due jobs of one target: the one with the highest priority, and among several the next
-- one in turn; never one of `except_targets`. Returns a row for each job, with its result:
--
--   processing  leased: embed `content`, then answer with its `id`, `lease` and `content_hash`;
--               `document_prompt`: what the model gets before the text, null if that is not decided yet;
--               `isolated`: with nothing else in flight in this process; `truncate`: if it is too long,
--               as much of its beginning as the model takes; `waited`: for how many seconds it has been
--               due, null for jobs below the priority of their target, as from a backfill;
--               `enhancement`: the model, the prompt and on_failure of the chat model; `unenhanced`: the stored vector is of
--               this text and model, but was made without what the chat model had to write
--   completed   text and model are those of the stored vector: nothing to do
--   skipped     nothing to embed: the vector is null
--   dropped     the record is deleted or outside the filter: its job and its vector are removed
--   failed      claimed `max_attempts` times without an answer, embedded twice as often without being written,
--               or its text cannot be read
--   pending     another session is writing the row, or reading it took too long: it is due again later
--
-- No row at all means that nothing is due. A job whose lease has expired is due again. A column whose model was not
-- chosen, and that holds vectors of another model than `default_model`, is skipped.
-- Raises lock_not_available if all due jobs are in tables that are locked as a whole.
create function public.claim_embeddings(
    worker text,
    batch integer default 100,
    lease_for interval default '5 minutes',
    default_model text default null,
    only_table text default null,
    only_column text default null,
    except_targets integer[] default '{}'
)
returns setof embedding.claimed_job
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    target public.embedding_targets;
    ids bigint[];
    fault text;
    cause text;
    locked_table text;
    due_target integer;
    level smallint;
    first_owner integer;
    first_due timestamptz;
    context text;
begin
    for due_target, level, first_owner, first_due in
        select * from embedding.due_targets(default_model, only_table, only_column, except_targets)
    loop
        select * into target from public.embedding_targets as watched where watched.id = due_target;
        begin
            perform embedding.open_table(target, 'row share');
            select spot.cause into fault
              from embedding.blind_spot(target.relation::regclass, target.id, true) as spot limit 1;
        exception
            when lock_not_available then
                locked_table := target.table_name;
                continue;
            when syntax_error_or_access_rule_violation or invalid_schema_name then
                get stacked diagnostics context = pg_exception_context;
                fault := embedding.describe_error(sqlstate, sqlerrm, context); -- the table or a right is missing
        end;
        if fault is null then
            ids := embedding.due_jobs(target, batch, level, first_owner, first_due);
            continue when ids = '{}';
            begin
                return query select * from embedding.claim(target, ids, worker, lease_for, default_model);
                return;
            exception when others or query_canceled or assert_failure then
                get stacked diagnostics context = pg_exception_context;
                cause := embedding.describe_error(sqlstate, sqlerrm, context);
                if embedding.is_of_the_server(sqlstate, context) then
                    raise;
                elsif not embedding.is_timeout(sqlstate) then
                    fault := embedding.fault_of_table(target, sqlstate, cause);
                elsif cardinality(ids) > 1 then
                    raise; -- the timeout of this statement is used up: the caller has to claim fewer
                else
                    return query select * from embedding.fail_unreadable(target, ids, cause, true);
                    return;
                end if;
            end;
            if fault is null then
                return query select * from embedding.claim_in_parts(target, ids, worker, lease_for, default_model);
                return;
            end if;
        end if;
        -- suspended, so that the other targets continue
        update public.embedding_targets as broken set problem = fault where broken.id = target.id;
    end loop;
    if locked_table is not null then
        raise exception 'table % is locked by another session', locked_table using errcode = 'lock_not_available';
    end if;
end $$;

select embedding.let_workers_call('public.claim_embeddings');
