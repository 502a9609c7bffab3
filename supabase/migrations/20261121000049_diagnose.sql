-- Why:   one function reports all problems, and what to do about them.
-- Locks: nothing. It reads the catalogs and the queue, and none of the watched tables.
-- Undo:  drop function public.diagnose_embeddings;

-- One row for each thing that is wrong (`problem`), likely to go wrong (`warning`) or worth saying (`note`);
-- none for what is fine. Tables are looked up in the catalogs by name: a table that is missing, or that our owner may
-- not use, raises no error.
create function public.diagnose_embeddings()
returns table (level text, check_name text, subject text, cause text, hint text)
language plpgsql -- later files define some of the checks
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    return query
    select found.level, found.check_name, found.subject, found.cause, found.hint
      from (select * from embedding.diagnose_vector_version()
            union all select * from embedding.diagnose_read_only()
            union all select * from embedding.diagnose_isolation()
            union all select * from embedding.diagnose_no_targets()
            union all select * from embedding.diagnose_table_missing()
            union all select * from embedding.diagnose_suspended()
            union all select * from embedding.diagnose_table_refused()
            union all select * from embedding.diagnose_schema_owner()
            union all select * from embedding.diagnose_function_overloaded()
            union all select * from embedding.diagnose_identity_changed()
            union all select * from embedding.diagnose_column_changed()
            union all select * from embedding.diagnose_side_tables_missing()
            union all select * from embedding.diagnose_side_tables_unprotected()
            union all select * from embedding.diagnose_side_table_rights()
            union all select * from embedding.diagnose_triggers_missing()
            union all select * from embedding.diagnose_triggers_disabled()
            union all select * from embedding.diagnose_rows_unseen()
            union all select * from embedding.diagnose_match_function_broken()
            union all select * from embedding.diagnose_dimensions_above_index()
            union all select * from embedding.diagnose_full_text_index_missing()
            union all select * from embedding.diagnose_index_invalid()
            union all select * from embedding.diagnose_index_during_backfill()
            union all select * from embedding.diagnose_timeout_too_short()
            union all select * from embedding.diagnose_failed_jobs()
            union all select * from embedding.diagnose_autovacuum_off()
            union all select * from embedding.diagnose_autovacuum_behind()
            union all select * from embedding.diagnose_backups()
            union all select * from embedding.diagnose_damage()) as found
     order by array_position('{problem,warning,note}', found.level), found.subject, found.check_name;
end $$;

select embedding.let_workers_call('public.diagnose_embeddings');
