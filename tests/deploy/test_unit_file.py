"""deploy/embedding-worker.service, as systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import IN_CI
from tests.deploy.linters import DEPLOY
from worker.cli.signals import INTERRUPTED
from worker.errors import ProviderRefused, SchemaError, SettingsError
from worker.settings import Settings

PROGRAM = shutil.which("systemd-analyze")
UNIT = DEPLOY / "embedding-worker.service"
LEAST_EXPOSED = "--threshold=20"  # of 100; systemd calls up to 20 OK

pytestmark = pytest.mark.skipif(not PROGRAM and not IN_CI, reason="there is no systemd-analyze")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROGRAM
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)


def with_change(folder: Path, right: str, wrong: str) -> Path:
    """A copy of the unit that starts a program of this machine, and has a change."""
    unit = UNIT.read_text(encoding="utf-8")
    [start] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert right in unit
    copy = folder / UNIT.name
    copy.write_text(unit.replace(right, wrong).replace(start, "ExecStart=/bin/true run"))
    return copy


@pytest.mark.parametrize(("watchdog", "accepted"), [("5min", True), ("soon", False)])
def test_systemd_accepts_the_unit_file(watchdog: str, accepted: bool, tmp_path: Path) -> None:
    copy = with_change(tmp_path, "WatchdogSec=5min", f"WatchdogSec={watchdog}")
    # other units of this machine may have their own faults
    said = analyze("verify", copy).stderr.splitlines()
    complaints = [line for line in said if UNIT.name in line]
    assert (not complaints) is accepted, complaints


@pytest.mark.parametrize(
    ("protection", "accepted"), [("UMask=0077", True), ("CapabilityBoundingSet=\n", False)]
)
def test_systemd_finds_the_service_little_exposed(
    protection: str, accepted: bool, tmp_path: Path
) -> None:
    copy = with_change(tmp_path, protection, protection if accepted else "")
    result = analyze("security", "--offline=true", LEAST_EXPOSED, copy)
    assert (result.returncode == 0) is accepted, result.stdout


def test_the_exit_codes_and_the_time_to_stop_are_those_of_the_worker() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    of = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    cannot_be_fixed = [SettingsError, SchemaError, ProviderRefused]
    assert of["RestartPreventExitStatus"].split() == [
        str(error.exit_code) for error in cannot_be_fixed
    ]
    assert of["SuccessExitStatus"] == str(INTERRUPTED)
    assert int(of["TimeoutStopSec"]) > Settings().embedding_grace_seconds + 10
