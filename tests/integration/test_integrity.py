"""The integrity monitor: it finds damaged vectors while a worker is idle, and repairs them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import LiteralString

import pytest

from tests.conftest import Database, Server, eventually, rows, value
from tests.integration.documents import document, is_consistent, sent, write
from tests.integration.reembeddings import openai_settings as openai_settings
from tests.integration.reembeddings import owner_queue as owner_queue
from tests.integration.runs import Log, unlike_their_text
from tests.openai_server import OpenAIServer
from worker.errors import SettingsError
from worker.operations import integrity
from worker.operations.backup import BackupRequest, make_backup
from worker.operations.integrity import IntegrityMonitor, repair_column
from worker.operations.processing import process
from worker.queue import Check
from worker.queue.postgres import PostgresQueue
from worker.safekeeping.locations import parse_destination
from worker.settings import Settings

SOON = timedelta(milliseconds=50)
ROWS = 200


@dataclass
class Monitored:
    """A watched table whose vectors are checked, and what is seen of that."""

    db: Database
    queue: PostgresQueue
    settings: Settings
    openai: OpenAIServer
    log: Log = field(default_factory=Log)

    def check(self) -> Check:
        """What the last check has found."""
        [check] = self.queue.checks()
        return check

    @contextmanager
    def served(self, url: str, monitor: IntegrityMonitor | None = None) -> Iterator[None]:
        """Serve in a thread with a queue of its own, as beside a worker."""
        monitor = monitor or IntegrityMonitor(self.settings, SOON, self.log)
        stop = Event()

        def serve() -> None:
            with PostgresQueue(url, "tests") as queue:
                monitor.serve(queue, stop)

        thread = Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()

    def embed(self) -> int:
        """Embed what is due. Returns how many texts were paid for."""
        before = len(sent(self.openai))
        process(self.queue, self.settings)
        return len(sent(self.openai)) - before


@pytest.fixture
def monitored(
    texts: Database, queue: PostgresQueue, settings: Settings, openai: OpenAIServer
) -> Monitored:
    """A table of ROWS rows with their vectors, in which nothing is damaged."""
    texts.execute(
        "insert into docs select n, 'text ' || n from generate_series(1, %s) as n", [ROWS]
    )
    monitored = Monitored(texts, queue, settings, openai)
    assert monitored.embed() == ROWS
    return monitored


@pytest.fixture
def url(server: Server, database: str) -> str:
    return server.direct_url_of(database)


def is_checked(monitored: Monitored, since: object = None) -> Callable[[], bool]:
    return lambda: [check.checked_at for check in monitored.queue.checks()] not in ([], [since])


def test_sound_vectors_are_left_alone(monitored: Monitored, url: str) -> None:
    with monitored.served(url):
        eventually(is_checked(monitored), 20)
    check = monitored.check()
    assert (check.state, check.vectors, check.lost, check.overwritten) == ("sound", ROWS, 0, 0)
    assert monitored.log.events == []
    assert monitored.embed() == 0


@pytest.mark.parametrize(
    ("damage", "lost", "overwritten"),
    [
        ("update docs set embedding = null where id = 7", 1, 0),
        ("update docs set embedding = array_fill(1, '{8}')::vector where id = 7", 0, 1),
        ("update docs set embedding = null where id <= 5; update docs set embedding ="
         " array_fill(2, '{8}')::vector where id = 9", 5, 1),
    ],
    ids=["lost", "overwritten", "both"],
)  # fmt: skip
def test_damage_is_found_and_repaired_within_one_interval(
    monitored: Monitored, url: str, damage: LiteralString, lost: int, overwritten: int
) -> None:
    monitored.db.execute("set session_replication_role = replica")
    monitored.db.execute(damage)
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired"), 20)
    [found] = monitored.log.of("vectors_damaged")
    assert (found["lost"], found["overwritten"], found["vectors"]) == (lost, overwritten, ROWS)
    [repaired] = monitored.log.of("vectors_repaired")
    assert (repaired["requeued"], repaired["over_budget"]) == (lost + overwritten, 0)
    assert monitored.embed() == lost + overwritten
    assert unlike_their_text(monitored.db) == []
    assert monitored.queue.audit(limit=1)[0].event == "repaired"


def test_what_the_cache_has_is_not_paid_for(monitored: Monitored, url: str) -> None:
    cached = replace(monitored.settings, embedding_cache_mb=10)
    monitored.db.execute("insert into docs values (1001, 'a text that is cached')")
    process(monitored.queue, cached)
    monitored.db.execute("update docs set embedding = null where id = 1001")
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired"), 20)
    [repaired] = monitored.log.of("vectors_repaired")
    assert (repaired["from_cache"], repaired["requeued"]) == (1, 0)
    assert monitored.embed() == 0
    assert unlike_their_text(monitored.db) == []


def test_much_damage_at_once_waits_for_a_person_and_ends_when_it_is_gone(
    monitored: Monitored, url: str
) -> None:
    monitored.db.execute("update docs set embedding = null where id <= %s", [ROWS // 10])
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_damaged"), 20)
        eventually(is_checked(monitored), 20)
        first = monitored.check()
        assert (first.state, first.lost) == ("waiting", ROWS // 10)
        eventually(is_checked(monitored, first.checked_at), 20)
        assert len(monitored.log.of("vectors_damaged")) == 1
        problems = [(found.check, found.cause) for found in monitored.queue.diagnose()]
        assert problems == [("vectors_damaged", "of 200 vectors, 20 are lost and 0 overwritten")]
        assert (
            value(monitored.db, "select count(*) from embedding_queue where status = 'pending'")
            == 0
        )
        monitored.queue.requeue_damaged(
            monitored.queue.target("docs", "embedding"),
            [str(id) for id in range(1, ROWS // 10 + 1)],
        )
        eventually(lambda: monitored.check().state == "sound", 20)
    assert monitored.embed() == ROWS // 10
    assert unlike_their_text(monitored.db) == []


def test_what_costs_more_than_the_budget_is_left_until_there_is_more(
    monitored: Monitored, url: str
) -> None:
    monitored.settings = replace(monitored.settings, repair_budget=0.0)
    monitored.db.execute("update docs set embedding = null where id = 7")
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired"), 20)
    [repaired, *_] = monitored.log.of("vectors_repaired")
    assert (repaired["requeued"], repaired["over_budget"]) == (0, 1)
    assert monitored.embed() == 0
    monitored.settings = replace(monitored.settings, repair_budget=1.0)
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired")[-1]["requeued"] == 1, 20)
    assert monitored.embed() == 1


def test_rows_that_are_skipped_or_filtered_are_no_loss(monitored: Monitored, url: str) -> None:
    monitored.db.execute("insert into docs values (1001, ''), (1002, null)")
    monitored.embed()
    with monitored.served(url):
        eventually(is_checked(monitored), 20)
    assert monitored.check().state == "sound"


def test_a_worker_that_is_paused_or_busy_leaves_the_database_alone(
    monitored: Monitored, url: str
) -> None:
    paused = IntegrityMonitor(monitored.settings, SOON, monitored.log, is_paused=lambda: True)
    with monitored.served(url, paused):
        Event().wait(0.5)
    assert monitored.queue.checks() == []
    rarely = timedelta(hours=1)
    with monitored.served(url, IntegrityMonitor(monitored.settings, rarely, monitored.log)):
        eventually(is_checked(monitored), 20)
    monitored.db.execute("update embedding_checks set checked_at = now() - interval '90 minutes'")
    busy = IntegrityMonitor(monitored.settings, rarely, monitored.log, is_idle=lambda: False)
    before = monitored.check().checked_at
    with monitored.served(url, busy):
        Event().wait(0.5)
    assert monitored.check().checked_at == before
    monitored.db.execute("update embedding_checks set checked_at = now() - interval '150 minutes'")
    with monitored.served(url, busy):
        eventually(
            is_checked(monitored, value(monitored.db, "select checked_at from embedding_checks")),
            20,
        )


def test_another_worker_goes_on_where_one_was_killed(
    monitored: Monitored, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitored.db.execute("update docs set embedding = null where id in (3, 150)")
    dead = monitored.queue.begin_check("dead", timedelta(0), integrity.LEASE)
    assert dead
    assert monitored.queue.continue_check(
        dead, integrity.LEASE, "100", {"lost": 1, "overwritten": 0}
    )
    monitored.db.execute("update embedding_checks set lease_expires_at = now() - interval '1 s'")
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired"), 20)
    [found, *_] = monitored.log.of("vectors_damaged")
    assert found["lost"] == 2
    assert rows(monitored.db, "select record_id from embedding_queue where status = 'pending'"
                              " order by record_id::int") == [("3",), ("150",)]  # fmt: skip


@pytest.mark.parametrize(
    "damage", ["null", "array_fill(1, '{8}')::vector"], ids=["lost", "overwritten"]
)
def test_what_a_backup_has_is_not_paid_for(
    monitored: Monitored, url: str, tmp_path: Path, damage: LiteralString
) -> None:
    monitored.settings = replace(monitored.settings, backup_to=str(tmp_path))
    request = BackupRequest(parse_destination(str(tmp_path)))
    assert make_backup(monitored.queue, monitored.settings, request)
    monitored.db.execute("update docs set body = 'edited since' where id = 8")
    monitored.embed()
    monitored.db.execute(f"update docs set embedding = {damage} where id in (7, 8)")
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired"), 20)
    [repaired] = monitored.log.of("vectors_repaired")
    assert (repaired["from_backup"], repaired["requeued"]) == (1, 1)
    assert monitored.embed() == 1
    assert unlike_their_text(monitored.db) == []


def test_a_text_in_chunks_gets_its_chunks_back(
    db: Database,
    queue: PostgresQueue,
    settings: Settings,
    openai: OpenAIServer,
    url: str,
    tmp_path: Path,
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8, chunks => true,"
        " chunk_size => 100)"
    )
    for key in range(1, 21):
        write(db, key, document(8, f"number {key}"))
    settings = replace(settings, backup_to=str(tmp_path))
    monitored = Monitored(db, queue, settings, openai)
    assert monitored.embed() > 20
    assert make_backup(queue, settings, BackupRequest(parse_destination(str(tmp_path))))
    db.execute("delete from docs_chunks where id = 3")
    db.execute("update docs_chunks set embedding = array_fill(1, '{8}')::vector where id = 4")
    with monitored.served(url):
        eventually(lambda: monitored.log.of("vectors_repaired"), 20)
    [found] = monitored.log.of("vectors_damaged")
    assert (found["lost"], found["overwritten"]) == (1, 1)
    [repaired] = monitored.log.of("vectors_repaired")
    assert (repaired["from_backup"], repaired["requeued"]) == (2, 0)
    assert monitored.embed() == 0
    assert is_consistent(db)
    [again] = [queue.damaged(queue.target("docs", "embedding"), None)]
    assert again.rows == []


def test_the_model_and_the_database_are_looked_at_as_well(
    monitored: Monitored, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monitored.served(url):
        eventually(is_checked(monitored), 20)
    assert len(sent(monitored.openai)) == ROWS  # nothing is compared on the first day
    monkeypatch.setattr(integrity, "A_DAY", 0.0)
    monitored.db.execute("alter table docs disable trigger user")
    monitored.db.execute("update docs set embedding = '[1,2,3,4,5,6,7,8]'")
    monitored.db.execute("update embedding_queue set vector_hash = null")
    with monitored.served(url):
        eventually(lambda: monitored.log.of("problem_found"), 20)
        eventually(lambda: monitored.log.of("model_drifted"), 20)
        checked_at = monitored.check().checked_at
        eventually(is_checked(monitored, checked_at), 20)
    assert [found["check"] for found in monitored.log.of("problem_found")] == ["triggers_disabled"]
    drifted, *_ = monitored.log.of("model_drifted")
    assert drifted["lowest"] < drifted["gate"]


def test_no_backup_is_deleted_while_there_is_much_damage(
    monitored: Monitored, url: str, tmp_path: Path
) -> None:
    def back_up() -> list[str]:
        request = BackupRequest(parse_destination(str(tmp_path)), keep=timedelta(microseconds=1))
        made = make_backup(monitored.queue, monitored.settings, request)
        assert made
        return made.deleted

    back_up()
    monitored.db.execute("update docs set embedding = null where id <= %s", [ROWS // 2])
    with monitored.served(url):
        eventually(is_checked(monitored), 20)
    assert back_up() == []
    monitored.settings = replace(monitored.settings, backup_to=str(tmp_path))
    target = monitored.queue.target("docs", "embedding")
    done = repair_column(monitored.queue, monitored.settings, target)
    assert done.repaired
    assert (done.repaired.from_backup, done.repaired.requeued) == (ROWS // 2, 0)
    assert monitored.check().state == "repaired"
    assert back_up() != []
    assert monitored.embed() == 0
    assert unlike_their_text(monitored.db) == []


def test_only_one_checks_a_column_at_a_time(monitored: Monitored) -> None:
    assert monitored.queue.begin_check("another", timedelta(0), integrity.LEASE)
    with pytest.raises(SettingsError, match="a worker is checking"):
        repair_column(
            monitored.queue, monitored.settings, monitored.queue.target("docs", "embedding")
        )


def test_a_repair_that_was_killed_is_continued_at_once_on_its_host(monitored: Monitored) -> None:
    monitored.db.execute("update docs set embedding = null where id <= 5")
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    dead = f"{socket.gethostname()}:{killed.pid}:check:abcdef"
    assert monitored.queue.begin_check(dead, timedelta(0), integrity.LEASE)
    target = monitored.queue.target("docs", "embedding")
    done = repair_column(monitored.queue, monitored.settings, target)
    assert done.repaired
    assert done.repaired.requeued == 5
    assert monitored.embed() == 5
