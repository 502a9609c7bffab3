"""The checks of a verification from figures, and its reports."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from worker.verification.comparison import (
    MARGIN,
    Comparison,
    Vector,
    cosine,
    lowest_cosine,
    overlap,
)
from worker.verification.lengths import UsualLength, usual_length
from worker.verification.reports import HEADS, as_html, as_markdown
from worker.verification.result import Check, Verification
from worker.verification.rows import Findings, Watched, row_checks
from worker.verification.samples import (
    check_index,
    check_overlap,
    check_queries,
    check_sample,
    nothing_to_compare,
)

DOCS = Watched("docs", "embedding")
UNIFORM = UsualLength(1.0, 0.01)


def vectors(lengths: list[float]) -> list[Vector]:
    """Vectors of these lengths, in different directions."""
    turns = np.random.default_rng(1).standard_normal((len(lengths), 8))
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    return [
        np.asarray(turn * length, dtype=np.float32)
        for turn, length in zip(turns, lengths, strict=True)
    ]


def vector(*numbers: float) -> Vector:
    return np.array(numbers, dtype=np.float32)


def findings(**counts: int) -> Findings:
    """Findings in a column of a thousand texts, each row named after its finding."""
    found = Findings()
    for name, count in {"rows": 1000, "texts": 1000, "vectors": 1000, **counts}.items():
        found.add(name, count, [f"{name} {number}" for number in range(min(count, 10))])
    return found


def faults(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks if check.status != "ok"}


# -- lengths


def test_vectors_of_one_length_tolerate_only_rounding() -> None:
    usual = usual_length(vectors([1.0] * 90 + [1.002] * 10))
    assert usual is not None
    assert usual.median == pytest.approx(1)
    assert usual.tolerance == pytest.approx(0.01)
    assert usual.is_uniform


def test_vectors_of_many_lengths_tolerate_what_is_usual_among_them() -> None:
    lengths = list(np.random.default_rng(1).normal(12, 2, 100))
    usual = usual_length(vectors(lengths))
    assert usual is not None
    assert not usual.is_uniform
    assert all(abs(length - usual.median) <= usual.tolerance for length in lengths)
    assert usual.tolerance < 24  # which the tenfold of a vector exceeds


def test_wrong_vectors_in_the_sample_do_not_count() -> None:
    usual = usual_length(vectors([1.0] * 60 + [0.0] * 20 + [50.0] * 20))
    assert usual is not None
    assert usual.median == pytest.approx(1)
    assert usual.is_uniform


def test_few_vectors_do_not_tell_what_is_usual() -> None:
    assert usual_length(vectors([1.0] * 9)) is None
    assert usual_length([]) is None


# -- all rows


def test_nothing_found_is_ok() -> None:
    checks = row_checks(findings(), DOCS, UNIFORM)
    assert faults(checks) == {}
    assert [check.name for check in checks] == [
        "readable",
        "missing",
        "stale",
        "model",
        "recorded",
        "without_text",
        "overwritten",
        "width",
        "length",
    ]


@pytest.mark.parametrize(
    ("finding", "check"),
    [
        ("unreadable", "readable"),
        ("failed", "missing"),
        ("skipped", "missing"),
        ("unqueued", "missing"),
        ("lost", "missing"),
        ("outdated_failed", "stale"),
        ("stale", "stale"),
        ("other_model", "model"),
        ("without_text", "without_text"),
        ("wrong_width", "width"),
        ("zero", "length"),
        ("odd_length", "length"),
    ],
)
def test_each_finding_is_a_problem_of_its_check(finding: str, check: str) -> None:
    checks = row_checks(findings(**{finding: 3}), DOCS, UNIFORM)
    assert faults(checks) == {check: "problem"}
    [fault] = [each for each in checks if each.name == check]
    assert fault.figures[finding] == 3
    assert fault.record_ids == [f"{finding} 0", f"{finding} 1", f"{finding} 2"]
    assert (fault.cause or "").endswith(": 3")
    assert fault.cure


@pytest.mark.parametrize(("pending", "status"), [(10, "note"), (11, "problem")])
def test_pending_texts_are_a_note_up_to_one_in_a_hundred(pending: int, status: str) -> None:
    assert faults(row_checks(findings(pending=pending), DOCS, None)) == {"missing": status}
    assert faults(row_checks(findings(outdated_pending=pending), DOCS, None)) == {"stale": status}


def test_an_odd_length_is_a_problem_only_where_all_have_one_length() -> None:
    varied = UsualLength(12.0, 10.0)
    assert faults(row_checks(findings(odd_length=1), DOCS, varied)) == {"length": "note"}


def test_no_finding_is_hidden_by_another_one() -> None:
    found = findings(lost=500, failed=1)
    [missing] = [check for check in row_checks(found, DOCS, None) if check.name == "missing"]
    assert missing.cause == (
        "texts without a vector, whose job failed: 1; texts whose vector was removed: 500"
    )
    assert missing.record_ids[:2] == ["failed 0", "lost 0"]
    assert len(missing.record_ids) == 10


@pytest.mark.parametrize("finding", ["lost", "overwritten"])
@pytest.mark.parametrize("is_in_chunks", [False, True])
def test_what_a_backup_may_have_is_not_paid_for_again(finding: str, is_in_chunks: bool) -> None:
    column = Watched("docs", "embedding", is_in_chunks)
    [cure] = [
        check.cure for check in row_checks(findings(**{finding: 1}), column, None) if check.cure
    ]
    assert cure == "Run `worker verify docs --column embedding --repair`, then `worker process`."


def test_a_cure_is_a_command_that_a_shell_takes() -> None:
    weird = Watched('"My Schema".docs', "it's")
    [missing] = [
        check for check in row_checks(findings(unqueued=1), weird, None) if check.name == "missing"
    ]
    assert missing.cure == (
        "Run `worker backfill --table '\"My Schema\".docs' --column 'it'\"'\"'s'`,"
        " then `worker process`."
    )


# -- the sample


def test_the_gate_is_below_the_noise_of_the_model() -> None:
    assert Comparison(1.0, {}).gate == pytest.approx(1 - MARGIN)
    assert Comparison(0.99, {}).gate == pytest.approx(0.98)


def test_the_most_different_vectors_are_named_first() -> None:
    cosines = {"a": 0.9, "b": 1.0, "c": 0.1, "d": 0.9995}
    check = check_sample(Comparison(1.0, cosines), {"truncated": 2}, DOCS)
    assert (check.status, check.record_ids) == ("problem", ["c", "a"])
    assert check.figures == {
        "compared": 4,
        "below": 2,
        "excluded": 2,
        "noise_floor": 1.0,
        "gate": 0.999,
        "lowest": 0.1,
    }


def test_a_model_that_gives_anything_proves_nothing() -> None:
    check = check_sample(Comparison(0.5, {"a": 0.1}), {}, DOCS)
    assert (check.status, check.conclusive) == ("note", False)


def test_texts_that_the_model_refuses_are_a_note() -> None:
    assert check_sample(Comparison(1.0, {"a": 1.0}, refused=1), {}, DOCS).status == "note"


def test_a_sample_that_missed_all_vectors_is_not_conclusive() -> None:
    assert nothing_to_compare({}, 0).status == "ok"
    assert not nothing_to_compare({}, 5).conclusive
    assert nothing_to_compare({"enhanced": 5}, 5).conclusive


def test_cosines() -> None:
    assert cosine(vector(1, 0), vector(7, 0)) == pytest.approx(1)
    assert cosine(vector(1, 0), vector(0, 1)) == 0
    assert cosine(vector(1, 0), vector(0, 0)) == 0
    assert cosine(vector(1, 0), vector(1, 0, 0)) == 0
    assert lowest_cosine([vector(1, 0), vector(0, 1)], [vector(1, 0), vector(1, 1)]) == (
        pytest.approx(np.sqrt(0.5))
    )


def test_overlaps() -> None:
    assert overlap(["a", "b"], ["b", "c"]) == 0.5
    assert overlap(["a", "b"], ["a"]) == 0.5
    assert overlap(["a"], []) == 0
    assert overlap([], []) == 1


# -- searches


@pytest.mark.parametrize(
    ("recall", "status"), [(1.0, "ok"), (0.95, "ok"), (0.9, "note"), (0.79, "problem")]
)
def test_the_recall_of_an_index(recall: float, status: str) -> None:
    assert check_index(True, recall, 50, 10).status == status


def test_an_index_that_cannot_be_compared_is_not_conclusive() -> None:
    assert not check_index(True, None, 50, 10).conclusive
    assert check_index(False, None, 50, 10).status == "ok"
    assert check_index(True, None, 0, 10).status == "ok"


def test_two_models_that_never_agree_are_a_note() -> None:
    assert check_overlap("overlap", [0.4, 0.6], 10).figures["overlap"] == 0.5
    assert check_overlap("overlap", [0.05], 10).status == "note"
    assert not check_overlap("overlap", [], 10).conclusive


def test_a_loss_that_may_be_noise_is_no_problem() -> None:
    assert check_queries(-0.1, -0.2, 0.01, 20, 10).status == "ok"
    assert check_queries(-0.1, -0.2, -0.01, 20, 10).status == "problem"
    assert check_queries(0.1, 0.05, 0.2, 20, 10).status == "ok"


# -- the result


def test_it_passes_if_every_check_was_made_and_found_no_problem() -> None:
    def result(*checks: Check) -> Verification:
        return Verification.of("docs.embedding", "a:b", None, checks, (0, 0.0))

    ok, note, problem = Check("a"), Check("b", "note"), Check("c", "problem")
    out = Check.not_made("d", "the model is out", None)
    assert result(ok, note).summary == "passed: 2 checks"
    assert result(ok, problem).summary == "not passed: 1 check of 2 found a problem"
    assert result(ok, out).summary == "not passed: not checked: d"
    assert [result(*checks).passed for checks in ([], [ok, note], [problem], [out])] == [
        True,
        True,
        False,
        False,
    ]


# -- the reports

HOSTILE = "<script>alert('x')</script>\"&|`**[a](b)\n# c\x1b[31m\u202e"
REPORTED = Verification(
    column=f"docs.{HOSTILE}",
    model=HOSTILE,
    against=HOSTILE,
    passed=False,
    checks=[
        Check("missing", "problem", {"lost": 2, "none": None}, HOSTILE, HOSTILE, [HOSTILE]),
        Check("length"),
    ],
    tokens=1,
    cost=None,
)


class Page(HTMLParser):
    """The tags, the attributes and the texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_no_name_or_id_is_markup_in_the_page() -> None:
    page = Page(as_html([REPORTED]))
    assert page.open == []
    assert set(page.tags) == {
        *("html", "head", "meta", "title", "style", "body", "h1", "ul", "li"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert page.attributes <= {"lang", "charset", "http-equiv", "content", "scope", "class"}
    shown = HOSTILE.replace("\n", "\ufffd").replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert page.texts.count(shown) == 3  # cause, cure, records
    assert "http://" not in as_html([REPORTED])
    assert "https://" not in as_html([REPORTED])


def test_no_name_or_id_is_markup_in_markdown() -> None:
    report = as_markdown([REPORTED])
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == len(HEADS) + 1
    without_escapes = re.sub(r"\\.", "", report)
    assert not re.search(r"[<>`*\[\]&]", without_escapes)
    assert "\x1b" not in report
    assert "\u202e" not in report


def test_the_reports_of_a_passed_verification_say_so() -> None:
    passed = replace(REPORTED, passed=True, checks=[Check("length")], against=None)
    assert "passed\\: 1 check" in as_markdown([passed])
    assert "<li>result: passed: 1 check</li>" in as_html([passed])
