-- Why:   a worker slows down while others need the database, so it reads how busy that is.
-- Locks: nothing. A call reads the statistics of the server.
-- Undo:  drop function public.embedding_database_load;

-- How busy the database is: one row. A figure that is not visible is null: the sessions of others, vacuums and replicas
-- are hidden from an owner without the rights of pg_read_all_stats. It raises nothing, and returns no query texts.
create function public.embedding_database_load()
returns table (
    active_sessions integer,                       -- in a transaction, of the whole server; without ours
    max_connections integer,
    lock_wait_seconds double precision,            -- the longest wait of a session of this database; 0: none
    vacuumed_table text,                           -- a watched table or one of ours on which a vacuum is running
    replica_lag_seconds double precision           -- of the replica that is furthest behind; without logical ones
)
language plpgsql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
declare
    sees_all constant boolean := pg_has_role(current_user, 'pg_read_all_stats', 'usage');
begin
    max_connections := current_setting('max_connections');
    if sees_all then
        begin
            select count(*) into active_sessions
              from pg_stat_activity as session
             where session.backend_type = 'client backend'
               and session.state <> 'idle'
               and session.pid <> pg_backend_pid();
        exception when others then
            null;
        end;
        begin
            select vacuumed.name into vacuumed_table
              from pg_stat_progress_vacuum as vacuum
              join pg_class as class on vacuum.relid in (class.oid, class.reltoastrelid)
              join (select target.relation, target.table_name from public.embedding_targets as target
                    union all values ('public.embedding_queue', 'embedding_queue'),
                                     ('public.embedding_cache', 'embedding_cache'),
                                     ('public.embedding_enhancements', 'embedding_enhancements')) as vacuumed (relation, name)
                on class.oid = to_regclass(vacuumed.relation)
             where vacuum.datid = (select oid from pg_database where datname = current_database())
             order by vacuumed.name
             limit 1;
        exception when others then
            null;
        end;
        begin
            select extract(epoch from max(replica.replay_lag)) into replica_lag_seconds
              from pg_stat_replication as replica
             where not exists (select from pg_replication_slots as slot
                                where slot.active_pid = replica.pid and slot.slot_type = 'logical');
        exception when others then
            null;
        end;
    end if;
    begin
        -- without waits for advisory locks, as in leader elections, and for transactions, as in
        -- a concurrent index build: these block nobody
        select coalesce(extract(epoch from clock_timestamp() - min(waiting.waitstart)), 0) into lock_wait_seconds
          from pg_locks as waiting
          join pg_stat_activity as session on session.pid = waiting.pid
         where not waiting.granted
           and waiting.locktype not in ('advisory', 'virtualxid')
           and session.datname = current_database();
    exception when others then
        null;
    end;
    return next;
end $$;

select embedding.let_workers_call('public.embedding_database_load');
