"""Backfills in batches: every row gets the vector of its text, and each text is paid for once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import worker
from tests.batch_server import (
    EXPIRED_HALF_WAY,
    INVALID,
    BatchServer,
    Change,
    bad_gateway,
    broken_every,
    first,
    line_error,
    shuffled,
    twice,
    with_foreign_names,
    without_every,
)
from tests.conftest import Database, rows, value
from tests.http_server import cut_short
from tests.integration.batches import Batches, end_pauses, fill, let_leases_end, statuses
from tests.integration.runs import unlike_their_text
from worker.batches import preparing, serving
from worker.doctor.batches import inspect_batches
from worker.embedders.batch_api import BatchLimits
from worker.embedders.openai_batches import OpenAIBatchApi
from worker.errors import SettingsError
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue

PRICE = 0.01  # US dollars for a million tokens, in a batch


@pytest.fixture
def provider() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@pytest.fixture
def batches(texts: Database, queue: AdminQueue, provider: BatchServer) -> Batches:
    return Batches(queue, provider)


def assert_all_is_well(db: Database, provider: BatchServer) -> None:
    """Every row has the vector of its text, each was paid for once, and nothing is left over."""
    assert set(statuses(db)) <= {"completed"}
    assert value(db, "select count(*) from docs where embedding is null") == 0
    assert unlike_their_text(db) == []
    assert provider.paid_in_full == {}
    assert set(provider.paid.values()) <= {1}
    assert provider.left_over() == []
    assert value(db, "select count(*) from embedding.batch_jobs") == 0


def test_rows_get_their_vectors_at_half_the_price(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 25)
    run = batches.run()
    assert (run.stats.completed, run.left.waiting, run.left.under_way) == (25, 0, [])
    assert_all_is_well(texts, provider)
    [batch] = batches.all()
    tokens = value(texts, "select sum(tokens) from embedding_queue")
    assert (batch.state, batch.texts, batch.completed, batch.tokens) == (
        "completed",
        25,
        25,
        tokens,
    )
    assert batch.cost == pytest.approx(tokens * PRICE / 1e6)
    assert value(texts, "select sum(cost) from embedding_queue") == pytest.approx(batch.cost)
    assert [name for name, _ in batches.log.events if name != "batches_seen"] == [
        "batch_submitted",
        "batch_collected",
    ]


def test_a_program_can_do_the_same(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    run = worker.backfill_by_batches(batches.queue, batches.settings, table="docs", max_cost=1.0)
    assert (run.stats.completed, run.left.are_done) == (5, True)
    assert_all_is_well(texts, provider)
    with pytest.raises(SettingsError, match="not above 0"):
        worker.backfill_by_batches(batches.queue, batches.settings, max_cost=0.0)


def test_equal_texts_are_sent_and_paid_for_once(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 30)
    texts.execute("update docs set body = 'text ' || id % 3")
    texts.execute("delete from embedding_queue")
    batches.run()
    assert_all_is_well(texts, provider)
    assert provider.paid == {"text 0": 1, "text 1": 1, "text 2": 1}
    [batch] = batches.all()
    assert (batch.texts, batch.completed) == (3, 30)
    assert value(texts, "select count(*) from embedding_queue where cost > 0") == 3


def test_an_edit_meanwhile_is_embedded_at_once_and_the_result_of_its_old_text_is_stale(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    provider.is_holding = True
    batches.plan()
    batches.step()
    texts.execute("update docs set body = 'edited' where id = 3")
    assert statuses(texts) == {"processing": 4, "pending": 1}
    batches.embed_the_rest()
    assert provider.paid_in_full == {"edited": 1}
    assert statuses(texts) == {"processing": 4, "completed": 1}
    provider.paid_in_full.clear()
    provider.is_holding = False
    batches.until_done()
    assert_all_is_well(texts, provider)
    [batch] = batches.all()
    assert (batch.completed, batch.stale) == (4, 1)


def test_a_row_that_is_edited_while_it_waits_does_not_wait(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    batches.plan()
    assert statuses(texts) == {"waiting": 5}
    texts.execute("update docs set body = 'edited' where id = 3")
    assert statuses(texts) == {"waiting": 4, "pending": 1}


def test_deleted_and_requeued_rows_meanwhile_are_stale(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    provider.is_holding = True
    batches.plan()
    batches.step()
    texts.execute("delete from docs where id = 1")
    batches.queue.requeue(status=None, record="2")
    provider.is_holding = False
    batches.until_done()
    [batch] = batches.all()
    assert (batch.completed, batch.stale) == (3, 2)
    assert statuses(texts) == {"completed": 3, "pending": 1}
    assert provider.left_over() == []


@pytest.mark.parametrize("change", [shuffled, twice, with_foreign_names])
def test_results_in_any_order_twice_or_of_others_are_written_once(
    texts: Database, batches: Batches, provider: BatchServer, change: Change
) -> None:
    fill(texts, 25)
    provider.results_are(change)
    run = batches.run()
    assert run.stats.completed == 25
    assert_all_is_well(texts, provider)


@pytest.mark.parametrize(
    ("change", "lost"),
    [(without_every(5), 5), (broken_every(5), 10)],  # half a line also breaks the one after it
    ids=["missing", "broken"],
)
def test_rows_whose_line_is_missing_or_broken_go_the_ordinary_way(
    texts: Database, batches: Batches, provider: BatchServer, change: Change, lost: int
) -> None:
    fill(texts, 25)
    provider.results_are(change)
    batches.run()
    assert statuses(texts) == {"completed": 25 - lost, "pending": lost}
    [batch] = batches.all()
    assert (batch.completed, batch.released) == (25 - lost, lost)
    batches.embed_the_rest()
    assert statuses(texts) == {"completed": 25}
    assert unlike_their_text(texts) == []
    assert provider.left_over() == []


def test_each_line_decides_about_its_row(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    answers = {
        "text number 1": line_error(400, "This model's maximum context length is 8192 tokens."),
        "text number 2": line_error(429, "Rate limit reached.", "rate_limit_exceeded"),
        "text number 3": line_error(500, "The server had an error."),
    }
    provider.line_answer = answers.get
    batches.run()
    assert statuses(texts) == {"completed": 2, "failed": 1, "pending": 2}
    [(error_class,)] = rows(
        texts, "select error_class from embedding_queue where status = 'failed'"
    )
    assert error_class == "too_long"
    [batch] = batches.all()
    assert (batch.completed, batch.failed, batch.released) == (2, 1, 2)
    assert provider.left_over() == []


def test_what_an_expired_batch_has_done_is_written_and_the_rest_is_in_the_next_one(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 20)
    provider.fates.append(EXPIRED_HALF_WAY)
    batches.run()
    assert batches.states == ["expired", "completed"]
    assert [batch.completed for batch in batches.all()] == [10, 10]
    assert_all_is_well(texts, provider)


def test_what_a_person_cancels_goes_the_ordinary_way(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 20)
    provider.is_holding = True
    batches.plan()
    batches.step()
    batches.queue.cancel_batch(1)
    batches.until_done()
    assert batches.states == ["cancelled"]
    assert statuses(texts) == {"pending": 20}
    assert provider.left_over() == []
    batches.embed_the_rest()
    assert statuses(texts) == {"completed": 20}


def test_jobs_of_a_batch_that_the_provider_does_not_take_wait_and_are_tried_after_a_pause(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    provider.fates.append(INVALID)
    batches.plan()
    batches.step()
    batches.step()
    assert batches.states == ["failed"]
    assert statuses(texts) == {"waiting": 5}
    backfill = batches.backfill
    assert (backfill.failures, backfill.error_class) == (1, "invalid_json_line")
    assert backfill.retry_at is not None
    batches.step()
    assert batches.states == ["failed"]
    end_pauses(texts)
    batches.until_done()
    assert batches.states == ["failed", "completed"]
    assert batches.backfill.failures == 0
    assert_all_is_well(texts, provider)


def test_the_limit_of_enqueued_tokens_is_learned(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 40)  # of four tokens each
    provider.token_limit = 50
    batches.plan()
    batches.step()
    batches.step()
    assert (batches.states, batches.backfill.most_tokens) == (["failed"], 50)
    end_pauses(texts)
    batches.until_done()
    assert batches.states[0] == "failed"
    assert set(batches.states[1:]) == {"completed"}
    assert_all_is_well(texts, provider)


def test_the_limit_of_the_settings_is_kept(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 40)
    provider.token_limit = batches.most_tokens = 50
    batches.run()
    assert set(batches.states) == {"completed"}
    assert len(batches.states) > 3
    assert_all_is_well(texts, provider)


def test_no_more_is_submitted_than_the_cost_allows(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 40)
    budget = 100 * PRICE / 1e6  # a hundred tokens
    batches.plan(budget)
    run = batches.until_done()
    assert 0 < run.left.waiting < 40
    assert [each.waiting for each in run.left.over_budget] == [run.left.waiting]
    cost = sum(batch.cost or 0 for batch in batches.all())
    assert 0 < cost <= budget
    batches.plan(1.0)
    batches.until_done()
    assert_all_is_well(texts, provider)


def test_vectors_in_the_cache_are_neither_sent_nor_paid_for(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    batches.cache_mb = 10
    batches.run()
    texts.execute("update docs set embedding = null")
    texts.execute("delete from embedding_queue")
    texts.execute("insert into docs values (6, 'new')")
    texts.execute("delete from embedding_queue")
    batches.run()
    assert_all_is_well(texts, provider)
    assert [batch.texts for batch in batches.all()] == [5, 1]


def test_many_batches_are_under_way_at_once(
    texts: Database, batches: Batches, provider: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "FIRST_CLAIM", 7)
    monkeypatch.setattr(OpenAIBatchApi, "limits", BatchLimits(texts=10, bytes=10**6))
    fill(texts, 35)
    provider.is_holding = True
    batches.plan()
    batches.step()
    assert [batch.texts for batch in batches.all()] == [10, 10, 10, 5]
    provider.is_holding = False
    batches.until_done()
    assert_all_is_well(texts, provider)


@pytest.mark.parametrize("route", ["POST /files", "POST /batches"])
def test_a_batch_whose_answer_was_lost_is_adopted_and_not_paid_for_twice(
    texts: Database, batches: Batches, provider: BatchServer, route: str
) -> None:
    fill(texts, 5)
    provider.faults_at[route].append(cut_short)
    batches.plan()
    batches.until_done() if route == "POST /batches" else batches.step()
    if route == "POST /files":
        assert provider.left_over() == []
        end_pauses(texts)
        batches.until_done()
    assert_all_is_well(texts, provider)


def test_a_download_that_fails_is_repeated(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 25)
    provider.refusals["GET /files/content"].append(bad_gateway)
    provider.faults_at["GET /files/content"].append(cut_short)
    batches.run()
    assert_all_is_well(texts, provider)


def test_a_wrong_key_pauses_the_backfill_and_says_why(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    batches.plan()
    batches.key = "sk-wrong"
    batches.step()
    assert statuses(texts) == {"waiting": 5}
    assert (batches.states, batches.backfill.failures) == (["failed"], 1)
    [event] = batches.log.of("batch_failed")
    assert "OPENAI_API_KEY" in str(event["hint"])
    batches.key = None
    end_pauses(texts)
    batches.until_done()
    assert_all_is_well(texts, provider)


def test_a_batch_that_the_provider_has_forgotten_is_given_up_after_a_while(
    texts: Database, batches: Batches, provider: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(texts, 5)
    provider.is_holding = True
    batches.plan()
    batches.step()
    provider.is_holding = False
    [forgotten] = provider.batches
    provider.forget(forgotten)
    batches.step()
    batches.step()
    assert batches.states == ["submitted"]
    monkeypatch.setattr(serving, "UNKNOWN_FOR", 0.0)
    batches.step()
    batches.until_done()
    assert batches.states == ["failed", "completed"]
    assert unlike_their_text(texts) == []
    assert provider.left_over() == []


def test_two_workers_share_the_batches(
    texts: Database, batches: Batches, provider: BatchServer, database_url: str
) -> None:
    fill(texts, 200)
    batches.most_tokens = 100
    batches.plan()
    with (
        PostgresQueue(database_url, "another") as another,
        ThreadPoolExecutor(2) as pool,
    ):
        others = Batches(another, provider, most_tokens=100)
        for run in [pool.submit(batches.until_done), pool.submit(others.until_done)]:
            run.result()
    assert_all_is_well(texts, provider)


def test_a_worker_whose_lease_ran_out_changes_nothing(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    """Another one finds nothing at the provider and gives the batch up, while the first uploads."""
    fill(texts, 5)

    def take_over() -> None:
        let_leases_end(texts)
        with PostgresQueue(texts.info.dsn, "another") as queue:
            Batches(queue, provider).step()

    provider.faults_at["POST /files"].append(first(take_over))
    batches.run()
    assert_all_is_well(texts, provider)


def test_columns_in_chunks_are_refused(
    manuals: Database, queue: AdminQueue, provider: BatchServer
) -> None:
    with pytest.raises(SettingsError, match="in chunks"):
        Batches(queue, provider).plan()


def test_a_column_of_another_width_is_refused_before_anything_is_paid_for(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    texts.execute("alter table docs add column wide vector(2000)")
    texts.execute("select watch_embeddings('docs', 'body', 'wide')")
    texts.execute("select unwatch_embeddings('docs', 'embedding')")
    fill(texts, 3)
    batches.plan()
    batches.step()
    assert (batches.backfill.error_class, provider.batches) == ("wrong_width", {})
    assert statuses(texts) == {"waiting": 3}


def test_the_doctor_finds_jobs_that_wait_in_vain(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    def found() -> list[str]:
        return [finding.check for finding in inspect_batches(batches.queue)]

    fill(texts, 3)
    provider.is_holding = True
    batches.plan()
    assert found() == []
    texts.execute("update embedding_batch_backfills set requested_at = now() - interval '1 h'")
    assert found() == ["batches_unserved"]
    batches.step()
    assert found() == []
    texts.execute("update embedding_batches set look_at = now() - interval '1 h'")
    assert found() == ["batches_unserved"]
    texts.execute(
        "update embedding_batches set look_at = now(), expires_at = now() - interval '3 h'"
    )
    assert found() == ["batch_overdue"]
    batches.queue.cancel_batch(1)
    batches.until_done()
    texts.execute("delete from embedding_queue")
    batches.plan(0.00000001)
    batches.step()
    assert found() == ["batches_over_budget"]
    texts.execute("update embedding_batch_backfills set max_cost = null, failures = 6")
    assert found() == ["batches_failing"]


def test_an_outage_of_the_provider_ends_by_itself(
    texts: Database, batches: Batches, provider: BatchServer
) -> None:
    fill(texts, 5)
    batches.plan()
    provider.refusals["POST /files"].extend([bad_gateway] * 9)
    provider.refusals["GET /batches"].extend([bad_gateway] * 9)
    batches.step()
    assert batches.states == ["preparing"]  # nobody knows whether it was created
    assert len(batches.log.of("batch_failed")) == 1
    for refusals in provider.refusals.values():
        refusals.clear()
    texts.execute("update embedding_batches set look_at = now()")
    batches.until_done()
    assert_all_is_well(texts, provider)
