"""A column holds vectors that were made with one document prompt: it is part of the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import Database, rows
from tests.integration.jobs import SCOPE, claim, insert, vector_of
from tests.integration.tables import models, refusal
from worker.queue import AdminQueue, Completion, Job, RefusalReason

PROMPTED = "test:model#text: "
BARE = "test:model"


def embed(queue: AdminQueue, jobs: list[Job], model: str = PROMPTED) -> list[RefusalReason]:
    completions = [Completion(job, vector_of(job), None) for job in jobs]
    return [refusal.reason for refusal in queue.complete(model, completions)]


def prompts(db: Database) -> tuple[object, ...]:
    [found] = rows(db, "select document_prompt, query_prompt from embedding_targets")
    return found


def watch(db: Database, arguments: str) -> None:
    db.execute(f"select watch_embeddings('docs', embedding_column => 'embedding', {arguments})")


@pytest.fixture
def embedded(docs: Database, queue: AdminQueue) -> Database:
    """Two documents with vectors that were made with a prompt."""
    insert(docs, 2)
    assert embed(queue, claim(queue)) == []
    return docs


def test_the_first_vectors_decide_on_the_prompt(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    [job] = claim(queue)
    assert (job.model, job.document_prompt) == (BARE, None)
    assert embed(queue, [job]) == []
    assert prompts(docs) == ("text: ", None)
    assert models(docs) == [PROMPTED]
    docs.execute("update docs set body = 'edited'")
    [job] = claim(queue)
    assert (job.model, job.document_prompt) == (BARE, "text: ")


def test_a_model_that_was_chosen_gets_its_prompt_with_the_first_vectors(
    docs: Database, queue: AdminQueue
) -> None:
    watch(docs, "model => 'test:model'")
    insert(docs, 1)
    assert embed(queue, claim(queue)) == []
    assert prompts(docs) == ("text: ", None)
    assert rows(docs, "select model, model_is_default from embedding_targets") == [(BARE, False)]


def test_a_column_that_was_filled_without_a_prompt_stays_without(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    assert embed(queue, claim(queue), BARE) == []
    assert prompts(docs) == ("", None)
    docs.execute("update docs set body = 'edited' where id = 1")
    [job] = claim(queue)
    assert job.document_prompt == ""
    assert embed(queue, [job]) == ["other_model"]
    queue.release([job])
    assert embed(queue, claim(queue), BARE) == []
    assert models(docs) == [BARE]


def test_a_column_that_was_filled_before_prompts_were_recorded_stays_without(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    embed(queue, claim(queue), BARE)
    docs.execute("alter table embedding_targets disable trigger embedding_targets_change_model")
    docs.execute("update embedding_targets set model = null, document_prompt = null")
    docs.execute("update docs set body = 'edited' where id = 1")
    [job] = claim(queue)
    assert embed(queue, [job]) == ["other_model"]
    assert prompts(docs) == ("", None)


def test_of_two_workers_with_different_prompts_one_fills_the_column(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    first, second = claim(queue, 1), claim(queue, 1, replace(SCOPE, worker="other"))
    assert embed(queue, first) == []
    assert embed(queue, second, "test:model#passage: ") == ["other_model"]
    assert models(docs) == [PROMPTED]


def test_another_prompt_clears_the_vectors_and_embeds_them_again(
    embedded: Database, queue: AdminQueue
) -> None:
    watch(embedded, "document_prompt => 'passage: '")
    assert models(embedded) == []
    jobs = claim(queue)
    assert [job.document_prompt for job in jobs] == ["passage: "] * 2
    assert embed(queue, jobs, "test:model#passage: ") == []
    assert models(embedded) == ["test:model#passage: "]


@pytest.mark.parametrize(
    "arguments",
    [
        *("document_prompt => 'text: '", "query_prompt => 'query: '", "document_prompt => null"),
        *("model => 'test:model'", "model => ''"),
    ],
)
def test_what_changes_no_vector_embeds_nothing_again(
    embedded: Database, queue: AdminQueue, arguments: str
) -> None:
    watch(embedded, arguments)
    assert models(embedded) == [PROMPTED]
    assert not claim(queue)


def test_a_prompt_can_be_none_or_that_of_the_model(embedded: Database, queue: AdminQueue) -> None:
    watch(embedded, "document_prompt => 'none', query_prompt => 'none'")
    assert prompts(embedded) == ("", "")
    assert embed(queue, claim(queue), BARE) == []
    watch(embedded, "document_prompt => '', query_prompt => ''")
    assert prompts(embedded) == (None, None)
    assert models(embedded) == []
    assert embed(queue, claim(queue)) == []
    assert prompts(embedded) == ("text: ", None)


def test_another_model_has_other_prompts(embedded: Database, queue: AdminQueue) -> None:
    watch(embedded, "query_prompt => 'query: '")
    watch(embedded, "model => 'other:model'")
    assert prompts(embedded) == (None, None)
    [job, _] = claim(queue)
    assert (job.model, job.document_prompt) == ("other:model", None)


def test_a_preview_counts_what_another_prompt_embeds_again(
    embedded: Database, queue: AdminQueue
) -> None:
    def preview(arguments: str) -> list[tuple[object, ...]]:
        return rows(
            embedded,
            "select changes, to_embed from preview_watch_embeddings("
            f"'docs', embedding_column => 'embedding', default_model => 'x', {arguments})",
        )

    assert preview("document_prompt => 'passage: '") == [
        (["document_prompt: text:  -> passage: "], 2)
    ]
    assert preview("document_prompt => 'none'") == [(["document_prompt: text:  -> none"], 2)]
    assert preview("document_prompt => ''") == [
        (["document_prompt: text:  -> that of the model"], 2)
    ]
    assert preview("query_prompt => 'q: '") == [(["query_prompt: that of the model -> q: "], 0)]
    assert preview("document_prompt => 'text: '") == [([], 0)]


def test_a_text_that_was_embedded_with_another_prompt_is_not_unchanged(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("update embedding_queue set model = %s where record_id = '1'", [BARE])
    assert queue.recheck(None, None, 0, dry_run=True).changed == 1
    embedded.execute("update embedding_queue set status = 'pending'")
    assert [job.record_id for job in claim(queue)] == ["1"]


def test_the_cache_holds_vectors_by_their_prompt(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    [job] = claim(queue)
    queue.cache(PROMPTED, [Completion(job, vector_of(job), 7)], 10)
    assert queue.cached(BARE, 3, [job.content_hash]) == {}
    found = queue.cached(PROMPTED, 3, [job.content_hash])
    assert np.array_equal(found[job.content_hash][0], vector_of(job))


@pytest.mark.parametrize("prompt", ["document_prompt", "query_prompt"])
def test_a_prompt_of_more_than_500_characters_is_refused(docs: Database, prompt: str) -> None:
    cause, hint = refusal(
        docs,
        f"select watch_embeddings('docs', embedding_column => 'embedding',"
        f" {prompt} => repeat('x', 501))",
    )
    assert cause == "a prompt has at most 500 characters, not 501"
    assert hint == "Put what belongs to every text into the source."


def test_the_name_of_a_model_holds_no_prompt(docs: Database) -> None:
    cause, hint = refusal(
        docs,
        "select watch_embeddings('docs', embedding_column => 'embedding', model => 'a:b#c')",
    )
    assert cause == "the name of a model cannot contain #"
    assert hint == "Give its prompt as document_prompt."
