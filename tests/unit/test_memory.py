"""A worker gives the memory of a long text back when it is done with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from uuid import uuid4
from weakref import ref

import pytest

from worker.engine.documents import Document
from worker.queue import ChunkText, Job, JobId, Place

RETURNED = """
from worker.host import resident_mb, return_large_blocks

return_large_blocks()
first = bytearray(b"x") * 2**24
del first  # on its own, glibc takes the next block of this size from its heap
second = bytearray(b"x") * 2**24
above = [bytearray(1000) for _ in range(1000)]
before = resident_mb()
del second
print(before - resident_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps large blocks")
def test_large_blocks_are_returned_as_soon_as_they_are_freed() -> None:
    run = subprocess.run(
        [sys.executable, "-c", RETURNED], capture_output=True, check=True, text=True
    )
    assert float(run.stdout) > 15


@dataclass
class Split:
    """A text in chunks of 10 characters."""

    text: str
    places: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        for first in range(0, len(self.text), 10):
            self.places.append(Place(b"%d" % first, first, first + 10, None, None))

    def chunk_at(self, place: Place) -> ChunkText:
        return ChunkText(None, self.text[place.first_char : place.last_char])


def test_a_text_is_freed_with_its_last_chunk_that_waits() -> None:
    job = Job(JobId(1), 1, "docs", "1", "embedding", "", b"", uuid4(), "a:model", None)
    split = Split("x" * 30)
    text = ref(split)
    document = Document(job, split, "a:model", is_trial=False)
    del split
    assert len(document.take(2, 1000)) == 2
    assert text()
    assert document.characters == 30
    assert len(document.take(2, 1000)) == 1
    assert text() is None
    assert document.characters == 0
    assert len(document.completion.places) == 3
