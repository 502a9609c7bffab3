"""The recipes of docs/coming-from.md, run word for word on the tables that the other tool makes."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from benchmarks import pgai
from tests.acceptance.conftest import MODEL
from tests.conftest import IN_CI, REPOSITORY, Database, Worker, value
from tests.documentation import blocks
from tests.openai_server import OpenAIServer, vector_for
from tests.supabase_project import over_tcp

PAGE = (REPOSITORY / "docs/coming-from.md").read_text(encoding="utf-8")
LANGCHAIN = REPOSITORY / ".parts/langchain/bin/python"

LANGCHAIN_WRITES = """
import sys
from langchain_openai import OpenAIEmbeddings
from langchain_postgres import PGEngine, PGVector, PGVectorStore
database, api, key = sys.argv[1:]
model = OpenAIEmbeddings(
    base_url=api, api_key=key, model="text-embedding-3-small", check_embedding_ctx_length=False
)
texts = [f"text {number}" for number in range(30)]
PGVector(model, connection=database, collection_name="articles").add_texts(texts)
engine = PGEngine.from_connection_string(database)
engine.init_vectorstore_table("articles", 1536)
PGVectorStore.create_sync(engine, model, "articles").add_texts(texts)
"""


@pytest.mark.only_in_full
@pytest.mark.skipif(not LANGCHAIN.exists() and not IN_CI, reason="LangChain is not installed")
def test_tables_of_langchain_are_adopted(
    db: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    with over_tcp(db.info.dsn) as url:
        given = [url.replace("postgresql://", "postgresql+psycopg://"), openai.base_url]
        subprocess.run(
            [str(LANGCHAIN), "-c", LANGCHAIN_WRITES, *given, openai.api_key],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    said = follow("LangChain", db, worker, with_openai)
    assert said.count("Adopted: 30\nPending: 0\n") == 2
    assert value(db, "select count(*) from embedding_queue where model = %s", MODEL) == 60
    [statement] = re.findall(r"`(alter table articles .*?)`", PAGE)
    db.execute(statement.encode())


# The tables, triggers and functions of Supabase's guide, by their names. Its extensions are not
# here: they have only the functions that the page calls, and nothing behind them.
OF_SUPABASE = """
create schema cron;
create function cron.unschedule(job_name text) returns boolean return true;
create schema pgmq;
create table pgmq.q_embedding_jobs (msg_id bigint generated always as identity, message jsonb);
create function pgmq.drop_queue(queue_name text) returns boolean return true;
create schema util;
create function util.queue_embeddings() returns trigger language plpgsql as $$
begin
    insert into pgmq.q_embedding_jobs (message)
    values (jsonb_build_object('id', new.id, 'table', tg_table_name));
    return new;
end $$;
create table documents (
    id integer primary key generated always as identity,
    title text not null,
    content text not null,
    embedding halfvec(1536)
);
create function embedding_input(doc documents) returns text immutable
    return '# ' || doc.title || E'\\n\\n' || doc.content;
create trigger embed_documents_on_insert after insert on documents
    for each row execute function util.queue_embeddings('embedding_input', 'embedding');
create trigger embed_documents_on_update after update of title, content on documents
    for each row execute function util.queue_embeddings('embedding_input', 'embedding');
"""


def test_vectors_of_the_recipe_of_supabase_are_adopted(
    db: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    db.execute(OF_SUPABASE.encode())
    insert = "insert into documents (title, content) values (%s, 'text')"
    for number in range(1, 10):
        db.execute(insert, [str(number)])
        vector = str(vector_for(f"# {number}\n\ntext", 1536).tolist())
        update = "update documents set embedding = %s::text::halfvec where id = %s"
        db.execute(update, [vector, number])
    db.execute("truncate pgmq.q_embedding_jobs")
    db.execute("update documents set content = 'edited' where id = 3")
    db.execute(insert, ["10"])

    said = follow("Supabase's recipe", db, worker, with_openai)

    assert "Adopted: 8\nPending: 2\n" in said
    embedded = [sorted(request.texts) for request in openai.requests]
    assert ["# 10\n\ntext", "# 3\n\nedited"] in embedded
    triggers = "select count(*) from pg_trigger where tgname like 'embed\\_documents%'"
    assert value(db, triggers) == 0
    assert value(db, "select count(*) from documents where embedding is null") == 0


VECTORIZERS = """
select ai.create_vectorizer('articles', loading => ai.loading_column('body'),
    embedding => ai.embedding_openai('text-embedding-3-small', 1536),
    chunking => ai.chunking_none(), destination => ai.destination_column('embedding'));
select ai.create_vectorizer('manuals', loading => ai.loading_column('body'),
    embedding => ai.embedding_openai('text-embedding-3-small', 1536), name => 'manuals_body');
"""


@pytest.mark.only_in_full
@pytest.mark.skipif(not pgai.is_installed(), reason="`scripts/bench rivals` installs pgai")
def test_vectors_of_pgai_are_adopted_unless_they_are_of_chunks(
    db: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    for table in ("articles", "manuals"):
        db.execute(f"create table {table} (id bigint primary key, body text)".encode())
        db.execute(
            f"insert into {table} select n, 'text' || n from generate_series(1, 9) n".encode()
        )
    with over_tcp(db.info.dsn) as url:
        install = [str(pgai.FOLDER / "bin/python"), "-m", "pgai", "install", "--db-url", url]
        subprocess.run(install, capture_output=True, timeout=120, check=True)
    db.execute(VECTORIZERS.encode())
    for number in range(1, 10):
        vector = str(vector_for(f"text{number}", 1536).tolist())
        update = "update articles set embedding = %s::text::vector where id = %s"
        db.execute(update, [vector, number])
    db.execute("truncate ai._vectorizer_q_1")
    db.execute("update articles set body = 'edited' where id = 3")

    said = follow("pgai", db, worker, with_openai)

    assert "Adopted: 8\nPending: 1\n" in said
    assert ["edited"] in [request.texts for request in openai.requests]
    assert value(db, "select count(*) from articles where embedding is null") == 0
    assert value(db, "select to_regclass('manuals_embedding')") is None
    assert value(db, "select count(*) from manuals_chunks") == 9


# What the server of pg_vectorize makes for a job, by its names. pgmq is not here: its queue is.
OF_PG_VECTORIZE = """
create schema pgmq;
create table pgmq.q_vectorize_jobs (msg_id bigint generated always as identity, message jsonb);
create function pgmq.drop_queue(queue_name text) returns boolean return true;
create table products (
    product_id bigint primary key,
    product_name text,
    description text,
    updated_at timestamptz default now()
);
create schema vectorize;
create table vectorize._embeddings_my_job (
    product_id bigint unique not null references products on delete cascade,
    embeddings vector(1536) not null,
    updated_at timestamptz default now() not null
);
create view vectorize.my_job_view as
    select products.*, embeddings
      from products join vectorize._embeddings_my_job using (product_id);
create function vectorize.handle_update_my_job() returns trigger language plpgsql as $$
begin
    insert into pgmq.q_vectorize_jobs (message)
    select jsonb_build_object('job_name', 'my_job', 'record_ids', jsonb_agg(product_id::text))
      from new_table;
    return null;
end $$;
create trigger vectorize_insert_trigger_my_job after insert on products
    referencing new table as new_table
    for each statement execute function vectorize.handle_update_my_job();
create trigger vectorize_update_trigger_my_job after update on products
    referencing new table as new_table
    for each statement execute function vectorize.handle_update_my_job();
create function update_my_job_search_tokens() returns trigger language plpgsql as $$
begin
    return new;
end $$;
create trigger my_job_search_tokens_trigger after insert or update or delete on products
    for each row execute function update_my_job_search_tokens();
"""


def test_vectors_of_pg_vectorize_are_moved_and_adopted(
    db: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    db.execute(OF_PG_VECTORIZE.encode())
    insert = "insert into products values (%s, %s, 'text')"
    for number in range(1, 10):
        db.execute(insert, [number, f"name{number}"])
        vector = str(vector_for(f"product_name: name{number}  description: text", 1536).tolist())
        made = "insert into vectorize._embeddings_my_job values (%s, %s::text::vector)"
        db.execute(made, [number, vector])
    db.execute("truncate pgmq.q_vectorize_jobs")
    db.execute("update products set description = 'queued' where product_id = 3")
    db.execute("update products set updated_at = now() + interval '1 s' where product_id = 4")
    db.execute(insert, [10, None])

    said = follow("pg_vectorize", db, worker, with_openai)

    assert "Adopted: 7\nPending: 3\n" in said
    assert value(db, "select count(*) from products where embedding is null") == 0
    triggers = "select count(*) from pg_trigger where tgname like '%my\\_job%'"
    assert value(db, triggers) == 0


# What the extension of pgEdge makes for a column, by its names. It is written in C, and not here.
OF_PGEDGE = """
create schema pgedge_vectorizer;
create table manuals (id bigint primary key, body text);
create table manuals_body_chunks (
    id bigserial primary key,
    source_id bigint not null,
    chunk_index int not null,
    content text not null,
    token_count int,
    embedding vector(1536),
    unique (source_id, chunk_index)
);
create index manuals_body_chunks_embedding_idx on manuals_body_chunks
    using hnsw (embedding vector_cosine_ops);
create function pgedge_vectorizer.vectorization_trigger() returns trigger language plpgsql as $$
begin
    insert into public.manuals_body_chunks (source_id, chunk_index, content)
    values (new.id, 1, new.body);
    return new;
end $$;
create trigger manuals_body_vectorization_trigger after insert or update on manuals
    for each row execute function pgedge_vectorizer.vectorization_trigger('body');
create function pgedge_vectorizer.disable_vectorization(
    source_table regclass, source_column name default null, drop_chunk_table boolean default false
) returns void language plpgsql as $$
begin
    drop trigger manuals_body_vectorization_trigger on public.manuals;
    drop table public.manuals_body_chunks;
end $$;
"""


def test_texts_of_pgedge_vectorizer_are_embedded_beside_its_chunks(
    db: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    db.execute(OF_PGEDGE.encode())
    db.execute("insert into manuals select n, 'text ' || n from generate_series(1, 9) n")

    follow("pgEdge Vectorizer", db, worker, with_openai)

    assert value(db, "select count(*) from manuals_chunks where embedding is not null") == 9
    assert value(db, "select to_regclass('manuals_body_chunks')") is None
    triggers = "select count(*) from pg_trigger where tgname like '%vectorization%'"
    assert value(db, triggers) == 0


def follow(section: str, db: Database, worker: Worker, environment: dict[str, str]) -> str:
    """Do what a section of the page says, in its order; return what the worker prints."""
    printed = ""
    for block in blocks("docs/coming-from.md", section, ("console", "sql")):
        if block.language == "sql":
            db.execute(block.text.encode())
            continue
        for step in block.steps():
            program, *arguments = shlex.split(step.command.replace("\\\n", ""))
            assert program == "worker"
            result = worker(*arguments, **environment)
            assert result.returncode == 0, f"{step.command}: {result.stdout}{result.stderr}"
            printed += result.stdout
    return printed
