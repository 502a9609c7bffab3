"""The stand-ins keep to what they say of themselves: whoever is measured against them is."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.openai_server import OpenAIServer


def ask(server: OpenAIServer) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer to one text."""
    request = urllib.request.Request(
        f"{server.base_url}/embeddings",
        json.dumps({"model": "text-embedding-3-small", "input": ["a text"]}).encode(),
        {"authorization": f"Bearer {server.api_key}", "connection": "close"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except HTTPError as refusal:
        with refusal:
            return refusal.code, dict(refusal.headers), json.loads(refusal.read())


def milliseconds(duration: str) -> float:
    return float(duration.removesuffix("ms"))


def test_an_allowance_is_used_up_and_comes_back_at_an_even_pace() -> None:
    with OpenAIServer(rpm=60, burst=3) as server:
        assert [ask(server)[0] for _ in range(4)] == [200, 200, 200, 429]
        status, headers, body = ask(server)
        assert status == 429
        wait = milliseconds(headers["retry-after-ms"])
        assert 0 < wait <= 1001
        assert f"Limit 60. Please try again in {wait:.0f}ms." in body["error"]["message"]
        assert body["error"]["code"] == "rate_limit_exceeded"
        time.sleep(wait / 1000)
        assert ask(server)[0] == 200
        assert (len(server.accepted), len(server.refused)) == (4, 2)
        assert sorted(server.accepted) == server.accepted


def test_the_headers_tell_the_truth_of_the_allowance() -> None:
    with OpenAIServer(rpm=60) as server:  # a burst of six, and one a second
        _, headers, _ = ask(server)
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "5"
        assert milliseconds(headers["x-ratelimit-reset-requests"]) == pytest.approx(1000, abs=200)


def test_a_silent_server_says_nothing_of_its_limits() -> None:
    with OpenAIServer(rpm=60, burst=1, silent=True) as server:
        answers = [ask(server), ask(server)]
    assert [status for status, _, _ in answers] == [200, 429]
    for _, headers, body in answers:
        assert not [name for name in headers if "ratelimit" in name or "retry" in name]
        assert "try again" not in str(body)


def test_an_allowance_can_be_changed_while_the_server_runs() -> None:
    with OpenAIServer(rpm=60, burst=1) as server:
        assert [ask(server)[0] for _ in range(2)] == [200, 429]
        server.rpm = None
        assert [ask(server)[0] for _ in range(5)] == [200] * 5
        server.rpm, server.burst = 60, 2
        assert [ask(server)[0] for _ in range(3)] == [200, 200, 429]
