"""Queries with the records that people judged relevant, and the files that hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from worker.errors import SettingsError

LONGEST_LINE = 1_000_000  # bytes
HIGHEST_GRADE = 999_999_999
SHOWN = 40  # characters of a value that cannot be used

JSON_HINT = (
    'Write one JSON object on each line: {"query": "refund", "relevant": ["12", "7"]} or'
    ' {"id": "q1", "query": "refund", "relevant": {"12": 2, "7": 1}}.'
)
ONLY_QUERIES_HINT = (
    'With --qrels, write {"id": "q1", "query": "refund"}, or the id, a tab and the text, on each'
    " line."
)
QRELS_HINT = "Write the id of a query, 0, the id of a record and its grade on each line: q1 0 12 2."

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query, and the grades of its relevant records by their ids, as in embedding_queue.

    A grade is above 0, and a higher one counts more. No grades: nobody knows a relevant record.
    """

    id: str
    text: str
    grades: Mapping[str, int] = field(default_factory=dict)


def read_queries(
    queries: Path, qrels: Path | None = None, *, need_judgments: bool = True
) -> list[JudgedQuery]:
    """Read queries as JSON lines with their relevant records, or the two files that TREC has.

    Those are queries, as JSON lines or as an id, a tab and a text, and `qrels`. Unless they
    `need_judgments`, JSON lines may have no relevant records. Raises SettingsError, with the number
    of the line, if a file or a line cannot be used.
    """
    lines = list(_lines(queries))
    if not lines:
        raise SettingsError(f"{queries} is empty", JSON_HINT)
    if qrels is not None:
        parse = _bare_query if lines[0][1].lstrip().startswith("{") else _tsv_query
        grades = _read_qrels(qrels)
        found = _distinct(queries, lines, parse, ONLY_QUERIES_HINT)
        return [replace(query, grades=grades.get(query.id, {})) for query in found]
    parse = _judged_query if need_judgments else _any_query
    return _distinct(queries, lines, parse, JSON_HINT)


def _distinct(
    path: Path,
    lines: list[tuple[int, str]],
    parse: Callable[[str], JudgedQuery],
    hint: str,
) -> list[JudgedQuery]:
    """Parse queries. One without an id gets the number of its line."""
    first: dict[str, int] = {}
    queries = []
    for number, line in lines:
        query = _parsed(path, number, line, parse, hint)
        query = query if query.id else replace(query, id=str(number))
        if first.setdefault(query.id, number) != number:
            raise _unusable(
                path, number, f"the id {_cut(query.id)} is that of line {first[query.id]}", hint
            )
        queries.append(query)
    return queries


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read the grades of the relevant records of each query."""
    grades: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        query, record, grade = _parsed(path, number, line, _judgment, QRELS_HINT)
        of_query = grades.setdefault(query, {})
        if of_query.setdefault(record, grade) != grade:
            problem = f"an earlier line gives record {_cut(record)} the grade {of_query[record]}"
            raise _unusable(path, number, problem, QRELS_HINT)
    if not grades:
        raise SettingsError(f"{path} is empty", QRELS_HINT)
    return {query: _relevant(of_query) for query, of_query in grades.items()}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, with their numbers."""
    try:
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(LONGEST_LINE + 1)
                if not line:
                    return
                if len(line) > LONGEST_LINE:
                    problem = f"it is longer than {LONGEST_LINE} bytes"
                    raise _unusable(path, number, problem, "Write one query on each line.")
                text = _decoded(path, number, line)
                if text.strip():
                    yield number, text
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}", "Give a file that this user may read."
        ) from None


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise _unusable(path, number, "it is not UTF-8", "Save the file as UTF-8.") from None


def _parsed(
    path: Path, number: int, line: str, parse: Callable[[str], Parsed], hint: str
) -> Parsed:
    try:
        return parse(line)
    except ValueError as problem:
        raise _unusable(path, number, str(problem), hint) from None


def _unusable(path: Path, number: int, problem: str, hint: str) -> SettingsError:
    return SettingsError(f"{path}, line {number}: {problem}", hint)


# -- one line


def _judged_query(line: str) -> JudgedQuery:
    given = _json_object(line)
    if "relevant" not in given:
        raise ValueError("it has no `relevant`, and there is no --qrels")
    return replace(_query(given), grades=_grades(given["relevant"]))


def _any_query(line: str) -> JudgedQuery:
    given = _json_object(line)
    return replace(_query(given), grades=_grades(given.get("relevant", [])))


def _bare_query(line: str) -> JudgedQuery:
    given = _json_object(line)
    if "relevant" in given:
        raise ValueError("it has `relevant`, and --qrels is given: use only one of them")
    if "id" not in given:
        raise ValueError("it has no `id`, which --qrels needs")
    return _query(given)


def _tsv_query(line: str) -> JudgedQuery:
    name, tab, text = line.strip("\r\n").partition("\t")
    if not tab or not name.strip():
        raise ValueError("it is neither a JSON object nor an id, a tab and a text")
    return JudgedQuery(_text(name.strip()), _query_text(text))


def _judgment(line: str) -> tuple[str, str, int]:
    """Parse a line of qrels. The id of a record may contain spaces, as a composite key does."""
    fields = line.split(maxsplit=2)
    rest = fields[2].rsplit(maxsplit=1) if len(fields) == 3 else []
    if len(rest) != 2:
        raise ValueError("it does not have four fields")
    record, grade = rest
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", grade):
        raise ValueError(f"the grade is not a whole number: {_cut(grade)}")
    return _text(fields[0]), _text(record), int(grade)


def _json_object(line: str) -> Mapping[str, Any]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(given, dict):
        raise ValueError("it is not a JSON object")
    return given


def _query(given: Mapping[str, Any]) -> JudgedQuery:
    if "query" not in given:
        raise ValueError("it has no `query`")
    return JudgedQuery(_id(given["id"]) if "id" in given else "", _query_text(given["query"]))


def _query_text(given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"the query is no text, or an empty one: {_shown(given)}")
    return _text(given.strip())


def _grades(given: Any) -> Mapping[str, int]:
    if isinstance(given, list):
        return {_id(record): 1 for record in given}
    if not isinstance(given, dict):
        raise ValueError("`relevant` is neither a list of ids nor an object of ids and grades")
    for grade in given.values():
        if not isinstance(grade, int) or isinstance(grade, bool) or abs(grade) > HIGHEST_GRADE:
            raise ValueError(f"the grade is not a whole number: {_shown(grade)}")
    return _relevant({_text(record): grade for record, grade in given.items()})


def _relevant(grades: Mapping[str, int]) -> dict[str, int]:
    """Leave out the records that were judged not relevant."""
    return {record: grade for record, grade in grades.items() if grade > 0}


def _id(given: Any) -> str:
    """Return the id of a record or a query as embedding_queue has it; a composite key is a list."""
    if isinstance(given, list):
        return _text(json.dumps(given, ensure_ascii=False))
    if not isinstance(given, str | int) or isinstance(given, bool) or not str(given).strip():
        raise ValueError(f"this is not an id: {_shown(given)}")
    return _text(str(given))


def _text(given: str) -> str:
    """Return a text. Raises ValueError if Postgres cannot store it."""
    try:
        given.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise ValueError(f"it is not valid text: {_shown(given)}") from None
    if "\0" in given:
        raise ValueError("it contains a NUL character")
    return given


def _shown(value: Any) -> str:
    """Return the beginning of a value, as JSON: a text is in quotes, which tells "2" from 2."""
    return _cut(json.dumps(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
