"""deploy/kubernetes, built by kustomize, and checked against the schemas of Kubernetes and KEDA."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IN_CI
from tests.deploy.linters import (
    DEPLOY,
    NO_LINTERS,
    PARTS,
    PROGRAMS,
    complaints_of_types,
    documents,
    linters_are_here,
    run,
)
from worker import __version__
from worker.errors import ProviderRefused, SchemaError, SettingsError
from worker.observers.metrics import HEALTH
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not linters_are_here() and not IN_CI, reason=NO_LINTERS)

NO_SCHEMA = "Couldn't find schema for kind ScaledObject"  # that is KEDA's
# docs of KEDA 2.21, scalers/postgresql; its schema takes any field here
TRIGGER = {"connectionFromEnv", "query", "targetQueryValue", "activationTargetQueryValue"}

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deploy/kubernetes with the Secret filled in, and with all components."""
    folder = tmp_path_factory.mktemp("deploy") / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", folder, ignore=shutil.ignore_patterns("secret.env"))
    shutil.copy(folder / "secret.env.example", folder / "secret.env")
    chosen = (folder / "kustomization.yaml").read_text()
    (folder / "kustomization.yaml").write_text(chosen.replace("# - components/", "- components/"))
    return folder


def build(folder: Path) -> str:
    built = run(PARTS / "kubectl/kubectl", "kustomize", ".", folder=folder)
    assert built.returncode == 0, built.stderr
    return built.stdout


@pytest.fixture(scope="module")
def everything(folder: Path) -> str:
    return build(folder)


@pytest.fixture(scope="module")
def manifests(everything: str) -> list[Manifest]:
    return documents(everything)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    """The pods of Deployments and CronJobs."""
    for manifest in manifests:
        specification = manifest.get("spec", {})
        specification = specification.get("jobTemplate", {}).get("spec", specification)
        if "template" in specification:
            yield specification["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_what_is_built_fits_the_schemas_of_kubernetes_and_a_typo_does_not(
    everything: str, tmp_path: Path
) -> None:
    typos = {
        "readOnlyRootFilesystem: true": "readOnlyRootFileSystem: true",
        "concurrencyPolicy: Forbid": "concurrencyPolicy: [Forbid]",
        "maxUnavailable: 1": "maxUnavailable: {}",
    }
    (tmp_path / "good.yaml").write_text(everything)
    for number, (right, wrong) in enumerate(typos.items()):
        (tmp_path / f"typo_{number}.yaml").write_text(everything.replace(right, wrong))
    files = sorted(tmp_path.iterdir())
    said = run(PROGRAMS / "kubernetes-validate", "--strict", "--quiet", *files)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if NO_SCHEMA not in line]
    refused = [path.name for path in files if any(f"ERROR {path} " in line for line in lines)]
    assert refused == ["typo_0.yaml", "typo_1.yaml", "typo_2.yaml"], lines
    assert [line for line in lines if "good.yaml" in line] == []


def test_the_scaler_is_one_of_keda_and_a_typo_is_refused(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    [good] = of_kind(manifests, "ScaledObject")
    typo, other_type = copy.deepcopy(good), copy.deepcopy(good)
    typo["spec"]["minReplicas"] = typo["spec"].pop("minReplicaCount")
    other_type["spec"]["cooldownPeriod"] = "5m"
    scalers = {"good": good, "typo": typo, "other_type": other_type}
    said = complaints_of_types(scalers, tmp_path)
    assert [name for name, complaints in said.items() if complaints] == ["typo", "other_type"]
    assert said["good"] == ""
    [trigger] = good["spec"]["triggers"]
    assert trigger["metadata"].keys() <= TRIGGER


def test_the_scaler_scales_the_worker_and_knows_its_database(manifests: list[Manifest]) -> None:
    [scaler] = of_kind(manifests, "ScaledObject")
    [worker] = [each for each in of_kind(manifests, "Deployment") if "worker" in names(each)]
    assert scaler["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    assert scaler["metadata"]["namespace"] == worker["metadata"]["namespace"]
    assert "replicas" not in worker["spec"], "an `apply` would undo what KEDA has set"
    first, *_ = worker["spec"]["template"]["spec"]["containers"]
    assert "secretRef" in first["envFrom"][0], "KEDA reads the variable of the first container"


def names(deployment: Manifest) -> list[str]:
    return [each["name"] for each in deployment["spec"]["template"]["spec"]["containers"]]


def test_every_container_runs_as_the_image_wants_it(manifests: list[Manifest]) -> None:
    found = list(pods(manifests))
    assert len(found) == 5
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        user = pod["securityContext"]
        assert (user["runAsUser"], user["runAsNonRoot"]) == (65532, True)
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_every_container_has_the_image_and_the_secret(manifests: list[Manifest]) -> None:
    [secret] = of_kind(manifests, "Secret")
    every = [container for pod in pods(manifests) for container in containers(pod)]
    assert {container["image"] for container in every} == {f"embedding-worker:{__version__}"}
    assert {container["envFrom"][0]["secretRef"]["name"] for container in every} == {
        secret["metadata"]["name"]
    }


def test_the_network_policies_and_the_budget_find_their_pods(manifests: list[Manifest]) -> None:
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in of_kind(manifests, "Deployment")
    ]
    selected = [
        manifest["spec"].get("podSelector") or manifest["spec"]["selector"]
        for kind in ("NetworkPolicy", "PodDisruptionBudget")
        for manifest in of_kind(manifests, kind)
    ]
    assert len(selected) == 3
    for selector in selected:
        wanted = selector["matchLabels"].items()
        assert any(wanted <= each.items() for each in labels), selector


def test_the_probes_of_a_worker_find_a_main_loop_that_is_stuck(manifests: list[Manifest]) -> None:
    [worker] = [
        container
        for pod in pods(manifests)
        for container in containers(pod)
        if container["args"][0] == "run"
    ]
    served = {each["name"]: str(each["containerPort"]) for each in worker["ports"]}
    variables = {each["name"]: each["value"] for each in worker["env"]}
    assert served["metrics"] == variables["WORKER_METRICS_PORT"]
    for probe in ("startupProbe", "livenessProbe"):
        assert worker[probe]["httpGet"] == {"path": HEALTH, "port": "metrics"}


def test_a_worker_has_time_to_finish_its_requests(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        runs = containers(pod)[-1]["args"][0]
        given = pod.get("terminationGracePeriodSeconds", 30)
        assert runs == "serve" or given > Settings().embedding_grace_seconds + 10


def test_a_job_is_not_tried_again_after_what_another_attempt_cannot_fix(
    manifests: list[Manifest],
) -> None:
    for job in of_kind(manifests, "CronJob"):
        [rule] = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"]["values"] == [
            SettingsError.exit_code,
            SchemaError.exit_code,
            ProviderRefused.exit_code,
        ]


@pytest.mark.parametrize("chosen", ["", "components/serve", "components/keda", "components/jobs"])
def test_the_parts_can_be_chosen_one_by_one(folder: Path, tmp_path: Path, chosen: str) -> None:
    shutil.copytree(folder, tmp_path / "kubernetes")
    kustomization = (DEPLOY / "kubernetes/kustomization.yaml").read_text()
    choice = kustomization.replace(f"# - {chosen} ", f"- {chosen} ") if chosen else kustomization
    (tmp_path / "kubernetes/kustomization.yaml").write_text(choice)
    built = build(tmp_path / "kubernetes")
    assert ("kind: ScaledObject" in built) is (chosen == "components/keda")
    assert "name: worker" in built


def test_without_the_secret_nothing_is_built(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "kubernetes")
    (tmp_path / "kubernetes/secret.env").unlink()
    built = run(PARTS / "kubectl/kubectl", "kustomize", ".", folder=tmp_path / "kubernetes")
    assert (built.returncode, "secret.env" in built.stderr) == (1, True)
