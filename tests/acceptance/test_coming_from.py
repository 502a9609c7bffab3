"""The recipes of docs/coming-from.md, run word for word on the tables that the other tool makes."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.acceptance.conftest import MODEL
from tests.conftest import IN_CI, REPOSITORY, Database, Worker, value
from tests.openai_server import OpenAIServer
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
    for command in commands("LangChain"):
        result = worker(*command.split()[1:], **with_openai)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "watch" not in command or "Adopted: 30\nPending: 0\n" in result.stdout
    assert value(db, "select count(*) from embedding_queue where model = %s", MODEL) == 60
    [statement] = re.findall(r"`(alter table articles .*?)`", PAGE)
    db.execute(statement.encode())


def commands(section: str) -> list[str]:
    """The commands of a section of the page."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return re.findall(r"^\$ (.+)$", text, re.M)
