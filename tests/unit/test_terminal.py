"""What may reach a terminal, and in which encoding."""

from __future__ import annotations

import json
import sys
import unicodedata
from io import BytesIO, StringIO, TextIOWrapper

import pytest

from worker.cli.console import out_json, report, say
from worker.errors import WorkerError
from worker.figures import counted, rounded_down
from worker.terminal import PLAIN, STEERING, as_json, prepare_streams, printable, write

JOINERS = {"\u200c", "\u200d"}
RESERVED = {"\u2065"}  # between format characters, and to be one of them if it ever is any
EVERY = [chr(number) for number in range(sys.maxunicode + 1)]
HOSTILE = (
    "a\x00\x1b[31m\x07\r\n\x7f\x9b2J\u061c\u200e\u200f\u2028\u202e\u2066\ufeff\udcff\U000e0041b"
)


def test_all_that_steers_is_taken_out_and_nothing_else() -> None:
    steering = {sign for sign in EVERY if STEERING.fullmatch(sign)}
    wanted = {
        sign for sign in EVERY if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    assert wanted - JOINERS <= steering
    newer = {sign for sign in steering - wanted if unicodedata.category(sign) == "Cn"}
    assert (
        steering - wanted == newer
    )  # not known to the Unicode of this Python, and none of letters
    assert len(newer) < 20
    assert not steering & JOINERS


def test_a_text_keeps_its_length_and_its_letters() -> None:
    assert printable(HOSTILE) == "a" + "\ufffd[31m".join(["\ufffd", "\ufffd" * 4]) + "\ufffd2J" + (
        "\ufffd" * 9 + "b"
    )
    for text in ("Ünïcödé 文書 🙂 عربي हिन्दी", "में\u200dभी", "👨\u200d👩\u200d👧"):
        assert printable(text) == text


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1", "ascii", None])
def test_json_is_the_same_value_in_every_encoding_and_steers_nothing(encoding: str | None) -> None:
    value = {"a": HOSTILE, "ö": ["文書 🙂", 1.5, None]}
    text = as_json(value, encoding=encoding)
    assert json.loads(text) == value
    assert not STEERING.search(text)
    assert ("文書 🙂" in text) is (encoding in ("utf-8", None))
    text.encode(encoding or "utf-8")


def test_json_is_never_broken_by_a_value_of_another_kind() -> None:
    class Odd:
        def __str__(self) -> str:
            return HOSTILE

    assert json.loads(as_json({"odd": Odd()})) == {"odd": HOSTILE}


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "███░░░ é 文 … \u2013 \ufffd"),
        ("cp1252", "###... é ? … \u2013 ?"),
        ("latin-1", "###... é ? ~ - ?"),
        ("ascii", "###... ? ? ~ - ?"),
    ],
)
def test_what_an_encoding_lacks_is_replaced(
    encoding: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = BytesIO()
    monkeypatch.setattr(sys, "stderr", TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding=encoding))
    prepare_streams()
    say("███░░░ é 文 … \u2013 \udcff")
    assert raw.getvalue().decode(encoding) == written + "\n"
    out_json({"bar": "█"})


def test_our_own_signs_have_a_plain_one_each() -> None:
    assert all(len(str(plain)) for plain in PLAIN.values())
    assert "".join(map(chr, PLAIN)).translate(PLAIN).isascii()


def test_one_line_is_one_line_whatever_is_in_it() -> None:
    stream = StringIO()
    write(stream, "first\nerror: forged\x1b[0m")
    assert stream.getvalue() == "first\ufffderror: forged\ufffd[0m\n"


def test_an_error_is_one_line_of_cause_and_one_of_cure(capsys: pytest.CaptureFixture[str]) -> None:
    report(WorkerError("a\nb\x1b[2J", "c\nhint: d"))
    assert capsys.readouterr().err == "error: a b\ufffd[2J\nhint: c hint: d\n"


def test_a_highlight_is_ours_alone() -> None:
    stream = StringIO()
    write(stream, "12:00 info \x1b[31minfo", highlight=("info", "36"))
    assert stream.getvalue() == "12:00 \x1b[36minfo\x1b[0m \ufffd[31minfo\n"


def test_streams_that_were_closed_are_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    prepare_streams()
    say("nobody hears this")
    assert sys.stdin.read() == ""
    assert not sys.stdout.isatty()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize(
    ("percent", "shown"),
    [(0, 0.0), (66.66, 66.6), (99.999, 99.9), (100, 100.0), (100 * 0.29, 29.0), (57.3, 57.3)],
)
def test_a_percentage_is_rounded_down(percent: float, shown: float) -> None:
    assert rounded_down(percent) == shown


def test_every_share_of_ten_thousand_is_rounded_down() -> None:
    for done in range(10_001):
        assert rounded_down(100.0 * done / 10_000) == done // 10 / 10
        assert rounded_down(100.0 * (1 - (10_000 - done) / 10_000)) == done // 10 / 10


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_a_number_agrees_with_its_noun(count: int, text: str) -> None:
    assert counted(count, "row") == text
