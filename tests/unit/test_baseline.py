"""An earlier evaluation as the baseline of another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.evaluation.baseline import check_baseline, differences_from, read_baseline
from worker.evaluation.judgments import JudgedQuery
from worker.evaluation.metrics import Mean
from worker.evaluation.scores import QueryScore


def scored(*ndcgs: float, search: str = "vector") -> list[QueryScore]:
    return [
        QueryScore(str(place), f"words {place}", {search: ndcg}) for place, ndcg in enumerate(ndcgs)
    ]


def written(folder: Path, document: object) -> Path:
    path = folder / "earlier.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_search_is_compared_with_itself_over_the_common_queries() -> None:
    [difference] = differences_from(scored(0.5, 0.5), scored(0.75, 0.75, 0.0))
    assert (difference.search, difference.other) == ("vector", "baseline")
    assert difference.ndcg == Mean(0.25, 0.25, 0.25)
    assert not difference.may_be_noise


def test_a_search_that_the_baseline_lacks_is_not_compared() -> None:
    assert differences_from(scored(0.5, search="text"), scored(0.5)) == []
    assert differences_from([], scored(0.5)) == []


def test_what_was_written_is_read(tmp_path: Path) -> None:
    by_query = [{"id": "1", "query": "words", "ndcg": {"vector": 0.5, "text": 1}}]
    path = written(tmp_path, {"k": 10, "by_query": by_query})
    assert read_baseline(path, 10) == [QueryScore("1", "words", {"vector": 0.5, "text": 1.0})]
    with pytest.raises(SettingsError, match="was measured with --k 10"):
        read_baseline(path, 5)


@pytest.mark.parametrize(
    "document",
    [
        *("", "nonsense", "[" * 100_000, [], {}, {"k": 10}, {"k": 10, "by_query": 1}),
        {"k": 10, "by_query": [{"id": "1"}]},
        {"k": 10, "by_query": [{"id": "1", "query": "x", "ndcg": [1]}]},
        {"k": 10, "by_query": [{"id": "1", "query": "x", "ndcg": {"vector": "high"}}]},
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, document: object) -> None:
    with pytest.raises(SettingsError, match="is not the result of an evaluation"):
        read_baseline(written(tmp_path, document), 10)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_baseline(tmp_path / "none", 10)


def test_a_baseline_of_other_queries_is_refused() -> None:
    check_baseline(scored(0.5), [JudgedQuery("0", "words 0"), JudgedQuery("7", "new")])
    check_baseline([], [JudgedQuery("7", "new")])
    with pytest.raises(SettingsError, match="the baseline has none of these queries"):
        check_baseline(scored(0.5), [JudgedQuery("0", "other words")])
