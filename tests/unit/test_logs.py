"""The log, and who else watches a run."""

from __future__ import annotations

import json
import re
from io import StringIO
from threading import Thread

import pytest

from tests.unit.test_documentation import error_classes
from worker.engine.events import EVENTS
from worker.engine.progress import RunStats
from worker.errors import ParseFailure, SettingsError, WorkerError
from worker.observers.composite import CompositeObserver
from worker.observers.logs import Log
from worker.settings import VENDORS, Settings

MINUTE = {
    "completed": 12,
    "failed": 0,
    "rows_per_second": 1.23456,
    "pending": None,
    "rss_mb": 90.5,
}


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def log(stream: StringIO, **settings: str) -> Log:
    return Log.of(Settings.from_mapping(settings), stream)


def test_a_line_of_json_has_the_time_the_level_the_event_and_its_fields() -> None:
    stream = StringIO()
    log(stream, WORKER_LOG_FORMAT="json").event("minute_passed", **MINUTE)
    document = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("time"))
    assert document == {"level": "info", "event": "minute_passed"} | MINUTE | {
        "rows_per_second": 1.235
    }


def test_a_line_for_people_reads_without_colour() -> None:
    stream = StringIO()
    log(stream).event("minute_passed", **MINUTE)
    time, _, rest = stream.getvalue().partition(" ")
    assert time.endswith("Z")
    assert rest == (
        "info    minute_passed completed=12 failed=0 rows_per_second=1.235 pending=- rss_mb=90.5\n"
    )


def test_what_was_said_stays_on_its_line_and_within_its_quotes() -> None:
    stream = StringIO()
    log(stream).event("database_lost", cause='a\nb "c" \x1b[31m=é')
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert "\x1b" not in line
    [quoted] = re.findall(r'cause=(".*")$', line)
    assert json.loads(quoted) == 'a\nb "c" \x1b[31m=é'


@pytest.mark.parametrize(
    ("stream", "no_color", "colored"),
    [(Terminal(), "", True), (Terminal(), "1", False), (StringIO(), "", False)],
)
def test_there_is_colour_on_a_terminal_only_and_not_against_anybodys_wish(
    stream: StringIO, no_color: str, colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    log(stream).event("provider_back", provider="openai")
    assert ("\033[" in stream.getvalue()) is colored


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["batch_done", "provider_back", "database_lost"]),
        ("info", ["provider_back", "database_lost"]),
        ("warning", ["database_lost"]),
    ],
)
def test_a_level_leaves_out_what_matters_less(level: str, written: list[str]) -> None:
    stream = StringIO()
    lines = log(stream, WORKER_LOG_LEVEL=level, WORKER_LOG_FORMAT="json")
    lines.event("batch_done", table="docs", column="embedding", jobs=1, seconds=0.1)
    lines.event("provider_back", provider="openai")
    lines.event("database_lost", cause="gone")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == written


def test_nothing_that_comes_with_every_batch_is_logged_unless_asked_for() -> None:
    assert EVENTS["batch_done"][0] == "debug"
    stream = StringIO()
    log(stream).update(RunStats(completed=1))
    assert stream.getvalue() == ""


def test_lines_of_several_threads_do_not_mix() -> None:
    stream = StringIO()
    lines = log(stream, WORKER_LOG_FORMAT="json")

    def write() -> None:
        for _ in range(100):
            lines.event("database_lost", cause="x" * 500)

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(json.loads(line)["cause"]) for line in stream.getvalue().splitlines()} == {500}
    assert stream.getvalue().count("\n") == 400


SECRETS = {
    "DATABASE_URL": "postgresql://user:hunter2-database@db.example/x",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "hunter2-service-role",
    "OPENAI_API_KEY": "hunter2-openai",
    "OPENAI_BASE_URL": "https://user:hunter2-base@llm.example/v1",
    "AZURE_OPENAI_ENDPOINT": "https://user:hunter2-azure@azure.example",
    "AZURE_OPENAI_API_KEY": "hunter2-azure-key",
    "OLLAMA_HOST": "http://user:hunter2-ollama@ollama.example:1",
    "OLLAMA_LLM_BASE_URL": "http://user:hunter2-chat@ollama.example:1/v1",
    "NEXT_PUBLIC_API_BASE_URL": "https://user:hunter2-api@api.example",
    "EMBEDDING_API_TOKEN": "hunter2-token",
    **{
        f"{vendor.upper()}_{kind}": f"{start}hunter2-{vendor}"
        for vendor in VENDORS
        if vendor != "openai"
        for kind, start in (("API_KEY", ""), ("BASE_URL", "https://u:p@h/"))
    },
    "NOTIFY_COMMAND": "curl -d @- https://hooks.example/services/hunter2-command",
    "NOTIFY_WEBHOOK_URL": "https://hooks.example/services/hunter2-webhook",
    "SUPABASE_JWT_SECRET": "hunter2-of-the-project-that-signs-tokens",
    "WORKER_WEB_TOKEN": "hunter2-of-the-admin",
    "WORKER_WEB_READ_TOKEN": "hunter2-of-readers",
    "S3_ENDPOINT": "https://user:hunter2-s3@s3.example",
    "S3_ACCESS_KEY_ID": "hunter2-s3-id",
    "S3_SECRET_ACCESS_KEY": "hunter2-s3-secret",
}


def test_the_test_knows_every_secret() -> None:
    hidden = {name.upper() for name, f in Settings.__dataclass_fields__.items() if not f.repr}
    assert hidden <= SECRETS.keys()


@pytest.mark.parametrize("format", ["console", "json"])
def test_no_secret_is_in_the_log(format: str) -> None:
    stream = StringIO()
    lines = log(stream, WORKER_LOG_FORMAT=format)
    settings = Settings.from_mapping(SECRETS)
    lines.event("worker_started", worker="w", host="h", pid=1, model=settings)
    for variable, secret in SECRETS.items():
        broken = secret.replace("://", ":/ /")  # and so no URL, where it was one
        try:
            Settings.from_mapping({**SECRETS, variable: broken, "EMBEDDING_RPM": "lots"})
        except SettingsError as problem:
            lines.event("database_lost", cause=problem.cause)
            lines.event("provider_stopped", provider="p", cause=problem, hint=problem.hint)
    assert "EMBEDDING_RPM" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


class Broken:
    """Somebody who takes nothing."""

    def update(self, stats: RunStats) -> None:
        raise RuntimeError("hunter2")

    def pulse(self) -> None:
        raise RuntimeError("hunter2")

    def event(self, name: str, **fields: object) -> None:
        raise RuntimeError("hunter2")


def test_one_who_fails_keeps_nothing_from_the_others_and_is_told_of_once() -> None:
    stream = StringIO()
    observer = CompositeObserver(Broken(), log(stream, WORKER_LOG_FORMAT="json"))
    observer.update(RunStats())
    observer.pulse()
    observer.event("database_lost", cause="gone")
    observer.event("database_back", seconds=1.0)
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [document["event"] for document in documents] == [
        "observer_failed",
        "database_lost",
        "database_back",
    ]
    assert documents[0]["observer"] == "Broken"
    assert documents[0]["cause"].startswith("RuntimeError in test_logs.py, line ")


def test_who_leaves_at_once_is_not_held_up() -> None:
    class Impatient(Broken):
        def pulse(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CompositeObserver(Impatient()).pulse()


def test_every_error_can_be_logged() -> None:
    stream = StringIO()
    lines = log(stream)
    for error in error_classes(WorkerError):
        words = {"error_class": "damaged"} if error is ParseFailure else {}
        lines.event("database_lost", cause=error("gone", **words))
    assert stream.getvalue().count("cause=gone") == len(list(error_classes(WorkerError)))
