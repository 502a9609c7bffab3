-- Why:     sample data, so that semantic search can be tried in plain words before any table of your own
--          is watched: 33 sessions of a software company (meetings and customer support) and 22 summaries.
-- Creates: public.sessions and public.summaries, an index, row level security with a policy each, two watches
--          (which add the columns title_embedding and content_embedding, and the triggers), and the rows.
-- Locks:   nothing but these two tables. Row level security and the watches take a brief exclusive lock on
--          them, the index blocks writes to public.summaries while it is built over a few rows.
-- Undo:    select public.unwatch_embeddings('summaries', 'content_embedding');
--          select public.unwatch_embeddings('sessions', 'title_embedding');
--          drop table public.summaries, public.sessions;
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

create index if not exists summaries_session_id on public.summaries (session_id);

-- Tables in `public` can be reached over Supabase's Data API. With row level security, nobody reads or writes
-- these but their owner and the roles that bypass it (superusers, `service_role`); and on Supabase a signed-in
-- user reads their own rows.
alter table public.sessions enable row level security;
alter table public.summaries enable row level security;

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
    max_chunks => null::integer
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
    max_chunks => null::integer
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
