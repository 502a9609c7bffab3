-- Why:   a provider that refuses all requests (a key, a quota, an outage) fails no job: the jobs just wait. This table
--        says why.
-- Locks: the row of a provider, for the length of a call.
-- Undo:  drop function public.embedding_provider_report; drop table public.embedding_providers;

-- One row for each provider that cannot be used now. No row: nothing is known to be wrong.
create table public.embedding_providers (
    provider text primary key,                     -- `openai`, as in `openai:MODEL`
    error text not null,
    hint text,                                     -- what to do about it, if known
    since timestamptz not null default now(),      -- when this error was first reported ...
    seen_at timestamptz not null default now()     -- ... and when it was last
);

-- Reports what is wrong with a provider; without an `error`, that it works. `since` stays while the
-- error has the same text.
create function public.embedding_provider_report(provider text, error text default null, hint text default null)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    if embedding_provider_report.error is null then
        delete from public.embedding_providers as known where known.provider = embedding_provider_report.provider;
    else
        insert into public.embedding_providers as known (provider, error, hint)
        values (embedding_provider_report.provider, embedding_provider_report.error, embedding_provider_report.hint)
        on conflict on constraint embedding_providers_pkey do update
           set error = excluded.error, hint = excluded.hint, seen_at = now(),
               since = case when known.error = excluded.error then known.since else now() end;
    end if;
end $$;

select embedding.let_workers_read('public.embedding_providers');
select embedding.let_workers_call('public.embedding_provider_report');
