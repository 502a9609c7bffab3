-- Why:   each check finds one thing that can be wrong with the server, the session, pgvector or the schema of the
--        queue.
-- Locks: nothing. The checks read the catalogs and statistics.
-- Undo:  drop function embedding.diagnose_vector_version, embedding.diagnose_read_only, embedding.diagnose_isolation,
--        embedding.diagnose_schema_owner, embedding.diagnose_function_overloaded, embedding.diagnose_autovacuum_off,
--        embedding.diagnose_autovacuum_behind; drop type embedding.finding;

-- Something that is wrong (`problem`), likely to go wrong (`warning`) or worth saying (`note`): see diagnose_embeddings.
create type embedding.finding as (level text, check_name text, subject text, cause text, hint text);

-- The version of pgvector is too old. Suffixes of the version are not compared.
create function embedding.diagnose_vector_version()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select case when vector.version < '{0,7}' then 'problem' else 'warning' end,
           'vector_version',
           'vector ' || vector.extversion,
           case when vector.version < '{0,7}' then 'before 0.7 pgvector has no halfvec, which this needs'
                else 'before 0.8.4 a vacuum or a parallel build can damage an hnsw index' end,
           'Run `alter extension vector update`, after an upgrade of Postgres or its image '
           'if that brings no newer version.'
      from (select extversion, string_to_array(substring(extversion from '^\d+(?:\.\d+)*'), '.')::integer[] as version
              from pg_extension where extname = 'vector') as vector
     where vector.version < '{0,8,4}';
$$;

-- The session takes no writes, possibly because of a setting of the role or the database.
create function embedding.diagnose_read_only()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'read_only', current_database()::text,
           'the database takes no writes, so changes are neither queued nor embedded',
           case when pg_is_in_recovery() then 'Connect to the primary: this server is a standby.'
                else format('Free disk space if your host made it read-only (Supabase does so when the disk is full). '
                            'Then run `alter database %I reset default_transaction_read_only`, and the same for '
                            'the role if it is set there.', current_database()) end
     where pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean;
$$;

-- The transactions of the session are stricter than claims need.
create function embedding.diagnose_isolation()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'warning', 'isolation', session_user::text,
           format('its transactions are %s, so claims fail while rows are being edited, and are tried again',
                  current_setting('default_transaction_isolation')),
           format('Run `alter role %I set default_transaction_isolation = ''read committed''`, '
                  'and connect again.', session_user)
     where current_setting('default_transaction_isolation') in ('repeatable read', 'serializable');
$$;

-- A role that the owner of this API does not trust owns the schema of the queue.
create function embedding.diagnose_schema_owner()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
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
     where namespace.nspname = 'public' and not embedding.trusts(owner.role);
$$;

-- A function of another role has the name of one of ours.
create function embedding.diagnose_function_overloaded()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'function_overloaded', other.oid::regprocedure::text,
           format('this function of %s has the name of one of this API, so calls by that name can fail',
                  other.proowner::regrole),
           format('Run `drop function %s`, or rename it.', other.oid::regprocedure)
      from pg_proc as other
     where other.pronamespace = 'public'::regnamespace and not embedding.trusts(other.proowner)
       and exists (select from pg_proc as ours
                    where ours.pronamespace = other.pronamespace and ours.proname = other.proname
                      and ours.oid <> other.oid and embedding.trusts(ours.proowner)
                      and ours.proname ~ '(^|_)(re)?embedd(ing|ed)s?(_|$)');
$$;

-- Autovacuum is turned off, for the queue or for the server.
create function embedding.diagnose_autovacuum_off()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
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
             where not current_setting('autovacuum')::boolean) as off (subject, cause, hint);
$$;

-- The queue has more dead rows than autovacuum should leave.
create function embedding.diagnose_autovacuum_behind()
returns setof embedding.finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'warning', 'autovacuum_behind', 'embedding_queue',
           format('the queue has %s dead rows and %s live rows', queue.n_dead_tup, queue.n_live_tup),
           'End the oldest transaction (`select * from pg_stat_activity order by age(backend_xmin) desc nulls last`), '
           'or without one run `vacuum public.embedding_queue`.'
      from pg_stat_user_tables as queue
     where queue.relid = 'public.embedding_queue'::regclass
       and queue.n_dead_tup > greatest(10000, 2 * (1000 + 0.01 * queue.n_live_tup));
$$;

select embedding.protect_functions(
    'embedding.diagnose_vector_version', 'embedding.diagnose_read_only', 'embedding.diagnose_isolation',
    'embedding.diagnose_schema_owner', 'embedding.diagnose_function_overloaded',
    'embedding.diagnose_autovacuum_off', 'embedding.diagnose_autovacuum_behind');
