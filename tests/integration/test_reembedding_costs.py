"""What a re-embedding will cost and has cost, and the texts and searches that it would lose."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Database, value
from tests.integration.reembeddings import OPENAI as OLD
from tests.integration.reembeddings import create_searched, make_swapped
from tests.integration.reembeddings import openai_settings as openai_settings
from tests.integration.reembeddings import owner_queue as owner_queue
from tests.openai_server import OpenAIServer
from worker.cli.render.reembedding import print_plan
from worker.embedders.registry import open_embedder
from worker.operations import reembed, reembed_start
from worker.operations.processing import process
from worker.operations.reembed_forecast import too_long_for
from worker.operations.reembed_start import StartPlan
from worker.queue import Finding, ReembeddingUsage
from worker.queue.postgres import PostgresQueue
from worker.reembedding import fill
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.settings import Settings

NEW = "openai:text-embedding-3-large"
CHAT = "openai:gpt-4o-mini"
TOO_LONG = "repeat('many words ', 5000)"  # some 10,000 tokens


def plan(queue: PostgresQueue, settings: Settings, **given: Any) -> StartPlan:
    wanted: dict[str, Any] = {"source_collection": "docs", "model": NEW, "dimensions": 8}
    return reembed_start.plan_start(queue, settings, EmbeddingMigrationConfig(**wanted | given))


def found(plan: StartPlan, check: str) -> list[Finding]:
    return [finding for finding in plan.findings if finding.check == check]


# -- before it begins


def test_all_texts_are_estimated_and_only_the_probe_is_paid_for(
    texts: Database, queue: PostgresQueue, settings: Settings, openai: OpenAIServer
) -> None:
    texts.execute("insert into docs select i, repeat('word ', 100) from generate_series(1, 250) i")
    texts.execute("update docs set body = ' ' where id <= 50")
    texts.execute("update embedding_queue set status = 'completed', model = %s", [NEW])
    forecast = plan(queue, settings, document_prompt="of it: ").forecast
    assert [request.texts for request in openai.requests] == [["of it: a"]]
    assert forecast
    assert forecast.rows == 250
    assert forecast.texts == pytest.approx(200, rel=0.15)
    assert forecast.tokens == pytest.approx(forecast.texts * 127, rel=0.3)
    assert forecast.cost == pytest.approx(forecast.tokens * 0.13 / 1e6)
    assert forecast.seconds is None

    lines: list[str] = []
    unknown = replace(plan(queue, settings), forecast=replace(forecast, cost=None))
    print_plan(unknown, lines.append)
    assert lines[-1].endswith(
        f" tokens, cost not known, time not known before the first run with the model ({NEW})"
    )
    texts.execute("alter table docs rename body to content")
    print_plan(plan(queue, settings), lines.append)
    assert lines[-1] == "estimate: not known, because the texts cannot be read now"


def test_what_a_chat_model_wrote_before_costs_nothing(
    texts: Database, queue: PostgresQueue, settings: Settings
) -> None:
    texts.execute(
        "select watch_embeddings('docs', 'body', 'embedding', model => %s, enhance => %s)",
        [OLD, CHAT],
    )
    texts.execute("insert into docs select i, 'text ' || i from generate_series(1, 10) as i")
    before = plan(queue, settings).forecast
    process(queue, settings)
    after = plan(queue, settings).forecast
    assert before
    assert after
    assert (before.texts, after.texts) == (10, 10)
    assert before.requests - after.requests == 10
    assert (after.cost or 0) < (before.cost or 0)


@pytest.mark.parametrize("on_too_long", ["fail", "truncate"])
@pytest.mark.parametrize("chunks", [False, True])
def test_texts_that_only_the_new_model_refuses_are_named(
    db: Database,
    queue: PostgresQueue,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    on_too_long: str,
    chunks: bool,
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', 'local:wordllama-256',"
        " dimensions => 256, on_too_long => %s, chunks => %s, chunk_size => %s, format => %s)",
        [on_too_long, chunks, *((100_000, "text") if chunks else (None, None))],
    )
    assert found(plan(queue, settings), "too_long") == []
    db.execute("insert into docs select i, 'short' from generate_series(1, 30) as i")
    db.execute("update docs set body = " + TOO_LONG + " where id <= 12")
    db.execute("update embedding_queue set status = 'completed', truncated_to = 9 where id = 1")
    [warning] = found(plan(queue, settings), "too_long")
    assert warning.level == "warning"
    what = "chunk" if chunks else "text"
    assert re.sub(", by an .* of their tokens", "", warning.cause).startswith(
        f"11 of 30 rows have a {what} that is too long for {NEW}, which takes 8191 tokens: "
        + (
            "these jobs will fail"
            if on_too_long == "fail"
            else "only its beginning will be embedded"
        )
    )
    [named] = re.findall(r"\(records (.*), …\)$", warning.cause)
    assert len(set(named.split(", ")) - {"1"}) == 10
    assert (" --truncate`" in (warning.hint or "")) is (on_too_long == "fail")
    assert ("--chunk-size" in (warning.hint or "")) is chunks

    monkeypatch.setattr(fill, "SAMPLE", 20)
    db.execute("update docs set body = " + TOO_LONG)
    db.execute("update embedding_queue set truncated_to = null")
    [warning] = found(plan(queue, settings), "too_long")
    assert warning.cause.startswith("20 of 20 rows of a sample, about 30 of 30, have a ")


def test_a_model_that_takes_as_long_texts_takes_the_same(
    texts: Database, queue: PostgresQueue, settings: Settings
) -> None:
    texts.execute("insert into docs values (1, " + TOO_LONG + ")")
    sampled = fill.sample_texts(queue.database, "docs", "embedding")
    target = queue.target("docs", "embedding")
    with closing(open_embedder(NEW, 8, settings)) as embedder:
        embedder.count = None
        assert too_long_for(embedder, target, sampled).record_ids == ["1"]
        assert too_long_for(embedder, replace(target, model=OLD), sampled).record_ids == []


def test_two_prompts_of_one_model_are_warned_of(
    texts: Database, queue: PostgresQueue, settings: Settings
) -> None:
    texts.execute("insert into docs values (1, 'text')")
    process(queue, settings)
    [warning] = found(plan(queue, settings, model=OLD, document_prompt="new: "), "same_model")
    assert warning.level == "warning"
    assert f"`{OLD}#` and `{OLD}#new: `" in (warning.hint or "")
    for other in ({"model": NEW}, {"dimensions": 12}, {"query_prompt": "q: "}):
        wanted = {"model": OLD, "document_prompt": None if "query_prompt" in other else "new: "}
        assert found(plan(queue, settings, **wanted | other), "same_model") == []


# -- while it goes on, and after the swap


def spend(db: Database, model: str, minutes_ago: int, cost: float | None, **counts: float) -> None:
    db.execute(
        "insert into embedding_usage (minute, model, completed, tokens, seconds, cost)"
        " values (date_trunc('minute', now()) - make_interval(mins => %s), %s, %s, %s, %s, %s)",
        [minutes_ago, model, counts["texts"], counts["tokens"], counts.get("seconds", 1), cost],
    )


def test_what_both_models_took_since_the_swap_is_shown(db: Database, queue: PostgresQueue) -> None:
    def usage() -> list[ReembeddingUsage]:
        return queue.reembedding_usage(queue.reembeddings()[-1])

    create_searched(db)
    make_swapped(queue)
    db.execute("update embedding_reembeddings set old_model = %s, new_model = %s", [OLD, OLD])
    db.execute("update embedding_reembeddings set swapped_at = now() - interval '10 minutes'")
    assert usage() == [ReembeddingUsage(OLD, 0, 0, 0.0)]
    spend(db, OLD, 20, 1.0, texts=99, tokens=999)
    spend(db, OLD, 5, 0.25, texts=2, tokens=20)
    assert usage() == [ReembeddingUsage(OLD, 2, 20, 0.25)]
    db.execute("update embedding_reembeddings set new_model = %s", [NEW])
    spend(db, NEW, 4, None, texts=2, tokens=30)
    spend(db, NEW, 3, 0.5, texts=1, tokens=10)
    assert usage() == [ReembeddingUsage(OLD, 2, 20, 0.25), ReembeddingUsage(NEW, 3, 40, None)]
    db.execute("update embedding_reembeddings set swapped_at = null")
    assert usage() == []


def test_the_time_left_is_that_of_the_pending_texts_at_the_rate_of_now(
    texts: Database, queue: PostgresQueue, settings: Settings
) -> None:
    texts.execute("insert into docs select i, 'text ' || i from generate_series(1, 30) as i")
    begun = reembed_start.start(queue, plan(queue, settings))
    assert (begun.config or {})["estimate"]["texts"] == 30
    reembed.enqueue(queue, begun)
    assert queue.reembedding_progress(begun).eta_seconds is None
    spend(texts, NEW, 1, 0.1, texts=10, tokens=50, seconds=2)
    assert queue.reembedding_progress(begun).eta_seconds == pytest.approx(30 / 5)
    texts.execute("update embedding_queue set status = 'completed'")
    assert queue.reembedding_progress(begun).eta_seconds == 0
    assert value(texts, "select count(*) from embedding_targets") == 2
