"""An edit of one paragraph changes a few chunks, wherever it is and whatever the text is like."""

from __future__ import annotations

from random import Random
from statistics import median, quantiles

import pytest

from tests.conftest import rest_in_full
from tests.documents import KINDS, Document, document, edited, edited_at_the_top, text_of
from worker.chunking.options import SplitOptions
from worker.chunking.splitter import split

LENGTH = 15_000  # characters: `scripts/bench chunks` has 40 times as many
EDITS = 200


def contents(kind: str, paragraphs: Document) -> set[str]:
    text = text_of(kind, paragraphs)
    options = SplitOptions(format=KINDS[kind][0])
    return {text[chunk.first_char : chunk.last_char] for chunk in split(text, options)}


@pytest.mark.parametrize("kind", rest_in_full(KINDS, first=2))
def test_an_edit_changes_a_few_chunks(kind: str) -> None:
    paragraphs = document(kind, LENGTH, seed=1)
    before = contents(kind, paragraphs)
    random = Random(1)
    new = [len(contents(kind, edited(kind, paragraphs, random)) - before) for _ in range(EDITS)]
    assert median(new) == 1
    assert quantiles(new, n=20)[-1] <= 4
    assert max(new) <= 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_paragraph_at_the_top_changes_a_few_chunks(kind: str) -> None:
    random = Random(2)
    for seed in range(4):
        paragraphs = document(kind, LENGTH, seed)
        changed = edited_at_the_top(kind, paragraphs, random)
        assert len(contents(kind, changed) - contents(kind, paragraphs)) <= 3
