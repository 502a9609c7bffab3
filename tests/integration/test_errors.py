"""What the SQL API refuses is an error of usage; what the database refuses is one of its own."""

from __future__ import annotations

import pytest

from tests.conftest import Database
from tests.integration.jobs import claim, insert
from worker.errors import DatabaseError, SettingsError
from worker.queue import AdminQueue


def test_what_the_sql_api_refuses_is_an_error_of_usage(docs: Database, queue: AdminQueue) -> None:
    target = queue.target("docs", "embedding")
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    with pytest.raises(SettingsError, match="column embedding of table docs is not watched"):
        queue.backfill(target, 10)
    with pytest.raises(SettingsError, match="there is no worker nobody") as refused:
        queue.control("pause", "nobody")
    assert refused.value.exit_code == 2


@pytest.mark.over_a_connection
def test_what_the_database_refuses_is_told_with_its_sqlstate(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    queue.fail(claim(queue), "rejected", "it is refused")
    docs.execute(
        "create function never() returns trigger language plpgsql as"
        " $$ begin raise exception 'a value' using errcode = 'EX123'; end $$"
    )
    docs.execute(
        "create trigger never before update on embedding_queue"
        " for each row execute function never()"
    )
    with pytest.raises(DatabaseError) as refused:
        queue.requeue(status="failed")
    assert type(refused.value) is DatabaseError
    assert refused.value.exit_code == 1
    assert "SQLSTATE EX123" in refused.value.cause


@pytest.mark.over_a_connection
def test_a_check_of_the_queue_is_no_error_of_usage(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    queue.fail(claim(queue), "rejected", "it is refused")
    docs.execute("alter table embedding_queue add check (status <> 'pending') not valid")
    with pytest.raises(DatabaseError, match="SQLSTATE 23514"):
        queue.requeue(status="failed")
