-- Why:   several workers find out the same thing, and people want to be told of it once.
-- Locks: the row of an event, for the length of a call.
-- Undo:  drop function public.announce_embedding_event; drop table public.embedding_announcements;

-- What people were told of last, one row for each event and what it is about.
create table public.embedding_announcements (
    event text not null,                           -- as in the log: `provider_stopped`
    subject text not null,                         -- a provider, a column; empty: all that is watched
    announcement uuid not null,                    -- the report of which people were told
    announced_at timestamptz not null default now(),
    reported_at timestamptz not null default now(), -- when it was last reported, by whomever
    constraint embedding_announcements_pkey primary key (event, subject)
);

-- Reports an event, and returns whether it falls to the caller to tell people: true for one of all who report
-- it. It is the same event for as long as each report comes within `quiet` of the one before; so what comes and
-- goes, like a provider that is in and out, or a queue that is drained every minute, is told of once.
-- `announcement` is the caller's own number for this report: the call may be repeated.
create function public.announce_embedding_event(
    event text, subject text, announcement uuid, quiet interval default '15 minutes'
)
returns boolean
language plpgsql
security definer
set search_path = '', pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    is_told_by_caller boolean;
begin
    insert into public.embedding_announcements as known (event, subject, announcement)
    values (announce_embedding_event.event, announce_embedding_event.subject, announce_embedding_event.announcement)
    on conflict on constraint embedding_announcements_pkey do update
       set announcement = case when known.reported_at < now() - quiet
                               then excluded.announcement else known.announcement end,
           announced_at = case when known.reported_at < now() - quiet then now() else known.announced_at end,
           reported_at = greatest(now(), known.reported_at)
    returning known.announcement = announce_embedding_event.announcement into is_told_by_caller;
    return is_told_by_caller;
end $$;

select embedding.let_workers_read('public.embedding_announcements');
select embedding.let_workers_call('public.announce_embedding_event');
