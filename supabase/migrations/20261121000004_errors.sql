-- Why:   an error decides whether its job is tried again, and when. Its message is stored, but never a value of a
--        row.
-- Locks: nothing.
-- Undo:  drop function embedding.growing_pause, embedding.may_pass, embedding.is_of_the_server, embedding.is_timeout,
--        embedding.describe_error;

-- The stored description of an error: never a value of a row. Postgres puts values, in quotation marks, into messages
-- (`invalid input syntax for type integer: "..."`); what a function of the user raises can contain anything. The message
-- is kept if it names only objects: if our own statement could not be parsed, if our code refused it,
-- and in the classes of constraints, rights, locks and resources. The arguments are sqlstate, sqlerrm
-- and pg_exception_context, whose first line is where it happened.
create function embedding.describe_error(error_state text, error_text text, context text)
returns text
language sql
immutable
set search_path = '', pg_temp
as $$
    select case
           when context ~ '^PL/pgSQL\W\S+ embedding\.'
                or context ~ '^PL/pgSQL assignment "' and error_state = '42703' -- in a trigger
                or context ~ '^SQL\W\S+ \W?lock table only '
                then error_text
           when context ~ '^PL/(?!pgSQL)|^PL/pgSQL[^\n]* (RAISE|ASSERT)(\n|$)'
                then format('SQLSTATE %s', error_state)
           when error_state ~ '^(23|25|40|42|53|54|55|57|58)'
                and error_state !~ '^42(601|602|622|703|704|883|P01)$' -- of a name that is made from a value
                then error_text
           else format('%s (SQLSTATE %s)', regexp_replace(error_text, '(["\u00ab\u00bb\u201e\u201c\u201d]|0x).*', '"..."'), error_state)
           end || case when routine.name !~ '^(embedding\.|public\.((claim|complete)_embeddings|stage_chunks|complete_documents)$)'
                       then format(' in function %s', routine.name) else '' end
      from (select (regexp_match(context, '^(?:PL/\w+|SQL) function "?([^\s("]+)', 'n'))[1]) as routine (name);
$$;

-- Whether an error is a statement timeout. An error of this class can also be raised by a trigger, or by an
-- administrator who cancels a statement: neither has used up the time. The timeout is that of the session even
-- if a function has its own, since the statement began before the function. By now(), since it begins to
-- run when the statement is parsed, before its statement_timestamp().
create function embedding.is_timeout(error_state text)
returns boolean
language sql
stable
set search_path = '', pg_temp
as $$
    select error_state = '57014' and coalesce(clock_timestamp() - now() >= (
               select min(timeout) from (
                   select current_setting('statement_timeout')::interval
                    union all
                   select reset_val::bigint * interval '1 ms' from pg_settings
                    where name = 'statement_timeout') as known (timeout)
                where timeout > '0'), false);
$$;

-- Whether an error comes from a server that shuts down or lacks space, memory or connections: no row is the cause, and
-- the worker waits. If a trigger or a source raises an error of such a class, the context says so, and it is the cause.
create function embedding.is_of_the_server(error_state text, context text)
returns boolean
language sql
immutable
set search_path = '', pg_temp
as $$
    select error_state ~ '^(53|57P|58)' and context !~ '^PL/(?!pgSQL)|^PL/pgSQL[^\n]* (RAISE|ASSERT)(\n|$)';
$$;

-- Whether a retry may succeed after an error: a deadlock, a lack of memory, a cancelled statement.
create function embedding.may_pass(error_state text)
returns boolean
language sql
immutable
set search_path = '', pg_temp
as $$ select left(error_state, 2) in ('40', '53', '55', '57', '58') $$;

-- How long a job waits after `times` releases in a row: `first`, doubled each time up to `most`, and a random
-- part of up to half of that, so that jobs that were released together spread out.
create function embedding.growing_pause(first interval, times integer, most interval)
returns interval
language sql
volatile
set search_path = '', pg_temp
as $$ select least(first * power(2, least(times, 20)), most) * (1 + random() / 2) $$;

select embedding.protect_functions(
    'embedding.describe_error', 'embedding.is_timeout', 'embedding.is_of_the_server', 'embedding.may_pass',
    'embedding.growing_pause');
