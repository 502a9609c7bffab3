"""The files of the image and of Compose, as hadolint and the schema of Compose see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import IN_CI
from tests.deploy.linters import DEPLOY, NO_LINTERS, complaints_of, linters_are_here

DOCKERFILE, COMPOSE = DEPLOY / "Dockerfile", DEPLOY / "compose.yaml"

pytestmark = pytest.mark.skipif(not linters_are_here() and not IN_CI, reason=NO_LINTERS)


def complaints_of_hadolint(dockerfile: Path) -> str:
    return complaints_of("hadolint", "--no-color", dockerfile)


def complaints_of_compose(file: Path) -> str:
    return complaints_of("check-jsonschema", "--builtin-schema=vendor.compose-spec", file)


def test_hadolint_accepts_the_dockerfile(tmp_path: Path) -> None:
    assert complaints_of_hadolint(DOCKERFILE) == ""
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("WORKDIR /data", "WORKDIR data"))
    assert "DL3000" in complaints_of_hadolint(wrong)


def test_compose_accepts_its_file(tmp_path: Path) -> None:
    assert complaints_of_compose(COMPOSE) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_period"))
    assert "stop_period" in complaints_of_compose(wrong)
