-- Why:   people see the texts of jobs, and select jobs by a pattern.
-- Locks: nothing but an ACCESS SHARE lock on the table that is read, for the length of the transaction.
-- Undo:  drop function embedding.readable_texts, embedding.texts, embedding.visible_character;

-- A regular expression for a character that is not white space by Unicode, whatever the locale of the
-- database, under the collation "C". A text without one has nothing to embed. No test proves that the
-- collation of a column does not matter, since a nondeterministic one needs ICU.
create function embedding.visible_character()
returns text
language sql
immutable
set search_path = '', pg_temp
as $$ select '[^\s\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]' $$;

-- The beginnings of the present texts of jobs of a target, without a context; null: there is none. Of a file to parse it is the path. With a
-- `pattern`, only for jobs whose text or record id matches it: a glob for the whole (* any characters, ? one), or
-- after a ~ a regular expression for a part.
create function embedding.texts(
    target public.embedding_targets, ids bigint[], pattern text, characters integer
)
returns table (id bigint, beginning text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
begin
    return query execute format($sql$
        select eq_id, convert_from(convert_to(left(eq_content, $3), 'UTF8'), 'UTF8') -- raises if it is no text: SQL_ASCII
          from (select eq_job.*, coalesce(eq_given, eq_text) as eq_content
                  from (select id as eq_id, record_id as eq_record, content as eq_given
                          from public.embedding_queue
                         where id = any ($1)) as eq_job
                  left join lateral (
                        select (%1$s)::text as eq_text from %2$s where %3$s and (%4$s)) as eq_found on true) as eq_read
         where $2 is null
            or eq_content collate pg_catalog."default" %5$s $2 or eq_record collate pg_catalog."default" %5$s $2
        $sql$,
        case target.kind when 'parse' then 'path' else target.source end, target.relation, target.record_match_sql, coalesce(target.filter, 'true'),
        case when starts_with(pattern, '~') then '~' else 'like' end)
    using ids,
          case when starts_with(pattern, '~') then substr(pattern, 2)
               else translate(regexp_replace(pattern, '[\\%_]', '\\\&', 'g'), '*?', '%_') end,
          characters;
end $$;

-- Like embedding.texts, without the jobs whose text cannot be read: halving finds a row that raises an error.
create function embedding.readable_texts(
    target public.embedding_targets, ids bigint[], pattern text, characters integer
)
returns table (id bigint, beginning text)
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    middle constant integer := cardinality(ids) / 2;
begin
    begin
        perform embedding.check_table(target.relation);
        -- no row is read: if this fails, the table cannot be read now, or not any more
        perform from embedding.texts(target, '{}', pattern, characters);
    exception when others then
        return;
    end;
    return query select * from embedding.texts(target, ids, pattern, characters);
exception
    when others or query_canceled or assert_failure then
        if embedding.is_timeout(sqlstate) then
            raise;
        elsif middle > 0 then
            return query
            select * from embedding.readable_texts(target, ids[:middle], pattern, characters)
            union all
            select * from embedding.readable_texts(target, ids[middle + 1:], pattern, characters);
        end if;
end $$;

select embedding.protect_functions('embedding.visible_character', 'embedding.texts', 'embedding.readable_texts');
