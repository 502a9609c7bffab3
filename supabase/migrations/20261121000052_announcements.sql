-- Why:   several workers report the same event, and people want one notification.
-- Locks: the row of an event, for the length of a call.
-- Undo:  drop function public.announce_embedding_event; drop table public.embedding_announcements;

-- The latest notifications: one row for each event and subject.
create table public.embedding_announcements (
    event text not null,                           -- as in the log: `provider_stopped`
    subject text not null,                         -- a provider, a column; empty: all that is watched
    announcement uuid not null,                    -- the report that people were notified of
    announced_at timestamptz not null default now(),
    reported_at timestamptz not null default now(), -- when any worker last reported it
    constraint embedding_announcements_pkey primary key (event, subject)
);

-- Reports an event, and returns whether the caller should notify people: true for one of all callers. It is the same
-- event as long as each report comes within `quiet` of the one before; so an event that repeats, like a provider
-- that fails now and then, or a queue that is drained every minute, is announced once. `announcement` is the
-- caller's own number for this report: the call may be repeated.
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
    is_from_caller boolean;
begin
    insert into public.embedding_announcements as known (event, subject, announcement)
    values (announce_embedding_event.event, announce_embedding_event.subject, announce_embedding_event.announcement)
    on conflict on constraint embedding_announcements_pkey do update
       set announcement = case when known.reported_at < now() - quiet
                               then excluded.announcement else known.announcement end,
           announced_at = case when known.reported_at < now() - quiet then now() else known.announced_at end,
           reported_at = greatest(now(), known.reported_at)
    returning known.announcement = announce_embedding_event.announcement into is_from_caller;
    return is_from_caller;
end $$;

select embedding.let_workers_read('public.embedding_announcements');
select embedding.let_workers_call('public.announce_embedding_event');
