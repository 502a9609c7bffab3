"""A document as the engine takes it: places, exact strings, and hashes of exactly these strings."""

from __future__ import annotations

import pytest

from worker.chunking import documents
from worker.chunking.documents import END_OF_CONTEXT, SplitDocument, split_document
from worker.chunking.splitter import SPLITTER_VERSION
from worker.queue import Chunking

CHUNKING = Chunking("markdown", 100, "characters", 20)
SENTENCE = "There is a sentence in this paragraph, and it is long enough for a chunk of its own."


def split(content: str, chunking: Chunking = CHUNKING) -> SplitDocument:
    return split_document(content, chunking, len)


def strings(document: SplitDocument) -> list[str]:
    """What a model gets for each chunk."""
    chunks = map(document.chunk_at, document.places)
    return [(chunk.context or "") + chunk.content for chunk in chunks]


def test_a_chunk_begins_with_the_title_and_the_headings() -> None:
    document = split(f"A title{END_OF_CONTEXT}# One\n\n{SENTENCE}\n\n## Two\n\n{SENTENCE}")
    assert strings(document)[-1] == f"A title\nOne > Two\n\n## Two\n\n{SENTENCE}"


@pytest.mark.parametrize("before", ["", END_OF_CONTEXT])
def test_without_a_title_and_headings_it_is_the_text_alone(before: str) -> None:
    document = split(f"{before}{SENTENCE}\n\n{SENTENCE}")
    assert [document.chunk_at(place).context for place in document.places] == [None, None]
    assert "".join(strings(document)) == f"{SENTENCE}\n\n{SENTENCE}"


def test_equal_strings_have_one_hash_and_all_others_another() -> None:
    document = split(f"{SENTENCE}\n\n" * 3 + "# One\n\n" + f"{SENTENCE}\n\n" * 2)
    by_string = {
        string: place.hash for string, place in zip(strings(document), document.places, strict=True)
    }
    assert len(by_string) < len(document.places)
    assert len(set(by_string.values())) == len(by_string)


def test_another_version_of_the_splitter_has_other_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    [before] = split(SENTENCE).places
    monkeypatch.setattr(documents, "SPLITTER_VERSION", SPLITTER_VERSION + 1)
    [after] = split(SENTENCE).places
    assert before.hash != after.hash


def test_white_space_has_no_place() -> None:
    document = split(SENTENCE + "\n" * 500 + SENTENCE)
    assert all(document.chunk_at(place).content.strip() for place in document.places)
    assert split(" \n\f\t ").places == []


def test_splitting_ends_after_one_chunk_too_many() -> None:
    assert len(split(f"{SENTENCE}\n\n" * 500).places) == CHUNKING.most + 1


def test_a_text_without_utf8_is_split_as_well() -> None:
    assert len(split("\ud800 " + SENTENCE).places) == 1
