-- Why:   each check finds one thing that can be wrong with targets, their tables, triggers, functions, indexes and
--        jobs.
-- Locks: nothing. The checks read the catalogs and the queue, and none of the watched tables.
-- Undo:  drop function embedding.diagnose_no_targets, embedding.diagnose_table_missing, embedding.diagnose_suspended,
--        embedding.diagnose_table_refused, embedding.diagnose_identity_changed, embedding.diagnose_column_changed,
--        embedding.diagnose_triggers_missing, embedding.diagnose_triggers_disabled, embedding.diagnose_rows_unseen,
--        embedding.diagnose_match_function_broken, embedding.diagnose_dimensions_above_index,
--        embedding.diagnose_full_text_index_missing, embedding.diagnose_index_invalid, embedding.diagnose_index_during_backfill,
--        embedding.diagnose_timeout_too_short, embedding.diagnose_failed_jobs; drop view embedding.vector_indexes,
--        embedding.watched_columns;

-- The targets, with what the catalogs have under the names of their table and column.
create view embedding.watched_columns
with (security_invoker = true)
as
select target.id,
       format('%s.%I', target.table_name, target.embedding_column) as name,
       target.table_name, target.embedding_column, target.relation, target.dimensions, target.problem,
       class.oid as relation_id, vectors.oid as vectors_id, attribute.attnum, type.typname as type,
       nullif(attribute.atttypmod, -1) as width,
       to_regproc(format('embedding.trigger_%s', target.id))::oid as trigger_function
  from public.embedding_targets as target
 cross join lateral parse_ident(target.relation) as part
  left join pg_namespace as namespace on namespace.nspname = part[1]
  left join pg_class as class on class.relnamespace = namespace.oid and class.relname = part[2]
  left join lateral (
        select class.oid, target.embedding_column where num_nonnulls(target.chunks_relation, target.store_relation) = 0
         union all
        select to_regclass(beside), 'embedding' from coalesce(target.chunks_relation, target.store_relation) as beside
         where beside is not null) as vectors (oid, column_name) on true
  left join pg_attribute as attribute
    on attribute.attrelid = vectors.oid and attribute.attname = vectors.column_name
   and attribute.attnum > 0 and not attribute.attisdropped
  left join pg_type as type on type.oid = attribute.atttypid
 where target.kind = 'embed';

-- The indexes over watched columns, also those over an expression of the column.
create view embedding.vector_indexes
with (security_invoker = true)
as
select watched.id, watched.name, index.indrelid, index.indisvalid, class.relkind, method.amname as method,
       index.indexrelid::regclass::text as index_name
  from embedding.watched_columns as watched
  join pg_index as index on index.indrelid = watched.vectors_id
  join pg_class as class on class.oid = index.indexrelid
  join pg_am as method on method.oid = class.relam
 where exists (select from pg_depend as dependency
                where dependency.classid = 'pg_class'::regclass and dependency.objid = index.indexrelid
                  and dependency.refclassid = 'pg_class'::regclass
                  and dependency.refobjid = watched.vectors_id
                  and dependency.refobjsubid = watched.attnum);

-- No column is watched.
create function embedding.diagnose_no_targets()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'note', 'no_targets', 'embedding_targets', 'no column is watched',
           'Run `worker watch` for the first one.'
     where not exists (select from embedding.watched_columns as watched);
$$;

-- A watched table is missing, or has another name now.
create function embedding.diagnose_table_missing()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'table_missing', watched.name,
           format('table %s no longer exists', watched.relation)
               || coalesce(format(', it is called %s now', renamed.relation), ''),
           coalesce(format('Run `worker watch` for the column of %s.', renamed.relation),
                    'Run `worker unwatch` for the column, or `worker watch` once the table is back.')
      from embedding.watched_columns as watched
      left join lateral (
            select embedding.triggered_table(watched.id)::regclass::text as relation) as renamed on true
     where watched.relation_id is null;
$$;

-- A target is suspended because of a problem that still has to be fixed.
create function embedding.diagnose_suspended()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'suspended', watched.name, watched.problem,
           'Fix the table, then run `worker watch` for the column again.'
      from embedding.watched_columns as watched
     cross join lateral embedding.table_problem(watched.relation_id) as refused
     where watched.relation_id is not null and watched.problem is distinct from refused.cause
       and watched.problem is not null;
$$;

-- The owner of this API must not, or cannot, work on a table.
create function embedding.diagnose_table_refused()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'table_refused', watched.name, refused.cause,
           refused.hint || ' Then run `worker watch` for the column again.'
      from embedding.watched_columns as watched
     cross join lateral embedding.table_problem(watched.relation_id) as refused
     where refused.cause is not null;
$$;

-- A table or a column is not the one that was watched under that name.
create function embedding.diagnose_identity_changed()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'identity_changed', watched.name,
           split_part(identity.problem, '; run ', 1), 'Run ' || split_part(identity.problem, '; run ', 2) || '.'
      from embedding.watched_columns as watched
      join public.embedding_targets as target using (id)
     cross join lateral embedding.identity_problem(target) as identity (problem)
     where watched.problem is null and watched.attnum is not null and identity.problem is not null
       and not exists (select from unnest(embedding.side_tables(target)) as made (name)
                        where to_regclass(made.name) is null); -- that is a finding of its own
$$;

-- A column is missing, or no longer holds the vectors that it was watched with.
create function embedding.diagnose_column_changed()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'column_changed', watched.name,
           case when watched.attnum is null then format('column %s is gone', watched.name)
                when watched.type not in ('vector', 'halfvec')
                    then format('column %s is of type %s and not a vector', watched.name, watched.type)
                else format('column %s holds %s dimensions and was watched with %s', watched.name,
                            coalesce(watched.width::text, 'any'), coalesce(watched.dimensions::text, 'any')) end,
           'Change it back, or run `worker watch` for the column as it should be.'
      from embedding.watched_columns as watched
     where watched.relation_id is not null and watched.vectors_id is not null -- or its table is missing
       and (watched.attnum is null or watched.type not in ('vector', 'halfvec')
            or watched.width is distinct from watched.dimensions);
$$;

-- A table lacks triggers of ours.
create function embedding.diagnose_triggers_missing()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'triggers_missing', watched.name,
           format('table %s lacks %s, so changes go unseen', watched.table_name, missing.names),
           format('Run `worker watch` for the column again, then `worker backfill`, and for what was edited '
                  'meanwhile `update public.embedding_queue set status = ''pending'' where target_id = %s`.',
                  watched.id)
      from embedding.watched_columns as watched
     cross join lateral (
           select string_agg(wanted.name, ', ' order by wanted.name) as names
             from unnest('{insert,update,updated,delete,truncate}'::text[]) as event
            cross join lateral format('embedding_%s_%s', event, watched.id) as wanted (name)
            where (event <> 'updated' or embedding.is_watched_by_statement(watched.relation_id))
              and not exists (select from pg_trigger
                               where pg_trigger.tgrelid = watched.relation_id
                                 and pg_trigger.tgname = wanted.name
                                 and pg_trigger.tgfoid = watched.trigger_function)) as missing
     where watched.relation_id is not null and missing.names is not null;
$$;

-- Triggers of ours are turned off.
create function embedding.diagnose_triggers_disabled()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'triggers_disabled', watched.name,
           format('table %s has %s disabled, so changes go unseen', watched.table_name, disabled.names),
           format('Run `alter table %s %s`, then `worker backfill`, and for what was edited meanwhile '
                  '`update public.embedding_queue set status = ''pending'' where target_id = %s`.',
                  watched.relation, disabled.enabling, watched.id)
      from embedding.watched_columns as watched
     cross join lateral (
           select string_agg(pg_trigger.tgname, ', ' order by pg_trigger.tgname) as names,
                  string_agg('enable trigger ' || pg_trigger.tgname, ', ' order by pg_trigger.tgname) as enabling
             from pg_trigger
            where pg_trigger.tgrelid = watched.relation_id and pg_trigger.tgenabled in ('D', 'R')
              and pg_trigger.tgfoid = watched.trigger_function) as disabled
     where disabled.names is not null;
$$;

-- Triggers do not see every row that the queue reads.
create function embedding.diagnose_rows_unseen()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'rows_unseen', watched.name, spot.cause, spot.hint
      from embedding.watched_columns as watched
     cross join lateral embedding.blind_spot(watched.relation_id, watched.id, true) as spot
     where watched.problem is distinct from spot.cause and spot.cause !~ '^table .* lacks its trigger ';
$$;

-- A match function expects pgvector in its former schema.
create function embedding.diagnose_match_function_broken()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'match_function_broken', watched.name,
           format('pgvector was moved to another schema, and %s looks for it where it was', written.routine),
           'Run `worker watch` for the column again.'
      from embedding.watched_columns as watched
      join embedding.match_functions() as written on written.target_id = watched.id
      join pg_proc as routine on routine.oid = written.routine
     where not exists (
           select from pg_extension
            where extname = 'vector'
              and position(format(' operator(%s.<=>) ', extnamespace::regnamespace) in routine.prosrc) > 0);
$$;

-- A column is too wide for an index, and has none.
create function embedding.diagnose_dimensions_above_index()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'warning', 'dimensions_above_index', watched.name,
           format('an index over %s supports at most %s dimensions, this column has %s',
                  watched.type, last.dimensions, watched.width),
           case when watched.width <= 4000 then format('Make it a halfvec(%s).', watched.width)
                else 'Use a model, or a width of it, of no more than 4000 dimensions in a halfvec column.' end
      from embedding.watched_columns as watched
      join (values ('vector', 2000), ('halfvec', 4000)) as last (type, dimensions) on last.type = watched.type
     where watched.width > last.dimensions
       and not exists (select from embedding.vector_indexes as indexes
                        where indexes.id = watched.id and indexes.method in ('hnsw', 'ivfflat'));
$$;

-- A column whose words are searched lacks the index for that.
create function embedding.diagnose_full_text_index_missing()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'full_text_index_missing', watched.name,
           format('no valid index serves the words of %s, so searches read all of its texts', watched.name),
           format('Run `worker watch %s --column %s`, or as its owner: %s',
                  watched.table_name, watched.embedding_column, string_agg(format('`%s`', statement), ', '))
      from embedding.watched_columns as watched
     cross join lateral public.embedding_index_statements(watched.table_name, watched.embedding_column, false) as statement
     where watched.problem is null
     group by watched.name, watched.table_name, watched.embedding_column;
$$;

-- The build of an index was interrupted.
create function embedding.diagnose_index_invalid()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'index_invalid', indexes.index_name,
           format('a build of this index over %s was interrupted, so no search uses it', indexes.name),
           format('Run `drop index %s%s` and build it again.',
                  case when indexes.relkind = 'i' then 'concurrently ' else '' end, indexes.index_name)
      from embedding.vector_indexes as indexes
     where not indexes.indisvalid
       and not exists ( -- not every role can see the table of a build by another role
           select from pg_stat_progress_create_index as build
            where build.datname = current_database()
              and (build.relid = indexes.indrelid or build.relid is null));
$$;

-- An index slows down a backfill.
create function embedding.diagnose_index_during_backfill()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'warning', 'index_during_backfill', indexes.index_name,
           format('%s jobs of %s are pending, and this index makes writing a vector about 25 times slower',
                  job.pending, indexes.name),
           'Drop it, and build it again after the backfill.'
      from embedding.vector_indexes as indexes
     cross join lateral (
           select sum(counts.pending)::bigint as pending,
                  sum(counts.pending + counts.processing + counts.completed + counts.failed + counts.skipped) as jobs
             from public.embedding_counts as counts where counts.target_id = indexes.id) as job
     where indexes.method = 'hnsw' and job.pending > 1000 and job.pending * 10 > job.jobs;
$$;

-- The statement timeout would end the build of an index.
create function embedding.diagnose_timeout_too_short()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'warning', 'timeout_too_short', watched.name,
           format('the statement_timeout of %s would end the build of an index over %s, which has none',
                  current_setting('statement_timeout'), watched.name),
           format('Run `worker index %s --column %s`: its session has no such limit.',
                  watched.table_name, watched.embedding_column)
      from embedding.watched_columns as watched
     where (select setting::bigint between 1 and 600000 - 1 -- milliseconds
              from pg_settings where pg_settings.name = 'statement_timeout')
       and watched.type in ('vector', 'halfvec')
       and not exists (select from embedding.vector_indexes as indexes
                        where indexes.id = watched.id and indexes.indisvalid
                          and indexes.method in ('hnsw', 'ivfflat'))
       and (exists (select from public.embedding_queue
                     where target_id = watched.id and status = 'completed' offset 10000)
            or exists (select from pg_class
                        where oid = watched.vectors_id and oid <> watched.relation_id and reltuples > 10000));
$$;

-- Jobs have failed.
create function embedding.diagnose_failed_jobs()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'note', 'failed_jobs', watched.name,
           format('%s %s failed', job.failed, case when job.failed = 1 then 'job' else 'jobs' end),
           'Run `worker status` to see why.'
      from embedding.watched_columns as watched
     cross join lateral (
           select sum(counts.failed)::bigint as failed
             from public.embedding_counts as counts where counts.target_id = watched.id) as job
     where job.failed > 0;
$$;

select embedding.protect_relation('embedding.watched_columns');
select embedding.protect_relation('embedding.vector_indexes');
select embedding.protect_functions(
    'embedding.diagnose_no_targets', 'embedding.diagnose_table_missing', 'embedding.diagnose_suspended',
    'embedding.diagnose_table_refused', 'embedding.diagnose_identity_changed',
    'embedding.diagnose_column_changed', 'embedding.diagnose_triggers_missing',
    'embedding.diagnose_triggers_disabled', 'embedding.diagnose_rows_unseen',
    'embedding.diagnose_match_function_broken', 'embedding.diagnose_dimensions_above_index',
    'embedding.diagnose_full_text_index_missing', 'embedding.diagnose_index_invalid', 'embedding.diagnose_index_during_backfill',
    'embedding.diagnose_timeout_too_short', 'embedding.diagnose_failed_jobs');
