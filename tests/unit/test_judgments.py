"""The files with judged queries: what is read, and what is said of a file that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.evaluation.judgments import LONGEST_LINE, JudgedQuery, read_queries


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(queries: Path, qrels: Path | None = None) -> tuple[str, str]:
    """The cause without the folder, and the hint."""
    with pytest.raises(SettingsError) as caught:
        read_queries(queries, qrels)
    assert caught.value.hint
    assert "\n" not in caught.value.cause
    return caught.value.cause.replace(f"{queries.parent}/", ""), caught.value.hint


# -- what is read


def test_json_lines_have_ids_or_grades(tmp_path: Path) -> None:
    text = (
        '{"query": "refund", "relevant": ["12", 7]}\n\n'
        '{"id": "q2", "query": " två ord ", "relevant": {"a": 2, "b": 1, "c": 0, "d": -1}}\r\n'
        '{"id": 3, "query": "nothing", "relevant": []}'
    )
    assert read_queries(written(tmp_path, "queries.jsonl", text)) == [
        JudgedQuery("1", "refund", {"12": 1, "7": 1}),
        JudgedQuery("q2", "två ord", {"a": 2, "b": 1}),
        JudgedQuery("3", "nothing", {}),
    ]


def test_queries_need_no_judgments_where_two_searches_are_compared(tmp_path: Path) -> None:
    text = '{"query": "refund"}\n{"query": "money", "relevant": ["7"]}'
    assert read_queries(written(tmp_path, "queries.jsonl", text), need_judgments=False) == [
        JudgedQuery("1", "refund", {}),
        JudgedQuery("2", "money", {"7": 1}),
    ]


def test_a_composite_key_is_a_list_and_the_same_id_counts_once(tmp_path: Path) -> None:
    text = '{"query": "x", "relevant": [["de", 1], "[\\"de\\", 1]", "1", 1]}'
    [query] = read_queries(written(tmp_path, "queries.jsonl", text))
    assert query.grades == {'["de", 1]': 1, "1": 1}


QRELS = 'q1 0 12 2\nq1 0 7 1\nq1\t0\t8\t0\nq2 Q0 ["de", 1] 1\n\nq2 0 9 -1\nq9 0 5 1\n'
READ = [
    JudgedQuery("q1", "money back", {"12": 2, "7": 1}),
    JudgedQuery("q2", "a second", {'["de", 1]': 1}),
    JudgedQuery("q3", "nobody judged", {}),
]


def test_trec_has_queries_and_judgments_in_two_files(tmp_path: Path) -> None:
    qrels = written(tmp_path, "qrels", QRELS)
    tsv = "\ufeffq1\tmoney back\nq2\ta second\r\nq3\tnobody judged\n"
    assert read_queries(written(tmp_path, "queries.tsv", tsv), qrels) == READ
    lines = [json.dumps({"id": query.id, "query": query.text}) for query in READ]
    assert read_queries(written(tmp_path, "queries.jsonl", "\n".join(lines)), qrels) == READ


def test_a_judgment_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    queries = written(tmp_path, "queries.tsv", "q1\twords\n")
    qrels = written(tmp_path, "qrels", "q1 0 7 1\nq1 0 7 1\n")
    assert read_queries(queries, qrels)[0].grades == {"7": 1}


# -- what cannot be used


GOOD = '{"query": "refund", "relevant": ["12"]}\n'


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "queries is empty"),
        ("\n \n", "queries is empty"),
        (GOOD + "nonsense\n", "queries, line 2: it is not JSON"),
        (GOOD + "[" * 100_000, "queries, line 2: it is not JSON"),
        (GOOD + '["a"]\n', "queries, line 2: it is not a JSON object"),
        ("q1\twords\n", "queries, line 1: it is not JSON"),
        (GOOD + "\n" + '{"relevant": ["1"]}', "queries, line 3: it has no `query`"),
        ('{"query": "x"}', "queries, line 1: it has no `relevant`, and there is no --qrels"),
        (
            '{"query": "  ", "relevant": ["1"]}',
            'queries, line 1: the query is no text, or an empty one: "  "',
        ),
        (
            '{"query": 5, "relevant": ["1"]}',
            "queries, line 1: the query is no text, or an empty one: 5",
        ),
        (
            '{"query": "x", "relevant": "1"}',
            "queries, line 1: `relevant` is neither a list of ids nor an object of ids and grades",
        ),
        ('{"query": "x", "relevant": [null]}', "queries, line 1: this is not an id: null"),
        ('{"query": "x", "relevant": [true]}', "queries, line 1: this is not an id: true"),
        ('{"query": "x", "relevant": [1.5]}', "queries, line 1: this is not an id: 1.5"),
        (
            '{"query": "x", "relevant": {"1": "2"}}',
            'queries, line 1: the grade is not a whole number: "2"',
        ),
        (
            '{"query": "x", "relevant": {"1": NaN}}',
            "queries, line 1: the grade is not a whole number: NaN",
        ),
        (
            '{"query": "x", "relevant": {"1": 1e400}}',
            "queries, line 1: the grade is not a whole number: Infinity",
        ),
        (
            '{"query": "x", "relevant": {"1": true}}',
            "queries, line 1: the grade is not a whole number: true",
        ),
        (
            '{"id": "a", "query": "x", "relevant": ["1"]}\n'
            '{"id": "a", "query": "y", "relevant": ["1"]}',
            "queries, line 2: the id a is that of line 1",
        ),
        (
            '{"query": "a\\u0000b", "relevant": ["1"]}',
            "queries, line 1: it contains a NUL character",
        ),
        (
            '{"query": "x", "relevant": ["\\ud800"]}',
            'queries, line 1: it is not valid text: "\\ud800"',
        ),
        (GOOD.encode() + b'{"query": "caf\xe9"}', "queries, line 2: it is not UTF-8"),
        (GOOD.encode("utf-16"), "queries, line 1: it is not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, text: str | bytes, cause: str) -> None:
    assert refusal(written(tmp_path, "queries", text))[0] == cause


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    queries = written(tmp_path, "queries", GOOD + '{"query": "' + "x" * 2 * LONGEST_LINE)
    assert refusal(queries)[0] == f"queries, line 2: it is longer than {LONGEST_LINE} bytes"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "qrels is empty"),
        ("q1 0 7\n", "qrels, line 1: it does not have four fields"),
        ("q1 0 7 1\nq1\n", "qrels, line 2: it does not have four fields"),
        ("q1 0 7 high\n", "qrels, line 1: the grade is not a whole number: high"),
        ("q1 0 7 1.5\n", "qrels, line 1: the grade is not a whole number: 1.5"),
        (
            "q1 0 7 " + "9" * 5000,
            "qrels, line 1: the grade is not a whole number: " + "9" * 40 + "…",
        ),
        ("q1 0 7 1\nq1 0 7 2\n", "qrels, line 2: an earlier line gives record 7 the grade 1"),
        (b"q1 0 \xe9 1\n", "qrels, line 1: it is not UTF-8"),
    ],
)
def test_a_judgment_that_cannot_be_used_is_named(
    tmp_path: Path, text: str | bytes, cause: str
) -> None:
    queries = written(tmp_path, "queries", "q1\twords\n")
    assert refusal(queries, written(tmp_path, "qrels", text))[0] == cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("words without an id\n", "it is neither a JSON object nor an id, a tab and a text"),
        ("\twords\n", "it is neither a JSON object nor an id, a tab and a text"),
        ("q1\t \n", 'the query is no text, or an empty one: " "'),
        ('{"query": "x"}', "it has no `id`, which --qrels needs"),
        (
            '{"id": 1, "query": "x", "relevant": []}',
            "it has `relevant`, and --qrels is given: use only one of them",
        ),
    ],
)
def test_queries_that_do_not_fit_the_qrels_are_named(tmp_path: Path, text: str, cause: str) -> None:
    queries, qrels = written(tmp_path, "queries", text), written(tmp_path, "qrels", "1 0 1 1")
    found, hint = refusal(queries, qrels)
    assert found == f"queries, line 1: {cause}"
    assert "--qrels" in hint


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none")[0] == "cannot read none: No such file or directory"
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / "folder")[0] == "cannot read folder: Is a directory"
