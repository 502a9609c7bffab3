"""A worker whose connection is lost, at each step of its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.conftest import Held, Start, fill, statuses
from tests.chaos.conftest import (
    ONE_OUTAGE,
    CountingServer,
    Process,
    ended,
    next_words,
    wait_until_due,
    wrong_vectors,
)
from tests.conftest import Database, rest_in_full, rows, value
from tests.openai_server import out_of_quota
from tests.tcp_proxy import Moment, TcpProxy

pytestmark = pytest.mark.timeout(120)

ROWS = 30
# Longer than any test: what is done in the end did not wait for a lease to run out.
ENDLESS = "3600"
SHORT = "2"
STATEMENTS = ["claim_embeddings", "complete_embeddings", "extend_embeddings"]
FURTHER_STATEMENTS = ["embedding_worker_heartbeat", "embedding_worker_deregister"]

each_moment = pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "statement" in metafunc.fixturenames:
        further = FURTHER_STATEMENTS if metafunc.config.getoption("--full") else []
        metafunc.parametrize("statement", STATEMENTS + further)


@pytest.fixture
def proxy(database_url: str) -> Iterator[TcpProxy]:
    with TcpProxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def process(notes: Database, proxy: TcpProxy, start: Start, with_openai: dict[str, str]) -> Start:
    """Starts a worker that has ROWS rows to embed and only the proxy to reach them through."""
    fill(notes, ROWS)

    def process(*flags: str, lease: str = ENDLESS) -> Process:
        return start(
            *("process", "--json", *flags),
            **with_openai | {"DATABASE_URL": proxy.url, "EMBEDDING_LEASE_SECONDS": lease},
        )

    return process


def assert_all_is_well(notes: Database) -> None:
    assert statuses(notes) == {"completed": ROWS}
    assert wrong_vectors(notes) == []
    assert value(notes, "select count(*) from embedding_workers") == 0


# One connection


@each_moment
def test_a_cut_costs_a_new_connection_and_nothing_else(
    notes: Database,
    proxy: TcpProxy,
    process: Start,
    openai: CountingServer,
    statement: str,
    moment: Moment,
) -> None:
    cut = proxy.cut(statement, moment)
    summary, said = ended(process("--batch-size", "10"))
    assert cut.happened.is_set()
    assert ONE_OUTAGE.fullmatch(said)
    assert summary["completed"] == ROWS
    assert set(openai.times_asked().values()) == {1}
    assert_all_is_well(notes)


def test_a_claim_whose_answer_was_lost_is_made_good_even_if_it_took_all_there_was(
    notes: Database, proxy: TcpProxy, process: Start, openai: CountingServer
) -> None:
    proxy.cut("claim_embeddings", Moment.UNANSWERED)
    summary, said = ended(process("--batch-size", str(ROWS)))
    assert ONE_OUTAGE.fullmatch(said)
    assert summary["completed"] == ROWS
    assert set(openai.times_asked().values()) == {1}
    assert_all_is_well(notes)


@each_moment
def test_a_cut_of_the_heartbeat_loses_nothing_of_what_is_under_way(
    notes: Database,
    proxy: TcpProxy,
    process: Start,
    openai: CountingServer,
    held: Held,
    moment: Moment,
) -> None:
    worker = process(lease=SHORT)
    assert held.arrived.wait(30)
    proxy.cut("extend_embeddings", moment)
    outage = next_words(worker) + next_words(worker)
    held.let_go.set()
    _, said = ended(worker)
    assert ONE_OUTAGE.fullmatch(outage + said)
    assert set(openai.times_asked().values()) == {1}
    assert_all_is_well(notes)


def test_a_refused_text_is_failed_once_and_told_even_if_the_answer_was_lost(
    notes: Database, proxy: TcpProxy, process: Start, openai: CountingServer
) -> None:
    openai.reject = lambda text: text == "note number 3"
    cut = proxy.cut("fail_embeddings", Moment.UNANSWERED)
    summary, said = ended(process(), code=1)
    assert cut.happened.is_set()
    assert said.count("waiting for the database") == 1
    assert (summary["completed"], summary["failed"], summary["stale"]) == (ROWS - 1, 1, 0)
    assert rows(
        notes, "select record_id, attempts from embedding_queue where status = 'failed'"
    ) == [("3", 1)]


def test_jobs_are_handed_back_once_even_if_the_answer_was_lost(
    notes: Database, proxy: TcpProxy, process: Start, openai: CountingServer
) -> None:
    openai.faults.extend([out_of_quota] * 10)
    cut = proxy.cut("release_embeddings", Moment.UNANSWERED)
    summary, said = ended(process(), code=4)
    assert cut.happened.is_set()
    assert said.count("waiting for the database") == 1
    assert summary["released"] == ROWS
    assert rows(
        notes, "select distinct status, attempts, abandoned_claims from embedding_queue"
    ) == [("pending", 0, 0)]


# All connections, for a while


def test_a_database_that_refuses_connections_is_waited_for(
    notes: Database,
    proxy: TcpProxy,
    process: Start,
    openai: CountingServer,
    held: Held,
    full: bool,
) -> None:
    worker = process()
    assert held.arrived.wait(30)
    proxy.refuse()
    held.let_go.set()
    outage = next_words(worker)
    time.sleep(20 if full else 0)  # how long the outage lasts
    proxy.accept()
    _, said = ended(worker)
    assert ONE_OUTAGE.fullmatch(outage + said)
    assert set(openai.times_asked().values()) == {1}
    assert_all_is_well(notes)


def test_a_database_that_takes_connections_and_says_nothing_is_waited_for(
    notes: Database,
    proxy: TcpProxy,
    process: Start,
    openai: CountingServer,
    held: Held,
    full: bool,
) -> None:
    worker = process()
    assert held.arrived.wait(30)
    proxy.swallow()
    held.let_go.set()
    assert proxy.swallowed.wait(30)
    proxy.cut_now()
    outage = next_words(worker)
    time.sleep(25 if full else 0)  # long enough for two tries to connect to be given up
    proxy.hand_on()
    _, said = ended(worker)
    assert ONE_OUTAGE.fullmatch(outage + said)
    assert set(openai.times_asked().values()) == {1}
    assert_all_is_well(notes)


@pytest.mark.parametrize(
    ("lose", "restore"),
    rest_in_full([(TcpProxy.refuse, TcpProxy.accept), (TcpProxy.swallow, TcpProxy.hand_on)]),
    ids=["refused", "swallowed"],
)
def test_the_jobs_of_a_worker_that_is_cut_off_are_done_by_another_meanwhile(
    notes: Database,
    proxy: TcpProxy,
    process: Start,
    start: Start,
    with_openai: dict[str, str],
    openai: CountingServer,
    held: Held,
    lose: Callable[[TcpProxy], None],
    restore: Callable[[TcpProxy], None],
) -> None:
    cut_off = process(lease=SHORT)
    assert held.arrived.wait(30)
    lose(proxy)
    wait_until_due(notes)
    assert_nobody_holds_a_lock(notes)
    summary, said = ended(start("process", "--json", **with_openai))
    assert (summary["completed"], said) == (ROWS, "")

    restore(proxy)
    wait_for_a_beat(notes)  # of a completion that comes before, nobody can say that it is stale
    held.let_go.set()
    summary, said = ended(cut_off)
    assert said == "" or ONE_OUTAGE.fullmatch(said)  # of a silence that ends, it learns nothing
    assert (summary["completed"], summary["stale"]) == (0, ROWS)
    assert set(openai.times_asked().values()) == {2}
    assert_all_is_well(notes)


def wait_for_a_beat(notes: Database) -> None:
    """Wait until the only worker has asked for its leases: whole beats end with being seen."""
    for _ in range(2):  # the first may be the end of one that was begun before
        seen = value(notes, "select seen_at from embedding_workers")
        while value(notes, "select seen_at from embedding_workers") == seen:
            notes.execute("select pg_sleep(0.01)")


def assert_nobody_holds_a_lock(notes: Database) -> None:
    notes.execute("select from notes for update nowait")
    notes.execute("select from embedding_queue for update nowait")
