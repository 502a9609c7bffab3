-- Why:   a provider that refuses everybody (a key, a quota, an outage) fails no job, so the queue says
--        nothing of it: the jobs just wait. Here it stands why.
-- Locks: the row of a provider, for the length of a call.
-- Undo:  drop function public.embedding_provider_seen; drop table public.embedding_providers;

-- One row for each provider that cannot be used now. No row: nothing is known to be wrong.
create table public.embedding_providers (
    provider text primary key,                     -- `openai`, as in `openai:MODEL`
    trouble text not null,
    hint text,                                     -- what to do about it, where somebody knows
    since timestamptz not null default now(),      -- when this trouble was first reported ...
    seen_at timestamptz not null default now()     -- ... and when it was last
);

-- Reports what is wrong with a provider; without a `trouble`, that it works. `since` stays for as long as
-- the trouble has the same words.
create function public.embedding_provider_seen(provider text, trouble text default null, hint text default null)
returns void
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
begin
    if embedding_provider_seen.trouble is null then
        delete from public.embedding_providers as known where known.provider = embedding_provider_seen.provider;
    else
        insert into public.embedding_providers as known (provider, trouble, hint)
        values (embedding_provider_seen.provider, embedding_provider_seen.trouble, embedding_provider_seen.hint)
        on conflict on constraint embedding_providers_pkey do update
           set trouble = excluded.trouble, hint = excluded.hint, seen_at = now(),
               since = case when known.trouble = excluded.trouble then known.since else now() end;
    end if;
end $$;
