"""What a repair must not do: take damage for repaired, pay more than it may, or end for good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database, eventually, value
from tests.integration.documents import document, is_consistent, write
from tests.integration.reembeddings import openai_settings as openai_settings
from tests.integration.runs import unlike_their_text
from tests.integration.test_integrity import ROWS, Monitored
from tests.integration.test_integrity import monitored as monitored
from tests.integration.test_integrity import url as url
from tests.openai_server import OpenAIServer
from worker.operations.backup import BackupRequest, make_backup
from worker.operations.integrity import ColumnCheck, repair_column
from worker.operations.repair import Damage, Repairer
from worker.operations.restore import RestoreRequest, restore
from worker.queue.postgres import PostgresQueue
from worker.safekeeping.locations import parse_destination
from worker.settings import Settings

PENDING = "select count(*) from embedding_queue where status = 'pending'"


@pytest.fixture
def in_chunks(
    db: Database, queue: PostgresQueue, settings: Settings, openai: OpenAIServer, tmp_path: Path
) -> Monitored:
    """A table of five texts of eight chunks, with their vectors."""
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8, chunks => true,"
        " chunk_size => 100)"
    )
    for key in range(1, 6):
        write(db, key, document(8, f"number {key}"))
    settings = replace(settings, backup_to=str(tmp_path))
    monitored = Monitored(db, queue, settings, openai)
    assert monitored.embed() == 40
    return monitored


def back_up(monitored: Monitored) -> None:
    place = parse_destination(monitored.settings.backup_to)
    assert make_backup(monitored.queue, monitored.settings, BackupRequest(place))


def lose_chunks(monitored: Monitored, key: int, count: int) -> None:
    """Delete the first chunks of a text, in the order of their hashes."""
    monitored.db.execute(
        "delete from docs_chunks where (id, hash) in"
        " (select id, hash from docs_chunks where id = %s order by hash limit %s)",
        [key, count],
    )


def repair(monitored: Monitored, **options: Any) -> Any:
    target = monitored.queue.target("docs", "embedding")
    return repair_column(monitored.queue, monitored.settings, target, **options).repaired


def test_a_chunk_that_no_backup_has_is_embedded_again(in_chunks: Monitored) -> None:
    lose_chunks(in_chunks, 3, 1)
    back_up(in_chunks)
    repaired = repair(in_chunks)
    assert (repaired.from_backup, repaired.requeued) == (0, 1)
    assert in_chunks.embed() == 1
    assert is_consistent(in_chunks.db)


def test_a_text_of_which_a_backup_has_a_part_is_not_paid_for_beyond_the_budget(
    in_chunks: Monitored,
) -> None:
    lose_chunks(in_chunks, 3, 1)
    back_up(in_chunks)
    lose_chunks(in_chunks, 3, 1)
    repaired = repair(in_chunks, budget=0.0)
    assert (repaired.requeued, repaired.over_budget) == (0, 1)
    assert in_chunks.embed() == 0


def test_a_text_of_which_a_backup_has_a_part_is_embedded_again(in_chunks: Monitored) -> None:
    lose_chunks(in_chunks, 3, 1)
    back_up(in_chunks)
    lose_chunks(in_chunks, 3, 1)
    repaired = repair(in_chunks)
    assert (repaired.from_backup, repaired.requeued) == (0, 1)
    assert in_chunks.embed() == 2
    assert is_consistent(in_chunks.db)


def test_a_restore_of_a_part_of_a_text_leaves_the_others_to_a_worker(in_chunks: Monitored) -> None:
    lose_chunks(in_chunks, 3, 1)
    back_up(in_chunks)
    lose_chunks(in_chunks, 3, 1)
    place = parse_destination(in_chunks.settings.backup_to)
    restore(in_chunks.queue, in_chunks.settings, RestoreRequest(place))
    assert in_chunks.embed() == 1
    assert is_consistent(in_chunks.db)


def test_damage_that_becomes_large_during_a_repair_is_left(monitored: Monitored, url: str) -> None:
    """A script that nulls vectors in small steps is still at it when the first are repaired."""
    db = monitored.db
    db.execute("update docs set embedding = null where id = 7")
    found = ColumnCheck.find

    def and_more(check: ColumnCheck) -> Damage:
        damage = found(check)
        db.execute("update docs set embedding = null where id > 100")
        return damage

    with pytest.MonkeyPatch.context() as patch, monitored.served(url):
        patch.setattr(ColumnCheck, "find", and_more)
        eventually(lambda: [check.state for check in monitored.queue.checks()] == ["waiting"], 20)
    assert value(db, PENDING) <= ROWS // 20


def test_what_an_interrupted_repair_cost_counts_for_the_next(monitored: Monitored) -> None:
    monitored.db.execute("update docs set embedding = null where id = 7")
    target = monitored.queue.target("docs", "embedding")
    check = monitored.queue.begin_check("tests", timedelta(0), timedelta(minutes=1))
    assert check

    column = ColumnCheck(monitored.queue, check, target, lambda took: True)
    assert column.find().rows == 1
    column.repair(monitored.settings, 1.0)  # killed before the end of the check is recorded
    assert value(monitored.db, PENDING) == 1
    spent = monitored.queue.repair_cost()
    assert spent > 0
    monitored.queue.continue_check(check, timedelta(0))
    assert monitored.embed() == 1
    assert repair(monitored) is None
    assert monitored.queue.repair_cost() == pytest.approx(spent)
    assert monitored.queue.audit(limit=1)[0].event == "repaired"


def test_a_text_in_chunks_costs_what_all_of_it_costs(in_chunks: Monitored, tmp_path: Path) -> None:
    """Its job has only the tokens of the chunks that were embedded last: none after a restore."""
    back_up(in_chunks)
    lose_chunks(in_chunks, 3, 8)
    assert repair(in_chunks).from_backup == 1
    in_chunks.settings = replace(in_chunks.settings, backup_to=str(tmp_path / "none"))
    lose_chunks(in_chunks, 3, 8)
    repaired = repair(in_chunks, budget=0.0)
    assert (repaired.requeued, repaired.over_budget) == (0, 1)
    repaired = repair(in_chunks, budget=1.0)
    assert (repaired.requeued, repaired.over_budget) == (1, 0)
    assert in_chunks.embed() == 8


@pytest.mark.parametrize(("cost", "over_budget"), [(0.001, 0), (0.5, 1), (None, 1)])
def test_what_a_chat_model_writes_counts(
    monitored: Monitored, cost: float | None, over_budget: int
) -> None:
    db = monitored.db
    db.execute(
        "update embedding_targets set enhance_model = 'openai:gpt-5-nano', enhance_prompt = 'x',"
        " enhance_on_failure = 'wait'"
    )
    db.execute("update embedding_queue set cost = %s where record_id = '7'", [cost])
    db.execute("update docs set embedding = null where id = 7")
    repaired = repair(monitored, budget=0.1)
    assert (repaired.requeued, repaired.over_budget) == (1 - over_budget, over_budget)


def test_workers_share_the_budget_while_they_repair(monitored: Monitored) -> None:
    """Another one spends it on another column, after this one has begun."""
    target = monitored.queue.target("docs", "embedding")
    repairer = Repairer(monitored.queue, monitored.settings, target, 1.0, shares_budget=True)
    monitored.db.execute("update docs set embedding = null where id in (7, 8)")
    first, second = monitored.queue.damaged(target, None).rows
    repairer.repair([first])
    monitored.db.execute("insert into embedding_checks (target_id, cost) values (99, 1.0)")
    repairer.repair([second])
    assert (repairer.done.requeued, repairer.done.over_budget) == (1, 1)


def test_an_old_backup_of_another_width_does_no_harm(monitored: Monitored, tmp_path: Path) -> None:
    monitored.settings = replace(monitored.settings, backup_to=str(tmp_path))
    back_up(monitored)
    db = monitored.db
    db.execute("select unwatch_embeddings('docs', 'embedding')")
    db.execute("alter table docs drop column if exists embedding")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 4)")
    db.execute("update docs set body = body where true")
    db.execute("select backfill_embeddings('docs', 'embedding')")
    assert monitored.embed() == ROWS
    db.execute("update docs set embedding = null where id = 7")
    repaired = repair(monitored)
    assert (repaired.from_backup, repaired.requeued) == (0, 1)
    assert monitored.embed() == 1
    assert unlike_their_text(db) == []
