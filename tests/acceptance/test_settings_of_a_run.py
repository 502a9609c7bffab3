"""What settings do to the model's server: how often it is asked, and by how many at once."""

from __future__ import annotations

import json
import re
import time
from threading import Event, Lock

import numpy as np
import pytest

from tests.acceptance.conftest import fill, refused, statuses
from tests.conftest import Database, Worker, rest_in_full, rows
from tests.openai_server import Answer, OpenAIServer, vector_for

# The cache


def test_a_text_in_the_cache_costs_no_request(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 30)
    with_openai["EMBEDDING_CACHE_MB"] = "10"
    assert "From the cache" not in worker("process", **with_openai).stdout
    assert len(openai.requests) == 1
    worker("requeue", "--all", "--yes")
    notes.execute("update notes set embedding = null")
    result = worker("process", **with_openai)
    assert re.fullmatch(
        r"=== PROCESSING SUMMARY ===\n"
        r"Total records processed: 30\nTotal errors: 0\nSuccess rate: 100\.0%\n"
        r"Elapsed: \d+\.\d s\nRows per second: \d+\nFrom the cache: 30\n",
        result.stdout,
    )
    assert (len(openai.requests), statuses(notes)) == (1, {"completed": 30})
    for body, vector in rows(notes, "select body, embedding::real[] from notes"):
        assert np.allclose(vector, vector_for(body, 8), atol=1e-3)


def test_only_what_is_not_in_the_cache_is_asked_for(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 30)
    with_openai["EMBEDDING_CACHE_MB"] = "10"
    worker("process", **with_openai)
    notes.execute("insert into notes values (31, 'note number 7'), (32, 'a new one')")
    found = json.loads(worker("process", "--json", **with_openai).stdout)
    assert (found["completed"], found["cached"], found["requests"]) == (2, 1, 1)
    assert openai.requests[-1].texts == ["a new one"]


def test_without_a_cache_a_text_is_asked_for_again(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 30)
    for times in (1, 2):
        found = json.loads(worker("process", "--json", **with_openai).stdout)
        assert (found["completed"], found["cached"], found["requests"]) == (30, 0, 1)
        assert len(openai.requests) == times
        worker("requeue", "--all", "--yes")


# How many requests at once


class Counting:
    """A fault of the stand-in that counts how many requests it is working on at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = Lock()

    def __call__(self, due: Answer) -> Answer:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        Event().wait(0.05)  # time enough for one too many
        with self._lock:
            self._now -= 1
        return due


@pytest.mark.parametrize(
    ("settings", "most"),
    rest_in_full(
        [
            ({"EMBEDDING_MAX_CONCURRENCY": "1"}, 1),
            ({"EMBEDDING_MAX_CONCURRENCY": "3"}, 3),
            ({"MAX_EMBEDDING_WORKERS": "3"}, 3),
            ({"MAX_EMBEDDING_WORKERS": "7", "EMBEDDING_MAX_CONCURRENCY": "2"}, 2),
        ]
    ),
)
def test_no_more_requests_are_under_way_than_the_settings_allow(
    notes: Database,
    worker: Worker,
    openai: OpenAIServer,
    with_openai: dict[str, str],
    settings: dict[str, str],
    most: int,
) -> None:
    fill(notes, 100)
    counting = Counting()
    openai.faults += [counting] * 20
    assert worker("process", "--batch-size", "5", **with_openai, **settings).returncode == 0
    assert len(openai.requests) == 20
    assert counting.most == most
    assert statuses(notes) == {"completed": 100}


# How many a minute


def test_requests_go_no_faster_than_the_settings_allow(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 25)
    before = time.monotonic()
    with_openai["EMBEDDING_RPM"] = "120"
    result = worker("process", "--batch-size", "5", "--json", **with_openai)
    assert time.monotonic() - before > 1.9
    assert len(openai.accepted) == 5
    first, *_, last = sorted(openai.accepted)
    assert last - first > 1.9, "five requests have four pauses of half a second between them"
    assert json.loads(result.stdout)["elapsed_seconds"] > 1.9
    assert statuses(notes) == {"completed": 25}


def test_tokens_go_no_faster_than_the_settings_allow(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    notes.execute(
        "insert into notes select i, repeat('word', 100) || i from generate_series(1, 4) i"
    )
    with_openai["EMBEDDING_TPM"] = "12000"  # 100 of them take half a second
    assert worker("process", "--batch-size", "1", **with_openai).returncode == 0
    assert len(openai.accepted) == 4
    assert max(openai.accepted) - min(openai.accepted) > 1.2
    assert statuses(notes) == {"completed": 4}


# A provider that cannot be used


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        (
            {"OPENAI_API_KEY": "sk-wrong-but-long-enough"},
            "answered 401: Incorrect API key provided: [redacted]",
            "Check OPENAI_API_KEY, then start again.",
        ),
        (
            {"EMBEDDING_MODEL": "openai:text-embedding-4"},
            "answered 404: The model `text-embedding-4` does not exist",
            "",
        ),
    ],
)
def test_what_a_provider_refuses_ends_the_run_with_4_and_its_words(
    notes: Database,
    worker: Worker,
    with_openai: dict[str, str],
    settings: dict[str, str],
    said: str,
    hint: str,
) -> None:
    fill(notes, 3)
    cause, hint = refused(worker("process", **with_openai | settings), 4)
    assert said in cause
    assert hint in hint
    assert "sk-wrong" not in cause
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_status_names_a_provider_that_refuses_the_key_until_it_is_mended(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    wrong = with_openai | {"OPENAI_API_KEY": "sk-wrong-but-long-enough"}
    cause, _ = refused(worker("process", **wrong), 4)
    *_, stopped, hint = worker("status").stdout.splitlines()
    assert re.fullmatch(r"stopped: openai since \d{4}-\d\d-\d\d \d\d:\d\d: 127.*", stopped)
    assert cause[:100] in stopped
    assert hint == "hint: Check OPENAI_API_KEY, then start again."
    [provider] = json.loads(worker("status", "--json").stdout)["providers"]
    assert (provider["provider"], provider["error"]) == ("openai", cause)
    assert "sk-wrong" not in stopped + json.dumps(provider)

    assert worker("process", **with_openai).returncode == 0
    assert "stopped" not in worker("status").stdout
    assert json.loads(worker("status", "--json").stdout)["providers"] == []
