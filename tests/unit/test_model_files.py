"""The files of a model come from a folder or from the hub, once, and run no code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http_server import answers
from tests.hub_server import HubServer
from worker.embedders import model_files
from worker.embedders.base import Prompts
from worker.embedders.model_files import (
    CONFIG,
    check_usable,
    model_folder,
    own_prompts,
    why_unusable,
)
from worker.embedders.prompts import NONE
from worker.errors import ProviderRefused, SettingsError, Transient, WorkerError
from worker.settings import Settings

constants = pytest.importorskip("huggingface_hub.constants")

MODEL = "acme/small-embeddings"
FILES = {
    "modules.json": b"[]",
    "config.json": b"{}",
    CONFIG: json.dumps({"prompts": {"query": "query: ", "passage": "passage: "}}).encode(),
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"weights as a pickle",
    "modeling.py": b"raise SystemExit",
    "onnx/model.onnx": b"weights once more",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with MODEL, and an empty cache."""
    with HubServer(FILES, MODEL) as server:
        address(monkeypatch, server.root)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def address(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """Have the hub's client use a hub at `root`, as HF_ENDPOINT does at its import."""
    monkeypatch.setattr(constants, "ENDPOINT", root)
    files = root + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


def failure(name: str = MODEL) -> Any:
    """The error of a download."""
    with pytest.raises(WorkerError) as caught:
        model_folder(name)
    assert caught.value.cause.isprintable()
    return caught.value


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_a_model_is_downloaded_once_and_then_the_hub_is_not_asked(hub: HubServer) -> None:
    folder = model_folder(MODEL)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    hub.requests.clear()
    hub.files["model.safetensors"] = b"another version"
    assert model_folder(MODEL) == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert hub.requests == []


def test_what_may_run_code_is_not_downloaded(hub: HubServer) -> None:
    folder = model_folder(MODEL)
    expected = {"modules.json", "config.json", CONFIG, "model.safetensors"}
    assert names_in(folder) == set(hub.downloaded) == expected


def test_the_prompts_are_read_before_anything_large_is_downloaded(hub: HubServer) -> None:
    assert own_prompts(MODEL) == Prompts("passage: ", "query: ")
    assert hub.downloaded == [CONFIG]
    assert "model.safetensors" in names_in(model_folder(MODEL))


def test_no_telemetry_is_sent(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    model_folder(MODEL)
    assert constants.HF_HUB_DISABLE_TELEMETRY


def test_a_download_that_broke_off_is_continued(hub: HubServer) -> None:
    own_prompts(MODEL)  # the list of files is here, and one of the files
    hub.faults.extend([answers(500)] * 20)
    assert isinstance(failure(), Transient)
    hub.faults.clear()
    assert "model.safetensors" in names_in(model_folder(MODEL))


@pytest.mark.parametrize("name", ["acme/none", "none", "a/b/c", "acme/../none", "acme/a b", "é"])
def test_a_name_that_no_model_has_is_not_found(hub: HubServer, name: str) -> None:
    error = failure(name)
    assert isinstance(error, ProviderRefused)
    assert (error.error_class, error.of_the_model) == ("not_found", True)


def test_a_gated_model_says_what_to_do(hub: HubServer) -> None:
    hub.is_gated = True
    error = failure()
    assert (error.error_class, error.of_the_model) == ("unauthorized", True)
    assert f"{hub.root}/{MODEL}" in error.hint
    assert "HF_TOKEN" in error.hint


def test_a_hub_out_of_reach_is_tried_again_later(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address(monkeypatch, "http://127.0.0.1:1")
    error = failure()
    assert (type(error), error.error_class) == (Transient, "unreachable")


def test_offline_only_a_model_of_this_machine_is_used(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = failure()
    assert isinstance(error, SettingsError)
    assert f"hf download {MODEL}" in str(error.hint)
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = model_folder(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder(MODEL) == folder


def test_a_folder_is_used_as_it_is(tmp_path: Path, hub: HubServer) -> None:
    (tmp_path / CONFIG).write_bytes(FILES[CONFIG])
    assert model_folder(str(tmp_path)) == tmp_path
    assert own_prompts(str(tmp_path)) == Prompts("passage: ", "query: ")
    with pytest.raises(SettingsError, match="there is no folder"):
        model_folder(str(tmp_path / "none"))
    assert hub.requests == []


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        (
            '{"prompts": {"query": "q: ", "document": "d: ", "passage": "p: "}}',
            Prompts("d: ", "q: "),
        ),
        ('{"prompts": {"document": "", "corpus": "c: "}}', Prompts("c: ", "")),
        ('{"prompts": {"query": null}}', NONE),
        ('{"prompts": {}, "default_prompt_name": "query"}', NONE),
        ('{"prompts": ["query"]}', NONE),
        ("[]", NONE),
        ("{", NONE),
    ],
)
def test_prompts_are_found_as_the_library_finds_them(
    tmp_path: Path, configuration: str, expected: Prompts
) -> None:
    (tmp_path / CONFIG).write_text(configuration)
    assert own_prompts(str(tmp_path)) == expected


def test_a_model_without_prompts_in_its_files_has_those_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "e5-small-v2"
    folder.mkdir()
    assert own_prompts(str(folder)) == Prompts("passage: ", "query: ")


NAMED = {"embedding_model": "sentence-transformers:acme/one"}
LISTED = {"sentence_transformers_models": ("/srv/two", "acme/three")}


@pytest.mark.parametrize("name", ["acme/one", "/srv/two", "acme/three"])
def test_a_model_that_the_environment_names_may_be_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "check_installed", lambda: None)
    check_usable(name, Settings(**NAMED, **LISTED))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["acme/other", "/srv", "/srv/two/../three", "/etc", "ACME/ONE"])
def test_a_model_that_only_the_database_names_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "check_installed", lambda: None)
    with pytest.raises(SettingsError, match="the environment does not name") as caught:
        check_usable(name, Settings(**NAMED, **LISTED))  # type: ignore[arg-type]
    assert "SENTENCE_TRANSFORMERS_MODELS" in str(caught.value.hint)


def test_the_name_of_a_model_of_another_provider_allows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_files, "check_installed", lambda: None)
    with pytest.raises(SettingsError):
        check_usable("acme/one", Settings(embedding_model="openai:acme/one", openai_api_key="sk"))


def test_weights_that_are_only_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "2_Dense").mkdir()
    file = tmp_path / "2_Dense" / "pytorch_model.bin"
    file.write_bytes(pickle.dumps({}))
    assert "pickle" in str(why_unusable(tmp_path, "SentenceTransformer"))
    (tmp_path / "2_Dense" / "model.safetensors").touch()
    assert why_unusable(tmp_path, "SentenceTransformer") is None


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["BertModel"]}')
    assert why_unusable(tmp_path, "SentenceTransformer")
    assert why_unusable(tmp_path, "CrossEncoder")
    config.write_text('{"architectures": ["BertForSequenceClassification"]}')
    assert why_unusable(tmp_path, "SentenceTransformer")
    assert why_unusable(tmp_path, "CrossEncoder") is None
    (tmp_path / "modules.json").write_text("[]")
    assert why_unusable(tmp_path, "SentenceTransformer") is None
    (tmp_path / CONFIG).write_text('{"model_type": "SparseEncoder"}')
    assert why_unusable(tmp_path, "SentenceTransformer")
