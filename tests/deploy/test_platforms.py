"""The files of Fly, Render and Railway, compared with the documentation of each.

No package brings their schemas. Here are the fields that a file has, as they are described in
fly.io/docs/reference/configuration, render.com/docs/blueprint-spec and
docs.railway.com/config-as-code/reference, looked up in August to November 2026.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.conftest import IN_CI
from tests.deploy.linters import DEPLOY, NO_LINTERS, documents, linters_are_here
from tests.deploy.test_recipes import parse
from worker.settings import Settings

FLY = {
    "app": str,
    "kill_signal": ("SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGSTOP"),
    "kill_timeout": range(1, 301),
    "build": {"dockerfile": str},
    "deploy": {"release_command": str},
    "processes": {"app": str},
    "env": dict,
    "metrics": {"port": int, "path": str},
    "restart": [{"policy": ("always", "never", "on-failure")}],
    "vm": [{"size": str, "memory": str}],
}
RENDER = {
    "services": [
        {
            "type": ("web", "pserv", "worker", "cron", "keyvalue"),
            "name": str,
            "runtime": ("node", "python", "elixir", "go", "ruby", "rust", "docker", "image"),
            "plan": ("free", "starter", "standard", "pro", "pro plus", "pro max", "pro ultra"),
            "buildCommand": str,
            "preDeployCommand": str,
            "startCommand": str,
            "maxShutdownDelaySeconds": range(1, 301),
            "envVars": [{"key": str, "value": str, "sync": (False,)}],
        }
    ]
}
RAILWAY = {
    "$schema": ("https://railway.com/railway.schema.json",),
    "build": {"builder": ("RAILPACK", "DOCKERFILE"), "dockerfilePath": str},
    "deploy": {
        "startCommand": str,
        "drainingSeconds": str,
        "restartPolicyType": ("ON_FAILURE", "ALWAYS", "NEVER"),
        "restartPolicyMaxRetries": int,
    },
}
DRAIN = Settings().embedding_grace_seconds + 10  # seconds


def misfits(given: Any, form: Any, path: str = "") -> list[str]:
    """Return where `given` does not have the form: a field that is not there, another type."""
    if isinstance(form, Mapping) and isinstance(given, Mapping):
        unknown = [f"{path}.{name}" for name in given.keys() - form.keys()]
        known = given.keys() & form.keys()
        return unknown + [
            each for name in known for each in misfits(given[name], form[name], f"{path}.{name}")
        ]
    if isinstance(form, list) and isinstance(given, list):
        return [each for item in given for each in misfits(item, form[0], path)]
    fits = isinstance(given, form) if isinstance(form, type) else given in form
    return [] if fits else [path]


def fly() -> dict[str, Any]:
    return tomllib.loads((DEPLOY / "fly.toml").read_text(encoding="utf-8"))


def railway() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "railway.json").read_text(encoding="utf-8"))
    return read


def render() -> dict[str, Any]:
    if not linters_are_here() and not IN_CI:
        pytest.skip(NO_LINTERS)
    return documents((DEPLOY / "render.yaml").read_text(encoding="utf-8"))[0]


def test_fly_reads_the_file_and_its_commands_are_those_of_the_worker() -> None:
    given = fly()
    assert misfits(given, FLY) == []
    assert (DEPLOY / given["build"]["dockerfile"]).name == "Dockerfile"
    for command in given["deploy"]["release_command"], given["processes"]["app"]:
        parse(command.split())
    assert given["env"].keys() <= Settings.variables()
    assert given["metrics"]["port"] == int(given["env"]["WORKER_METRICS_PORT"])
    assert given["kill_timeout"] > DRAIN


def test_render_reads_the_file() -> None:
    given = render()
    assert misfits(given, RENDER) == []
    [service] = given["services"]
    assert service["maxShutdownDelaySeconds"] > DRAIN


def test_railway_reads_the_file() -> None:
    given = railway()
    assert misfits(given, RAILWAY) == []
    assert given["build"]["dockerfilePath"] == "deploy/Dockerfile"
    assert int(given["deploy"]["drainingSeconds"]) > DRAIN


def test_a_typo_does_not_fit() -> None:
    typo = fly() | {"kill_timout": 60, "kill_signal": "TERM"}
    typo["restart"][0]["policy"] = "sometimes"
    assert sorted(misfits(typo, FLY)) == [".kill_signal", ".kill_timout", ".restart.policy"]
