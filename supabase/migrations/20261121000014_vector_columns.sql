-- Why:   the column of the vectors must have the width of its target. A missing column is added with the right type.
-- Locks: the migration nothing. embedding.add_column takes ACCESS EXCLUSIVE on the table, until the transaction ends.
-- Undo:  drop function embedding.add_column, embedding.planned_width, embedding.column_width;

-- The width of a vector column (null: it has none). Raises if the column does not exist or is not of a vector
-- type.
create function embedding.column_width(relation regclass, embedding_column text)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    type text;
    width integer;
begin
    select format_type(attribute.atttypid, null), nullif(attribute.atttypmod, -1)
      into type, width
      from pg_attribute as attribute
     where attribute.attrelid = relation and attribute.attname = embedding_column
       and attribute.attnum > 0 and not attribute.attisdropped;
    if type is null then
        raise exception 'table % has no column %', public.embedding_table_name(relation), embedding_column
            using errcode = 'undefined_column',
                  hint = format('Add it: alter table %s add column %I vector(...), or give its dimensions here '
                                '(on the command line: --create-column).', relation, embedding_column);
    elsif type !~ '(^|\.)(vector|halfvec)$' then
        raise exception 'column % of table % is of type %, not a vector',
                        embedding_column, public.embedding_table_name(relation), type
            using errcode = 'datatype_mismatch',
                  hint = 'The embedding column must be of type vector(n) or halfvec(n).';
    end if;
    return width;
end $$;

-- The width that a vector column has, or will have when watch_embeddings has added it with `dimensions`. Raises if it
-- has another one.
create function embedding.planned_width(relation regclass, embedding_column text, dimensions integer)
returns integer
language plpgsql
stable
set search_path = '', pg_temp
as $$
declare
    width integer := dimensions;
begin
    if dimensions is null or exists (
        select from pg_attribute
         where attrelid = relation and attname = embedding_column and not attisdropped
    ) then
        width := embedding.column_width(relation, embedding_column);
    end if;
    if width <> dimensions then
        raise exception 'column % holds % dimensions, not %', embedding_column, width, dimensions
            using errcode = 'datatype_mismatch',
                  hint = 'Leave out the dimensions to watch it as it is, or watch another column.';
    end if;
    return width;
end $$;

-- Adds the vector column. Above 2000 dimensions it is a halfvec, since an index over `vector` ends there.
-- An index over `halfvec` ends at 4000: a search in a wider column would read all of it.
create function embedding.add_column(relation regclass, embedding_column text, dimensions integer)
returns void
language plpgsql
set search_path = '', pg_temp
as $$
begin
    if dimensions not between 1 and 4000 then
        raise exception 'a vector column cannot have % dimensions', dimensions
            using errcode = 'invalid_parameter_value',
                  hint = 'Give a number from 1 to 4000, to which the model can shorten its vectors '
                         '(on the command line: --dimensions).';
    end if;
    execute format('alter table %s add column %I %s.%I(%s)', relation, embedding_column,
                   (select extnamespace::regnamespace from pg_extension where extname = 'vector'),
                   case when dimensions <= 2000 then 'vector' else 'halfvec' end, dimensions);
end $$;

select embedding.protect_functions('embedding.column_width', 'embedding.planned_width', 'embedding.add_column');
