-- Why:   people want to know who did what to their vectors, when, and from where. Nobody can change such an entry.
-- Locks: nothing, the table is new.
-- Undo:  drop function public.list_embedding_audit, public.record_embedding_audit, embedding.audit_batch, embedding.audit;
--        drop table public.embedding_audit; drop function embedding.refuse_change;
--
-- Entries hold no texts. Only calls that change something add one, and a call in batches adds one for all of them: so a worker
-- that waits does not make the table grow.

create table public.embedding_audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,                           -- the role that called: over the Data API that of the key
    login text not null default session_user,      -- the role that logged in
    source text not null,                          -- cli | sql | api | web
    application text,                              -- as the caller calls itself
    address text,                                  -- of the client, or of the pooler or API between; of a call from the web that
                                                   -- of its browser or app; null: a local socket
    event text not null,                           -- requeued, swapped, restored, ...
    table_name text,                               -- null: not of one table
    embedding_column text,
    reembedding_id integer,                        -- of a step of a re-embedding, as are both states
    from_state text,
    to_state text,
    figures jsonb,                                 -- what was asked for, measured or kept then
    constraint embedding_audit_known_source check (source in ('cli', 'sql', 'api', 'web'))
);

create index embedding_audit_of_table on public.embedding_audit (table_name, id) where table_name is not null;
create index embedding_audit_of_reembedding on public.embedding_audit (reembedding_id, id) where reembedding_id is not null;

create function embedding.refuse_change()
returns trigger
language plpgsql
set search_path = '', pg_temp
as $$
begin
    raise exception 'the audit cannot be changed'
        using errcode = 'object_not_in_prerequisite_state', hint = 'It is a record of who did what.';
end $$;

create trigger embedding_audit_stays
    before update or delete on public.embedding_audit
    for each row execute function embedding.refuse_change();
create trigger embedding_audit_all_stays
    before truncate on public.embedding_audit
    for each statement execute function embedding.refuse_change();
alter table public.embedding_audit enable always trigger embedding_audit_stays;
alter table public.embedding_audit enable always trigger embedding_audit_all_stays;

-- Adds an entry about the present call. `source` is cli, sql, api or web; after `web` the address of the browser or app may
-- follow: `web 10.0.0.7`. Raises if the source is none of them.
create function embedding.audit(
    event text, table_name text, embedding_column text, source text, figures jsonb,
    reembedding_id integer default null, from_state text default null, to_state text default null
)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if source is null or source !~ '^(cli|sql|api|web( [0-9A-Fa-f.:]{2,45})?)$' then
        raise exception 'a call cannot come from %', quote_nullable(source)
            using errcode = 'invalid_parameter_value', hint = 'The source is cli, sql, api, or web with an address: web 10.0.0.7.';
    end if;
    insert into public.embedding_audit (
        actor, source, application, address, event, table_name, embedding_column, reembedding_id, from_state, to_state, figures)
    values (
        coalesce(nullif(current_setting('role'), 'none'), session_user), split_part(source, ' ', 1),
        left(nullif(coalesce(substring(current_setting('request.headers', true) from '"x-client-info" *: *"([^"]*)"'),
                             current_setting('application_name')), ''), 200),
        coalesce(nullif(split_part(source, ' ', 2), ''), host(inet_client_addr())), event, left(table_name, 200),
        left(embedding_column, 200), reembedding_id, from_state, to_state, figures);
end $$;

-- Adds an entry for a call that may be one batch of several. The first batch adds it for all, and so its count only if there are
-- no more. A later one finds that entry among the last thousand, and adds nothing; neither does a call that has nothing to do.
create function embedding.audit_batch(
    event text, only_table text, only_column text, source text, asked_for jsonb, is_first boolean, changed bigint,
    looked_to bigint
)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
declare
    asked constant jsonb := jsonb_strip_nulls(asked_for);
begin
    if changed = 0 and looked_to is null
       or not is_first and exists (
           select from (select * from public.embedding_audit as entry order by entry.id desc limit 1000) as entry
            where entry.event = audit_batch.event and entry.login = session_user
              and (entry.table_name, entry.embedding_column) is not distinct from (only_table, only_column)
              and entry.figures - 'jobs' = asked and entry.at > now() - interval '1 day') then
        return;
    end if;
    perform embedding.audit(
        event, only_table, only_column, source,
        case when is_first and looked_to is null then asked || jsonb_build_object('jobs', changed) else asked end);
end $$;

-- Adds an entry for what a program has done in several calls, or shown: `adopted`, `restored`, `repaired` or `text_revealed`.
create function public.record_embedding_audit(
    event text, table_name text default null, embedding_column text default null, source text default 'sql',
    figures jsonb default null
)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
begin
    if jsonb_typeof(figures) = 'string' then
        figures := figures #>> '{}'; -- some clients of the Data API send JSON as a text within JSON
    end if;
    if event is null or event not in ('adopted', 'restored', 'repaired', 'text_revealed') then
        raise exception 'the event % cannot be recorded', quote_nullable(event)
            using errcode = 'invalid_parameter_value', hint = 'The events are adopted, restored, repaired and text_revealed.';
    elsif length(figures::text) > 2000 then
        raise exception 'the figures of an entry have % characters', length(figures::text)
            using errcode = 'invalid_parameter_value', hint = 'Give at most 2000.';
    end if;
    perform embedding.audit(event, table_name, embedding_column, source, figures);
end $$;

-- The latest entries, the newest first, at most `max_rows`; of one table or one re-embedding, and before the entry `before_id`, if
-- they are given.
create function public.list_embedding_audit(
    only_table text default null, only_reembedding integer default null, max_rows integer default 20, before_id bigint default null
)
returns setof public.embedding_audit
language sql
stable
security definer
set search_path = '', pg_temp
set row_security = off
as $$
    select entry.* from public.embedding_audit as entry
     where (only_table is null or entry.table_name = only_table)
       and (only_reembedding is null or entry.reembedding_id = only_reembedding)
       and (before_id is null or entry.id < before_id)
     order by entry.id desc limit least(max_rows, 1000);
$$;

select embedding.let_workers_read('public.embedding_audit');
select embedding.protect_functions('embedding.refuse_change', 'embedding.audit', 'embedding.audit_batch');
select embedding.let_workers_call('public.record_embedding_audit', 'public.list_embedding_audit');
