-- Why:   what goes wrong with a queue in practice can be seen in the catalogs, if one knows where. Said here
--        once, to psql, to the Data API and to `worker doctor` alike.
-- Locks: nothing.
-- Undo:  drop function public.diagnose_embeddings, public.embedding_findings_of_server,
--        public.embedding_findings_of_queue, public.embedding_findings_of_target;
--        drop type public.embedding_finding;

-- `level` is problem, warning or note. `cause` and `cure` are a sentence each.
create type public.embedding_finding as (level text, check_name text, subject text, cause text, cure text);

-- What is wrong with the extension.
create function public.embedding_findings_of_server()
returns setof public.embedding_finding
language sql
stable
set search_path = '', pg_temp
as $$
    select case when outdated.is_too_old then 'problem' else 'warning' end, 'vector_version', 'vector ' || extversion,
           case when outdated.is_too_old then 'it has no halfvec, and is too old for this worker'
                else 'its HNSW indexes can be damaged by a vacuum' end,
           'Update it to 0.8.4 or newer: alter extension vector update;'
      from pg_extension
     cross join lateral (select string_to_array(extversion, '.')::integer[] < array[0, 7] as is_too_old,
                                string_to_array(extversion, '.')::integer[] < array[0, 8, 4] as has_bugs) as outdated
     where extname = 'vector' and outdated.has_bugs;
$$;

-- What is wrong with the queue, whatever is in it.
create function public.embedding_findings_of_queue()
returns setof public.embedding_finding
language sql
stable
set search_path = '', pg_temp
as $$
    select 'problem', 'autovacuum_off', 'embedding_queue', 'nobody sweeps up its dead rows: autovacuum is off',
           'alter table public.embedding_queue reset (autovacuum_enabled); and set autovacuum = on.'
      from pg_class
     where oid = 'public.embedding_queue'::regclass
       and (current_setting('autovacuum') = 'off' or 'autovacuum_enabled=false' = any (reloptions))
    union all
    -- twice what autovacuum waits for by the settings of the table
    select 'warning', 'autovacuum_behind', 'embedding_queue',
           format('%s dead rows stand before %s living ones, and every claim passes them', n_dead_tup, n_live_tup),
           'Look for an old transaction (pg_stat_activity.backend_xmin); else: vacuum public.embedding_queue;'
      from pg_stat_user_tables
     where relid = 'public.embedding_queue'::regclass
       and n_dead_tup > greatest(10000, 2 * (1000 + 0.01 * n_live_tup))
    union all
    select 'note', 'nothing_watched', 'embedding_targets', 'no column is watched yet',
           'worker watch TABLE --source COLUMN --column EMBEDDING'
     where not exists (select from public.embedding_targets);
$$;

-- What is wrong with one column. Of one whose table is gone, that alone.
create function public.embedding_findings_of_target(target public.embedding_targets)
returns setof public.embedding_finding
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    enough_to_tell constant integer := 1000;   -- jobs
    large constant integer := 10000;           -- vectors that take a while to be indexed
    long_enough constant integer := 600000;    -- milliseconds
    subject constant text := target.table_name || '.' || target.embedding_column;
    again constant text := 'Run worker watch for the column again';
    relation constant regclass := to_regclass(target.relation);
    column_type text;
    width integer;
    pending bigint;
    jobs bigint;
begin
    if target.problem is not null then
        return query select 'problem', 'set_aside', subject, 'it is set aside: ' || target.problem,
                     'Mend the table. ' || again || '.';
    end if;
    if relation is null then
        return query select 'problem', 'table_missing', subject, 'its table is gone', 'worker unwatch, or bring it back.';
        return;
    end if;

    return query
    select 'problem', 'triggers_missing', subject, 'it lacks a trigger: ' || string_agg(kind, ', '),
           again || ', then worker backfill.'
      from unnest(array['insert', 'update', 'delete', 'truncate']) as kind
     where not exists (select from pg_trigger
                        where tgrelid = relation and tgname = format('embedding_%s_%s', kind, target.id))
    having count(*) > 0;

    return query
    select 'problem', 'triggers_disabled', subject, 'a trigger is disabled: ' || string_agg(tgname::text, ', '),
           format('alter table %s enable trigger user; then worker backfill.', target.relation)
      from pg_trigger
     where tgrelid = relation and tgenabled in ('D', 'R')
       and tgfoid = to_regproc(format('public.embedding_trigger_%s', target.id))
    having count(*) > 0;

    select format_type(atttypid, null), nullif(atttypmod, -1) into column_type, width
      from pg_attribute where attrelid = relation and attname = target.embedding_column and not attisdropped;
    if column_type is null or column_type !~ '(^|\.)(vector|halfvec)$' or width is distinct from target.dimensions then
        return query select 'problem', 'column_changed', subject,
                     format('it was watched as %s dimensions, and is %s by now', coalesce(target.dimensions::text, 'any'),
                            coalesce(column_type || coalesce('(' || width || ')', ''), 'gone')),
                     again || '.';
    elsif width > (case when column_type ~ 'halfvec$' then 4000 else 2000 end) then
        return query select 'warning', 'dimensions_above_index', subject,
                     format('no index can be built over %s dimensions of %s', width, column_type),
                     'Use halfvec, which can be indexed up to 4000, or have the model give fewer.';
    end if;

    return query
    select 'problem', 'index_invalid', subject,
           format('its index %s is the rest of a build that was ended', index.indexrelid::regclass),
           format('drop index concurrently %s; and build it again.', index.indexrelid::regclass)
      from pg_index as index
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attnum = any (index.indkey)
     where index.indrelid = relation and attribute.attname = target.embedding_column and not index.indisvalid
       and not exists (select from pg_stat_progress_create_index as build where build.index_relid = index.indexrelid);

    select count(*) filter (where job.status = 'pending'), count(*) into pending, jobs
      from public.embedding_queue as job where job.target_id = target.id;
    return query
    select 'warning', 'index_during_backfill', subject,
           format('%s vectors have to be written through its index %s, each about 25 times slower', pending,
                  index.indexrelid::regclass),
           'Drop it, and build it after the backfill.'
      from pg_index as index
      join pg_class as class on class.oid = index.indexrelid
      join pg_am as method on method.oid = class.relam and method.amname = 'hnsw'
      join pg_attribute as attribute on attribute.attrelid = relation and attribute.attnum = any (index.indkey)
     where index.indrelid = relation and attribute.attname = target.embedding_column
       and pending > enough_to_tell and pending > jobs / 10;

    return query
    select 'warning', 'timeout_too_short', subject,
           format('it has no index yet, and a statement may take %s s: too short to build one over %s vectors',
                  setting::integer / 1000, jobs),
           'set statement_timeout = 0 in the session that builds it, over a direct connection.'
      from pg_settings
     where name = 'statement_timeout' and setting::integer between 1 and long_enough - 1 and jobs > large
       and not exists (
               select from pg_index as index
                 join pg_class as class on class.oid = index.indexrelid
                 join pg_am as method on method.oid = class.relam and method.amname in ('hnsw', 'ivfflat')
                where index.indrelid = relation);

    return query
    select 'note', 'failed_jobs', subject, format('%s of its jobs failed', count(*)),
           'worker status shows why; worker requeue --failed tries them once more.'
      from public.embedding_queue as job where job.target_id = target.id and job.status = 'failed'
    having count(*) > 0;
end $$;

-- What is wrong, and what is worth saying: a row each, and none for what is fine. The time that a statement
-- may take is that of the session that asks.
create function public.diagnose_embeddings()
returns setof public.embedding_finding
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select * from public.embedding_findings_of_server()
    union all
    select * from public.embedding_findings_of_queue()
    union all
    select finding.*
      from (select * from public.embedding_targets order by table_name, embedding_column) as target
     cross join lateral public.embedding_findings_of_target(target) as finding;
$$;
