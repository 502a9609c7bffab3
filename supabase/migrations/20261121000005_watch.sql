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

-- The columns of the primary key, in its order. Raises unless each has a text form that no setting of
-- a session changes (embedding.key_forms). The text of an interval, a float or an amount of money depends on
-- settings, that of a regclass on the search path, and an array or a composite value is written
-- differently in JSON.
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
               filter (where type.typcategory in ('A', 'C', 'R')
                          or type.typcategory in ('D', 'T') and type.typoutput::text not in
                             ('date_out', 'timestamp_out', 'timestamptz_out', 'time_out', 'timetz_out')
                          or type.typoutput::text in ('float4out', 'float8out', 'cash_out')
                          or type.typoutput::text like 'reg%out')
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
                  hint = format('Give it one: alter table %s add primary key (...).', relation);
    elsif unfit is not null then
        raise exception 'table % has a primary key column without one text form: %',
                        public.embedding_table_name(relation), unfit
            using errcode = 'feature_not_supported',
                  hint = 'Use a key of uuid, integer, bigint, text, numeric, boolean, enum, date, time, '
                         'timestamp or bytea columns.';
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

-- Raises if what the source and the filter of embedding_probe use could run code of a role that the owner of this API
-- does not trust: a function, operator, type or relation of such a role, or one in a schema where such a role
-- can create a function of the same name that fits the arguments better. Postgres keeps the list for the view.
create function embedding.check_source(relation regclass)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    found_one record;
begin
    with used as (
        select distinct dependency.refclassid as class, dependency.refobjid as id
          from pg_depend as dependency
          join pg_rewrite as rule
            on dependency.classid = 'pg_rewrite'::regclass and rule.oid = dependency.objid
         where rule.ev_class = 'pg_temp.embedding_probe'::regclass
           and dependency.refobjid not in (relation, rule.ev_class)
    ), owned (name, owner, schema) as (
        select routine.oid::regprocedure::text, routine.proowner, routine.pronamespace
          from used join pg_proc as routine on class = 'pg_proc'::regclass and routine.oid = id
        union all
        select operator.oid::regoperator::text, operator.oprowner, operator.oprnamespace
          from used join pg_operator as operator on class = 'pg_operator'::regclass and operator.oid = id
        union all
        select type.oid::regtype::text, type.typowner, null
          from used join pg_type as type on class = 'pg_type'::regclass and type.oid = id
        union all
        select other.oid::regclass::text, other.relowner, null
          from used join pg_class as other on class = 'pg_class'::regclass and other.oid = id
    )
    select owned.name, who.may, case who.role when 0 then 'public' else who.role::regrole::text end as role,
           namespace.nspname as schema
      into found_one
      from owned
      left join pg_namespace as namespace on namespace.oid = owned.schema
     cross join lateral (
           select 'own' as may, owned.owner as role
            union all
           select 'create', acl.grantee
             from aclexplode(coalesce(namespace.nspacl, acldefault('n', namespace.nspowner))) as acl
            where acl.privilege_type = 'CREATE') as who
     where who.role <> 'pg_database_owner'::regrole and embedding.trusts(who.role) is not true
     order by who.may desc
     limit 1;
    if found_one.may = 'own' then
        raise exception 'the source or filter uses %, which belongs to %', found_one.name, found_one.role
            using errcode = 'insufficient_privilege',
                  hint = format('%s could replace it by code that runs with the rights of %s: make %2$s its owner.',
                                found_one.role, (select nspowner::regrole from pg_namespace where nspname = 'embedding'));
    elsif found_one.may = 'create' then
        raise exception 'the source or filter uses %, and % may create another of that name', found_one.name,
                        found_one.role
            using errcode = 'insufficient_privilege',
                  hint = format('Run `revoke create on schema %I from %s`.', found_one.schema, found_one.role);
    end if;
end $$;

-- The columns that the source and the filter read, and the attribute number of each. Postgres itself
-- is asked, by way of a view over them, which also proves that they give one text and one truth value
-- a row; a row taken as a whole reads every column but the embeddings. A generated column counts as
-- the columns that it is made from: only its number is given.
create function embedding.columns_read(
    relation regclass, source text, filter text, out columns text[], out numbers jsonb
)
language plpgsql
set search_path = '', pg_temp
as $$
declare
    whole_row boolean;
begin
    execute format(
        'create temporary view embedding_probe as select (%1$s) as source from %3$s '
        ' where (%1$s)::text is not null and (%2$s)',
        source, coalesce(filter, 'true'), relation);
    perform embedding.check_source(relation);
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
    select array_agg(attribute.attname::text order by attribute.attnum) filter (where attribute.attgenerated = ''),
           coalesce(jsonb_object_agg(attribute.attname, attribute.attnum), '{}')
      into columns, numbers
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attnum > 0 and not attribute.attisdropped
       and (attribute.attnum in (select attnum from read)
            or attribute.attnum in (select attnum from generated_from)
            or whole_row and format_type(attribute.atttypid, null) !~ '(^|\.)(vector|halfvec|sparsevec)$');
    drop view pg_temp.embedding_probe;
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

-- How a record id holds each column of a key, as patterns for format: `written` for its value in a row, `read`
-- for its text in a record id. Both mean the same whatever DateStyle, TimeZone and bytea_output are: JSON has dates and
-- times in ISO 8601, a timestamptz is given in UTC, and Postgres reads ISO 8601 under every DateStyle.
create function embedding.key_forms(relation regclass, key_columns text[])
returns table (place integer, name text, written text, read text)
language sql
stable
set search_path = '', pg_temp
as $$
    select key.ordinal::integer, key.name,
           case type.typoutput::text
                when 'timestamptz_out' then '(%s at time zone ''UTC'')'
                when 'byteaout' then 'encode(%s, ''hex'')'
                else '%s' end,
           case type.typoutput::text
                when 'timestamptz_out' then '(%s)::timestamp at time zone ''UTC'''
                when 'byteaout' then 'decode(%s, ''hex'')'
                else '(%s)::' || replace(format_type(attribute.atttypid, attribute.atttypmod), '%', '%%') end
      from unnest(key_columns) with ordinality as key (name, ordinal)
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attname = key.name
      join pg_type as type on type.oid = attribute.atttypid;
$$;

-- The key of a row as text, for rows known by the given name: of one column its text, of several a JSON array. In the
-- collation of the queue: under a lenient one of the key's own, two record ids that differ could pass for
-- the same.
create function embedding.record_id_sql(relation regclass, row_name text, key_columns text[])
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select case when cardinality(key_columns) > 1
                then format('jsonb_build_array(%s)::text', string_agg(key.value, ', ' order by key.place))
                when bool_or(type.typcategory = 'D')
                then format('(jsonb_build_array(%s) ->> 0) collate "default"', min(key.value))
                else format('%s::text collate "default"', min(key.value)) end
      from (select form.place, form.name, format(form.written, format('%I.%I', row_name, form.name)) as value
              from embedding.key_forms(relation, key_columns) as form) as key
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attname = key.name
      join pg_type as type on type.oid = attribute.atttypid;
$$;

-- The values of the key, in its order, for SQL that gives a record id.
create function embedding.key_values_sql(relation regclass, key_columns text[], record_sql text)
returns text[]
language sql
stable
set search_path = '', pg_temp
as $$
    select array_agg(format(form.read, case when cardinality(key_columns) = 1 then record_sql
                                            else format('%s::jsonb ->> %s', record_sql, form.place - 1) end)
                     order by form.place)
      from embedding.key_forms(relation, key_columns) as form;
$$;

-- The condition that finds the row of the record id `eq_record`. The text is cast to the type of
-- the key, and not the key to text, so that the primary key serves the look-up.
create function embedding.record_match_sql(relation regclass, key_columns text[])
returns text
language sql
stable
set search_path = '', pg_temp
as $$
    select string_agg(format('%I.%I = %s', class.relname, key.name, key.value), ' and ' order by key.place)
      from pg_class as class,
           unnest(key_columns, embedding.key_values_sql(relation, key_columns, 'eq_record'))
           with ordinality as key (name, value, place)
     where class.oid = relation;
$$;

-- Whether a function was made by this API, or is not there: others can give theirs the same name or comment.
create function embedding.is_ours(routine regprocedure)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$ select coalesce((select embedding.trusts(proowner) from pg_proc where oid = routine), true) $$;

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
                    get stacked diagnostics context = pg_exception_context;
                    perform embedding.suspend_target(%1$s, embedding.describe_error(sqlstate, sqlerrm, context));
            end;
            return null;
        end $body$,
        target.id,
        embedding.record_id_sql(target.relation::regclass, 'changed', target.key_columns),
        (select string_agg(format('changed.%I', name), ', ' order by ordinal)
           from unnest(target.key_columns) with ordinality as key (name, ordinal)),
        coalesce('changed.' || quote_ident(target.user_column), 'null::uuid'),
        embedding.record_id_sql(target.relation::regclass, 'old', target.key_columns),
        embedding.record_id_sql(target.relation::regclass, 'new', target.key_columns),
        coalesce('new.' || quote_ident(target.user_column), 'null::uuid'),
        target.embedding_column,
        target.relation,
        format('%s and %s = eq_record', target.record_match_sql, target.record_id_sql),
        coalesce(quote_ident((parse_ident(target.relation))[2]) || '.' || quote_ident(target.user_column), 'null::uuid')));
    execute format('alter function %s owner to %s', routine,
                   (select nspowner::regrole from pg_namespace where nspname = 'embedding'));
    -- also where default privileges, as Supabase has them, would let others in
    select 'public' || coalesce(string_agg(', ' || quote_ident(rolname), ''), '') into everyone
      from pg_roles where rolname in ('anon', 'authenticated', 'service_role');
    execute format('revoke all on function %s from %s', routine, everyone);
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
    relation regclass;
begin
    for trigger_name, relation in -- wherever they are: another table may have the name by now
        select tgname, tgrelid from pg_trigger
         where tgparentid = 0
           and tgfoid = to_regproc(format('embedding.trigger_%s', target.id))
    loop
        execute format('drop trigger %I on %s', trigger_name, relation);
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
                  hint = format('Add it: alter table %s add column %I vector(...), or give its dimensions here '
                                '(on the command line: --create-column).', relation, embedding_column);
    elsif type !~ '(^|\.)(vector|halfvec)$' then
        raise exception 'column % of table % is of type %, not a vector', embedding_column, table_name, type
            using errcode = 'datatype_mismatch',
                  hint = 'The embedding column must be of type vector(n) or halfvec(n).';
    end if;
    return width;
end $$;

-- The width that a vector column has, or will have when watch_embeddings has added it with `dimensions`. Raises if it
-- has another one.
create function embedding.planned_width(relation regclass, embedding_column text, dimensions integer)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    width integer := dimensions;
begin
    if dimensions is null or exists (
        select from pg_attribute
         where attrelid = relation and attname = embedding_column and not attisdropped
    ) then
        width := embedding.column_width(relation, embedding_column);
    end if;
    if width <> dimensions then
        raise exception 'column % holds % dimensions, not %', embedding_column, width, dimensions
            using errcode = 'datatype_mismatch',
                  hint = 'Leave out the dimensions to watch it as it is, or watch another column.';
    end if;
    return width;
end $$;

-- Adds the vector column. Above 2000 dimensions it is a halfvec, since an index over `vector` ends there.
-- An index over `halfvec` ends at 4000: a wider column could not be searched but by reading all of it.
create function embedding.add_column(relation regclass, embedding_column text, dimensions integer)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if dimensions not between 1 and 4000 then
        raise exception 'a vector column cannot have % dimensions', dimensions
            using errcode = 'invalid_parameter_value',
                  hint = 'Give a number from 1 to 4000, to which the model can shorten its vectors '
                         '(on the command line: --dimensions).';
    end if;
    execute format('alter table %s add column %I %s.%I(%s)', relation, embedding_column,
                   (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                   case when dimensions <= 2000 then 'vector' else 'halfvec' end, dimensions);
end $$;

-- The table that has the triggers of a target, whatever it is called by now.
create function embedding.triggered_table(target_id integer)
returns oid
language sql
stable
set search_path = '', pg_temp
as $$
    select min(pg_trigger.tgrelid)
      from pg_trigger
      join pg_proc as called on called.oid = pg_trigger.tgfoid
      join pg_namespace as namespace on namespace.oid = called.pronamespace
     where namespace.nspname = 'embedding' and called.proname = format('trigger_%s', target_id)
       and pg_trigger.tgparentid = 0;
$$;

-- Why a target must not be worked on: its table or one of its columns is not the one that was watched under that
-- name, since it was renamed, or dropped and created again. Null: they are, or the table is missing altogether. All
-- SQL of a target goes by name, so it would read another text or write into the column of another model. A restored
-- dump has other numbers, but our triggers: there the names count.
create function embedding.identity_problem(target public.embedding_targets)
returns text
language plpgsql -- whose plans last for a session
stable
security definer -- reads the catalogs alone, but calls a function that others may not
set search_path = '', pg_temp
set row_security = off
as $$
declare
    part constant text[] := parse_ident(target.relation);
    present_id constant oid := (
        select class.oid from pg_class as class
         where class.relname = part[2]
           and class.relnamespace = (select namespace.oid from pg_namespace as namespace where nspname = part[1]));
    problem text;
begin
    if present_id is null then
        return null;
    elsif present_id <> target.relation_id then
        if present_id is distinct from embedding.triggered_table(target.id) then
            problem := format('%s is not the table that was watched', target.relation);
        end if;
    else
        select format('column %s.%I %s', target.table_name, known.name,
                      case when present.attname is null then 'was renamed or dropped'
                           else 'is not the one that was watched' end)
          into problem
          from jsonb_each_text(target.column_numbers) as known (name, number)
          left join pg_attribute as present on present.attrelid = present_id and present.attname = known.name
         where present.attnum is distinct from known.number::smallint
         order by present.attname is null desc, known.name
         limit 1;
    end if;
    return problem || format('; run `worker watch %s --column %s`', target.table_name, target.embedding_column);
end $$;

-- Raises if a target must not be worked on (embedding.identity_problem). After a restore it learns the new numbers.
create function embedding.check_identity(target public.embedding_targets)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    problem constant text := embedding.identity_problem(target);
begin
    if problem is not null then
        raise exception using errcode = 'undefined_object', message = problem;
    elsif target.relation_id <> target.relation::regclass then
        update public.embedding_targets as restored
           set relation_id = target.relation::regclass,
               column_numbers = (
                   select jsonb_object_agg(attname, attnum) from pg_attribute
                    where attrelid = target.relation::regclass and target.column_numbers ? attname)
         where restored.id = (select locked.id from public.embedding_targets as locked
                               where locked.id = target.id for update skip locked);
    end if;
end $$;

-- The target that watches a column: the one that knows it by its number, whatever it and its table were called before;
-- else the one of that name. No row: nobody watches it.
create function embedding.find_target_of(relation regclass, embedding_column text)
returns setof public.embedding_targets
language sql
stable
set search_path = '', pg_temp
as $$
    select target.*
      from public.embedding_targets as target
     cross join lateral (
           select embedding.triggered_table(target.id) = find_target_of.relation as has_triggers,
                  target.relation_id = find_target_of.relation
                  and exists (select from pg_attribute
                               where attrelid = find_target_of.relation and attname = find_target_of.embedding_column
                                 and attnum = (target.column_numbers ->> target.embedding_column)::smallint) as has_number,
                  target.embedding_column = find_target_of.embedding_column as has_name,
                  target.table_name = public.embedding_table_name(find_target_of.relation) as has_table_name) as known
     where has_triggers and has_number or has_name and (has_table_name or has_triggers)
     order by (has_triggers and has_number) is true desc, has_table_name desc
     limit 1;
$$;

-- Gives the target `chosen` these names, and all others those that their tables and columns have by now: their jobs
-- go with them. What goes by a name that another target has by now, and has lost its own column, is not watched any
-- more.
create function embedding.follow_names(chosen integer, chosen_table text, chosen_column text)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    moved_targets integer[];
    table_names text[];
    column_names text[];
    numbers jsonb[];
begin
    select array_agg(target.id), array_agg(present.table_name), array_agg(present.column_name),
           array_agg(target.column_numbers -> target.embedding_column)
      into moved_targets, table_names, column_names, numbers
      from public.embedding_targets as target
     cross join lateral (
           select chosen_table, chosen_column where target.id = chosen
           union all
           select public.embedding_table_name(attrelid), attname::text
             from pg_attribute
            where target.id <> chosen
              and attrelid = embedding.triggered_table(target.id) and not attisdropped
              and case when attrelid = target.relation_id
                       then attnum = (target.column_numbers ->> target.embedding_column)::smallint
                       else attname = target.embedding_column end) as present (table_name, column_name)
     where (target.table_name, target.embedding_column) <> (present.table_name, present.column_name);

    -- in two steps, since two may have exchanged their names
    update public.embedding_targets as target set embedding_column = format('renamed %s', target.id)
     where target.id = any (moved_targets);
    update public.embedding_queue as job set embedding_column = format('renamed %s', job.target_id)
     where job.target_id = any (moved_targets);
    perform public.unwatch_embeddings(lost.table_name, lost.embedding_column)
       from public.embedding_targets as lost
      where (lost.table_name, lost.embedding_column) in (select * from unnest(table_names, column_names));
    update public.embedding_targets as target
       set table_name = moved.table_name, embedding_column = moved.column_name, updated_at = now(),
           column_numbers = target.column_numbers || jsonb_build_object(moved.column_name, moved.column_number),
           problem = coalesce(target.problem, format('renamed; run `worker watch %s --column %s`',
                                                     moved.table_name, moved.column_name))
      from unnest(moved_targets, table_names, column_names, numbers)
           as moved (id, table_name, column_name, column_number)
     where target.id = moved.id;
    update public.embedding_queue as job
       set table_name = moved.table_name, embedding_column = moved.column_name
      from unnest(moved_targets, table_names, column_names) as moved (id, table_name, column_name)
     where job.target_id = moved.id;
end $$;

-- Raises if the table or one of its columns has a name that the statements of the queue use themselves.
create function embedding.check_names(relation regclass)
returns void
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    reserved_name name;
begin
    select name into reserved_name
      from (select attname from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
            union all select relname from pg_class where oid = relation) as used (name)
     where starts_with(name, 'eq_') limit 1;
    if reserved_name is not null then
        raise exception 'table % cannot be watched under the name %',
                        public.embedding_table_name(relation), reserved_name
            using errcode = 'reserved_name',
                  hint = 'Names that begin with eq_ stand beside yours in the statements of the queue: rename it.';
    end if;
end $$;

-- What a call of watch_embeddings would do. `before`: the target as it is, null where nobody watches the column;
-- `target`: as it would be; `looks_again`: whether all its records become pending; `trusts_vectors`: whether the
-- column is the one whose vectors the queue knows, so that those of equal text and model stay.
create type embedding.watch_plan as (
    before public.embedding_targets,
    target public.embedding_targets,
    columns_read text[],
    looks_again boolean,
    trusts_vectors boolean
);

-- Checks the arguments of watch_embeddings and fills in, for those that are null, what the target has. Raises a
-- sentence with a hint if the column cannot be watched so.
create function embedding.plan_watch(
    relation regclass, source text, embedding_column text, model text, filter text, dimensions integer,
    priority smallint, debounce interval, on_change text, on_too_long text
)
returns embedding.watch_plan
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    plan embedding.watch_plan;
    before public.embedding_targets;
    target public.embedding_targets;
    bare_name constant name := (select relname from pg_class where oid = relation);
    cause text;
    hint text;
begin
    perform embedding.check_table(relation::text);
    perform embedding.check_names(relation);
    for cause, hint in select * from embedding.blind_spot(relation, null, false) limit 1 loop
        raise exception '%', cause using errcode = 'wrong_object_type', hint = hint;
    end loop;
    select * into before from embedding.find_target_of(relation, plan_watch.embedding_column);
    before.problem := coalesce(before.problem, embedding.identity_problem(before));
    target := before;
    target.problem := null;
    target.table_name := public.embedding_table_name(relation);
    target.embedding_column := plan_watch.embedding_column;
    target.source := coalesce(embedding.source_sql(relation, plan_watch.source), before.source);
    target.filter := nullif(coalesce(plan_watch.filter, before.filter), '');
    target.model := coalesce(nullif(plan_watch.model, ''), before.model);
    target.model_is_default := target.model is not null and coalesce(plan_watch.model = '', before.model_is_default, false);
    target.priority := coalesce(plan_watch.priority, before.priority, 0);
    target.debounce := coalesce(plan_watch.debounce, before.debounce, '0');
    target.on_change := coalesce(plan_watch.on_change, before.on_change, 'keep');
    target.on_too_long := coalesce(plan_watch.on_too_long, before.on_too_long, 'fail');
    if plan_watch.embedding_column is null then
        raise exception 'the embedding column is not given'
            using errcode = 'invalid_parameter_value',
                  hint = 'Name it: watch_embeddings(table, source, embedding_column).';
    elsif target.source is null then
        raise exception 'column % of table % is not watched yet', plan_watch.embedding_column, target.table_name
            using errcode = 'invalid_parameter_value',
                  hint = 'Give its source: a column, several, or an SQL expression (on the command line: --source).';
    end if;

    target.relation := (select format('%I.%I', nspname, bare_name) from pg_class
                          join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = relation);
    target.relation_id := relation;
    target.key_columns := embedding.key_columns(relation);
    target.record_id_sql := embedding.record_id_sql(relation, bare_name, target.key_columns);
    target.record_match_sql := embedding.record_match_sql(relation, target.key_columns);
    target.user_column := (
        select attname from pg_attribute
         where attrelid = relation and attname = 'user_id' and atttypid = 'uuid'::regtype and not attisdropped);
    select columns, numbers into plan.columns_read, target.column_numbers
      from embedding.columns_read(relation, target.source, target.filter);
    if target.column_numbers ? target.embedding_column then
        raise exception 'column % cannot be made from itself', target.embedding_column
            using errcode = 'invalid_parameter_value',
                  hint = 'The source and the filter must not read the embedding column.';
    end if;
    target.column_numbers := target.column_numbers || (
        select jsonb_object_agg(attname, attnum) from pg_attribute
         where attrelid = relation
           and attname = any (target.key_columns || target.user_column || target.embedding_column));
    target.dimensions := embedding.planned_width(relation, target.embedding_column, plan_watch.dimensions);

    plan.before := before;
    plan.trusts_vectors := coalesce(
        case when before.relation_id = relation
             then before.column_numbers -> before.embedding_column = target.column_numbers -> target.embedding_column
             else embedding.triggered_table(before.id) = relation end, false);
    plan.looks_again := not plan.trusts_vectors
        or (before.source, before.filter, before.model, before.record_match_sql, before.problem)
           is distinct from (target.source, target.filter, target.model, target.record_match_sql, target.problem);
    plan.target := target;
    return plan;
end $$;

-- How many records would be embedded again after a plan: those that become pending and whose text, model or vector is
-- not the one that is known. If the text of some row cannot be read, all that become pending are counted.
create function embedding.count_to_embed(plan embedding.watch_plan, default_model text)
returns bigint
language plpgsql
set search_path = '', pg_temp
as $$
declare
    target constant public.embedding_targets := plan.target;
    records bigint;
begin
    if target.id is null or not plan.looks_again then
        return 0;
    end if;
    execute format($sql$
        select count(*)
          from (select record_id as eq_record, content_hash as eq_hash, model as eq_model
                  from public.embedding_queue where target_id = $1 and status <> 'pending') as eq_job
         cross join lateral (
               select (%1$s)::text as eq_text, %2$s as eq_has_vector from %3$s where %4$s and (%5$s)) as eq_row
         where eq_text collate "C" ~ $2
           and ($3 and eq_has_vector and eq_model = $4
                and eq_hash = sha256(convert_to(eq_text, 'UTF8'))) is not true
        $sql$,
        target.source,
        case when target.column_numbers ? target.embedding_column
             then format('%I.%I is not null', (parse_ident(target.relation))[2], target.embedding_column)
             else 'false' end,
        target.relation, target.record_match_sql, coalesce(target.filter, 'true'))
       into records
      using target.id, embedding.visible_character(), plan.trusts_vectors, coalesce(target.model, default_model);
    return records;
exception
    when transaction_rollback or insufficient_resources or operator_intervention or system_error then
        raise;
    when others then
        return (select count(*) from public.embedding_queue as job
                 where job.target_id = target.id and job.status <> 'pending');
end $$;

-- What watch_embeddings would change if it was called so, and how many records would be embedded again, by a worker with
-- this default model. Changes nothing.
create function public.preview_watch_embeddings(
    relation regclass,
    source text default null,
    embedding_column text default null,
    model text default null,
    filter text default null,
    dimensions integer default null,
    priority smallint default null,
    debounce interval default null,
    on_change text default null,
    on_too_long text default null,
    match_function boolean default null,
    default_model text default null,
    out is_watched boolean,
    out width integer,
    out changes text[],
    out to_embed bigint
)
language plpgsql
set search_path = '', pg_temp
as $$
declare
    plan constant embedding.watch_plan := embedding.plan_watch(
        relation, source, embedding_column, model, filter, dimensions, priority, debounce, on_change, on_too_long);
begin
    is_watched := (plan.target).id is not null;
    width := (plan.target).dimensions;
    to_embed := embedding.count_to_embed(plan, default_model);
    select coalesce(array_agg(format('%s: %s -> %s', setting, coalesce(was, 'none'), coalesce(becomes, 'none'))
                              order by place), '{}')
      into changes
      from unnest('{problem,table_name,embedding_column,source,filter,model,model_is_default,dimensions,priority,debounce,on_change,'
                  'on_too_long}'::text[]) with ordinality as listed (setting, place)
     cross join lateral (
           select to_jsonb(plan.before) ->> setting, to_jsonb(plan.target) ->> setting) as value (was, becomes)
     where is_watched and was is distinct from becomes;
    if is_watched and match_function <> exists (
        select from embedding.match_functions() as written where written.target_id = (plan.target).id
    ) then
        changes := changes || format('match_function: %s -> %s', (not match_function)::text, match_function::text);
    end if;
end $$;

-- Makes every job of a target pending, below live edits. Unless it `trusts_vectors`, each record is embedded again, also
-- if its text and model are the same.
create function embedding.requeue_target(target public.embedding_targets, trusts_vectors boolean)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    update public.embedding_queue as job
       set status = 'pending', priority = greatest(target.priority - 10, -32768), available_at = now(),
           content_hash = case when trusts_vectors then job.content_hash end, attempts = 0, abandoned_claims = 0, unwritten = 0, passed_over = 0, error_message = null, error_class = null,
           lease = null, lease_expires_at = null, worker = null, updated_at = now()
     where job.id in (
               select due.id from public.embedding_queue as due
                where due.target_id = target.id and (due.status <> 'pending' or not trusts_vectors)
                order by due.id for update); -- one left out would keep its old vector for good
end $$;

-- Keeps `embedding_column` in step with `source` (a column, several, or an SQL expression over the
-- row), for the rows for which `filter` is true. Rows that are already there are enqueued by
-- backfill_embeddings, or by their next edit. With `dimensions` a missing column is added.
--
-- Called again it changes the target: an argument that is null or left out keeps what the target has, and an empty
-- filter takes it away. Where the text or the filter changes, the records become pending, and those whose text turns
-- out the same complete without a call to the model. So they do where a problem had suspended the target. Another model
-- clears the vectors (see embedding.change_model); an empty one keeps it, as the default of a worker and not as a name.
-- If the column is not the one that was watched under this name, all records are embedded again. Says in one sentence
-- what is wrong, and then changes nothing.
--
-- `match_function` true writes a function `match_<table>` for apps, false takes it away; without it
-- one that is there is kept in step.
create function public.watch_embeddings(
    relation regclass,
    source text default null,
    embedding_column text default null,
    model text default null,
    filter text default null,
    dimensions integer default null,
    priority smallint default null,
    debounce interval default null,
    on_change text default null,
    on_too_long text default null,
    match_function boolean default null
)
returns public.embedding_targets
language plpgsql
set search_path = '', pg_temp
as $$
#variable_conflict use_column
declare
    plan embedding.watch_plan := embedding.plan_watch(
        relation, source, embedding_column, model, filter, dimensions, priority, debounce, on_change, on_too_long);
    target public.embedding_targets := plan.target;
    watched public.embedding_targets;
begin
    if not target.column_numbers ? target.embedding_column then
        perform embedding.add_column(relation, target.embedding_column, target.dimensions);
        target.column_numbers := target.column_numbers || (
            select jsonb_build_object(attname, attnum) from pg_attribute
             where attrelid = relation and attname = target.embedding_column);
    end if;
    if (target.table_name, target.embedding_column) <> ((plan.before).table_name, (plan.before).embedding_column) then
        perform embedding.follow_names(target.id, target.table_name, target.embedding_column);
    end if;

    insert into public.embedding_targets as known (
        table_name, embedding_column, source, filter, model, model_is_default, dimensions, priority, debounce,
        on_change, on_too_long,
        relation, relation_id, column_numbers, key_columns, record_id_sql, record_match_sql, user_column)
    values (
        target.table_name, target.embedding_column, target.source, target.filter, target.model,
        target.model_is_default, target.dimensions, target.priority, target.debounce, target.on_change,
        target.on_too_long, target.relation, target.relation_id, target.column_numbers, target.key_columns, target.record_id_sql, target.record_match_sql, target.user_column)
    on conflict on constraint embedding_targets_one_per_column do update
       set source = excluded.source, filter = excluded.filter, model = excluded.model,
           model_is_default = excluded.model_is_default,
           dimensions = excluded.dimensions, priority = excluded.priority, debounce = excluded.debounce,
           on_change = excluded.on_change, on_too_long = excluded.on_too_long,
           relation = excluded.relation, relation_id = excluded.relation_id,
           column_numbers = excluded.column_numbers, key_columns = excluded.key_columns,
           record_id_sql = excluded.record_id_sql, record_match_sql = excluded.record_match_sql,
           user_column = excluded.user_column, problem = null, updated_at = now(),
           backfill_cursor = case when known.key_columns = excluded.key_columns then known.backfill_cursor end
    returning known.* into watched;

    perform embedding.make_trigger_function(watched);
    perform embedding.make_triggers(watched, plan.columns_read);
    perform embedding.keep_match_function(watched, match_function);
    if plan.looks_again then
        perform embedding.requeue_target(watched, plan.trusts_vectors);
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
    if embedding.is_ours(to_regprocedure(format('embedding.trigger_%s()', target.id))) then
        execute format('drop function if exists embedding.trigger_%s() cascade', target.id);
    end if;
    perform embedding.keep_match_function(target, false);
    delete from public.embedding_queue as job where job.target_id = target.id;
    return true;
end $$;
