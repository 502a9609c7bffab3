"""The conditions of `worker status --fail-if`."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from worker.cli.conditions import FIGURES, parse_condition
from worker.errors import SettingsError
from worker.operations.status import Figures

NOW: Figures = {
    "oldest_due": 400,
    "due": 3,
    "pending": 12,
    "failed": 0,
    "coverage": 97.5,
    "workers": 2,
    "silent_workers": 1,
    "rows_per_second": None,
    "stopped_providers": 0,
    "backup_age": None,
    "failed_backups": 0,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("oldest_due > 5m", True),
        ("oldest_due>400s", False),
        ("oldest_due >= 400", True),
        ("oldest_due < 0.5h", True),
        ("oldest_due > 1d", False),
        (" failed > 0 ", False),
        ("coverage < 98%", True),
        ("coverage < 97.5", False),
        ("coverage <= 97.5", True),
        ("workers < 2", False),
        ("silent_workers >= 1", True),
    ],
)
def test_a_condition_holds_or_not(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(NOW) is holds


@pytest.mark.parametrize("comparison", [">", "<", ">=", "<="])
def test_of_a_figure_that_is_not_known_no_condition_holds(comparison: str) -> None:
    assert not parse_condition(f"rows_per_second {comparison} 1").holds(NOW)


def test_a_finding_names_the_figure_and_what_it_is() -> None:
    assert parse_condition("oldest_due  >  5m").finding(NOW) == (
        "oldest_due is 6 min 40 s: oldest_due > 5m"
    )
    assert parse_condition("coverage < 99%").finding(NOW) == "coverage is 97.5%: coverage < 99%"
    assert parse_condition("due > 1").finding(NOW) == "due is 3: due > 1"


@pytest.mark.parametrize(
    ("text", "cause", "hint"),
    [
        ("", "not a valid condition", "'oldest_due > 5m'"),
        ("due", "not a valid condition", "'oldest_due > 5m'"),
        ("due = 3", "not a valid condition", "> < >= <="),
        ("due > -1", "not a valid condition", "a number"),
        ("due > 1 and failed > 1", "not a valid condition", "a number"),
        ("age > 5m", "no figure age", "Choose one of oldest_due, due,"),
        ("due > 5m", "due is not measured in m", "without a unit"),
        ("oldest_due > 5%", "oldest_due is not measured in %", "Use s, m, h, d."),
        ("oldest_due > 5min", "not measured in min", "Use s, m, h, d."),
        ("coverage < 9s", "coverage is not measured in s", "Use %."),
    ],
)
def test_what_is_no_condition_is_refused_with_a_cure(text: str, cause: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_condition(text)
    assert repr(text) in refused.value.cause
    assert cause in refused.value.cause
    assert hint in str(refused.value.hint)


def test_every_figure_is_documented() -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = text.split("| figure | unit | meaning |", 1)[1].split("\n\n", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", rows, re.M) == list(FIGURES)
