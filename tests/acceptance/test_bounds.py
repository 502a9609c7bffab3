"""`worker process` that ends before all is done, because it was told to."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.conftest import fill, refused, statuses
from tests.conftest import Database, Worker
from tests.openai_server import OpenAIServer


def test_until_a_share_of_the_rows_has_its_vector(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 40)
    result = worker("process", "--until", "50%", "--batch-size", "7", "--json", **with_openai)
    assert result.returncode == 0, result.stderr
    assert statuses(notes) == {"completed": 20, "pending": 20}
    assert json.loads(result.stdout)["ended"] == "50.0% of the rows have their vector"


def test_what_is_reached_already_asks_nothing(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 10)
    worker("process", "--limit", "5", **with_openai)
    asked = len(openai.requests)
    result = worker("process", "--until", "50", **with_openai)
    assert result.returncode == 0
    assert len(openai.requests) == asked
    assert "Total records processed: 0" in result.stdout


def test_a_row_that_fails_does_not_count_as_covered(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 10)
    notes.execute("update notes set body = 'x' || repeat(' word', 40000) where id = 3")
    result = worker("process", "--until", "60%", "--batch-size", "3", **with_openai)
    assert statuses(notes)["completed"] == 6
    assert "60.0% of the rows" in result.stderr


def test_until_all_is_done_and_no_more(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 5)
    result = worker("process", "--until", "100%", **with_openai)
    assert (result.returncode, statuses(notes)) == (0, {"completed": 5})


def test_a_minute_is_enough(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 40)
    openai.latency = 0.3
    slowly = ("--batch-size", "1", "--delay-ms", "1")
    result = worker("process", "--max-minutes", "0.02", *slowly, "--json", **with_openai)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert 0 < summary["completed"] < 40
    assert summary["ended"] == "0.02 minutes have passed"
    assert statuses(notes) == {
        "completed": summary["completed"],
        "pending": 40 - summary["completed"],
    }


def test_money_ends_it(notes: Database, worker: Worker, with_openai: dict[str, str]) -> None:
    fill(notes, 40)
    result = worker(
        "process", "--max-cost", "0.0000001", "--batch-size", "4", "--delay-ms", "1", **with_openai
    )
    assert result.returncode == 0, result.stderr
    assert statuses(notes) == {"completed": 4, "pending": 36}
    assert "of $1e-07 are spent" in result.stderr


def test_what_has_no_price_is_not_bought_with_a_limit(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 40)
    unknown = with_openai | {"EMBEDDING_MODEL": "openai:a-model-of-mine"}
    result = worker("process", "--max-cost", "1", **unknown)
    cause, hint = refused(result, 2)
    assert "openai:a-model-of-mine" in cause
    assert "--limit" in hint
    assert not openai.requests


def test_a_free_model_costs_nothing(local_notes: Database, worker: Worker) -> None:
    fill(local_notes, 4)
    assert worker("process", "--max-cost", "0.01").returncode == 0
    assert statuses(local_notes) == {"completed": 4}


@pytest.mark.parametrize("given", ["half", "0%", "101%", "-5%", ""])
def test_no_percentage(notes: Database, worker: Worker, given: str) -> None:
    cause, hint = refused(worker("process", f"--until={given}"), 2)
    assert f"`{given}`" in cause
    assert "--until 50%" in hint


def test_a_pause_is_heeded_by_a_run_that_ends(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 4)
    assert worker("pause").stdout == (
        "Pause sent to 0 workers. It also applies to workers that start later.\n"
    )
    result = worker("process", **with_openai)
    assert (result.returncode, statuses(notes)) == (5, {"pending": 4})
    assert result.stderr.splitlines() == [
        "error: workers are paused, so nothing was embedded",
        "hint: Run `worker resume` to let workers continue.",
    ]
    worker("resume")
    worker("process", **with_openai)
    assert statuses(notes) == {"completed": 4}
