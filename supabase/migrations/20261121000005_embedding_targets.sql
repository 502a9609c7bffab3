-- Why:   the watched columns: one row for each (table, embedding column). Written by watch_embeddings, read by
--        everything else.
-- Locks: nothing, the table is new.
-- Undo:  drop table public.embedding_targets;
--
-- `relation`, `record_id_sql`, `record_match_sql`, `source`, `context`, `full_text`, `filter` and the names of the side tables
-- are pieces of SQL that the functions of
-- this schema put into their statements. In every statement the only unprefixed names are the columns of the
-- watched table; `eq_record` is the record id. A role that can write here could therefore run SQL as the owner:
-- only the owner can.

create table public.embedding_targets (
    id integer generated always as identity primary key,
    table_name text not null,                      -- `sessions`, or `app.sessions` outside public
    embedding_column text not null,
    kind text not null default 'embed',            -- embed; or parse: its jobs are files, whose texts become the column
    serves text,                                   -- the column that people name, if they do not name this one; see ...
    role text not null default 'serving',          -- ... embedding_reembeddings: serving | shadow | retired
    source text not null,                          -- SQL over the row that gives the text to embed
    filter text,                                   -- SQL over the row: rows for which it is not true have no vector
    model text,                                    -- `provider:model` of every vector of the column; null: none is written yet
    document_prompt text,                          -- what the model gets before each text, '' if nothing; null: not decided,
                                                   -- the first worker records it
    query_prompt text,                             -- ... and before the words of a search; null: what the model is made for
    model_is_default boolean not null default false, -- true: not chosen, but the default of the first worker
    dimensions integer,                            -- width of the column; null: a column without one
    language text,                                 -- text search configuration of hybrid search; null: vectors only
    full_text text,                                -- SQL over the row that gives the words of its text, as an index has it
    context text,                                  -- SQL over the row that gives what is put before each chunk of its text
    chunk_format text,                             -- how the text is cut into chunks; null: it is embedded as a whole
    chunk_size integer,                            -- the longest chunk, in ...
    chunk_unit text,                               -- ... characters | tokens
    max_chunks integer,                            -- a text with more fails
    enhance_model text,                            -- `provider:model` of the chat model that writes what is embedded with or
                                                   -- instead of the text; null: none
    enhance_prompt text,                           -- its instructions
    enhance_on_failure text,                       -- if it fails: wait | raw (embed the text without it meanwhile)
    chunks_relation text,                          -- `public.docs_chunks`, quoted: the chunks and their vectors, ...
    places_relation text,                          -- `public.docs_chunk_places`: where they are in the texts, ...
    passages_relation text,                        -- `public.docs_passages`: the view of both
    store_relation text,                           -- `public.docs_embedding`, quoted: the table of the vectors, one row a
                                                   -- record; null: they are in the watched table, or in chunks
    priority smallint not null default 0,          -- higher values are claimed first; backfill is 10 lower
    debounce interval not null default '0',        -- an edit waits this long, so a burst of them is embedded once
    on_change text not null default 'keep',        -- what an edit does to the old vector: keep | clear
    on_too_long text not null default 'fail',      -- a text above the model's limit: fail | truncate
    max_attempts smallint not null default 5,
    enabled boolean not null default true,         -- false: edits are still queued, but not claimed
    problem text,                                  -- why the target is suspended; cleared by watch_embeddings
    relation text not null,                        -- `public.sessions`, quoted
    relation_id oid not null,                      -- the table that had this name, and ...
    column_numbers jsonb not null,                 -- ... the attribute number of each column that the SQL below names
    key_columns text[] not null,
    record_id_sql text not null,                   -- the key of a row as text:  sessions.id::text
    record_match_sql text not null,                -- the row of a record id:    sessions.id = eq_record::uuid
    user_column text,                              -- the column that names the owner of a row, if there is one
    coverage_goal real,                            -- the percentage of its rows that people want to have a vector; null: none
    backfill_cursor text,                          -- the last record id that backfill_embeddings has passed
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint embedding_targets_one_per_column unique (table_name, embedding_column),
    constraint embedding_targets_known_kind check (kind in ('embed', 'parse')),
    constraint embedding_targets_known_role check (role in ('serving', 'shadow', 'retired')),
    constraint embedding_targets_known_on_change check (on_change in ('keep', 'clear')),
    constraint embedding_targets_known_on_too_long check (on_too_long in ('fail', 'truncate')),
    constraint embedding_targets_known_on_failure check (enhance_on_failure in ('wait', 'raw')),
    constraint embedding_targets_enhanced_in_full
        check (num_nulls(enhance_model, enhance_prompt, enhance_on_failure) in (0, 3)),
    constraint embedding_targets_known_chunk_format check (chunk_format in ('markdown', 'text', 'html', 'code')),
    constraint embedding_targets_known_chunk_unit check (chunk_unit in ('characters', 'tokens')),
    constraint embedding_targets_chunks_complete check (
        num_nulls(chunk_format, chunk_size, chunk_unit, max_chunks, chunks_relation, places_relation, passages_relation)
        in (0, 7)),
    constraint embedding_targets_one_store check (num_nonnulls(chunks_relation, store_relation) <= 1),
    constraint embedding_targets_goal_is_a_percentage check (coverage_goal > 0 and coverage_goal <= 100),
    constraint embedding_targets_width_above_zero check (dimensions > 0),
    constraint embedding_targets_attempts_above_zero check (max_attempts > 0)
);

-- What a search uses that names a column.
create unique index embedding_targets_one_serving
    on public.embedding_targets (table_name, (coalesce(serves, embedding_column))) where role = 'serving';

select embedding.let_workers_read('public.embedding_targets');
