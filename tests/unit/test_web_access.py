"""The tokens of operators and their cookies."""

from __future__ import annotations

import pytest

from worker.errors import SettingsError
from worker.settings import Settings
from worker.web.access import ATTEMPTS, ATTEMPTS_OF_ALL, MINUTE, SESSION, Access, Attempts

ADMIN, READER = "the-token-of-the-admin", "the-token-of-readers"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(clock: Clock) -> Access:
    return Access({"admin": ADMIN, "reader": READER}, clock=clock)


def test_a_token_has_its_role(access: Access) -> None:
    assert access.role_of_token(ADMIN) == "admin"
    assert access.role_of_token(READER) == "reader"
    assert access.role_of_token(ADMIN[:-1]) is None
    assert access.role_of_token("") is None
    assert access.role_of_token("ключ") is None


def test_a_cookie_has_its_role_until_its_end(access: Access, clock: Clock) -> None:
    cookie = access.cookie_of("reader")
    assert access.role_of_cookie(cookie) == "reader"
    clock.now += SESSION - 1
    assert access.role_of_cookie(cookie) == "reader"
    clock.now += 2
    assert access.role_of_cookie(cookie) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda cookie: cookie.replace("reader", "admin"),
        lambda cookie: cookie.replace("reader.1", "reader.9"),
        lambda cookie: cookie[:-1],
        lambda cookie: cookie + "0",
        lambda cookie: cookie.rpartition(".")[0] + ".",
        lambda cookie: "reader",
        lambda cookie: "reader..",
        lambda cookie: "reader.²." + cookie.rpartition(".")[2],
        lambda cookie: "…" * 5000,
        lambda cookie: "",
    ],
)
def test_a_changed_cookie_has_no_role(access: Access, change: object) -> None:
    assert callable(change)
    assert access.role_of_cookie(change(access.cookie_of("reader"))) is None


def test_a_cookie_holds_wherever_the_token_is_the_same_and_ends_with_it(access: Access) -> None:
    cookie = access.cookie_of("admin")
    replica = Access({"admin": ADMIN}, clock=access.clock)
    assert replica.role_of_cookie(cookie) == "admin"
    changed = Access({"admin": "another-token-of-the-admin"}, clock=access.clock)
    assert changed.role_of_cookie(cookie) is None


def test_without_a_token_one_is_made_up() -> None:
    first, second = Access.of(Settings()), Access.of(Settings())
    assert first.tokens["admin"] != second.tokens["admin"]
    assert len(first.tokens["admin"]) >= 32
    assert "reader" not in first.tokens
    assert first.tokens["admin"] not in repr(first)


def test_wrong_tokens_are_limited_and_the_limit_ends(clock: Clock) -> None:
    attempts = Attempts(clock)
    for _ in range(ATTEMPTS):
        assert not attempts.are_too_many("10.0.0.7")
        attempts.fail("10.0.0.7")
    assert attempts.are_too_many("10.0.0.7")
    assert not attempts.are_too_many("10.0.0.8")
    clock.now += MINUTE + 1
    assert not attempts.are_too_many("10.0.0.7")


def test_wrong_tokens_from_everywhere_are_limited_as_well(clock: Clock) -> None:
    attempts = Attempts(clock)
    for each in range(ATTEMPTS_OF_ALL):
        attempts.fail(f"address {each}")
    assert attempts.are_too_many("another")


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"WORKER_WEB_TOKEN": "short"}, "WORKER_WEB_TOKEN must have at least 16 characters"),
        ({"WORKER_WEB_TOKEN": "ключ" * 9}, "all of ASCII"),
        ({"WORKER_WEB_TOKEN": "ew_short-and-long-enough"}, "is like the key of an app"),
        ({"WORKER_WEB_READ_TOKEN": "short.and.long-enough"}, "the token of a user"),
        (
            {"WORKER_WEB_TOKEN": ADMIN, "WORKER_WEB_READ_TOKEN": ADMIN},
            "WORKER_WEB_TOKEN and WORKER_WEB_READ_TOKEN are the same",
        ),
        ({"WORKER_WEB_URL": "ops.example.com"}, "WORKER_WEB_URL must be a URL"),
        ({"WORKER_WEB_URL": "https://ops.example.com/a?b=c"}, "without a user, query or fragment"),
    ],
)
def test_settings_of_the_web_are_checked(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        Settings.from_mapping(variables)
    assert "short" not in str(refused.value)
    assert ADMIN not in str(refused.value)
