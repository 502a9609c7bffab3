"""Workers that are killed at any moment, by the dozen, while their like go on."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.acceptance.conftest import Start, fill, statuses
from tests.chaos.conftest import CountingServer, Process, ended, wait_until_due, wrong_vectors
from tests.conftest import Database, rows, value

WORKERS = 4
# Of 5 jobs and 8 requests at once a worker holds up to 40 jobs at any moment.
FLAGS = ["process", "--json", "--batch-size", "5"]
LATENCY = 0.3

JOURNAL = """
    create table handouts (job bigint, taken_from text);
    create function note_handout() returns trigger language plpgsql as $$
    begin
        insert into public.handouts values (new.id, old.worker);
        return null;
    end $$;
    create trigger note_handout after update of lease on embedding_queue for each row
        when (new.lease is not null) execute function note_handout();
"""


@dataclass
class Crew:
    """Workers that are at work together, and what is known of those that were killed."""

    notes: Database
    start: Start
    with_openai: dict[str, str]
    alive: list[Process] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    held_when_killed: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        for _ in range(WORKERS):
            self.hire()

    def hire(self) -> None:
        self.alive.append(self.start(*FLAGS, EMBEDDING_LEASE_SECONDS="2", **self.with_openai))

    def kill_one(self) -> None:
        """Kill a worker at random, of those that hold jobs.

        It is stopped before it is killed. What the database knows of a stopped worker does not
        change any more, so it can be told exactly what it took with it.
        """
        while True:
            assert any(worker.poll() is None for worker in self.alive), "nobody is at work"
            victim = self.dice.choice(self.alive)
            victim.send_signal(signal.SIGSTOP)
            self._wait_for_its_last_statement(victim)
            if held := self._jobs_held_by(victim):
                break
            victim.send_signal(signal.SIGCONT)
        victim.kill()
        victim.wait()
        self.alive.remove(victim)
        self.killed |= {worker for worker, _ in held}
        self.held_when_killed += len(held)

    def finish(self) -> None:
        """Let everybody end by themselves, and do what is left when the leases have run out."""
        while self.alive:
            summary, said = ended(self.alive.pop())
            assert (summary["failed"], said) == (0, "")
            unfinished = "select exists (select from embedding_queue where status <> 'completed')"
            if not self.alive and value(self.notes, unfinished):
                wait_until_due(self.notes)
                self.hire()

    def _wait_for_its_last_statement(self, worker: Process) -> None:
        running = (
            "select exists (select from pg_stat_activity where state <> 'idle'"
            " and split_part(application_name, ':', 2) = %s)"
        )
        while value(self.notes, running, str(worker.pid)):
            pass

    def _jobs_held_by(self, worker: Process) -> list[tuple[str, str]]:
        """Its name and the records, unless one of them would be given up if it were killed now."""
        held = rows(
            self.notes,
            "select worker, record_id, abandoned_claims from embedding_queue"
            " where split_part(worker, ':', 2) = %s",
            str(worker.pid),
        )
        return [(name, record) for name, record, _ in held if max(row[2] for row in held) < 5]


@pytest.mark.timeout(600)
def test_whoever_is_killed_each_row_gets_its_vector_and_no_text_is_embedded_without_need(
    notes: Database,
    start: Start,
    openai: CountingServer,
    with_openai: dict[str, str],
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    count, kills = (5000, 20) if full else (800, 5)
    openai.latency = LATENCY
    notes.execute(JOURNAL)
    fill(notes, count)
    crew = Crew(notes, start, with_openai)
    for number in range(1, kills + 1):
        openai.wait_for_texts(count * number // (kills + 4))  # by the last, much is left to do
        crew.kill_one()
        crew.hire()
    crew.finish()

    assert statuses(notes) == {"completed": count}
    assert wrong_vectors(notes) == []
    never_said_goodbye = {
        worker for (worker,) in rows(notes, "select worker from embedding_workers")
    }
    assert never_said_goodbye == crew.killed
    record_property("kills", assert_no_text_was_embedded_without_need(notes, crew, openai))


def assert_no_text_was_embedded_without_need(
    notes: Database, crew: Crew, openai: CountingServer
) -> str:
    """The model is asked for a text at most once each time its job is handed out, and a job is
    handed out again only if its worker died. So it is asked for no more texts than there are rows
    and jobs that the killed ones held: up to 40 a kill, and known exactly from `kill_one`.

    A worker that gets no time on the processor for a whole lease loses its jobs as well. On a busy
    machine that is nobody's fault, and the journal tells such jobs from the others.

    Returns the figures.
    """
    asked = openai.times_asked()
    handed_out: dict[str, int] = dict(
        rows(
            notes,
            "select body, count(*) from handouts join embedding_queue as queue on queue.id = job"
            " join notes on notes.id::text = record_id group by body",
        )
    )
    assert all(times <= handed_out[text] for text, times in asked.items())
    from_the_living = value(
        notes,
        "select count(*) from handouts where taken_from is not null and taken_from <> all (%s)",
        list(crew.killed),
    )
    needed = len(handed_out)
    assert needed <= asked.total() <= needed + crew.held_when_killed + from_the_living
    return (
        f"{len(crew.killed)} killed holding {crew.held_when_killed} jobs,"
        f" {asked.total() - needed} texts of {needed} embedded again,"
        f" {from_the_living} leases of the living ran out"
    )
