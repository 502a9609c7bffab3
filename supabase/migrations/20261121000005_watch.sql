-- Why:   `watch_embeddings` registers a column to be kept in step with its text, and installs the
--        triggers that put changed rows into the queue; `unwatch_embeddings` takes both away.
-- Locks: the migration nothing. A call of watch_embeddings takes SHARE ROW EXCLUSIVE on the table
--        for the moment its triggers are made (writers wait, readers do not), and ACCESS EXCLUSIVE
--        if it has to add the column.
-- Undo:  select unwatch_embeddings(table, column) for each target, then drop the functions.
--
-- Everything here runs with the rights of the caller, who must own the table.

-- `sessions` for public.sessions, `app.sessions` elsewhere; quoted where the name needs it.
create function public.embedding_table_name(relation regclass)
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when namespace.nspname = 'public' then format('%I', class.relname)
                else format('%I.%I', namespace.nspname, class.relname) end
      from pg_class as class
      join pg_namespace as namespace on namespace.oid = class.relnamespace
     where class.oid = relation;
$$;

-- The columns of the primary key, in its order. Raises unless each has one text form: the text of
-- a date, a time or a float depends on the session that asks, and could not name the row. Neither
-- could an array or a composite value: in JSON it is written in another way.
create function embedding.key_columns(relation regclass)
returns text[]
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    key_columns text[];
    unfit text;
begin
    select array_agg(attribute.attname::text order by place.ordinal),
           min(format('%s (%s)', attribute.attname, format_type(attribute.atttypid, attribute.atttypmod)))
               -- by category and output function, which a domain has from its base type
               filter (where type.typcategory in ('D', 'T', 'A', 'C', 'R')
                          or type.typoutput::text in ('float4out', 'float8out', 'byteaout', 'cash_out'))
      into key_columns, unfit
      from pg_index as index
     cross join lateral unnest(index.indkey::smallint[]) with ordinality as place (attnum, ordinal)
      join pg_attribute as attribute
        on attribute.attrelid = index.indrelid and attribute.attnum = place.attnum
      join pg_type as type on type.oid = attribute.atttypid
     where index.indrelid = relation and index.indisprimary
       and place.ordinal <= index.indnkeyatts;
    if key_columns is null then
        raise exception 'table % has no primary key', public.embedding_table_name(relation)
            using errcode = 'invalid_table_definition',
                  hint = format('Give it one: alter table %s add primary key (…).', relation);
    elsif unfit is not null then
        raise exception 'table % has a primary key column without one text form: %',
                        public.embedding_table_name(relation), unfit
            using errcode = 'feature_not_supported',
                  hint = 'Use a key of uuid, integer, bigint, text, numeric, boolean or enum columns.';
    end if;
    return key_columns;
end $$;

-- The SQL for the text to embed: of one column, of several ('title, body': joined by an empty
-- line, without those that are null), or the expression as it was given. A column may be named as
-- it is called, or as SQL would have it.
create function embedding.source_sql(relation regclass, source text)
returns text
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    columns text[];
begin
    select array_agg(format('%I', named.attname) order by named.ordinal)
      into columns
      from (select distinct on (piece.ordinal) piece.ordinal, attribute.attname
              from regexp_split_to_table(source, ',') with ordinality as piece (name, ordinal)
              join pg_attribute as attribute
                on attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
               and (attribute.attname in (btrim(piece.name), lower(btrim(piece.name)))
                    or format('%I', attribute.attname) = btrim(piece.name))
             order by piece.ordinal, attribute.attname = btrim(piece.name) desc) as named;
    if columns is null or cardinality(columns) <> cardinality(regexp_split_to_array(source, ',')) then
        return source;
    elsif cardinality(columns) = 1 then
        return columns[1];
    end if;
    return format('concat_ws(E''\n\n'', %s)', array_to_string(columns, ', '));
end $$;

-- The columns that the source and the filter read. Postgres itself is asked, by way of a view
-- over them, which also proves that they give one text and one truth value a row; a row taken as a
-- whole reads every column but the embeddings, a generated column those that it is made from.
create function embedding.columns_read(relation regclass, source text, filter text)
returns text[]
language plpgsql
set search_path = '', pg_temp
as $$
declare
    columns text[];
    whole_row boolean;
begin
    execute format(
        'create temporary view embedding_probe as select (%1$s) as source from %3$s '
        ' where (%1$s)::text is not null and (%2$s)',
        source, coalesce(filter, 'true'), relation);
    select ev_action::text like '%:varattno 0 %'
      into whole_row
      from pg_rewrite where ev_class = 'pg_temp.embedding_probe'::regclass;
    with read as (
        select dependency.refobjsubid as attnum
          from pg_depend as dependency
          join pg_rewrite as rule
            on dependency.classid = 'pg_rewrite'::regclass and rule.oid = dependency.objid
         where rule.ev_class = 'pg_temp.embedding_probe'::regclass
           and dependency.refclassid = 'pg_class'::regclass and dependency.refobjid = relation
    ), generated_from as (
        select dependency.refobjsubid as attnum
          from pg_attrdef as expression
          join pg_depend as dependency
            on dependency.classid = 'pg_attrdef'::regclass and dependency.objid = expression.oid
         where expression.adrelid = relation and expression.adnum in (select attnum from read)
           and dependency.refclassid = 'pg_class'::regclass and dependency.refobjid = relation
    )
    select array_agg(attribute.attname::text order by attribute.attnum)
      into columns
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
       and attribute.attgenerated = ''
       and (attribute.attnum in (select attnum from read)
            or attribute.attnum in (select attnum from generated_from)
            or whole_row and format_type(attribute.atttypid, null) !~ '(^|\.)(vector|halfvec|sparsevec)$');
    drop view pg_temp.embedding_probe;
    return columns;
exception
    when insufficient_privilege then
        raise;
    when syntax_error_or_access_rule_violation or invalid_schema_name or feature_not_supported or data_exception then
        raise exception 'source or filter for table % is not valid: %',
                        public.embedding_table_name(relation), sqlerrm
            using errcode = sqlstate,
                  hint = 'Give column names, or an SQL expression over one row with functions '
                         'outside pg_catalog qualified by their schema.';
end $$;

-- The key of a row as text, for rows known by the given name. In the collation of the queue: under
-- a lenient one of the key's own, two record ids that differ could pass for the same. No test proves this: such a
-- collation needs ICU, which the Postgres of the tests is built without.
create function embedding.record_id_sql(row_name text, key_columns text[])
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case when cardinality(key_columns) = 1
                then format('%I.%I::text collate "default"', row_name, key_columns[1])
                else format('jsonb_build_array(%s)::text',
                            string_agg(format('%I.%I', row_name, name), ', ' order by ordinal)) end
      from unnest(key_columns) with ordinality as key (name, ordinal);
$$;

-- The condition that finds the row of the record id `eq_record`. The text is cast to the type of
-- the key, and not the key to text, so that the primary key serves the look-up.
create function embedding.record_match_sql(relation regclass, key_columns text[])
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select string_agg(
               format('%I.%I = (%s)::%s', class.relname, key.name,
                      case when cardinality(key_columns) = 1 then 'eq_record'
                           else format('eq_record::jsonb ->> %s', key.ordinal - 1) end,
                      format_type(attribute.atttypid, attribute.atttypmod)),
               ' and ' order by key.ordinal)
      from unnest(key_columns) with ordinality as key (name, ordinal)
      join pg_class as class on class.oid = relation
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attname = key.name;
$$;

-- Why the triggers of a target do not see every row that the queue reads, and what to do; no row: they see all.
-- `installed` false asks about the table alone, before the triggers are there.
create function embedding.blind_spot(relation regclass, target_id integer, installed boolean)
returns table (cause text, hint text)
language sql
stable
set search_path = '', pg_temp
as $$
    with class as (
        select pg_class.*, public.embedding_table_name(relation) as name
          from pg_class where pg_class.oid = relation
    ), own as ( -- events: insert 4, delete 8, update 16, truncate 32; by row 1
        select pg_trigger.tgtype::integer as type
          from pg_trigger
         where pg_trigger.tgrelid = relation
           and pg_trigger.tgfoid = to_regproc(format('embedding.trigger_%s', target_id))
    )
    select format('table %s is temporary', class.name), 'Watch a table that every session sees.'
      from class where class.relpersistence = 't'
    union all
    select format('table %s has a child table by inheritance, %s', class.name,
                  public.embedding_table_name(min(child.inhrelid)::regclass)),
           'The statements of the queue would read its rows as well. Watch the child tables, partition the table, '
           || format('or run `alter table %s no inherit %s`.', min(child.inhrelid)::regclass, relation)
      from class join pg_inherits as child on child.inhparent = class.oid
     where class.relkind = 'r'
     group by class.name
    union all
    select format('table %s has a rule for UPDATE, %s', class.name, rule.rulename),
           format('It would rewrite the statements of the queue. Run `drop rule %I on %s`; a trigger can do the same.',
                  rule.rulename, relation)
      from class join pg_rewrite as rule on rule.ev_class = class.oid
     where class.relkind in ('r', 'p') and rule.ev_type = '2'
    union all
    select format('table %s lacks its trigger for %s', class.name, string_agg(event.name, ', ')),
           'Run `worker watch` for the column again.'
      from class, (values ('INSERT', 4), ('UPDATE', 16), ('DELETE', 8), ('TRUNCATE', 32)) as event (name, bit)
     where installed and class.relkind in ('r', 'p') and not exists (select from own where own.type & event.bit <> 0)
     group by class.name
    union all
    select format('table %s has become a part of %s, and is also written through it', class.name,
                  public.embedding_table_name(min(parent.inhparent)::regclass)),
           'Run `worker watch` for the column again.'
      from class join pg_inherits as parent on parent.inhrelid = class.oid
     where installed and exists (select from own where own.type & 1 = 0 and own.type & 12 <> 0)
     group by class.name;
$$;

-- Makes the trigger function of a target. It holds no logic, only the names of this table's
-- columns, so that its statements are planned once a session and not at every write.
--
-- A row that is deleted or gets another key leaves a record id behind, and in the same statement another row may have
-- taken it: the positions of a list are renumbered, two keys are swapped. So the table is asked whether the id is
-- still there, and only if not its job is deleted. The look-up compares the text of the key as well: 1.0 and 1.00 are one
-- numeric key and two record ids. Its plan is kept for the session, so it must be one for a large table.
--
-- No error on our side may lose the user's write: the target is suspended with the problem, and
-- watch_embeddings, called after it is fixed, has every record checked again. Only deadlocks and the like reach
-- the writer, who tries again. By row, the block that catches errors holds no write: one that does takes a transaction
-- id for each row, and a large UPDATE would then slow down every snapshot in the cluster.
create function embedding.make_trigger_function(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    everyone text;
begin
    execute format($function$
        create or replace function embedding.trigger_%1$s()
        returns trigger
        language plpgsql
        security definer
        set search_path = '', pg_temp
        set row_security = off
        set enable_seqscan = off
        as $body$
        #variable_conflict use_column
        declare
            old_id text;
            new_id text;
            owner uuid;
            gone text[];
            taken text[];
            owners uuid[];
        begin
            if to_regclass('public.embedding_queue') is null or to_regclass('public.embedding_targets') is null
               or to_regproc('embedding.enqueue') is null or to_regproc('embedding.enqueue_one') is null
               or to_regproc('embedding.forget') is null then
                return new; -- somebody dropped them by hand
            elsif tg_level = 'ROW' then
                begin
                    if tg_when = 'BEFORE' then
                        new.%8$I := null;
                        return new;
                    end if;
                    if tg_op <> 'INSERT' then
                        old_id := %5$s;
                    end if;
                    if tg_op <> 'DELETE' then
                        new_id := %6$s;
                        owner := %7$s;
                    end if;
                    if old_id is distinct from new_id and old_id is not null then
                        select array_agg(eq_record), array_agg(%11$s)
                          into taken, owners
                          from (select old_id as eq_record) as eq_job join %9$s on %10$s;
                    end if;
                exception
                    when transaction_rollback or lock_not_available or insufficient_resources
                      or operator_intervention or system_error then
                        raise;
                    when others then
                        perform embedding.suspend_target(%1$s, sqlerrm);
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
                return new;
            end if;

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
                            select true as eq_taken, %11$s as eq_owner from %9$s where %10$s limit 1) as eq_row on true;
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
                    perform embedding.suspend_target(%1$s, sqlerrm);
            end;
            return null;
        end $body$ $function$,
        target.id,
        embedding.record_id_sql('changed', target.key_columns),
        (select string_agg(format('changed.%I', name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        coalesce('changed.' || quote_ident(target.user_column), 'null::uuid'),
        embedding.record_id_sql('old', target.key_columns),
        embedding.record_id_sql('new', target.key_columns),
        coalesce('new.' || quote_ident(target.user_column), 'null::uuid'),
        target.embedding_column,
        target.relation,
        format('%s and %s = eq_record', target.record_match_sql, target.record_id_sql),
        coalesce(quote_ident((parse_ident(target.relation))[2]) || '.' || quote_ident(target.user_column), 'null::uuid'));
    -- also where default privileges, as Supabase has them, would let others in
    select 'public' || coalesce(string_agg(', ' || quote_ident(rolname), ''), '') into everyone
      from pg_roles where rolname in ('anon', 'authenticated', 'service_role');
    execute format('revoke all on function embedding.trigger_%s() from %s', target.id, everyone);
end $$;

-- INSERT and DELETE enqueue a statement's rows at once. UPDATE works by row, because only such a
-- trigger can name its columns: writing a vector or any other column then costs nothing. Values
-- are compared as the text they would be embedded as: two that are equal by a lenient collation
-- (or numbers like 1.0 and 1.00) can still read differently. No test proves this for collations, which would need ICU.
--
-- What a BEFORE trigger of the user writes is not among the columns that the statement names: a
-- table that has one is looked at whatever is updated, except for its vectors. And a statement fires
-- triggers by statement only of the table that it names: where rows are also written through another table, as
-- those of a partition or of a table that inherits, all triggers are by row.
--
-- Postgres records that a trigger depends on the columns it names, so `drop column` asks for `cascade`. A trigger that
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
begin
    perform embedding.drop_triggers(target);
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
        -- a name that comes last, behind the BEFORE triggers of the user
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
begin
    for trigger_name in
        select tgname from pg_trigger
         where tgrelid = target.relation::regclass
           and tgfoid = to_regproc(format('embedding.trigger_%s', target.id))
    loop
        execute format('drop trigger %I on %s', trigger_name, target.relation);
    end loop;
end $$;

-- The width of a vector column (null: it has none). Raises if there is no such column or it holds
-- no vectors.
create function embedding.column_width(relation regclass, embedding_column text)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    table_name text := public.embedding_table_name(relation);
    type text;
    width integer;
begin
    select format_type(attribute.atttypid, null), nullif(attribute.atttypmod, -1)
      into type, width
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attname = embedding_column
       and attribute.attnum > 0 and not attribute.attisdropped;
    if type is null then
        raise exception 'table % has no column %', table_name, embedding_column
            using errcode = 'undefined_column',
                  hint = format('Add it: alter table %s add column %I vector(…), or give its dimensions here '
                                '(on the command line: --create-column).', relation, embedding_column);
    elsif type !~ '(^|\.)(vector|halfvec)$' then
        raise exception 'column % of table % is of type %, not a vector', embedding_column, table_name, type
            using errcode = 'datatype_mismatch',
                  hint = 'The embedding column must be of type vector(n) or halfvec(n).';
    end if;
    return width;
end $$;

-- Adds the vector column. Above 2000 dimensions it is a halfvec: an index over `vector` ends there,
-- and pgvector itself at 4000.
create function embedding.add_column(relation regclass, embedding_column text, dimensions integer)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if dimensions not between 1 and 4000 then
        raise exception 'a vector column cannot have % dimensions', dimensions
            using errcode = 'invalid_parameter_value',
                  hint = 'Give a number from 1 to 4000.';
    end if;
    execute format('alter table %s add column %I %s.%I(%s)', relation, embedding_column,
                   (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                   case when dimensions <= 2000 then 'vector' else 'halfvec' end, dimensions);
end $$;

-- A table that was renamed takes its target and its jobs with it: it is known by our triggers on it.
create function embedding.follow_table(relation regclass, name_of_table text, embedding_column text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    moved integer;
begin
    update public.embedding_targets as target
       set table_name = name_of_table, problem = coalesce(target.problem, 'renamed'), updated_at = now()
     where target.embedding_column = follow_table.embedding_column
       and target.table_name <> name_of_table and to_regclass(target.relation) is null
       and exists (select from pg_trigger
                    where tgrelid = follow_table.relation
                      and tgfoid = to_regproc(format('embedding.trigger_%s', target.id)))
       and not exists (select from public.embedding_targets as known
                        where known.table_name = name_of_table
                          and known.embedding_column = follow_table.embedding_column)
    returning target.id into moved;
    update public.embedding_queue as job set table_name = name_of_table where job.target_id = moved;
end $$;

-- Keeps `embedding_column` in step with `source` (a column, several, or an SQL expression over the
-- row), for the rows for which `filter` is true. Rows that are already there are enqueued by
-- backfill_embeddings, or by their next edit. With `dimensions` a missing column is added.
--
-- Called again with other values it changes the target; where the text, the filter or the model
-- changes, its records become pending, and those whose text and model turn out the same complete
-- without a call to the model. So they do where a problem had set the target aside. Says in one
-- sentence what is wrong, and then changes nothing.
--
-- `match_function` true writes a function `match_<table>` for apps, false takes it away; without it
-- one that is there is kept in step.
create function public.watch_embeddings(
    relation regclass,
    source text,
    embedding_column text,
    model text default null,
    filter text default null,
    dimensions integer default null,
    priority smallint default 0,
    debounce interval default '0',
    on_change text default 'keep',
    on_too_long text default 'fail',
    match_function boolean default null
)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    watched public.embedding_targets;
    before public.embedding_targets;
    key_columns text[] := embedding.key_columns(relation);
    source_sql text := embedding.source_sql(relation, source);
    columns_read text[] := embedding.columns_read(relation, source_sql, filter);
    name_of_table text := public.embedding_table_name(relation);
    reserved_name name;
    bare_name name;
    width integer;
    cause text;
    cure text;
begin
    select name into reserved_name
      from (select attname from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
            union all select relname from pg_class where oid = relation) as used (name)
     where starts_with(name, 'eq_') limit 1;
    if reserved_name is not null then
        raise exception 'table % cannot be watched under the name %', name_of_table, reserved_name
            using errcode = 'reserved_name',
                  hint = 'Names that begin with eq_ stand beside yours in the statements of the queue: rename it.';
    end if;
    if watch_embeddings.embedding_column = any (columns_read) then
        raise exception 'column % cannot be made from itself', watch_embeddings.embedding_column
            using errcode = 'invalid_parameter_value',
                  hint = 'The source and the filter must not read the embedding column.';
    end if;
    if dimensions is not null and not exists (
        select from pg_attribute
         where attrelid = relation and attname = watch_embeddings.embedding_column and not attisdropped
    ) then
        perform embedding.add_column(relation, watch_embeddings.embedding_column, dimensions);
    end if;
    width := embedding.column_width(relation, watch_embeddings.embedding_column);
    if dimensions <> width then
        raise exception 'column % holds % dimensions, not %', watch_embeddings.embedding_column, width, dimensions
            using errcode = 'datatype_mismatch',
                  hint = 'Leave the dimensions away, or watch another column.';
    end if;

    for cause, cure in select * from embedding.blind_spot(relation, null, false) limit 1 loop
        raise exception '%', cause using errcode = 'wrong_object_type', hint = cure;
    end loop;

    perform embedding.follow_table(relation, name_of_table, watch_embeddings.embedding_column);
    select * into before from public.embedding_targets as target
     where target.table_name = name_of_table
       and target.embedding_column = watch_embeddings.embedding_column;
    select relname into bare_name from pg_class where oid = relation;

    insert into public.embedding_targets as target (
        table_name, embedding_column, source, filter, model, dimensions, priority, debounce, on_change, on_too_long,
        relation, key_columns, record_id_sql, record_match_sql, user_column)
    values (
        name_of_table, watch_embeddings.embedding_column, source_sql,
        watch_embeddings.filter, watch_embeddings.model, width, watch_embeddings.priority,
        watch_embeddings.debounce, watch_embeddings.on_change, watch_embeddings.on_too_long,
        (select format('%I.%I', namespace.nspname, bare_name)
           from pg_class as class join pg_namespace as namespace on namespace.oid = class.relnamespace
          where class.oid = relation),
        key_columns,
        embedding.record_id_sql(bare_name, key_columns),
        embedding.record_match_sql(relation, key_columns),
        (select attname from pg_attribute
          where attrelid = relation and attname = 'user_id' and atttypid = 'uuid'::regtype and not attisdropped))
    on conflict on constraint embedding_targets_one_per_column do update
       set source = excluded.source, filter = excluded.filter, model = excluded.model,
           dimensions = excluded.dimensions, priority = excluded.priority, debounce = excluded.debounce,
           on_change = excluded.on_change, on_too_long = excluded.on_too_long,
           relation = excluded.relation, key_columns = excluded.key_columns,
           record_id_sql = excluded.record_id_sql, record_match_sql = excluded.record_match_sql,
           user_column = excluded.user_column, problem = null, updated_at = now(),
           backfill_cursor = case when target.key_columns = excluded.key_columns then target.backfill_cursor end
    returning target.* into watched;

    perform embedding.make_trigger_function(watched);
    perform embedding.make_triggers(watched, columns_read);
    perform embedding.keep_match_function(watched, match_function);
    if (before.source, before.filter, before.model, before.record_match_sql, before.problem)
       is distinct from (watched.source, watched.filter, watched.model, watched.record_match_sql, watched.problem)
    then
        update public.embedding_queue as job
           set status = 'pending', priority = watched.priority - 10, available_at = now(),
               attempts = 0, unanswered = 0, error_message = null, error_class = null,
               lease = null, lease_expires_at = null, worker = null, updated_at = now()
         where job.id in (
                   select due.id from public.embedding_queue as due
                    where due.target_id = watched.id and due.status <> 'pending'
                    order by due.id for update); -- one left out would keep its old vector for good
    end if;
    return watched;
end $$;

-- Stops keeping the column in step: its triggers, its match function and its queue go, its vectors
-- stay. Also serves after the table itself was dropped or renamed, by the name it was watched under. True if it was
-- watched.
create function public.unwatch_embeddings(watched_table text, embedding_column text)
returns boolean
language plpgsql
set search_path = '', pg_temp
set client_min_messages = warning
as $$
#variable_conflict use_column
declare
    target public.embedding_targets;
begin
    delete from public.embedding_targets as gone
     where gone.table_name = watched_table
       and gone.embedding_column = unwatch_embeddings.embedding_column
    returning gone.* into target;
    if target.id is null then
        return false;
    end if;
    -- with the triggers that call it, wherever their table is now
    execute format('drop function if exists embedding.trigger_%s() cascade', target.id);
    perform embedding.keep_match_function(target, false);
    delete from public.embedding_queue as job where job.target_id = target.id;
    return true;
end $$;
