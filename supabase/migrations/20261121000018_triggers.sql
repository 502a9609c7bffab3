-- Why:   every write to a watched table reaches the queue through its triggers, and costs the writer little.
-- Locks: the migration nothing. Creating triggers takes SHARE ROW EXCLUSIVE on the table (writers wait, readers do
--        not), and dropping them ACCESS EXCLUSIVE, until the transaction ends.
-- Undo:  drop function embedding.drop_triggers, embedding.make_triggers, embedding.is_watched_by_statement,
--        embedding.enqueue_sql, embedding.trigger_sql, embedding.list_sql;
--
-- An UPDATE of many rows enqueues many records with one statement, which takes a fifth of the time. Only a trigger by
-- row is not called for rows whose watched columns stay as they are, and only a trigger by statement is called
-- once. So the trigger by row adds the record id to a list, and the trigger by statement, which Postgres fires after it,
-- enqueues the records of the list. When the list becomes long, the trigger by row does that.
--
-- The list is a setting of the transaction, since no variable of PL/pgSQL outlives a call. Rolling back to a savepoint
-- also takes back what was added to the list. A client that may write to the table can change that setting too: it can
-- have other rows of the table checked again, as if they had been edited, and nothing else.

-- The part of the trigger function that adds an edited record to the list, or enqueues the list.
create function embedding.list_sql(target_id integer)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
            list := coalesce(current_setting('embedding.edited_%1$s', true), '') || coalesce(e'\x1f' || new_id, '');
            if list <> '' and (tg_level = 'STATEMENT' or octet_length(list) > 2000) then
                perform set_config('embedding.edited_%1$s', '', true);
                records := (string_to_array(list, e'\x1f'))[2:];
                if to_regclass('public.embedding_queue') is null or to_regclass('public.embedding_targets') is null
                   or to_regproc('embedding.enqueue_edited') is null then
                    return null; -- they were dropped by hand
                elsif not embedding.enqueue_edited(%1$s, records) then
                    perform embedding.enqueue_%1$s(records, '{}');
                end if;
            elsif list <> '' then
                perform set_config('embedding.edited_%1$s', list, true);
            end if;$body$, target_id);
end $$;

-- The body of the function that all triggers of a target call. `changed` are the rows of an INSERT or a DELETE.
create function embedding.trigger_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
        #variable_conflict use_column
        declare
            old_id text;
            new_id text;
            can_wait boolean; -- for the end of the statement
            list text;
            records text[];
            owners uuid[];
            context text;
        begin
            begin
                if tg_level = 'ROW' then
                    if tg_when = 'BEFORE' then
                        %5$s;
                        return new;
                    end if;
                    if tg_op <> 'INSERT' then
                        old_id := %2$s;
                    end if;
                    if tg_op <> 'DELETE' then
                        new_id := %3$s;
                    end if;
                    can_wait := tg_nargs = 0 and old_id = new_id and strpos(new_id, e'\x1f') = 0%8$s
                                and current_setting('session_replication_role') <> 'replica';
                elsif tg_op = 'INSERT' then
                    select array_agg(%4$s order by %6$s), array_agg(%7$s order by %6$s) into records, owners from changed;
                    perform embedding.enqueue_new(%1$s, records, owners);
                    return null;
                elsif tg_op = 'DELETE' then
                    perform embedding.enqueue_%1$s('{}', array_agg(%4$s order by %6$s)) from changed;
                    return null;
                elsif tg_op = 'TRUNCATE' then
                    delete from public.embedding_queue as job where job.target_id = %1$s;
                    return null;
                end if;
            exception
                when transaction_rollback or lock_not_available or insufficient_resources
                  or operator_intervention or system_error then
                    raise;
                when others then
                    if sqlstate = '23505' and tg_op = 'INSERT' then -- some have a job already
                        perform embedding.enqueue_%1$s('{}', records);
                    else
                        get stacked diagnostics context = pg_exception_context;
                        perform embedding.suspend_target(%1$s, embedding.describe_error(sqlstate, sqlerrm, context));
                    end if;
                    return new;
            end;
            if old_id = new_id and not can_wait then
                perform embedding.enqueue_%1$s(array[new_id], '{}');
                return null;
            elsif old_id is distinct from new_id then
                perform embedding.enqueue_%1$s('{}', array_remove(array[old_id, new_id], null));
                return null;
            end if;
%9$s
            return null;
        end $body$,
        target.id,
        embedding.record_id_sql(target.relation::regclass, 'old', target.key_columns),
        embedding.record_id_sql(target.relation::regclass, 'new', target.key_columns),
        embedding.record_id_sql(target.relation::regclass, 'changed', target.key_columns),
        embedding.clear_row_sql(target),
        (select string_agg(format('changed.%I', name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        embedding.owner_sql('changed', target.user_column),
        coalesce(' and old.' || quote_ident(target.user_column) || ' is not distinct from new.'
                 || quote_ident(target.user_column), ''),
        embedding.list_sql(target.id));
end $$;

-- The body of the function that enqueues records of a target, after it has looked them up in the table: `edited` ones,
-- and `moved` ones, whose row was deleted or got another key, or is new. Another row may have taken such a record id in the
-- same statement, for example when the positions of a list are renumbered or two keys are swapped. So the job is
-- deleted only if no row has the id. The look-up also compares the text of the key: 1.0 and 1.00 are one numeric key and
-- two record ids.
--
-- The block that catches errors contains no write: otherwise it would take a transaction id for each call, and a
-- transaction with many UPDATEs would slow down every snapshot in the cluster. An error of the cast from a record id to
-- a key reaches the writer, since only a client that wrote to the list of records can cause one.
create function embedding.enqueue_sql(target public.embedding_targets)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return format($body$
        #variable_conflict use_column
        declare
            owners uuid[];
            gone text[];
            taken text[];
            owners_of_taken uuid[];
            context text;
        begin
            if to_regclass('public.embedding_queue') is null or to_regclass('public.embedding_targets') is null
               or to_regproc('embedding.enqueue') is null or to_regproc('embedding.forget') is null then
                return; -- they were dropped by hand
            end if;
            begin
                if edited <> '{}' then
                    select array_agg(eq_record), array_agg(%2$s) into edited, owners
                      from unnest(edited) as eq_job (eq_record) join %3$s on %4$s;
                end if;
                if moved <> '{}' then
                    select array_agg(eq_record) filter (where eq_taken is null),
                           array_agg(eq_record order by eq_record) filter (where eq_taken),
                           array_agg(eq_owner order by eq_record) filter (where eq_taken)
                      into gone, taken, owners_of_taken
                      from unnest(moved) as eq_job (eq_record)
                      left join lateral (
                            select true as eq_taken, %2$s as eq_owner from %3$s where %4$s limit 1) as eq_row on true;
                end if;
            exception
                when transaction_rollback or lock_not_available or insufficient_resources
                  or operator_intervention or system_error
                  or data_exception or program_limit_exceeded or integrity_constraint_violation then
                    raise;
                when others then
                    get stacked diagnostics context = pg_exception_context;
                    perform embedding.suspend_target(%1$s, embedding.describe_error(sqlstate, sqlerrm, context));
                    return;
            end;
            if gone is not null then
                perform embedding.forget(%1$s, gone);
            end if;
            if taken is not null then
                perform embedding.enqueue(%1$s, taken, owners_of_taken, true);
            end if;
            if edited <> '{}' then
                perform embedding.enqueue(%1$s, edited, owners, false);
            end if;
        end $body$,
        target.id,
        embedding.owner_sql((parse_ident(target.relation))[2], target.user_column),
        target.relation,
        format('%s and %s = eq_record', target.record_match_sql, target.record_id_sql));
end $$;

-- Whether triggers by statement see all writes to a table. A partition and a table that inherits are also written through
-- another table: then all triggers are by row.
create function embedding.is_watched_by_statement(relation regclass)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$
    select not exists (select from pg_class where oid = relation and relkind = 'p')
       and not exists (select from pg_inherits where inhrelid = relation);
$$;

-- Creates the triggers, by statement if triggers by statement see all writes. UPDATE has one by row in any case, because
-- only such a trigger can name its columns and see rows: writing a vector or any other column then costs nothing. Values
-- are compared as text: two values that are equal under a nondeterministic collation (or numbers like 1.0 and 1.00) can
-- have different texts. No test proves this for collations, which would need ICU.
--
-- The columns that a BEFORE trigger of the user writes are not among those that the statement names: on a table with
-- such a trigger, an update of any column but its vectors fires ours. A statement fires statement triggers only on
-- the table that it names: see embedding.is_watched_by_statement.
--
-- Postgres records that a trigger depends on the columns it names, so `drop column` requires `cascade`. A trigger that
-- names none costs a bulk UPDATE of other columns 20 to 40 % more.
create function embedding.make_triggers(target public.embedding_targets, columns_read text[])
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    by_row constant boolean := not embedding.is_watched_by_statement(target.relation::regclass);
    calls constant text := format('execute function embedding.trigger_%s(%s)', target.id,
                                  case when by_row then quote_literal('at once') end);
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
    if not by_row then
        -- without columns: it would be one more dependency of theirs, and a call for each statement costs little
        execute format('create trigger embedding_updated_%s after update on %s for each statement %s',
                       target.id, target.relation, calls);
    end if;
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
    'embedding.list_sql', 'embedding.trigger_sql', 'embedding.enqueue_sql', 'embedding.is_watched_by_statement',
    'embedding.make_triggers', 'embedding.drop_triggers');
