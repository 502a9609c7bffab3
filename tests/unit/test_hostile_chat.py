"""No answer of a chat model is trusted: neither its form nor its text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile_server import HostileServer, endless
from tests.http_server import answers
from tests.ollama_server import chat_answer
from tests.openai_server import completion
from tests.unit.conftest import OpenChat, chat_failure
from tests.unit.test_hostile_answers import ODD, TOKENS, ElsewhereServer
from worker.embedders.answers import written_text
from worker.embedders.base import ChatAnswer, ChatModel
from worker.errors import Rejected, Transient

PROVIDERS = ["openai", "ollama"]
each_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def server() -> Iterator[ElsewhereServer]:
    with ElsewhereServer() as server:
        yield server


def at(opened_chat: OpenChat, provider: str, root: str) -> ChatModel:
    setting = "openai_base_url" if provider == "openai" else "ollama_llm_base_url"
    return opened_chat(f"{provider}:m", **{setting: root})


def body_of(provider: str, text: str, ending: str = "stop") -> dict[str, Any]:
    return completion(text, ending) if provider == "openai" else chat_answer(text, ending)


def answered(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str, body: object
) -> ChatAnswer:
    server.faults.append(answers(200, body))
    return at(opened_chat, provider, server.root).answer("prompt", "data")


# Its form


ODD_CHATS = {
    "no choices": '{"choices": []}',
    "choices that are none": '{"choices": [null], "message": null}',
    "choices of another type": '{"choices": {"0": {}}, "message": []}',
    "text": '{"choices": "words", "message": "words"}',
    "no message": '{"choices": [{}], "done": true}',
    "a list": '{"choices": [{"message": []}], "message": [[]]}',
    "a number": '{"choices": [{"message": {"content": 7}}], "message": {"content": 7}}',
    "parts": '{"choices": [{"message": {"content": [{}]}}], "message": {"content": [{}]}}',
    "an error": '{"error": {"message": "later"}, "choices": [], "message": {"content": "x"}}',
    "nothing": "{}",
    "half of a pair": r'{"choices": [{"message": {"content": "\ud800"}}]}',
    "a deep message": '{"message": ' + "[" * 100_000,
}


@each_provider
@pytest.mark.parametrize("body", (ODD | ODD_CHATS).values(), ids=(ODD | ODD_CHATS).keys())
def test_whatever_the_answer_is_it_is_a_bad_one(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str, body: str | bytes
) -> None:
    server.faults.append(answers(200, body if isinstance(body, bytes) else body.encode()))
    error = chat_failure(at(opened_chat, provider, server.root))
    assert isinstance(error, Transient)
    assert (error.error_class, error.of_the_input) == ("bad_answer", True)


@each_provider
def test_an_answer_that_is_broken_is_not_repeated(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str
) -> None:
    whole = json.dumps(body_of(provider, "hunter2")).encode()
    for broken in (whole[:-5], whole.replace(b"{", b"[")):
        server.faults.append(answers(200, broken))
        error = chat_failure(at(opened_chat, provider, server.root))
        assert "hunter2" not in error.cause
        assert error.error_class == "bad_answer"


@each_provider
def test_an_answer_without_end_is_a_bad_one(opened_chat: OpenChat, provider: str) -> None:
    with HostileServer(endless(b" " * 2**20)) as server:
        error = chat_failure(at(opened_chat, provider, server.root))
    assert error.cause.endswith(" sent an unusable answer: more than 64 MB")


@each_provider
@pytest.mark.parametrize("tokens", TOKENS)
def test_a_number_of_tokens_that_cannot_be_is_unsaid(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str, tokens: str
) -> None:
    text = json.dumps(body_of(provider, "text")).replace(": 9", f": {tokens}")
    answer = answered(server, opened_chat, provider, text.encode())
    assert (answer.text, answer.read, answer.written) == ("text", None, None)


@pytest.mark.parametrize("usage", [None, [], "words", 7, {"prompt_tokens": {}}])
def test_usage_of_another_form_is_unsaid(
    server: ElsewhereServer, opened_chat: OpenChat, usage: object
) -> None:
    answer = answered(server, opened_chat, "openai", completion("text") | {"usage": usage})
    assert (answer.read, answer.written) == (None, None)


@pytest.mark.parametrize("name", ["../../admin", "/m", "//evil.example/m", "m\r\nhost: x", "m\x00"])
@each_provider
def test_the_name_of_a_model_does_not_choose_the_address(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str, name: str
) -> None:
    setting = "openai_base_url" if provider == "openai" else "ollama_llm_base_url"
    chat_failure(opened_chat(f"{provider}:{name}", **{setting: server.root}))
    [request] = server.requests
    assert request.path == ("/chat/completions" if provider == "openai" else "/api/chat")
    assert request.body["model"] == name


# Its text


@each_provider
@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "\x00\x1f", "\u200b\ufeff", "<think>x</think>", "<think>x", "x</think> "],
)
def test_an_answer_without_visible_text_is_none(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str, text: str
) -> None:
    with pytest.raises(Rejected) as caught:
        answered(server, opened_chat, provider, body_of(provider, text))
    assert caught.value.error_class == "empty_answer"
    assert caught.value.cause.endswith(" sent an answer without visible text")
    assert len(server.requests) == 1


@each_provider
def test_an_answer_without_end_is_cut(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str
) -> None:
    answer = answered(server, opened_chat, provider, body_of(provider, "word " * 2_000_000))
    assert answer.text == ("word " * 400).strip()


@each_provider
def test_an_answer_that_is_cut_ends_with_a_whole_word(
    server: ElsewhereServer, opened_chat: OpenChat, provider: str
) -> None:
    body = body_of(provider, "A handbook of the com", "length")
    assert answered(server, opened_chat, provider, body).text == "A handbook of the"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  text\n", "text"),
        ("two\nlines\r\nand\rmore\tof\x00it\x1f.\x7f\x85\x9f", "two\nlines\nand more of it ."),
        ("a\ud800b", "a?b"),
        ("\n<think>\nIs it?\n</think>\n\nYes.", "Yes."),
        ("It is.</think>Yes.", "Yes."),  # of a model whose template begins to think
        ("<think>a</think>b</think>c", "c"),
        ("Of <think> in a text.", "Of <think> in a text."),
        ("x" * 5000, "x" * 2000),
        ("字" * 5000, "字" * 2000),
        ("名前 " + "字" * 5000, "名前 " + "字" * 1997),
        ("x" * 1999 + " y", "x" * 1999),
        ("x" * 2000 + " y", "x" * 2000),
        ("x" * 1998 + " yz", "x" * 1998),
        ("x" * 1998 + " y", "x" * 1998 + " y"),
        (" " * 10_000 + "text", "text"),
    ],
)
def test_a_text_is_made_clean(content: str, text: str) -> None:
    assert written_text(content) == text
