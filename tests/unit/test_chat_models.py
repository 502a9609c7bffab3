"""Chat models against servers that answer as OpenAI and Ollama do, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from tests.http_server import Answer, Fault, answers, cut_short, hang, not_json
from tests.ollama_server import CRASHED, OllamaServer, chat_answer
from tests.openai_server import (
    OpenAIServer,
    completion,
    error_with_status_200,
    out_of_quota,
    rate_limited,
    server_error,
    text_for,
    unavailable,
)
from tests.unit.conftest import OpenChat, chat_failure
from worker.embedders.base import ChatAnswer, ChatModel, ChatPrice, chat_cost
from worker.embedders.dialects import DIALECTS
from worker.embedders.models import chat_price
from worker.embedders.registry import check_chat_model, open_chat_model
from worker.errors import ProviderError, ProviderRefused, Rejected, SettingsError, Transient
from worker.settings import Settings

PROMPT, DATA = "Describe it.", '{"title": "Ü 😀"}'
MESSAGES = [{"role": "system", "content": PROMPT}, {"role": "user", "content": DATA}]
WRITTEN = text_for(PROMPT, DATA)


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def gpt(openai: OpenAIServer, opened_chat: OpenChat) -> ChatModel:
    return at_openai(openai, opened_chat, "gpt-4o-mini")


@pytest.fixture
def gemma(ollama: OllamaServer, opened_chat: OpenChat) -> ChatModel:
    return opened_chat("ollama:gemma3:12b", ollama_host=ollama.root)


def at_openai(server: OpenAIServer, opened_chat: OpenChat, name: str) -> ChatModel:
    return opened_chat(
        f"openai:{name}", openai_base_url=server.base_url, openai_api_key=server.api_key
    )


@pytest.fixture
def itself(openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    """OpenAI at its own address: no OPENAI_BASE_URL is needed for it."""
    dialect = replace(DIALECTS["openai"], base_url=openai.base_url)
    monkeypatch.setattr("worker.embedders.chat_models.DIALECTS", {"openai": dialect})
    return openai


# Which there are


def test_what_they_say_of_themselves(gpt: ChatModel, gemma: ChatModel) -> None:
    assert (gpt.provider, gpt.model) == ("openai chat", "openai:gpt-4o-mini")
    assert (gemma.provider, gemma.model) == ("ollama chat", "ollama:gemma3:12b")
    assert (gpt.price, gemma.price) == (ChatPrice(0.15, 0.60), ChatPrice(0, 0))
    assert (gpt.concurrency.first, gpt.concurrency.most) == (8, 32)
    assert (gemma.concurrency.first, gemma.concurrency.most) == (2, 8)


@pytest.mark.parametrize("name", ["", "gemma3", "openai", "openai:", "local:m", "cohere:m", ":m"])
def test_any_other_is_refused_with_what_there_is(name: str) -> None:
    for check in (check_chat_model, lambda name: open_chat_model(name, Settings())):
        with pytest.raises(SettingsError) as caught:
            check(name)
        assert caught.value.cause == f"there is no chat model `{name}`"
        assert "openai and ollama" in str(caught.value.hint)


def test_openai_needs_a_key_or_a_server_that_needs_none() -> None:
    check_chat_model("openai:gpt-4o-mini")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        open_chat_model("openai:gpt-4o-mini", Settings())
    open_chat_model("openai:m", Settings(openai_base_url="http://127.0.0.1:9/v1")).close()


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("gpt-4o-mini", ChatPrice(0.15, 0.60)),
        ("gpt-4o-mini-2024-07-18", ChatPrice(0.15, 0.60)),
        ("openai/gpt-4.1", ChatPrice(2, 8)),
        ("GPT-5-nano", ChatPrice(0.05, 0.40)),
        ("gpt-4o-2024-05-13", ChatPrice(5, 15)),
        ("gpt-4o-2024-11-20", ChatPrice(2.50, 10)),
        ("gpt-4o-audio-preview", None),
        ("ft:gpt-4o-mini-2024-07-18:org::id", None),
        ("qwen3", None),
    ],
)
def test_a_price_is_that_of_the_name(name: str, price: ChatPrice | None) -> None:
    assert chat_price(name) == price


def test_the_cost_of_an_answer_is_that_of_what_was_read_and_written() -> None:
    price = ChatPrice(0.25, 2.0)
    assert chat_cost(ChatAnswer("x", 1_000_000, 500_000), price) == 1.25
    assert chat_cost(ChatAnswer("x", 1_000_000, 500_000), None) is None
    assert chat_cost(ChatAnswer("x", None, 1), price) is None
    assert chat_cost(ChatAnswer("x", 1, None), price) is None


# What is asked


def test_a_server_of_openais_dialect_is_asked_in_one_request(
    openai: OpenAIServer, gpt: ChatModel
) -> None:
    answer = gpt.answer(PROMPT, DATA)
    assert (answer.text, answer.read, answer.written) == (WRITTEN, 8, 11)
    assert answer.allowances["requests"].limit == 3000
    [request] = openai.requests
    assert (request.path, request.bearer) == ("/v1/chat/completions", openai.api_key)
    assert request.body == {
        "model": "gpt-4o-mini",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 1000,
    }


def test_openai_itself_is_asked_with_the_newer_name_of_the_limit(
    itself: OpenAIServer, opened_chat: OpenChat
) -> None:
    model = opened_chat("openai:gpt-4.1-nano", openai_api_key=itself.api_key)
    assert model.answer(PROMPT, DATA).text == WRITTEN
    [request] = itself.requests
    assert request.body["max_completion_tokens"] == 1000
    assert "max_tokens" not in request.body


def test_ollama_is_asked_in_one_request_and_never_to_truncate(
    ollama: OllamaServer, gemma: ChatModel
) -> None:
    answer = gemma.answer(PROMPT, DATA)
    assert (answer.text, answer.read, answer.written) == (WRITTEN, 8, 11)
    assert not answer.allowances
    [request] = ollama.requests
    assert request.path == "/api/chat"
    assert request.body == {
        "model": "gemma3:12b",
        "messages": MESSAGES,
        "stream": False,
        "truncate": False,
        "keep_alive": "30m",
        "options": {"temperature": 0, "num_predict": 1000, "num_ctx": 4096},
    }
    assert "authorization" not in request.headers


def test_chat_models_of_ollama_may_have_an_address_of_their_own(
    ollama: OllamaServer, opened_chat: OpenChat
) -> None:
    elsewhere = "http://127.0.0.1:9"
    model = opened_chat("ollama:gemma3:12b", ollama_host=elsewhere, ollama_llm_base_url=ollama.root)
    assert model.answer(PROMPT, DATA).text == WRITTEN
    error = chat_failure(opened_chat("ollama:nowhere", ollama_llm_base_url=ollama.root))
    assert error.hint == "Run `ollama pull nowhere` at OLLAMA_LLM_BASE_URL, then start again."
    error = chat_failure(opened_chat("ollama:nowhere", ollama_host=ollama.root))
    assert error.hint == "Run `ollama pull nowhere` at OLLAMA_HOST, then start again."


def test_a_lone_surrogate_is_sent_as_a_question_mark(gpt: ChatModel, gemma: ChatModel) -> None:
    for model in (gpt, gemma):
        assert model.answer("a\ud800b", "c\udfffd").text == text_for("a?b", "c?d")


def test_several_threads_may_ask_at_once(gpt: ChatModel) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = [each.text for each in pool.map(gpt.answer, [PROMPT] * 40, map(str, range(40)))]
    assert texts == [text_for(PROMPT, str(number)) for number in range(40)]


# Models that reason


def fields(server: OpenAIServer) -> list[dict[str, object]]:
    """What each request had beside the model and the messages."""
    return [
        {name: value for name, value in request.body.items() if name not in ("model", "messages")}
        for request in server.requests
    ]


def test_what_a_model_that_reasons_refuses_is_left_out_from_then_on(
    openai: OpenAIServer, opened_chat: OpenChat
) -> None:
    model = at_openai(openai, opened_chat, "gpt-5-mini")
    assert [model.answer(PROMPT, DATA).text for _ in range(2)] == [WRITTEN, WRITTEN]
    assert fields(openai) == [
        {"max_tokens": 1000, "temperature": 0},
        {"max_completion_tokens": 1000, "temperature": 0},
        {"max_completion_tokens": 8000},
        {"max_completion_tokens": 8000},
    ]


def test_threads_that_are_refused_at_once_all_get_an_answer(
    openai: OpenAIServer, opened_chat: OpenChat
) -> None:
    model = at_openai(openai, opened_chat, "gpt-5-mini")
    openai.latency = 0.05
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.answer, [PROMPT] * 8, [DATA] * 8))
    assert {answer.text for answer in found} == {WRITTEN}


@pytest.mark.parametrize("name", ["openai:gpt-4o-mini", "ollama:gemma3:12b"])
def test_threads_whose_answers_are_cut_at_once_all_get_another(
    openai: OpenAIServer, ollama: OllamaServer, opened_chat: OpenChat, name: str
) -> None:
    server, body = (
        (openai, completion(None, "length"))
        if name.startswith("openai")
        else (ollama, chat_answer("", "length"))
    )
    settings = {"openai_base_url": openai.base_url, "openai_api_key": openai.api_key}
    model = opened_chat(name, ollama_host=ollama.root, **settings)
    everyone = Barrier(4)

    def wait_for_the_others(due: Answer) -> Answer:
        everyone.wait(10)
        return answers(200, body)(due)  # type: ignore[return-value]

    server.faults += [wait_for_the_others] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.answer, [PROMPT] * 4, [DATA] * 4))
    assert {answer.text for answer in found} == {WRITTEN}
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    "words",
    [
        "litellm.BadRequestError: Unsupported value: 'temperature' does not support 0 with this",
        "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0. Only",
        "openai does not support parameters: ['temperature'], for model=o3.",
    ],
)
def test_a_server_in_between_may_refuse_the_temperature_in_words_only(
    openai: OpenAIServer, gpt: ChatModel, words: str
) -> None:
    openai.faults.append(answers(400, {"error": {"message": words, "code": "400"}}))
    assert gpt.answer(PROMPT, DATA).text == WRITTEN
    assert ["temperature" in each for each in fields(openai)] == [True, False]


def test_a_field_that_is_refused_although_it_was_not_sent_is_no_reason_to_try_again(
    openai: OpenAIServer, gpt: ChatModel
) -> None:
    refusal = answers(400, {"error": {"code": "unsupported_value", "param": "temperature"}})
    openai.faults += [refusal] * 5
    assert chat_failure(gpt).error_class == "rejected"
    assert len(openai.requests) == 2


@pytest.mark.parametrize("param", ["messages", "model", "max_completion_tokens", None, 7])
def test_the_refusal_of_another_field_is_for_the_text(
    openai: OpenAIServer, gpt: ChatModel, param: object
) -> None:
    body = {"error": {"code": "unsupported_value", "param": param, "message": "Not this."}}
    openai.faults.append(answers(400, body))
    assert chat_failure(gpt).error_class == "rejected"
    assert len(openai.requests) == 1


def test_a_model_that_spends_its_room_on_reasoning_gets_more(
    openai: OpenAIServer, gpt: ChatModel
) -> None:
    openai.faults.append(answers(200, completion("<think>Let me see", "length")))
    assert gpt.answer(PROMPT, DATA).text == WRITTEN
    gpt.answer(PROMPT, DATA)
    assert [each["max_tokens"] for each in fields(openai)] == [1000, 8000, 8000]
    openai.faults.append(answers(200, completion(None, "length")))
    assert chat_failure(gpt).error_class == "empty_answer"
    assert len(openai.requests) == 4


def test_one_text_without_an_answer_changes_nothing_for_the_others(
    openai: OpenAIServer, gpt: ChatModel
) -> None:
    words = "'max_tokens' is too large: 8000. This model's maximum context length is 4096 tokens"
    openai.faults += [
        answers(200, completion(" ", "length")),
        answers(400, {"error": {"message": words}}),
    ]
    assert chat_failure(gpt).error_class == "too_long"
    assert gpt.answer(PROMPT, DATA).text == WRITTEN
    assert [each["max_tokens"] for each in fields(openai)] == [1000, 8000, 1000]


def test_a_model_of_ollama_that_thinks_is_told_not_to(
    ollama: OllamaServer, opened_chat: OpenChat
) -> None:
    model = opened_chat("ollama:qwen3:8b", ollama_host=ollama.root)
    assert [model.answer(PROMPT, DATA).text for _ in range(2)] == [WRITTEN, WRITTEN]
    assert [request.body.get("think") for request in ollama.requests] == [None, False, False]
    rooms = [request.body["options"]["num_predict"] for request in ollama.requests]
    assert rooms == [1000, 1000, 1000]


@pytest.mark.parametrize("thinking", ["in a field", "in its text"])
def test_a_short_thought_is_the_last_one(
    ollama: OllamaServer, gemma: ChatModel, thinking: str
) -> None:
    body = chat_answer("Yes.")
    if thinking == "in a field":
        body["message"]["thinking"] = "Is it?"
    else:
        body = chat_answer("<think>Is it?</think>\n\nYes.")
    ollama.faults.append(answers(200, body))
    assert gemma.answer(PROMPT, DATA).text == "Yes."
    gemma.answer(PROMPT, DATA)
    assert [request.body.get("think") for request in ollama.requests] == [None, False]


def test_a_model_of_ollama_that_thinks_nevertheless_gets_more_room(
    ollama: OllamaServer, gemma: ChatModel
) -> None:
    ollama.faults += [answers(200, chat_answer("", "length"))] * 3
    assert chat_failure(gemma).error_class == "empty_answer"
    options = [request.body["options"] for request in ollama.requests]
    assert [each["num_predict"] for each in options] == [1000, 1000, 8000]
    assert [each["num_ctx"] for each in options] == [4096, 4096, 8192]


# The context of Ollama


def test_a_context_is_large_enough_and_never_shrinks(
    ollama: OllamaServer, gemma: ChatModel
) -> None:
    sizes = [3 * 3096 - 10, 3 * 3096 - 9, 30_000, 100, 3 * (32_768 - 1000) - 10]
    for size in sizes:
        assert gemma.answer("0123456789", "x" * size)
    contexts = [request.body["options"]["num_ctx"] for request in ollama.requests]
    assert contexts == [4096, 8192, 16_384, 16_384, 32_768]


def test_what_fits_into_no_context_is_not_sent(ollama: OllamaServer, gemma: ChatModel) -> None:
    error = chat_failure(gemma, "x" * 100_000)
    assert isinstance(error, Rejected)
    assert error.error_class == "too_long"
    assert not ollama.requests


def test_what_has_more_tokens_than_estimated_is_refused_and_never_cut(
    ollama: OllamaServer, gemma: ChatModel
) -> None:
    ollama.faults.append(answers(400, {"error": "the input length exceeds the context length"}))
    assert chat_failure(gemma).error_class == "too_long"


def test_a_model_that_is_loaded_again_for_its_context_is_waited_for_longer(
    ollama: OllamaServer, opened_chat: OpenChat
) -> None:
    model = opened_chat("ollama:gemma3:12b", ollama_host=ollama.root, embedding_timeout_seconds=0.1)
    for data in ("short", "x" * 30_000):
        ollama.loading_seconds = 0.3
        model.answer(PROMPT, data)
    ollama.faults.append(hang)
    error = chat_failure(model)
    assert (error.error_class, "within 0.1 s" in error.cause) == ("timed_out", True)


# What goes wrong


def test_a_wrong_key_is_refused_and_not_repeated(
    openai: OpenAIServer, opened_chat: OpenChat
) -> None:
    key = "sk-wrong-Zk3vQ8mW1xT6yB0cR5nHd7Lp"
    model = opened_chat("openai:gpt-4o-mini", openai_base_url=openai.base_url, openai_api_key=key)
    error = chat_failure(model)
    assert isinstance(error, ProviderRefused)
    assert (error.error_class, error.of_the_model) == ("unauthorized", False)
    assert "Incorrect API key provided: [redacted]" in error.cause
    assert error.hint == "Check OPENAI_API_KEY, then start again."
    assert key not in repr(model)


@pytest.mark.parametrize("name", ["nowhere", "text-embedding-3-small"])
def test_a_model_that_openai_does_not_have_for_chats_is_refused(
    openai: OpenAIServer, opened_chat: OpenChat, name: str
) -> None:
    error = chat_failure(at_openai(openai, opened_chat, name))
    assert isinstance(error, ProviderRefused)
    assert (error.error_class, error.of_the_model) == ("not_found", True)


def test_an_embedding_model_of_ollama_is_refused_as_a_chat_model(
    ollama: OllamaServer, opened_chat: OpenChat
) -> None:
    error = chat_failure(opened_chat("ollama:nomic-embed-text", ollama_host=ollama.root))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith('answered 400: "nomic-embed-text" does not support chat')
    assert (error.error_class, error.of_the_model) == ("refused", True)
    assert error.hint == "Check the name of the model, and OLLAMA_HOST, then start again."


@pytest.mark.parametrize(
    ("fault", "kind", "error_class"),
    [
        (rate_limited(**{"retry-after": "7"}), Transient, "rate_limited"),
        (out_of_quota, ProviderRefused, "out_of_credit"),
        (server_error, Transient, "provider_error"),
        (unavailable, Transient, "overloaded"),
        (error_with_status_200, Transient, "bad_answer"),
        (cut_short, Transient, "unreachable"),
        (not_json, Transient, "bad_answer"),
        (answers(403, {}), ProviderRefused, "unauthorized"),
        (answers(418, {}), ProviderRefused, "refused"),
        (answers(413, {}), Rejected, "too_long"),
        (answers(400, {"error": {"message": "No.", "code": "content_filter"}}), Rejected, None),
        (
            answers(400, {"error": {"message": "x", "type": "exceed_context_size_error"}}),
            Rejected,
            "too_long",
        ),
        (
            answers(
                400, {"error": "… the model is loaded with context length of only 4096 tokens"}
            ),
            Rejected,
            "too_long",
        ),
        (
            answers(429, {"error": {"message": "Request too large for gpt-4o-mini: Limit 1"}}),
            Rejected,
            "too_long",
        ),
    ],
)
def test_an_error_of_openai_has_its_class(
    openai: OpenAIServer,
    gpt: ChatModel,
    fault: Fault,
    kind: type[ProviderError],
    error_class: str | None,
) -> None:
    openai.faults.append(fault)
    error = chat_failure(gpt)
    assert isinstance(error, kind)
    assert error.error_class == (error_class or "rejected")
    if isinstance(error, Transient) and error_class == "rate_limited":
        assert error.retry_after == 7
    assert gpt.answer(PROMPT, DATA).text == WRITTEN


@pytest.mark.parametrize(
    ("fault", "kind", "error_class"),
    [
        (answers(400, {"error": CRASHED}), Transient, "provider_error"),
        (answers(500, {"error": "model requires more system memory"}), Transient, "provider_error"),
        (answers(503, {"error": "server busy"}), Transient, "overloaded"),
        (answers(401, {"error": "no"}), ProviderRefused, "unauthorized"),
        (answers(200, {"error": "later"}), Transient, "bad_answer"),
        (cut_short, Transient, "unreachable"),
        (not_json, Transient, "bad_answer"),
        (answers(413), Rejected, "too_long"),
        (answers(400, {"error": "invalid options"}), Rejected, "rejected"),
    ],
)
def test_an_error_of_ollama_has_its_class(
    ollama: OllamaServer,
    gemma: ChatModel,
    fault: Fault,
    kind: type[ProviderError],
    error_class: str,
) -> None:
    ollama.faults.append(fault)
    error = chat_failure(gemma)
    assert isinstance(error, kind)
    assert error.error_class == error_class
    assert gemma.answer(PROMPT, DATA).text == WRITTEN


def test_an_input_that_openai_finds_too_long_is(openai: OpenAIServer, gpt: ChatModel) -> None:
    error = chat_failure(gpt, "x" * 600_000)
    assert isinstance(error, Rejected)
    assert error.error_class == "too_long"


def test_nobody_at_the_address_is_unreachable(opened_chat: OpenChat) -> None:
    for name, setting in (("openai:m", "openai_base_url"), ("ollama:m", "ollama_llm_base_url")):
        error = chat_failure(opened_chat(name, **{setting: "http://me:hunter2@127.0.0.1:9"}))
        assert isinstance(error, Transient)
        assert error.error_class == "unreachable"
        assert "hunter2" not in error.cause


def refused_by_the_model(words: str) -> Fault:
    body = completion(None)
    body["choices"][0]["message"]["refusal"] = words
    return answers(200, body)


@pytest.mark.parametrize(
    "fault",
    [
        refused_by_the_model("I cannot write about hunter2."),
        answers(200, completion("I cannot", "content_filter")),
        answers(200, completion(None, "content_filter")),
    ],
)
def test_a_refusal_of_the_model_is_for_the_text_and_does_not_repeat_it(
    openai: OpenAIServer, gpt: ChatModel, fault: Fault
) -> None:
    openai.faults.append(fault)
    error = chat_failure(gpt)
    assert isinstance(error, Rejected)
    assert error.error_class == "rejected"
    assert error.cause.endswith(" refused to write about this text")
