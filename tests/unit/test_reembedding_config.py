"""The configuration of a re-embedding: what a file may say, and what it is told otherwise."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.reembedding.config import LONGEST, EmbeddingMigrationConfig

LEAST: dict[str, Any] = {"source_collection": "docs.embedding", "model": "openai:new"}
EVERY: dict[str, Any] = {
    **LEAST,
    "target_collection": "docs.embedding_new",
    "dimensions": 1024,
    "store": "table",
    "document_prompt": "passage:\n",
    "query_prompt": "",
    "checkpoint_file": "naïve ☃.json",
    "batch_size": 16,
    "max_retries": 3,
    "delay_between_batches": 0.5,
    "backup_enabled": False,
    "verification_enabled": False,
}
# What no key of a kind can be.
NO_TEXT: list[Any] = ["", " \n", 7, True, [], {}, "a\0b", "\ud800", "x" * 4001]
NO_NUMBER: list[Any] = ["1", True, [], float("nan"), float("inf"), 1e999, -1, 10**30]
NO_WHOLE: list[Any] = [*NO_NUMBER, 0, 1.5, 1.0]
NO_ANSWER: list[Any] = [None, 0, 1, "true", []]
WRONG_VALUES: dict[str, list[Any]] = {
    "source_collection": [*NO_TEXT, None],
    "model": [*NO_TEXT, None],
    "target_collection": NO_TEXT,
    "dimensions": [*NO_WHOLE, 4001],
    "store": [None, 1, [], "", "chunks"],
    "document_prompt": [1, [], "a\0b", "\udfff"],
    "query_prompt": [1, [], "a\0b", "\udfff"],
    "checkpoint_file": NO_TEXT,
    "batch_size": [*NO_WHOLE, 10_001],
    "max_retries": [*NO_WHOLE, 101],
    "delay_between_batches": [*NO_NUMBER, None, 86_401],
    "backup_enabled": NO_ANSWER,
    "verification_enabled": NO_ANSWER,
}


def problem(content: bytes | str) -> str:
    """What is wrong with the content of a file: one line, with a hint."""
    with pytest.raises(SettingsError) as caught:
        EmbeddingMigrationConfig.parse(content)
    assert caught.value.hint
    assert len(caught.value.cause) < 200
    assert "\n" not in caught.value.cause
    return caught.value.cause


def test_every_key_is_read_and_written_as_it_was_given() -> None:
    config = EmbeddingMigrationConfig.parse(json.dumps(EVERY))
    assert asdict(config) == EVERY
    assert list(json.loads(config.as_json())) == list(asdict(config))
    for one in (config, EmbeddingMigrationConfig.parse(json.dumps(LEAST))):
        assert EmbeddingMigrationConfig.parse(one.as_json()) == one
    assert (config.column, replace(config, target_collection=None).column) == (
        "embedding_new",
        None,
    )


def test_what_is_left_out_has_a_default_except_column_and_model() -> None:
    least = EmbeddingMigrationConfig.parse(json.dumps(LEAST))
    assert least == EmbeddingMigrationConfig(**LEAST)
    for name in LEAST:
        without = {key: value for key, value in EVERY.items() if key != name}
        assert problem(json.dumps(without)) == f"the configuration lacks `{name}`"


@pytest.mark.parametrize("name", EVERY)
def test_a_wrong_value_is_named_with_its_key(name: str) -> None:
    for value in WRONG_VALUES[name]:
        said = problem(json.dumps(EVERY | {name: value}))
        assert said.startswith(f"`{name}` cannot be {json.dumps(value)[:70]}"), value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dimension", 'there is no key "dimension": is `dimensions` meant?'),
        ("modell", 'there is no key "modell": is `model` meant?'),
        ("a\x1b[31m", 'there is no key "a\\u001b[31m"'),
        ("☃", 'there is no key "\\u2603"'),
        ("", 'there is no key ""'),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_is_meant(name: str, said: str) -> None:
    assert problem(json.dumps(EVERY | {name: 1})) == said


def test_an_unknown_key_of_any_length_is_one_line() -> None:
    assert problem(json.dumps(EVERY | {"x" * 50_000: 1})).startswith('there is no key "xxx')


def test_a_backup_that_cannot_be_made_is_not_promised() -> None:
    assert "makes no backups" in problem(json.dumps(EVERY | {"backup_enabled": True}))


def test_the_new_vectors_are_in_the_same_table() -> None:
    for source, target in (("docs", "docs.new"), ("a.b.embedding", "a.b.new"), ("a.b", "new")):
        EmbeddingMigrationConfig(source_collection=source, model="m:m", target_collection=target)
    other = LEAST | {"target_collection": "others.embedding_new"}
    assert problem(json.dumps(other)).startswith("`target_collection` is not a column of the table")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xff",
        "naïve".encode("latin-1"),
        json.dumps(LEAST).encode() + b",",
        b"{" + b'"model": "caf\xe9"}',
        b"null",
        b"[]",
        b'"docs"',
        b"1" * 5000,
        b"[" * LONGEST,
        b" " * (LONGEST + 1),
        json.dumps({"model": "x" * LONGEST}).encode(),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_not_an_object_of_json_is_refused(content: bytes) -> None:
    assert problem(content) == "the configuration is not a JSON object"


def test_files_are_read_in_the_encodings_of_json(tmp_path: Path) -> None:
    """PowerShell writes UTF-16 with `>`."""
    file = tmp_path / "config.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text(json.dumps(EVERY, ensure_ascii=False), encoding)
        assert asdict(EmbeddingMigrationConfig.from_json(file)) == EVERY
        assert asdict(EmbeddingMigrationConfig.from_json(str(file))) == EVERY


@pytest.mark.parametrize("path", ["nothing.json", ".", "config.json/x", "nul\0", "x" * 300])
def test_a_file_that_cannot_be_read_is_named(path: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"cannot read .+: .+") as caught:
        EmbeddingMigrationConfig.from_json(tmp_path / path)
    assert caught.value.hint == "Give the path of a JSON file."


def test_a_file_without_end_is_read_to_the_most_that_fits() -> None:
    with pytest.raises(SettingsError, match="not a JSON object"):
        EmbeddingMigrationConfig.from_json("/dev/zero")
