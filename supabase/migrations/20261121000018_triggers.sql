-- Why:   every write to a watched table reaches the queue through its triggers, and costs the writer little.
-- Locks: the migration nothing. Creating triggers takes SHARE ROW EXCLUSIVE on the table (writers wait, readers do
--        not), and dropping them ACCESS EXCLUSIVE, until the transaction ends.
-- Undo:  drop function embedding.drop_triggers, embedding.make_triggers, embedding.make_trigger_function,
--        embedding.statement_trigger_sql, embedding.row_trigger_sql;

-- The part of the trigger function of a target that handles a row: for every UPDATE, and for other events where triggers
-- by statement would miss rows. See embedding.make_trigger_function.
create function embedding.row_trigger_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
                begin
                    if tg_when = 'BEFORE' then
                        new.%5$I := null;
                        return new;
                    end if;
                    if tg_op <> 'INSERT' then
                        old_id := %2$s;
                    end if;
                    if tg_op <> 'DELETE' then
                        new_id := %3$s;
                        owner := %4$s;
                    end if;
                    if old_id is distinct from new_id and old_id is not null then
                        select array_agg(eq_record), array_agg(%8$s)
                          into taken, owners
                          from (select old_id as eq_record) as eq_job join %6$s on %7$s;
                    end if;
                exception
                    when transaction_rollback or lock_not_available or insufficient_resources
                      or operator_intervention or system_error then
                        raise;
                    when others then
                        get stacked diagnostics context = pg_exception_context;
                        perform embedding.suspend_target(%1$s, embedding.describe_error(sqlstate, sqlerrm, context));
                        return new;
                end;
                if taken is not null then
                    perform embedding.enqueue_one(%1$s, taken[1], owners[1], true);
                elsif old_id is distinct from new_id and old_id is not null then
                    perform embedding.forget(%1$s, array[old_id]);
                end if;
                if new_id is not null then
                    perform embedding.enqueue_one(%1$s, new_id, owner, old_id is distinct from new_id);
                end if;
                return new;$body$,
        target.id,
        embedding.record_id_sql(target.relation::regclass, 'old', target.key_columns),
        embedding.record_id_sql(target.relation::regclass, 'new', target.key_columns),
        coalesce('new.' || quote_ident(target.user_column), 'null::uuid'),
        target.embedding_column,
        target.relation,
        format('%s and %s = eq_record', target.record_match_sql, target.record_id_sql),
        coalesce(quote_ident((parse_ident(target.relation))[2]) || '.' || quote_ident(target.user_column), 'null::uuid'));
end $$;

-- The part that handles all rows of an INSERT, a DELETE or a TRUNCATE at once.
create function embedding.statement_trigger_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
            begin
                if tg_op = 'INSERT' then
                    perform embedding.enqueue(
                                %1$s, array_agg(%2$s order by %3$s), array_agg(%4$s order by %3$s))
                       from changed;
                elsif tg_op = 'DELETE' then
                    select array_agg(eq_record) filter (where eq_taken is null),
                           array_agg(eq_record order by eq_record) filter (where eq_taken),
                           array_agg(eq_owner order by eq_record) filter (where eq_taken)
                      into gone, taken, owners
                      from (select %2$s as eq_record from changed) as eq_job
                      left join lateral (
                            select true as eq_taken, %7$s as eq_owner from %5$s where %6$s limit 1) as eq_row on true;
                    perform embedding.forget(%1$s, gone);
                    perform embedding.enqueue(%1$s, taken, owners);
                else
                    delete from public.embedding_queue as job where job.target_id = %1$s;
                end if;
            exception
                when transaction_rollback or lock_not_available or insufficient_resources
                  or operator_intervention or system_error then
                    raise;
                when others then
                    get stacked diagnostics context = pg_exception_context;
                    perform embedding.suspend_target(%1$s, embedding.describe_error(sqlstate, sqlerrm, context));
            end;
            return null;$body$,
        target.id,
        embedding.record_id_sql(target.relation::regclass, 'changed', target.key_columns),
        (select string_agg(format('changed.%I', name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        coalesce('changed.' || quote_ident(target.user_column), 'null::uuid'),
        target.relation,
        format('%s and %s = eq_record', target.record_match_sql, target.record_id_sql),
        coalesce(quote_ident((parse_ident(target.relation))[2]) || '.' || quote_ident(target.user_column), 'null::uuid'));
end $$;

-- Creates the trigger function of a target. It contains the names of this table's columns, so that its
-- statements are planned once per session and not at every write.
--
-- If a row is deleted or gets another key, another row may have taken its record id in the same statement, for example
-- when the positions of a list are renumbered or two keys are swapped. So the function looks up the id in the table,
-- and deletes the job only if it is missing. The look-up also compares the text of the key: 1.0 and 1.00 are one numeric
-- key and two record ids. Its plan is kept for the session, so it must be a plan for a large table.
--
-- No error of ours may lose a write of the user: the target is suspended with the problem, and watch_embeddings,
-- called after the problem is fixed, makes every record be checked again. Only deadlocks and similar errors reach the
-- writer, which can retry. For rows, the block that catches errors contains no write: otherwise it would take a
-- transaction id for each row, and a large UPDATE would slow down every snapshot in the cluster.
create function embedding.make_trigger_function(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    routine constant text := format('embedding.trigger_%s()', target.id);
begin
    if not embedding.is_ours(to_regprocedure(routine)) then
        raise exception 'there is a function % already, which is not of this API', routine
            using errcode = 'duplicate_function', hint = format('Run `drop function %s cascade`.', routine);
    end if;
    execute format(
        'create or replace function %s returns trigger language plpgsql security definer '
        'set search_path = '''', pg_temp set row_security = off set enable_seqscan = off as %L', routine,
        format($body$
        #variable_conflict use_column
        declare
            old_id text;
            new_id text;
            owner uuid;
            context text;
            gone text[];
            taken text[];
            owners uuid[];
        begin
            if to_regclass('public.embedding_queue') is null or to_regclass('public.embedding_targets') is null
               or to_regproc('embedding.enqueue') is null or to_regproc('embedding.enqueue_one') is null
               or to_regproc('embedding.forget') is null then
                return new; -- they were dropped by hand
            elsif tg_level = 'ROW' then%s
            end if;
%s
        end $body$, embedding.row_trigger_sql(target), embedding.statement_trigger_sql(target)));
    execute format('alter function %s owner to %s', routine,
                   (select nspowner::regrole from pg_namespace where nspname = 'embedding'));
    execute format('revoke all on function %s from %s', routine, embedding.everyone());
end $$;

-- Creates the triggers. INSERT and DELETE handle the rows of a statement at once. UPDATE works by row, because only such
-- a trigger can name its columns: writing a vector or any other column then costs nothing. Values are compared as
-- text: two values that are equal under a nondeterministic collation (or numbers like 1.0 and 1.00) can have different
-- texts. No test proves this for collations, which would need ICU.
--
-- The columns that a BEFORE trigger of the user writes are not among those that the statement names: on a table with
-- such a trigger, an update of any column but its vectors fires ours. A statement fires statement triggers only on
-- the table that it names: if rows are also written through another table, as those of a partition or of a table that
-- inherits, all triggers are by row.
--
-- Postgres records that a trigger depends on the columns it names, so `drop column` requires `cascade`. A trigger that
-- names none costs a bulk UPDATE of other columns 20 to 40 % more.
create function embedding.make_triggers(target public.embedding_targets, columns_read text[])
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    calls constant text := format('execute function embedding.trigger_%s()', target.id);
    by_row constant boolean := exists (select from pg_class where oid = target.relation::regclass and relkind = 'p')
                            or exists (select from pg_inherits where inhrelid = target.relation::regclass);
    columns text;
    text_differs text;
    differs text;
    of_others name;
begin
    perform embedding.drop_triggers(target);
    select tgname into of_others from pg_trigger
     where tgrelid = target.relation::regclass and tgname ~ format('^(zz_)?embedding_[a-z]+_%s$', target.id) limit 1;
    if found then
        raise exception 'table % has a trigger % that is not of this API', target.table_name, of_others
            using errcode = 'duplicate_object',
                  hint = format('Run `alter trigger %I on %s rename to ...`.', of_others, target.relation);
    end if;
    select string_agg(format('%I', name), ', '),
           string_agg(comparison, ' or '),
           string_agg(comparison, ' or ') filter (where name = any (columns_read))
      into columns, differs, text_differs
      from (select distinct unnest(columns_read || target.key_columns || target.user_column)) as read (name)
     cross join lateral format(
               'old.%1$I::text collate "C" is distinct from new.%1$I::text collate "C"', name) as comparison
     where name is not null;
    if exists (
        select from pg_trigger
         where tgrelid = target.relation::regclass and not tgisinternal
           and tgtype & 19 = 19 -- by row, before, update
           and tgfoid::regproc::text !~ '^embedding\.trigger_\d+$'
    ) then
        select string_agg(format('%I', attname), ', ' order by attnum)
          into columns
          from pg_attribute
         where attrelid = target.relation::regclass and attnum > 0 and not attisdropped and attgenerated = ''
           and format_type(atttypid, null) !~ '(^|\.)(vector|halfvec|sparsevec)$';
    end if;

    execute format('create trigger embedding_insert_%s after insert on %s %s %s', target.id, target.relation,
                   case when by_row then 'for each row'
                        else 'referencing new table as changed for each statement' end, calls);
    execute format('create trigger embedding_update_%s after update of %s on %s for each row when (%s) %s',
                   target.id, columns, target.relation, differs, calls);
    execute format('create trigger embedding_delete_%s after delete on %s %s %s', target.id, target.relation,
                   case when by_row then 'for each row'
                        else 'referencing old table as changed for each statement' end, calls);
    execute format('create trigger embedding_truncate_%s after truncate on %s for each statement %s',
                   target.id, target.relation, calls);
    if target.on_change = 'clear' and text_differs is not null then
        -- a name that sorts last, after the BEFORE triggers of the user
        execute format('create trigger zz_embedding_clear_%s before update of %s on %s for each row when (%s) %s',
                       target.id, columns, target.relation, text_differs, calls);
    end if;
end $$;

create function embedding.drop_triggers(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    trigger_name name;
    relation regclass;
begin
    for trigger_name, relation in -- on any table: another one may have the name now
        select tgname, tgrelid from pg_trigger
         where tgparentid = 0
           and tgfoid = to_regproc(format('embedding.trigger_%s', target.id))
    loop
        execute format('drop trigger %I on %s', trigger_name, relation);
    end loop;
end $$;

select embedding.protect_functions(
    'embedding.row_trigger_sql', 'embedding.statement_trigger_sql', 'embedding.make_trigger_function',
    'embedding.make_triggers', 'embedding.drop_triggers');
