-- Why:   whatever is wrong with the targets, their triggers, columns and indexes, the queue and the extension is said
--        in one place, with what to do about it.
-- Locks: nothing. It reads the catalogs and the queue, and none of the watched tables.
-- Undo:  drop function public.diagnose_embeddings;

-- One row for each thing that is wrong (`problem`), likely to go wrong (`warning`) or worth saying (`note`);
-- none for what is fine. Tables are looked up in the catalogs by name: one that is gone, or that our owner may not
-- use, raises nothing.
create function public.diagnose_embeddings()
returns table (level text, check_name text, subject text, cause text, hint text)
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    with watched as (
        select target.id,
               format('%s.%I', target.table_name, target.embedding_column) as name,
               target.table_name, target.embedding_column, target.relation, target.dimensions, target.problem,
               class.oid as relation_id, attribute.attnum, type.typname as type,
               nullif(attribute.atttypmod, -1) as width,
               to_regproc(format('embedding.trigger_%s', target.id)) as trigger_function
          from public.embedding_targets as target
         cross join lateral parse_ident(target.relation) as part
          left join pg_namespace as namespace on namespace.nspname = part[1]
          left join pg_class as class on class.relnamespace = namespace.oid and class.relname = part[2]
          left join pg_attribute as attribute
            on attribute.attrelid = class.oid and attribute.attname = target.embedding_column
           and attribute.attnum > 0 and not attribute.attisdropped
          left join pg_type as type on type.oid = attribute.atttypid
    ), indexes as ( -- also those over an expression of the column
        select watched.id, watched.name, index.indrelid, index.indisvalid, class.relkind, method.amname as method,
               index.indexrelid::regclass::text as index_name
          from watched
          join pg_index as index on index.indrelid = watched.relation_id
          join pg_class as class on class.oid = index.indexrelid
          join pg_am as method on method.oid = class.relam
         where exists (select from pg_depend as dependency
                        where dependency.classid = 'pg_class'::regclass and dependency.objid = index.indexrelid
                          and dependency.refclassid = 'pg_class'::regclass
                          and dependency.refobjid = watched.relation_id
                          and dependency.refobjsubid = watched.attnum)
    ), found (level, check_name, subject, cause, hint) as (

        -- the extension; what a build of it adds to its number is not compared
        select case when vector.version < '{0,7}' then 'problem' else 'warning' end,
               'vector_version',
               'vector ' || vector.extversion,
               case when vector.version < '{0,7}' then 'before 0.7 pgvector has no halfvec, which this needs'
                    else 'before 0.8.4 a vacuum or a parallel build can damage an hnsw index' end,
               'Run `alter extension vector update`, after an upgrade of Postgres or its image '
               'if that brings no newer version.'
          from (select extversion, string_to_array(substring(extversion from '^\d+(?:\.\d+)*'), '.')::integer[] as version
                  from pg_extension where extname = 'vector') as vector
         where vector.version < '{0,8,4}'

        -- the session: also what the role or the database sets for it
        union all
        select 'problem', 'read_only', current_database()::text,
               'the database takes no writes, so changes are neither queued nor embedded',
               case when pg_is_in_recovery() then 'Connect to the primary: this server is a standby.'
                    else format('Free disk space if your host made it read-only (Supabase does so when the disk is full). '
                                'Then run `alter database %I reset default_transaction_read_only`, and the same for '
                                'the role if it is set there.', current_database()) end
         where pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean

        union all
        select 'warning', 'isolation', session_user::text,
               format('its transactions are %s, so claims fail while rows are being edited, and are tried again',
                      current_setting('default_transaction_isolation')),
               format('Run `alter role %I set default_transaction_isolation = ''read committed''`, '
                      'and connect again.', session_user)
         where current_setting('default_transaction_isolation') in ('repeatable read', 'serializable')

        -- the targets
        union all
        select 'note', 'no_targets', 'embedding_targets', 'no column is watched',
               'Run `worker watch` for the first one.'
         where not exists (select from watched)

        union all
        select 'problem', 'table_missing', watched.name,
               format('table %s no longer exists', watched.relation)
                   || coalesce(format(', it is called %s now', renamed.relation), ''),
               coalesce(format('Run `worker watch` for the column of %s.', renamed.relation),
                        'Run `worker unwatch` for the column, or `worker watch` once the table is back.')
          from watched
          left join lateral (
                select embedding.triggered_table(watched.id)::regclass::text as relation) as renamed on true
         where watched.relation_id is null

        union all
        select 'problem', 'suspended', watched.name, watched.problem,
               'Fix the table, then run `worker watch` for the column again.'
          from watched
         cross join lateral embedding.table_problem(watched.relation_id) as refused
         where watched.relation_id is not null and watched.problem is distinct from refused.cause
           and watched.problem is not null

        union all
        select 'problem', 'table_refused', watched.name, refused.cause,
               refused.hint || ' Then run `worker watch` for the column again.'
          from watched
         cross join lateral embedding.table_problem(watched.relation_id) as refused
         where refused.cause is not null

        union all
        select 'warning', 'schema_owner', namespace.nspname,
               format('schema %I belongs to %s, who can replace the tables of the queue and so run code with the rights of %s',
                      namespace.nspname, owner.role, ours.role),
               format('Run `alter schema %I owner to %s`.', namespace.nspname, ours.role)
          from pg_namespace as namespace
         cross join lateral (
               select (case when namespace.nspowner = 'pg_database_owner'::regrole then database.datdba
                            else namespace.nspowner end)::regrole
                 from pg_database as database where database.datname = current_database()) as owner (role)
         cross join lateral (
               select nspowner::regrole from pg_namespace where nspname = 'embedding') as ours (role)
         where namespace.nspname = 'public' and not embedding.trusts(owner.role)

        union all
        select 'problem', 'function_overloaded', other.oid::regprocedure::text,
               format('this function of %s has the name of one of this API, so calls by that name can fail',
                      other.proowner::regrole),
               format('Run `drop function %s`, or rename it.', other.oid::regprocedure)
          from pg_proc as other
         where other.pronamespace = 'public'::regnamespace and not embedding.trusts(other.proowner)
           and exists (select from pg_proc as ours
                        where ours.pronamespace = other.pronamespace and ours.proname = other.proname
                          and ours.oid <> other.oid and embedding.trusts(ours.proowner)
                          and ours.proname ~ '(^|_)embeddings?(_|$)')

        union all
        select 'problem', 'identity_changed', watched.name,
               split_part(identity.problem, '; run ', 1), 'Run ' || split_part(identity.problem, '; run ', 2) || '.'
          from watched
          join public.embedding_targets as target using (id)
         cross join lateral embedding.identity_problem(target) as identity (problem)
         where watched.problem is null and watched.attnum is not null and identity.problem is not null

        union all
        select 'problem', 'column_changed', watched.name,
               case when watched.attnum is null then format('column %s is gone', watched.name)
                    when watched.type not in ('vector', 'halfvec')
                        then format('column %s is of type %s and not a vector', watched.name, watched.type)
                    else format('column %s holds %s dimensions and was watched with %s', watched.name,
                                coalesce(watched.width::text, 'any'), coalesce(watched.dimensions::text, 'any')) end,
               'Change it back, or run `worker watch` for the column as it should be.'
          from watched
         where watched.relation_id is not null
           and (watched.attnum is null or watched.type not in ('vector', 'halfvec')
                or watched.width is distinct from watched.dimensions)

        -- their triggers
        union all
        select 'problem', 'triggers_missing', watched.name,
               format('table %s lacks %s, so changes go unseen', watched.table_name, missing.names),
               format('Run `worker watch` for the column again, then `worker backfill`, and for what was edited '
                      'meanwhile `update public.embedding_queue set status = ''pending'' where target_id = %s`.',
                      watched.id)
          from watched
         cross join lateral (
               select string_agg(wanted.name, ', ' order by wanted.name) as names
                 from unnest('{insert,update,delete,truncate}'::text[]) as event
                cross join lateral format('embedding_%s_%s', event, watched.id) as wanted (name)
                where not exists (select from pg_trigger
                                   where pg_trigger.tgrelid = watched.relation_id
                                     and pg_trigger.tgname = wanted.name
                                     and pg_trigger.tgfoid = watched.trigger_function)) as missing
         where watched.relation_id is not null and missing.names is not null

        union all
        select 'problem', 'triggers_disabled', watched.name,
               format('table %s has %s disabled, so changes go unseen', watched.table_name, disabled.names),
               format('Run `alter table %s %s`, then `worker backfill`, and for what was edited meanwhile '
                      '`update public.embedding_queue set status = ''pending'' where target_id = %s`.',
                      watched.relation, disabled.enabling, watched.id)
          from watched
         cross join lateral (
               select string_agg(pg_trigger.tgname, ', ' order by pg_trigger.tgname) as names,
                      string_agg('enable trigger ' || pg_trigger.tgname, ', ' order by pg_trigger.tgname) as enabling
                 from pg_trigger
                where pg_trigger.tgrelid = watched.relation_id and pg_trigger.tgenabled in ('D', 'R')
                  and pg_trigger.tgfoid = watched.trigger_function) as disabled
         where disabled.names is not null

        union all
        select 'problem', 'rows_unseen', watched.name, spot.cause, spot.hint
          from watched
         cross join lateral embedding.blind_spot(watched.relation_id, watched.id, true) as spot
         where watched.problem is distinct from spot.cause and spot.cause !~ '^table .* lacks its trigger '

        -- their match functions
        union all
        select 'problem', 'match_function_broken', watched.name,
               format('pgvector was moved to another schema, and %s looks for it where it was', written.routine),
               'Run `worker watch` for the column again.'
          from watched
          join embedding.match_functions() as written on written.target_id = watched.id
          join pg_proc as routine on routine.oid = written.routine
         where not exists (
               select from pg_extension
                where extname = 'vector'
                  and position(format(' operator(%s.<=>) ', extnamespace::regnamespace) in routine.prosrc) > 0)

        -- their indexes
        union all
        select 'warning', 'dimensions_above_index', watched.name,
               format('an index over %s ends at %s dimensions, this column has %s',
                      watched.type, last.dimensions, watched.width),
               case when watched.width <= 4000 then format('Make it a halfvec(%s).', watched.width)
                    else 'Use a model, or a width of it, of no more than 4000 dimensions in a halfvec column.' end
          from watched
          join (values ('vector', 2000), ('halfvec', 4000)) as last (type, dimensions) on last.type = watched.type
         where watched.width > last.dimensions
           and not exists (select from indexes
                            where indexes.id = watched.id and indexes.method in ('hnsw', 'ivfflat'))

        union all
        select 'problem', 'index_invalid', indexes.index_name,
               format('a build of this index over %s was broken off, so no search uses it', indexes.name),
               format('Run `drop index %s%s` and build it again.',
                      case when indexes.relkind = 'i' then 'concurrently ' else '' end, indexes.index_name)
          from indexes
         where not indexes.indisvalid
           and not exists ( -- of a build by somebody else the table is not shown to all
               select from pg_stat_progress_create_index as build
                where build.datname = current_database()
                  and (build.relid = indexes.indrelid or build.relid is null))

        union all
        select 'warning', 'index_during_backfill', indexes.index_name,
               format('%s jobs of %s are pending, and this index makes writing a vector about 25 times slower',
                      job.pending, indexes.name),
               'Drop it, and build it again after the backfill.'
          from indexes
         cross join lateral (
               select sum(counts.pending)::bigint as pending,
                      sum(counts.pending + counts.processing + counts.completed + counts.failed + counts.skipped) as jobs
                 from public.embedding_counts as counts where counts.target_id = indexes.id) as job
         where indexes.method = 'hnsw' and job.pending > 1000 and job.pending * 10 > job.jobs

        union all
        select 'warning', 'timeout_too_short', watched.name,
               format('the statement_timeout of %s would end the build of an index over %s, which has none',
                      current_setting('statement_timeout'), watched.name),
               'Run `set statement_timeout = 0` in the session that builds it, '
               'over a direct connection or one in session mode.'
          from watched
         where (select setting::bigint between 1 and 600000 - 1 -- milliseconds
                  from pg_settings where pg_settings.name = 'statement_timeout')
           and watched.type in ('vector', 'halfvec')
           and not exists (select from indexes
                            where indexes.id = watched.id and indexes.indisvalid
                              and indexes.method in ('hnsw', 'ivfflat'))
           and exists (select from public.embedding_queue
                        where target_id = watched.id and status = 'completed' offset 10000)

        -- the queue
        union all
        select 'note', 'failed_jobs', watched.name,
               format('%s %s failed', job.failed, case when job.failed = 1 then 'job' else 'jobs' end),
               'Run `worker status` to see why.'
          from watched
         cross join lateral (
               select sum(counts.failed)::bigint as failed
                 from public.embedding_counts as counts where counts.target_id = watched.id) as job
         where job.failed > 0

        union all
        select 'problem', 'autovacuum_off', off.subject, off.cause, off.hint
          from (select 'embedding_queue', 'the autovacuum of the queue is turned off, so its dead rows stay',
                       'Run `alter table public.embedding_queue reset (autovacuum_enabled)`.'
                  from pg_class
                 cross join lateral pg_options_to_table(pg_class.reloptions) as option
                 where pg_class.oid = 'public.embedding_queue'::regclass
                   and option.option_name = 'autovacuum_enabled' and not option.option_value::boolean
                union all
                select 'autovacuum', 'the autovacuum of the server is turned off, so dead rows stay',
                       'Run `alter system set autovacuum = on` and `select pg_reload_conf()`, '
                       'or turn it on in the settings of your host.'
                 where not current_setting('autovacuum')::boolean) as off (subject, cause, hint)

        union all
        select 'warning', 'autovacuum_behind', 'embedding_queue',
               format('the queue has %s dead rows beside %s that live', queue.n_dead_tup, queue.n_live_tup),
               'End the oldest transaction (`select * from pg_stat_activity order by age(backend_xmin) desc nulls last`), '
               'or without one run `vacuum public.embedding_queue`.'
          from pg_stat_user_tables as queue
         where queue.relid = 'public.embedding_queue'::regclass
           and queue.n_dead_tup > greatest(10000, 2 * (1000 + 0.01 * queue.n_live_tup))
    )
    select found.level, found.check_name, found.subject, found.cause, found.hint
      from found
     order by array_position('{problem,warning,note}', found.level), found.subject, found.check_name;
$$;

select embedding.let_workers_call('public.diagnose_embeddings');
