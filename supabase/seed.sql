-- Why:     sample data, so that semantic search can be tried in plain words before any table of your own
--          is watched: 33 sessions of a software company (meetings and customer support), 22 summaries, and the
--          handbook of a small shop: 5 long texts, embedded in chunks.
-- Creates: public.sessions, public.summaries and public.handbook, an index, row level security with a policy each, three
--          watches (which add the columns title_embedding and content_embedding, the tables handbook_chunks and
--          handbook_chunk_places with the view handbook_passages, and the triggers), and the rows.
-- Locks:   nothing but these tables. Row level security and the watches take a brief exclusive lock on
--          them, the index blocks writes to public.summaries while it is built over a few rows.
-- Undo:    select public.unwatch_embeddings('handbook', 'embedding');
--          select public.unwatch_embeddings('summaries', 'content_embedding');
--          select public.unwatch_embeddings('sessions', 'title_embedding');
--          drop table public.handbook, public.summaries, public.sessions;
--
-- May be run again: what exists is left as it is, edited rows included.

-- The embedding columns are left to the watches below: the type `vector` lives in the schema `extensions`
-- on Supabase and usually in `public` elsewhere, and the watch knows which.
create table if not exists public.sessions (
    id uuid primary key,
    title text,
    user_id uuid,
    started_at timestamptz not null,
    deleted_at timestamptz,
    created_at timestamptz not null default now()
);

create table if not exists public.summaries (
    id uuid primary key,
    session_id uuid not null references public.sessions (id) on delete cascade,
    content text,
    user_id uuid,
    deleted_at timestamptz,
    created_at timestamptz not null default now()
);

create table if not exists public.handbook (
    id integer primary key,
    title text not null,
    body text not null
);

create index if not exists summaries_session_id on public.summaries (session_id);

-- Tables in `public` can be reached over Supabase's Data API. With row level security, nobody reads or writes
-- these but their owner and the roles that bypass it (superusers, `service_role`); and on Supabase a signed-in
-- user reads their own rows, and the handbook.
alter table public.sessions enable row level security;
alter table public.summaries enable row level security;
alter table public.handbook enable row level security;

do $$
declare
    sample text;
begin
    if to_regrole('authenticated') is null or to_regprocedure('auth.uid()') is null then
        return; -- not on Supabase
    end if;
    foreach sample in array array['sessions', 'summaries'] loop
        execute format('grant select on public.%I to authenticated', sample);
        execute format('drop policy if exists owners_read on public.%I', sample);
        execute format('create policy owners_read on public.%I for select to authenticated '
                       'using (user_id = (select auth.uid()))', sample);
    end loop;
    grant select on public.handbook to authenticated;
    drop policy if exists all_read on public.handbook;
    create policy all_read on public.handbook for select to authenticated using (true);
end $$;

-- The watches come before the rows, so that the triggers enqueue the rows as they arrive.
-- A row that is soft-deleted needs no vector, hence the filter. All arguments are given, with their exact types, so
-- that no other function of this name can be meant.
select public.watch_embeddings(
    relation => 'public.sessions'::regclass,
    source => 'title'::text,
    embedding_column => 'title_embedding'::text,
    model => null::text,
    filter => 'deleted_at is null'::text,
    dimensions => 256,
    priority => 0::smallint,
    debounce => '0'::interval,
    on_change => 'keep'::text,
    on_too_long => 'fail'::text,
    match_function => null::boolean,
    document_prompt => null::text,
    query_prompt => null::text,
    language => null::text,
    chunks => null::boolean,
    context => null::text,
    format => null::text,
    chunk_size => null::integer,
    chunk_unit => null::text,
    max_chunks => null::integer,
    enhance => null::pg_catalog.text,
    enhance_prompt => null::pg_catalog.text,
    enhance_on_failure => null::pg_catalog.text,
    store => null::pg_catalog.text,
    audit_source => 'sql'::pg_catalog.text
);

select public.watch_embeddings(
    relation => 'public.summaries'::regclass,
    source => 'content'::text,
    embedding_column => 'content_embedding'::text,
    model => null::text,
    filter => 'deleted_at is null'::text,
    dimensions => 256,
    priority => 0::smallint,
    debounce => '0'::interval,
    on_change => 'keep'::text,
    on_too_long => 'fail'::text,
    match_function => null::boolean,
    document_prompt => null::text,
    query_prompt => null::text,
    language => null::text,
    chunks => null::boolean,
    context => null::text,
    format => null::text,
    chunk_size => null::integer,
    chunk_unit => null::text,
    max_chunks => null::integer,
    enhance => null::pg_catalog.text,
    enhance_prompt => null::pg_catalog.text,
    enhance_on_failure => null::pg_catalog.text,
    store => null::pg_catalog.text,
    audit_source => 'sql'::pg_catalog.text
);

select public.watch_embeddings(
    relation => 'public.handbook'::regclass,
    source => 'body'::text,
    embedding_column => 'embedding'::text,
    model => null::text,
    filter => null::text,
    dimensions => 256,
    priority => 0::smallint,
    debounce => '0'::interval,
    on_change => 'keep'::text,
    on_too_long => 'fail'::text,
    match_function => null::boolean,
    document_prompt => null::text,
    query_prompt => null::text,
    language => null::text,
    chunks => true,
    context => 'title'::text,
    format => 'markdown'::text,
    chunk_size => 800,
    chunk_unit => 'characters'::text,
    max_chunks => null::integer,
    enhance => null::pg_catalog.text,
    enhance_prompt => null::pg_catalog.text,
    enhance_on_failure => null::pg_catalog.text,
    store => null::pg_catalog.text,
    audit_source => 'sql'::pg_catalog.text
);

-- Owners: 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed  engineering lead
--         6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b  head of operations
--         9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963  support agent, first desk
--         c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa  support agent, second desk
-- Two sessions have no owner.
insert into public.sessions (id, title, user_id, started_at)
values
    ('5e551011-0000-4000-8000-000000000001', 'Priorities for October to December',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-09-01 09:00:00+00'),
    ('5e551011-0000-4000-8000-000000000002', 'Duplicate invoice and refund for Marlow Bakery Supplies',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-09-02 12:40:00+00'),
    ('5e551011-0000-4000-8000-000000000003', 'First-week plan for the new backend engineer',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-09-03 13:30:00+00'),
    ('5e551011-0000-4000-8000-000000000004', 'Halden staff locked out after single sign-on switch',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-09-07 07:35:00+00'),
    ('5e551011-0000-4000-8000-000000000005', 'Debrief on four candidates for support team lead',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-09-08 15:00:00+00'),
    ('5e551011-0000-4000-8000-000000000006', 'Scanner app closes itself halfway through a stock count',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-09-10 10:05:00+00'),
    ('5e551011-0000-4000-8000-000000000007', 'Post-mortem of the orders outage on 9 September',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-09-11 09:30:00+00'),
    ('5e551011-0000-4000-8000-000000000008', 'Former shopper demands erasure of his personal data',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-09-17 11:15:00+00'),
    ('5e551011-0000-4000-8000-000000000009', 'Parcel backlog at the Rotterdam depot',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-09-21 08:30:00+00'),
    ('5e551011-0000-4000-8000-000000000010', 'Monthly margin report takes eleven minutes to open',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-09-23 14:10:00+00'),
    ('5e551011-0000-4000-8000-000000000011', 'Walkthrough of the accessibility audit',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-09-25 10:00:00+00'),
    ('5e551011-0000-4000-8000-000000000012', 'No VAT number printed on invoices to Ireland',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-09-29 09:45:00+00'),
    ('5e551011-0000-4000-8000-000000000013', 'Penetration test findings and who fixes them',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-10-01 13:00:00+00'),
    ('5e551011-0000-4000-8000-000000000014', 'Webhooks for new orders stopped arriving',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-10-05 15:20:00+00'),
    ('5e551011-0000-4000-8000-000000000015', 'Polish and Japanese wording for the checkout',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-10-07 08:30:00+00'),
    ('5e551011-0000-4000-8000-000000000016', 'Label printer feeds out blank stickers',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-10-08 12:15:00+00'),
    ('5e551011-0000-4000-8000-000000000017', 'Restore drill from the nightly backup',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-10-13 07:45:00+00'),
    ('5e551011-0000-4000-8000-000000000018', 'API rate limit hit during a catalogue import',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-10-14 16:05:00+00'),
    ('5e551011-0000-4000-8000-000000000019', 'New price tiers for small shops',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-10-16 09:00:00+00'),
    ('5e551011-0000-4000-8000-000000000020', 'Order confirmations land in the spam folder',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-10-19 10:50:00+00'),
    ('5e551011-0000-4000-8000-000000000021', 'Moving the office to the canal-side building',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-10-20 14:00:00+00'),
    ('5e551011-0000-4000-8000-000000000022', 'Sales dashboard disagrees with the bank statement',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-10-22 11:35:00+00'),
    ('5e551011-0000-4000-8000-000000000023', 'What eight shop owners told us about returns',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-10-23 09:15:00+00'),
    ('5e551011-0000-4000-8000-000000000024', 'Reconnecting a marketplace partner after their API upgrade',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-10-27 13:25:00+00'),
    ('5e551011-0000-4000-8000-000000000025', 'Load test for Black Friday',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-10-29 08:00:00+00'),
    ('5e551011-0000-4000-8000-000000000026', 'Brightwater Cycles wants to cancel after six years',
        null, '2026-11-02 15:10:00+00'),
    ('5e551011-0000-4000-8000-000000000027', 'Lawyer''s redlines on the courier master agreement',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-11-04 10:30:00+00'),
    ('5e551011-0000-4000-8000-000000000028', 'Spring advertising campaign for garden centres',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b', '2026-11-05 12:30:00+00'),
    ('5e551011-0000-4000-8000-000000000029', 'One-star app store reviews after version 5.2',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-11-09 09:20:00+00'),
    ('5e551011-0000-4000-8000-000000000030', 'Cutting cloud spend before next year''s budget closes',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed', '2026-11-11 13:45:00+00'),
    ('5e551011-0000-4000-8000-000000000031', 'Training day for pickers at a new customer',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa', '2026-11-16 08:00:00+00'),
    ('5e551011-0000-4000-8000-000000000032', 'Planning a farewell lunch for our longest-serving bookkeeper',
        null, '2026-11-20 11:00:00+00'),
    ('5e551011-0000-4000-8000-000000000033', 'Exporting five years of sales history to a spreadsheet',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963', '2026-11-25 14:55:00+00')
on conflict (id) do nothing;

-- Each summary belongs to a session and to that session's owner. Eleven sessions have none yet.
insert into public.summaries (id, session_id, content, user_id)
values
    (
        '50000000-0000-4000-8000-000000000001',
        '5e551011-0000-4000-8000-000000000002',
        'The bookkeeper at Marlow found two identical payments of 1,188 euros on her card statement, taken four minutes apart on 1 September. Our payment log explains it. She pressed Renew, her bank asked for confirmation on the phone, the page timed out, and when she tried again both attempts went through, because the renewal form has nothing to recognise a repeat.

The second amount was returned the same afternoon with credit note CN-20417, so her ledger will balance once the money arrives, which the bank says takes three to five working days. Six more subscriptions show the same pattern in August, and the finance assistant reimburses them by Friday without waiting for complaints.',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963'
    ),
    (
        '50000000-0000-4000-8000-000000000002',
        '5e551011-0000-4000-8000-000000000003',
        'Our newest colleague joins the stock ledger team on Monday 14 September, so the team lead, her buddy and the office manager went through what must be ready. The laptop is ordered. Repository, staging and error tracker access will be granted on the Friday before, while production stays closed until she has shadowed two releases.

Day one has no coding: breakfast with the team, a tour of the warehouse floor with a handheld scanner, an afternoon listening in on support calls. From Tuesday she works through the setup guide and corrects whatever is out of date. A small bug in the returns form is reserved as her first change and should reach customers by Thursday. Probation goals are reviewed in the first week of December.',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'
    ),
    (
        '50000000-0000-4000-8000-000000000003',
        '5e551011-0000-4000-8000-000000000004',
        'Nobody at Halden Outdoor could get past the login screen on Monday morning. Over the weekend their IT contractor had moved the company to another identity provider, and the user name changed from an email address to an employee number. Our side looked for an email, found none and sent each person back to the start. 83 accounts were affected, among them two supervisors with lorries waiting at the gate.

After verifying the caller through the contact named in the contract, the agent lifted enforced SSO for one hour and issued one-time codes to five administrators, so dispatch resumed at 08:50. The contractor then mapped the email attribute and everyone was in by 10:15. Halden will keep two emergency accounts with a password and a hardware key. The identity squad takes on a clearer error message, naming the attribute that is missing, for the next sprint.',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa'
    ),
    (
        '50000000-0000-4000-8000-000000000004',
        '5e551011-0000-4000-8000-000000000005',
        'The panel was the head of customer care, a senior agent and a product manager, and each wrote down a verdict before anybody spoke. Candidate B, ten years with a parcel company, gave the calmest reply in the role play with an angry shop owner and was the only one to ask how much she could refund on her own authority. Candidate D had led the larger team but interrupted the most junior interviewer, which two of the three noted independently. A and C were friendly and not ready to manage people.

B gets an offer in the middle of the salary band, starting in early November because of her notice period. The recruiter takes references this week and sends the letter by 16 September. C will be asked about the Spanish-speaking vacancy that opens in January. We also drop the timed typing test, which told us nothing about anyone.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000005',
        '5e551011-0000-4000-8000-000000000006',
        'Pickers at a toy wholesaler lost up to forty minutes of counting when the Android app vanished without an error and reopened with an empty list. It happens on five older handhelds with 2 GB of memory, never on the newer ones in the same hall. A video from the shift leader shows it shortly after the 600th barcode.

According to the crash traces, thumbnails are held in memory at full size until the operating system kills the process. For now the customer has switched pictures off and split the hall into sections of 300 articles. Version 5.1.3 will shrink the images and write every scan to disk as it is read, so that nothing is lost even if the program dies. It is due in the store on 22 September.',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963'
    ),
    (
        '50000000-0000-4000-8000-000000000006',
        '5e551011-0000-4000-8000-000000000007',
        'Between 13:12 and 13:59 UTC on Wednesday two out of three visitors to the orders page got an error. The certificate that secures traffic from the gateway to the order service had expired. Its renewal job had failed every night since July, but the alert went to the mailbox of somebody who left in spring. The engineer on call first suspected the release of that afternoon and spent twenty minutes rolling it back, since both things had happened within a quarter of an hour.

No orders were lost: 1,340 were held by the shops'' own systems and delivered once service returned. The platform team will warn thirty days ahead of any expiry, in the shared channel, by 25 September. Every alert rule that names a person rather than a rota is to be reassigned. The status page was updated only after 31 minutes, so from now on the support duty lead may post there without asking anyone.',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'
    ),
    (
        '50000000-0000-4000-8000-000000000007',
        '5e551011-0000-4000-8000-000000000008',
        'A man who ordered three times from one of our retailers, last of all a bicycle lamp in 2023, invokes Article 17 of the GDPR and wants every trace of him removed within the legal month. The retailer is the controller and we act only on its instructions, so the agent obtained a written order from the shop manager before touching anything. The deadline is 14 October.

His name, address, phone number and two chat transcripts have now been wiped from the live tables. Three sales must be kept for ten years under tax law and point to an anonymous placeholder instead. Copies inside the nightly archives vanish when those rotate out after 35 days, and the data protection officer approved a sentence saying so. The newsletter tool holds a list of its own that somebody has to clear by hand. The privacy engineer means to automate that before the end of the year.',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa'
    ),
    (
        '50000000-0000-4000-8000-000000000008',
        '5e551011-0000-4000-8000-000000000009',
        'Some 1,900 parcels have been standing in trailers since Thursday. The carrier is short of a third of its sorting staff through illness, and the motorway ramp beside the depot stays closed until the end of the month. Transit to Germany has grown from two days to six.

From tomorrow everything under two kilos goes by post, at about 0.85 euro more an item. The finance controller accepted that for three weeks with a ceiling of 9,000 euros. Customer care writes to the affected shops today with honest arrival dates, and the tracking page will carry a notice. If volumes have not recovered by 5 October, the logistics manager will use the clause that lets us give a quarter of the freight to a second haulier.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000009',
        '5e551011-0000-4000-8000-000000000010',
        'The accountant of a furniture chain starts the margin report and goes for coffee. In January it opened in twenty seconds, today it needs eleven minutes and sometimes ends in a timeout. In between, three branches were merged into one ledger and her data grew from 400,000 to 6.2 million stock movements.

An execution plan taken on the replica shows a sequential scan: the filter wraps the booking date in a function, so the index on that column is of no use, and the planner expected 90 rows where 1.4 million came back. The database engineer rewrote the condition as a range, built an index on branch and date concurrently and refreshed the statistics. It now takes 3.8 seconds cold and less than one warm. Two of the other eleven reports had the same fault and are corrected in release 5.1.4. She confirmed the result by phone.',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963'
    ),
    (
        '50000000-0000-4000-8000-000000000010',
        '5e551011-0000-4000-8000-000000000011',
        'The consultant, who is blind and works with a screen reader every day, spent two days in the returns portal and recorded 31 obstacles, nine of them severe. She played us the worst: the date picker swallows the Tab key, so a person without a mouse can neither choose a day nor leave the field. Order status is told by colour alone, grey hints reach a contrast of 2.9 to 1 where 4.5 is required, and photos of damaged goods have no text alternative. The design lead will replace the date picker with three plain fields by mid October, and the test engineer adds automated checks for labels and contrast to the build. A second visit is booked for 8 December, ahead of the statement we must publish by law.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000011',
        '5e551011-0000-4000-8000-000000000013',
        'The external testers had ten working days, two ordinary user accounts and no source code. They report one critical, three high and eleven lesser weaknesses. The critical one allowed any signed-in user to read another company''s attachments by guessing the number in the address. It was closed within five hours of the phone call, and access logs going back to March show no sign that a stranger had made use of it.

Of the high ones, the outdated PDF library goes to the documents team, session cookies that survive a change of password go to the identity squad, and the administration console will be reachable only through the VPN. All three are due on 30 October, when the testers try again at no extra charge. The security officer informs the two banks among our customers this week, as their contracts demand, and proposes a small bounty for outside researchers from January.',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'
    ),
    (
        '50000000-0000-4000-8000-000000000012',
        '5e551011-0000-4000-8000-000000000014',
        'A coffee roaster''s own system heard nothing from us after 2 October although sales kept coming in. Our delivery log shows 412 HTTP posts to their endpoint, all answered with 301: their developer had moved the site behind a new domain, and we do not follow redirects, on purpose, because the signature covers the address. After three days of retries the subscription was disabled and a warning went to a former employee. The agent entered the new URL, replayed the events from Friday onwards in their original order and stayed on the call until the developer saw all of them verified. The integrations team will report a redirect within the hour from now on, to every administrator of the account.',
        '9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963'
    ),
    (
        '50000000-0000-4000-8000-000000000013',
        '5e551011-0000-4000-8000-000000000015',
        'Both translators joined, one from Gdansk and one from Osaka. Polish needs three plural forms where our files allow two, so "5 items" comes out wrong in the basket and again in the receipt. The front-end developer will move those 46 strings to a message format that knows the rules of each language. In Japanese the family name has to come before the given name, the postcode fills in most of the address, and our cheerful "Oops!" reads as childish in front of a stranger who is paying. It becomes a short apology.

Buttons were the other subject. "Zapisz i kontynuuj" runs to twice the width of the English and is cut off on phones, which a layout without fixed widths solves for German too. A glossary of 120 terms will be agreed by 21 October, native speakers review on real devices the week after, and Poland goes first on 9 November.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000014',
        '5e551011-0000-4000-8000-000000000016',
        'The packing bench at a wine merchant had stood still since nine: the thermal machine pulled the roll through and nothing appeared on it. Cable, driver and the queue on the PC were in order, yet even the self-test page came out white. It turned out that the new rolls, bought cheaply online, are wound with the coated side inwards, so the heating head was warming the back of the paper. A fingernail scratched across each surface showed which one darkens. The batch of 48 goes back to the seller. We posted a spare box from our own stores, free of charge, and the hardware specialist will add the fingernail test and a list of approved suppliers to the help page.',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa'
    ),
    (
        '50000000-0000-4000-8000-000000000015',
        '5e551011-0000-4000-8000-000000000017',
        'Goal: bring the whole production database back on empty machines, with only the written instructions and two people who had never done it. Target was two hours. They needed three hours and twenty minutes, of which fifty went on finding the decryption key, stored in a vault folder neither could open. Copying 740 GB from the other region ran at half the expected speed, because the instructions chose too small a machine.

What came back was complete. Row counts matched in all 212 tables, the last transaction was four minutes older than the simulated disaster, and the order service started against the copy without a single change. The infrastructure engineer corrects the page this week and gives the on-call group access to the key. A monthly unattended run will restore the newest archive and compare checksums. In January we repeat the exercise, this time with the main region declared gone.',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'
    ),
    (
        '50000000-0000-4000-8000-000000000016',
        '5e551011-0000-4000-8000-000000000019',
        'Shops with fewer than 200 orders a month pay 79 euros today and use a fifth of what that buys. Of those who ended their trial without subscribing, 38 per cent gave cost as the reason. The commercial director proposed a Starter plan at 29 euros with one location and two seats. Standard would rise from 79 to 89, and Scale stays where it is.

The analyst''s model says that if one in six Standard customers steps down, the change pays for itself after 340 new accounts, about seven months at the present rate. Customer care objected to the extra 0.15 per order above the limit, as surprise bills are already the third most frequent complaint, so there will be a soft ceiling with a warning at 80 per cent instead. Existing contracts keep their rate until renewal. Launch is set for 12 January, and the legal counsel checks the notice period for Austria first.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000017',
        '5e551011-0000-4000-8000-000000000020',
        'Buyers at a shoe retailer phone to ask whether their purchase went through, since the message that should tell them sits among the junk, chiefly at Gmail and Outlook. Headers from three samples show a failed DKIM signature and no alignment for DMARC. Last week their web agency moved DNS to another host and left out two of the five records we had asked for in 2024. With the agency on the line the agent read out both records, watched them resolve and had a test arrive in the inbox at each provider. Until the reputation of the domain recovers, about 2 November, the retailer pauses its newsletter.',
        'c47e1d08-95b2-4f3a-a1e6-7d8032b5c9fa'
    ),
    (
        '50000000-0000-4000-8000-000000000018',
        '5e551011-0000-4000-8000-000000000021',
        'The lease here runs out on 31 January and the landlord wants 22 per cent more, so the choice fell on two floors of the former spice warehouse by the canal. There are 64 desks for 81 people, which matches what the door counter measured since spring: never more than 58 on one day. Quiet work goes upstairs. Kitchen, phone booths and the workshop for scanners stay on the ground floor, where the lift is not needed.

Removal vans come on Saturday 16 January, and everybody packs one crate by Thursday evening. The fibre line takes ten weeks and was ordered this morning. The facilities manager asks the works council about lockers in place of fixed seats, and gets a quote for better blinds, as the south side reached 29 degrees during the visit. Those who cycle gain forty covered stands, those who drive lose the car park, and a travel allowance for them is still being discussed.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000019',
        '5e551011-0000-4000-8000-000000000023',
        'The researcher visited eight owners in their back rooms, an hour each, and watched them deal with whatever had been sent back that morning. Seven of them keep a paper notebook beside our screen. They write down what condition the article was in, because the form asks for a reason from a list of fourteen and none says "worn once, smells of perfume". Refunding takes nine clicks. Two owners pay the buyer back before looking into the box, simply to have it off their minds.

Nobody mentioned the automatic restocking we were so proud of, and three believed it was switched off. The product manager will test a photo with one line of free text in place of the list, using a clickable prototype with five of the same people in the second week of November. The recordings are cut to a twelve-minute film for the development team, and the plan for a returns score per buyer is shelved.',
        '6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b'
    ),
    (
        '50000000-0000-4000-8000-000000000020',
        '5e551011-0000-4000-8000-000000000025',
        'Simulated shoppers were raised in steps from 300 to 3,000 requests a second against a full-size copy of production. Up to 1,900 everything stayed calm, with the slowest one per cent under 400 milliseconds. Beyond that the connection pool of the pricing service ran dry, baskets waited, clients retried and the retries finished it off. At 2,200 a third of all checkouts failed.

Last year''s peak on the Friday in question was 1,150, and sales expects twice that. Pricing will cache its discount rules for sixty seconds, which the performance engineer measured at one tenth of the database calls. Retries get a growing pause and a limit. Image resizing moves to machines of its own so that it cannot starve the rest. The same run is repeated on 12 November, no releases go out from the 20th to the 30th, and four engineers share the night watch.',
        '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'
    ),
    (
        '50000000-0000-4000-8000-000000000021',
        '5e551011-0000-4000-8000-000000000026',
        'The owner called to give notice for the end of December. He was polite about it and had plainly made up his mind in the summer. Repair jobs now bring in more than half of his turnover, and our product treats a repair as a sale with a note attached. A rival built for workshops does appointments, spare parts and loan bikes for 20 euros less. The two weeks he waited for an answer about serial numbers in June did not help.

He declined three months free of charge, and the agent did not press. Usage had warned us: logins fell from 140 a week in April to 35 in September and nobody looked. The account manager will arrange a clean handover of his stock list and ask for half an hour of candid feedback in January. Eleven other bike shops show the same decline, so the customer success lead phones each of them before the end of the month.',
        null
    ),
    (
        '50000000-0000-4000-8000-000000000022',
        '5e551011-0000-4000-8000-000000000032',
        'After nineteen years, and as employee number four, our bookkeeper retires on 30 November. The lunch is on Thursday the 26th in the Greek restaurant on the corner, which has kept its upper room for 45 people. The founder will speak for five minutes and has promised to tell the story of the first pay day, when salaries were carried over from the bank in a biscuit tin. Colleagues put 730 euros in the envelope. It pays for a rail pass through Norway, a wish she has mentioned every winter, and a bound album with a page from each team. Her husband and both daughters are invited as a surprise. She has already trained her successor on the year-end closing and offers to answer questions by phone until Easter, though everyone agreed to leave her in peace.',
        null
    )
on conflict (id) do nothing;

insert into public.handbook (id, title, body)
values
    (1, 'Returns and refunds', $text$This chapter says what we do when somebody brings or sends something back. Read it once in full before your first day at the counter. Most customers who return something are not angry, they bought the wrong size, and how we treat them decides whether they buy the right size from us or from somebody else.

## How long customers have

Everything that is unused may come back within 30 days of the day it was handed over. For an online order the 30 days begin when the parcel arrives, not when it was ordered. The carrier's page shows the day of delivery, and the till can look it up by the order number.

From 1 November to 24 December the period is longer: whatever was bought in these weeks may come back until 31 January. People buy presents early, and nobody should have to unwrap one before Christmas to find out whether it fits.

After the period, we still look at the case. If the article is in the shop's current range and could be sold as new, the shift lead may give a voucher for the price that it has today. There is no right to that, so do not promise it on the telephone.

## What cannot be returned

Some goods cannot be sold again once they have left the shop:

- Stove fuel and gas cartridges, because we cannot know how they were stored.
- Food, water purification tablets and first aid supplies whose seal is broken.
- Underwear, socks and head torches with a mouthpiece, if they were worn.
- Ropes, harnesses, helmets and everything else that holds a person. This rule has no exception, not even for a rope in its wrapping. We cannot see what happened to it, and the next customer would trust it with their life.
- Articles that were cut, engraved or made to measure.

A broken article is another matter: it goes by the chapter on warranty, however old or worn it is.

## At the counter

Ask for the receipt, but do not insist on it. With the customer's card number, telephone number or the card they paid with, the till finds the sale within two years. If nothing is found, and we do sell the article, offer a voucher for the lowest price of the last six months.

Look at the article in front of the customer and say what you see. Boots that were tried on at home on a carpet are unused; boots with grass in the sole are not. If you are unsure, fetch the shift lead, and do not discuss it in front of the queue.

Then press Return on the till, scan the article, and choose a reason. The reason matters: the buyer reads the list every month, and a jacket that comes back five times as "sleeves too short" is not ordered again.

## Refunds

The money goes back the way it came. A card payment is refunded to the same card and reaches the customer within three to five working days, depending on the bank; we cannot make that faster. Cash is refunded in cash up to 200 euros, and above that by bank transfer. What was paid with a gift card goes back onto a gift card, including the part of a payment that was made with one.

For goods that were sent back by post, we refund the price and the cheapest delivery within 14 days of the day the parcel arrives here. In practice it takes two days: the returns shelf has to be empty every Tuesday and Friday evening.

If an article was on offer, we refund what was paid, not what it costs today. If three were bought for the price of two and one comes back, the customer pays the usual price for the two that they keep, and gets the rest. The till works this out, but be ready to explain it.

## Returns by post

Every parcel contains a form and a label. The label is free for orders above 60 euros; below that it costs 4.50 euros, which we take off the refund. Customers who have lost the label print another one from their account, under Orders.

Unpack returns on the long table, one at a time, and put the form into the tray before you open the next. Photograph everything that arrives damaged, with the box, before you move it. Carriers pay only if the photographs show the packaging, and only within seven days.

If a parcel holds something that is not ours, which happens about once a month, keep it for six weeks, write to the sender twice, and then give it to the charity shop in Mill Street.

## Exchanges

An exchange is a return and a sale in one, and the till treats it so. If the customer wants the same article in another size that we do not have here, reserve it from the other shop or from the web store, and send it at no charge. Never send somebody away to look for it themselves.$text$),
    (2, 'Shipping and delivery', $text$We pack online orders in the room behind the counter, between the hours when the shop is busy. About forty parcels leave us on a normal day, and three times as many in the weeks before Christmas. This chapter says when they leave, with whom, and what to do when one does not arrive.

## When orders leave the shop

An order that is paid by 14:00 on a working day is packed and handed over the same day. What comes later leaves on the next working day. The van of the parcel service arrives at 16:30 and waits for ten minutes at most, so the last parcel has to be closed at a quarter past four.

On Saturdays we pack what was ordered on Friday afternoon, and the driver comes at noon. On Sundays and public holidays nothing leaves. If an order has to wait for an article, the system writes to the customer by itself; a second delay on the same order is a reason to telephone.

## What delivery costs

Within the country, delivery costs 4.90 euros and is free from 75 euros on. Bulky goods, which are tents for more than four people, sledges and folding boats, cost 19 euros whatever the order is worth, because the parcel service does not take them and a freight company does.

To neighbouring countries a parcel costs 11.90 euros, to the rest of the European Union 16.90 euros. We do not ship gas, fuel or bear spray across any border. To islands without a bridge, add 5 euros; the shop page knows the post codes.

Customers may collect an order at the counter, free of charge, from two hours after the confirmation. We keep it for ten days. Ask for the order number or for a document with the name on it, and let the customer look into the bag before they leave.

## How long it takes

A parcel within the country arrives on the next working day in nine cases out of ten, and within three days in nearly all others. Abroad it is three to seven working days. These figures are measured, not promised, and the confirmation says so.

Express is possible for parcels below ten kilos, if the order is there by noon. It costs 14.50 euros, and the carrier refunds that if it arrives after noon of the next day. Apply for the refund in the carrier's portal; the customer gets it back from us on the same day, without having to ask.

## Packing

Use the smallest box that closes without force. Boots go into their own carton, inside another one: half of our customers use the carton for years. Poles go into the long tubes by the window, with the tips wrapped. Nothing with a point, such as an ice axe or a peg hammer, is packed without its guard, or without a piece of cardboard taped over it.

Fill the space with the shredded paper from the cutter in the cellar. We stopped using plastic in spring, and customers noticed within a week. Only down jackets are packed in a bag, since one wet parcel has cost us more than all of these bags together.

Put the delivery note on top, print facing up, and close the box with paper tape, twice along the seam. The label belongs on the largest side and must not go around an edge, because the scanner of the parcel service then refuses it.

## When a parcel does not arrive

First look at the tracking page. "In delivery" for more than two days usually means a wrong house number, and the driver brings it back to the depot. Telephone the customer, correct the address in the portal, and the parcel goes out again the next morning.

If nothing has moved for five working days, open a search with the carrier. Do not let the customer wait for its result, which takes up to three weeks. Send the order a second time on the same day, if all of it is in stock, or refund it. The search is our affair, and the loss is insured up to 500 euros for each parcel. An order above that is sent in two parcels or with extra insurance.

If the tracking says "delivered" and the customer has nothing, ask about neighbours, the garage and the paper bin, in that order and without a tone. In the first such case at an address we send a second parcel at once. From the second case on, delivery to that address needs a signature.

## Damaged on the way

Ask for two photographs, of the article and of the box, and send a replacement without waiting for the damaged one to come back. Small things need not be returned at all. Enter the case in the carrier's portal within seven days: after that, nobody pays.

## Large orders

Schools, scout groups and mountain clubs order by mail and pay by invoice within 30 days. From 1,000 euros on, our own van brings the goods within 50 kilometres, usually on a Wednesday. Two people drive, because the last time one person carried twenty rucksacks up to a youth hostel, he was away for a week.$text$),
    (3, 'Warranty and repairs', $text$Things break. Whether we meant to sell them or not, a part of what we sell comes back with a hole, a bent pole or a zip that no longer closes. We repair what can be repaired, since that is cheaper than a new one, and since it is the reason why some customers drive past two larger shops to reach us.

## What the law says, and what we do

Every article has a legal warranty of two years against faults that it had when we sold it. In the first twelve months, we assume that a fault was there from the start; after that, the customer would have to show it. We do not argue about that. If a seam opens after twenty months on a tent that was used on ten weekends, it is a fault.

Beyond the law, makers give guarantees of their own. The rucksacks of two of our makers are repaired for as long as they exist, by whoever owns them. Stoves have five years, sleeping mats three, head torches three, down one. The list hangs inside the door of the workshop, and the supplier's page has the conditions.

Wear is no fault. Soles that are worn down, reflective prints that fade, a waterproof coating that gives up after eight years: these are the ends of normal lives. Offer a repair at our prices instead, and say what it costs before you take the article.

## Taking in a repair

Fill in a ticket for each article, not for each customer. Write what the customer says in their own words, and below that what you see. "Leaks" is not enough: where, after how long, in what rain? Half of the leaking tents are dry in our bathtub and were pitched with the inner tent touching the outer one.

Note the telephone number and whether the customer needs the article by a certain day. Give them the lower part of the ticket. Nothing is accepted wet or dirty, except on the day it happened; a muddy jacket cannot be sewn, and washing it costs 12 euros.

If it is a case of warranty, enter the number of the sale. If the maker has to decide, say so: it takes three to six weeks, and we lend a replacement of the same kind during that time, if there is one on the shelf for loans.

## Prices of our own repairs

| repair | price in euros | usually ready |
|---|---|---|
| patch on a tent, jacket or mat | 15 | the next day |
| new slider on a zip | 9 | while the customer waits |
| new zip in a jacket | 45 | one week |
| new zip in a sleeping bag | 60 | two weeks |
| tent pole, one segment | 12 | while the customer waits |
| new elastic in a set of poles | 18 | the next day |
| service of a liquid fuel stove | 25 | two days |
| resoling boots | 85 | four weeks |
| washing and proofing a jacket | 19 | two days |
| washing a down sleeping bag | 49 | one week |

Members of the mountain club pay ten per cent less. If a repair would cost more than half of what the article is worth, telephone before you begin.

## In the workshop

The order of the tickets is the order of the work, except for the red ones: somebody leaves tomorrow. There should never be more than three red tickets. If there are, something is wrong with how we take them in.

Patches on silicone-coated fabric hold with silicone glue only, and on polyurethane only with the other one. Rub the edge with alcohol and wait. If the glue beads up, it is the wrong one. Both tubes look alike, so the caps are painted.

A slider that no longer closes the teeth is worn out, not the zip. Squeeze it gently with the pliers, once; if that does not help, replace it. Two sizes, 5 and 8, cover nine of ten zips.

Stoves are never lit in the workshop. Test them in the yard, on the stone bench, with the extinguisher within reach and nobody smoking. After every service, write the date onto the bottom of the stove with the engraver.

## What we do not repair

We do not mend climbing ropes, slings, harnesses or helmets, and we do not say whether one is still safe. Cut up what customers leave with us for the bin, so that nobody takes it out again. Avalanche transceivers go to the maker, who also updates them, every three years at the latest.

## Giving it back

Telephone or write when the article is ready, the same day. Show the repair to the customer and let them try it. Repairs that nobody has collected after three months get a letter; after a year the article is sold for the price of the repair, at the spring market, and the customer gets what is above that if they ever come back.$text$),
    (4, 'A day in the shop', $text$This chapter is for everybody who opens, closes or stands behind the counter. It does not say how to sell a rucksack. For that, stand beside Ines for two mornings.

## Opening

The first shift begins at 8:30, the shop opens at 9:30. Whoever has the key switches the alarm off within 40 seconds; the code is yours alone, and if you mistype it three times, the guard company telephones. Say the word of the month, or they will send somebody, and that costs us 90 euros.

Then, in this order: the lights, the heating, the till, the music, the door mat. Count the drawer before the first customer, together with a second person if there is one. It holds 250 euros in the morning, with at least 40 in coins. Write the sum into the blue book and sign it, even if it is right.

Look at the three shelves by the door. What is empty there is filled first, because it is what people see from the street. Check the temperature of the fridge with the trail food, and throw out the flowers when they need it.

## At the till

Greet people when they come in, then leave them alone for a minute. Nobody behind the till reads on their phone. When the queue is longer than three people, ring the bell once, and whoever is nearest opens the second till.

Card payments need no signature below 50 euros. If the terminal is offline, it stores up to ten payments; after that, take cash or hold the goods, but do not write down card numbers, on paper or anywhere else. Hundreds and larger notes go through the lamp in front of the customer, every one of them, so that nobody feels picked out.

A discount above ten per cent needs the shift lead. Staff buy at purchase price plus ten per cent, but do not serve themselves: somebody else scans the goods.

If the drawer is out by more than 10 euros in the evening, nobody has to pay for it. Write it down, with what you remember. It is nearly always a note that was given out twice, and the cameras show it.

## Fitting boots

Measure both feet, standing, in the socks that will be worn, in the afternoon if the customer has the choice: feet grow by half a size during a day. Start one size above the street shoe. Let people walk down the ramp for two minutes. If the toes touch the front, it is over, whatever the boot looks like.

Nobody leaves with new boots without hearing three sentences: wear them at home on the carpet for an evening, since then we take them back; wear them on three short walks before a long one; and wax, no oil, on leather.

## Tents and the roof

Tents are pitched on the roof, if there is no wind and a customer seriously wants to see one. Two people go up, never a customer alone. The railing is high enough for adults and not for children. The key to the roof hangs behind the calendar, and it has to hang there again in the evening.

## Complaints

Listen until the end. Repeat in one sentence what you have understood. Then say what you can do, not what you cannot. If you cannot do anything yourself, say who can, and when that person will call; and see to it that they do.

If somebody shouts, you may end the conversation. Say that you would like to help and cannot do so like this, and fetch a colleague. Nobody who works here has to be insulted, and no sale is worth it.

## Emergencies

The first aid box is under the counter, a larger one in the workshop. There are three extinguishers: at the door, beside the workshop bench, and at the head of the cellar stairs. In a fire, people come first: everybody goes out by the front door and meets at the fountain. The last one out calls 112, from outside.

If somebody steals, do not run after them. Note what they wore, and which way they went. A jacket is insured, and you are not replaceable.

If water comes into the cellar, which it does after long rain, switch on the pump by the red handle, lift the cartons on the lowest shelf onto the pallet, and call the landlord. His number is on the pump.

## Closing

The door closes at 18:30, on Saturdays at 16:00. Customers who are inside are served to the end, without looks at the clock. Count the drawer, take out everything above 250 euros, and put it into the safe with the slip from the till.

Vacuum the carpet, take the boots from the ramp back to their cartons, and switch off the irons and the glue gun in the workshop: touch the plugs, do not only look. Then the music, the heating to 15 degrees, the lights, the alarm. You have 40 seconds again.$text$),
    (5, 'Accounts, cards and data', $text$Customers trust us with their names, their addresses and the size of their feet. This chapter says what we store, who may see it, and what happens with the cards that we sell and give away.

## Customer accounts

An account belongs to one person. It has a name, an address, a telephone number if the customer likes, the orders of the last ten years, and the notes that we make: the size of a foot, the back length for a rucksack, an allergy to down. Write only what you would read out to the customer, because they can ask for it and then they will get it, word for word.

Somebody who cannot sign in gets a new link from the button under the form. It works for one hour. If the mail does not arrive, look whether the address has a typing error, which you can see under Accounts, and correct it only after the customer has named an order that we know. We never set a password for anybody, and never ask for one.

Two accounts of one person can be merged by the office, on Mondays. The orders and the points of both are kept. That cannot be undone, so let the customer confirm it in writing.

## The club card

The card is free and collects one point for each euro, except for books, vouchers and goods on sale. At 300 points the customer gets a voucher of 15 euros, by mail or on paper. Points are kept for three years after the last purchase, then they are gone, and we write a month before.

A card that was forgotten at home is no problem: the till finds it by name and post code. Points for a purchase without the card can be added within 14 days, with the receipt. Do not add a customer's purchase to your own card. It has happened, it is theft, and it was the last day for that colleague.

Members get a mail four times a year, not more, and each has a line to unsubscribe. Who unsubscribes keeps the card and the points.

## Gift cards

Gift cards are sold for any sum from 10 to 500 euros, at the till and in the web store. They are valid until the end of the third year after the year of the sale. A card can be used in parts, and the rest stays on it. It is not paid out, with one exception: below 5 euros the customer may have the coins.

A lost card can be blocked and replaced if the buyer has the receipt or paid with a card that we can look up. Without either, we cannot know who is speaking; say so kindly. If the balance at the till is not what the customer expects, print the list of its uses, which has the day, the hour and the sum of each.

Several gift cards may be combined in one purchase, up to five. They cannot be used to buy other gift cards.

## Cameras

Two cameras record the till and the door, none the fitting room or the workshop. The recordings are kept for 72 hours and then overwritten. Only the owner and the shift lead may watch them, always together, and only for a reason that is written into the black book before. Police get a copy against a receipt, and nobody else does, not even somebody whose bicycle was stolen in front of the window.

## Questions about data

Everybody may ask what we have stored about them, and have it corrected or deleted. Take the request at the counter or by mail, note the day, and pass it to the office the same day: we have one month to answer, and we want to need a week. Ask for something that only the customer would know, such as the last order. Do not ask for a copy of a passport.

Invoices must be kept for ten years, whatever the customer wishes, so a deleted account leaves its invoices behind, locked away from the till. Everything else goes: notes, sizes, points, and the address in the list of the newsletter.

If you send a mail with somebody's data to the wrong person, or lose a phone with the mail of the shop on it, tell the owner at once, also at night. There are 72 hours in which we have to report it. You will not be blamed for the mistake, but for keeping it to yourself.

## Passwords and machines

Each of us has an account of our own for the till, the web store and the mail. Lock the screen when you leave it, also for a minute. The wireless network called Tarn is for us, the one called Tarn Guests for everybody else; the tablets of the children belong in the second.

Nobody from the bank, the till company or the parcel service ever needs your password. If somebody on the telephone says so, hang up and tell the others. Memory sticks that lie in the yard are not plugged in to see whose they are.$text$)
on conflict (id) do nothing;
