"""Searches while old and new vectors are of one model and width, with two document prompts."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.conftest import Database, rows
from tests.integration.reembeddings import OPENAI as MODEL
from tests.integration.reembeddings import openai_settings as openai_settings
from tests.integration.reembeddings import owner_queue as owner_queue
from tests.openai_server import vector_for
from worker.evaluation.judgments import JudgedQuery
from worker.operations import reembed, reembed_start
from worker.operations.processing import process
from worker.operations.reembed_stages import Reembedder
from worker.operations.search import search
from worker.operations.verify import verify
from worker.queue import Reembedding
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.settings import Settings


@pytest.fixture
def swapped(texts: Database, queue: PostgresQueue, settings: Settings) -> Reembedding:
    """Vectors of one model and width, which serve with a prompt, and were made without one."""
    texts.execute("insert into docs select i, 'text ' || i from generate_series(1, 30) as i")
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', match_function => true)")
    process(queue, settings)
    config = EmbeddingMigrationConfig(
        source_collection="docs", model=MODEL, dimensions=8, document_prompt="new: "
    )
    begun = reembed_start.start(queue, reembed_start.plan_start(queue, settings, config))
    ready = Reembedder(queue, settings).run(begun)
    assert ready.state == "ready", ready.problem
    return reembed.swap(queue, ready)


MATCHED: LiteralString = "select content, similarity::real from match_docs(%s, 1, model => %s)"
SEARCHED: LiteralString = (
    "select content, 1 - distance::real from search_embeddings('docs', 'embedding', %s, 1, %s)"
)


@pytest.mark.parametrize("statement", [MATCHED, SEARCHED])
def test_a_search_that_names_the_prompt_is_compared_with_its_vectors(
    texts: Database, queue: PostgresQueue, swapped: Reembedding, statement: LiteralString
) -> None:
    old, new = (str(vector_for(text, 8).tolist()) for text in ("text 7", "new: text 7"))
    for step in (lambda: None, lambda: reembed.roll_back(queue, swapped)):
        step()
        for vector, model in ((old, f"{MODEL}#"), (new, f"{MODEL}#new: ")):
            [(content, similarity)] = rows(texts, statement, vector, model)
            assert (content, similarity) == ("text 7", pytest.approx(1, abs=1e-5))
    [(_, similarity)] = rows(texts, statement, new, MODEL)  # the serving ones
    assert similarity < 0.999
    with pytest.raises(Exception, match=r"holds vectors of .*, not of .*#other: "):
        texts.execute(statement, [old, f"{MODEL}#other: "])


def test_old_and_new_are_compared_with_their_own_vectors_after_the_swap(
    texts: Database, queue: PostgresQueue, settings: Settings, swapped: Reembedding
) -> None:
    judged = [JudgedQuery(str(key), f"text {key}", {str(key): 1}) for key in range(1, 11)]
    result = verify(
        queue, settings, "docs", "embedding_2", against="embedding", queries=judged, k=5
    )
    figures = {check.name: check.figures for check in result.checks}
    same, difference = figures["overlap"]["overlap"], figures["queries"]["ndcg_difference"]
    assert same is not None
    assert same < 0.8  # 1 if one were compared with itself
    assert difference is not None
    assert difference < -0.3  # the old ones have these very vectors
    again = verify(queue, settings, "docs", "embedding", against="embedding_2", k=5)
    assert {check.name: check.status for check in again.checks}["sample"] == "ok"
    assert search(queue, settings, "new: text 3", table="docs", limit=1)[0].record_id == "3"
