"""What a parser may do to its own process, and what the worker makes of it.

The parser of these tests runs the text of a file as code: `tests/hostile_parser.py`.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.nasty_files import MB, bomb, pdf, write
from worker.errors import ParseFailure, SettingsError
from worker.files.parsing import process
from worker.files.parsing.options import ParseOptions
from worker.files.parsing.pool import ParserPool
from worker.files.parsing.process import ParserClosed
from worker.host import release_memory, resident_mb

HOSTILE = "tests.hostile_parser"
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfd_open")
PID = "import os; content = os.getpid()"
FOREVER = "while True: pass"
REGEX = "import re; re.match(r'(a+)+$', 'a' * 100 + 'b')"  # no other thread runs meanwhile
EACH_PIPE = """
import os
for fd in range(3, 20):
    try:
        {}
    except OSError:
        pass
"""

Run = Callable[..., str]
Pool = Callable[..., ParserPool]


@pytest.fixture
def opened() -> Iterator[Pool]:
    """Opens a pool of parsers that run code."""
    pools: list[ParserPool] = []

    def opened(**options: Any) -> ParserPool:
        pools.append(ParserPool(ParseOptions(**options), HOSTILE))
        return pools[-1]

    yield opened
    for pool in pools:
        pool.close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs code in a parser, and returns what it gives as text, or its error class."""

    def run(pool: ParserPool, code: str) -> str:
        path = write(tmp_path, f"{uuid4().hex}.txt", code)
        try:
            return pool.parse(path, path.name).content
        except ParseFailure as error:
            return error.error_class

    return run


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        ("import os; os._exit(3)", "parse_killed"),
        ("import ctypes; ctypes.string_at(0)", "parse_killed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "parse_killed"),
        (EACH_PIPE.format("os.write(fd, b'x' * 99)"), "parse_killed"),
        (EACH_PIPE.format("os.close(fd)"), "parse_killed"),
        ("content = 'x' * 16_000_001", "too_large"),
        ("many = [bytes(2**20) for _ in range(10**6)]", "too_large"),
        ("def deeper(): deeper()\ndeeper()", "too_large"),
        ("import json; json.loads('no json')", "damaged"),
        ("import no_such_package", "unsupported"),
        ("content = '\\0 \\f'", "no_text"),
    ],
)
def test_what_a_parser_does_is_an_error_of_its_file_and_of_no_other(
    opened: Pool, run: Run, code: str, error_class: str
) -> None:
    pool = opened(memory_mb=512)
    assert run(pool, "content = 'before'") == "before"
    assert run(pool, code) == error_class
    assert run(pool, "content = 'after'") == "after"


@pytest.mark.parametrize("code", [FOREVER, REGEX])
def test_a_parser_that_does_not_end_is_killed(opened: Pool, run: Run, code: str) -> None:
    pool = opened(seconds=0.3)
    assert run(pool, code) == "parse_timed_out"
    assert run(pool, "content = 'after'") == "after"


def test_the_package_that_is_missing_is_named_with_how_to_install_it(
    opened: Pool, tmp_path: Path
) -> None:
    with pytest.raises(ParseFailure, match="no_such_package") as caught:
        opened().parse(write(tmp_path, "a.txt", "import no_such_package"), "a.txt")
    assert "pip install 'embedding-worker[files]'" in str(caught.value.hint)


def test_a_file_does_not_answer_for_a_process_that_another_one_has_damaged(
    opened: Pool, run: Run
) -> None:
    pool = opened()
    damage = (
        "import os\ndef crash(source): os._exit(1)\ntext.read = crash\ncontent = 'looks harmless'"
    )
    assert run(pool, damage) == "looks harmless"
    assert run(pool, "content = 'innocent'") == "innocent"


def test_a_process_is_used_again_and_replaced_after_many_files(
    opened: Pool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MOST_FILES", 3)
    pool = opened()
    used = [run(pool, PID) for _ in range(7)]
    assert [used.count(each) for each in dict.fromkeys(used)] == [3, 3, 1]


def test_a_process_that_ended_while_it_was_idle_is_replaced(opened: Pool, run: Run) -> None:
    pool = opened()
    first = int(run(pool, PID))
    os.kill(first, 9)
    assert int(run(pool, PID)) != first


def test_several_threads_use_as_many_processes_as_there_are(
    opened: Pool, run: Run, tmp_path: Path
) -> None:
    pool = opened(workers=2)
    # Each waits for the other, so both run at the same time.
    meet = (
        "import os, pathlib\nhere = pathlib.Path({folder!r})\n"
        "fds = [os.open(here / name, flag) for name, flag in {order}]\ncontent = {me!r}"
    )
    os.mkfifo(tmp_path / "one")
    os.mkfifo(tmp_path / "two")
    first = [("one", os.O_RDONLY), ("two", os.O_WRONLY)]
    second = [("one", os.O_WRONLY), ("two", os.O_RDONLY)]
    codes = [
        meet.format(folder=str(tmp_path), order=order, me=me)
        for me, order in (("a", first), ("b", second))
    ]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda code: run(pool, code), codes)) == ["a", "b"]
        used = set(threads.map(lambda _: run(pool, PID), range(20)))
    assert len(used) <= 2


def test_no_process_is_started_before_a_file_needs_it(opened: Pool, run: Run) -> None:
    pool = opened(workers=5)
    assert len({run(pool, PID) for _ in range(5)}) == 1


def test_a_process_that_cannot_start_is_no_error_of_a_file(tmp_path: Path) -> None:
    pool = ParserPool(ParseOptions(), "tests.no_such_module")
    with pytest.raises(SettingsError, match="does not start"):
        pool.parse(write(tmp_path, "a.txt", "text"), "a.txt")
    pool.close()


# Closing


def test_closing_ends_a_file_that_is_parsed_without_an_error_of_it(
    opened: Pool, tmp_path: Path
) -> None:
    pool = opened()
    os.mkfifo(tmp_path / "started")
    code = f"open({str(tmp_path / 'started')!r}, 'wb').close()\n{FOREVER}"
    path = write(tmp_path, "a.txt", code)
    with ThreadPoolExecutor(1) as threads:
        parsing = threads.submit(pool.parse, path, "a.txt")
        (tmp_path / "started").open("rb").close()
        pool.close()
        with pytest.raises(ParserClosed):
            parsing.result()
    with pytest.raises(ParserClosed):
        pool.parse(path, "a.txt")


@ONLY_LINUX
@pytest.mark.parametrize("code", ["", FOREVER])
def test_a_parser_ends_when_the_worker_is_killed(tmp_path: Path, code: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), code], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout
    parser = int(worker.stdout.readline())
    ended = os.pidfd_open(parser)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)


PARENT = f"""
import sys
from pathlib import Path
from threading import Thread
from time import sleep
from worker.files.parsing.options import ParseOptions
from worker.files.parsing.pool import ParserPool

path, code = Path(sys.argv[1], "a.txt"), sys.argv[2]
pool = ParserPool(ParseOptions(), {HOSTILE!r})
path.write_text({PID!r})
print(pool.parse(path, "a.txt").content, flush=True)
if code:
    path.write_text(code)
    pool.parse(path, "a.txt")
sys.stdin.read()
sleep(300)
"""


# Confinement


def test_signals_of_the_terminal_and_of_systemd_do_not_end_a_parser(opened: Pool, run: Run) -> None:
    code = (
        "import os, signal\nfor each in (signal.SIGINT, signal.SIGTERM):\n"
        "  os.kill(os.getpid(), each)\ncontent = os.getsid(0) == os.getpid()"
    )
    assert run(opened(), code) == "True"


def test_a_parser_gets_no_secrets(opened: Pool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    assert "PYTHONUTF8" in (names := run(opened(), "import os; content = sorted(os.environ)"))
    assert not {"OPENAI_API_KEY", "DATABASE_URL", "PATH", "HOME"} & set(names.split("'"))


def test_a_parser_imports_neither_the_database_nor_the_command_line(opened: Pool, run: Run) -> None:
    names = run(opened(), "import sys; content = sorted(sys.modules)")
    assert "worker.files.parsing.child" in names
    assert not {"psycopg", "typer", "openai", "numpy", "worker.settings"} & set(names.split("'"))


def test_what_a_parser_prints_reaches_nobody(
    opened: Pool, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import os, sys; print('secret', file=sys.stderr); os.write(1, b'secret'); content = 1"
    assert run(opened(), code) == "1"
    assert "secret" not in "".join(capfd.readouterr())


def test_a_parser_can_write_no_file_and_dump_no_memory(
    opened: Pool, run: Run, tmp_path: Path
) -> None:
    written = tmp_path / "written"
    code = f"import pathlib; pathlib.Path({str(written)!r}).write_text('x')"
    assert run(opened(), code) == "damaged"
    assert not written.read_bytes()
    core = "import resource; content = resource.getrlimit(resource.RLIMIT_CORE)"
    assert run(opened(), core) == "(1, 1)"


@ONLY_LINUX
def test_a_parser_is_ended_first_when_memory_runs_out(opened: Pool, run: Run) -> None:
    assert run(opened(), "content = open('/proc/self/oom_score_adj').read()") == "1000\n"


def test_the_cpu_time_of_each_file_is_limited(opened: Pool, run: Run) -> None:
    left = (
        "import resource, time\n"
        "content = resource.getrlimit(resource.RLIMIT_CPU)[0] - time.process_time()"
    )
    pool = opened(seconds=10)
    assert 10 <= float(run(pool, left)) <= 12
    lower = (
        "import resource; _, highest = resource.getrlimit(resource.RLIMIT_CPU)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (1, highest))\n"
    )
    assert run(pool, lower + FOREVER) == "parse_timed_out"


@ONLY_LINUX
def test_the_memory_of_the_worker_does_not_grow_with_hostile_files(
    opened: Pool, tmp_path: Path
) -> None:
    pool = opened()
    files: dict[str, tuple[str | bytes, str]] = {
        "bomb.docx": (bomb("word/document.xml", 600 * MB), "too_large"),
        "crash.txt": ("import os; os._exit(3)", "parse_killed"),
        "scan.pdf": (pdf(""), "no_text"),
        "cut.pdf": (pdf("text")[:300], "damaged"),
        "long.txt": ("content = 'x' * 15_000_000", "parsed"),
    }
    for name, (content, _) in files.items():
        write(tmp_path, name, content)

    def parse_all() -> list[str]:
        return [outcome(pool, tmp_path / name) for name in files]

    expected = [error_class for _, error_class in files.values()]
    assert parse_all() == expected
    release_memory()
    before = resident_mb()
    for _ in range(10):
        assert parse_all() == expected
    release_memory()
    assert resident_mb() - before < 2


def outcome(pool: ParserPool, path: Path) -> str:
    """The error class of a file, or that it was parsed."""
    try:
        pool.parse(path, path.name)
    except ParseFailure as error:
        return error.error_class
    return "parsed"
