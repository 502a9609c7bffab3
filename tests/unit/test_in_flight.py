"""Jobs in hand: equal texts are sent once, and each handing-out of a job is counted for itself."""

from __future__ import annotations

from uuid import uuid4

from worker.engine.in_flight import InFlight
from worker.queue import Job, JobId


def handed_out(number: int, text: str, target: int = 1) -> Job:
    """A job as a claim gives it, under a lease of its own."""
    return Job(
        id=JobId(number),
        target_id=target,
        table_name="docs",
        record_id=str(number),
        embedding_column="embedding",
        content=text,
        content_hash=text.encode(),
        lease=uuid4(),
        model="openai:text-embedding-3-small",
        dimensions=8,
    )


def test_of_equal_texts_the_first_is_sent_and_the_others_come_out_with_it() -> None:
    in_flight = InFlight()
    first, twin, another = handed_out(1, "same"), handed_out(2, "same"), handed_out(3, "else")
    elsewhere = handed_out(4, "same", target=2)
    assert in_flight.take_in([first, twin, another]) == [first, another]
    assert in_flight.take_in([elsewhere]) == [elsewhere]
    late = handed_out(5, "same")
    assert in_flight.take_in([late]) == []
    assert (in_flight.jobs, in_flight.characters) == (5, 20)
    assert in_flight.take_out([first]) == {first.text_key: [twin, late]}
    assert in_flight.take_out([another, elsewhere]) == {}
    assert (in_flight.jobs, in_flight.characters) == (0, 0)


def test_a_job_that_is_claimed_again_is_in_hand_under_both_of_its_leases() -> None:
    in_flight = InFlight()
    before, again, twin = handed_out(1, "old"), handed_out(1, "new"), handed_out(2, "new")
    assert in_flight.take_in([before]) == [before]
    assert in_flight.take_in([again, twin]) == [again]
    assert in_flight.jobs == 3
    assert in_flight.take_out([before, again]) == {again.text_key: [twin]}
    assert in_flight.jobs == 0
