"""The linters of deploy/ and .github/, as scripts/setup-parts installs them, and what they say.

complaints_of("zizmor", "--offline", path)
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

PARTS = REPOSITORY / ".parts"
DEPLOY = REPOSITORY / "deploy"
PROGRAMS = PARTS / "linters/bin"  # Python's
NODE_MODULES = PARTS / "schemas/node_modules"
NO_LINTERS = "there are no linters, or no Node.js: see scripts/setup-parts"
TO_JSON = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
TSC = PARTS / "supabase/node_modules/.bin/tsc"
TYPES = {"strict": True, "skipLibCheck": True, "noEmit": True, "types": []}
MODULES = {"module": "esnext", "moduleResolution": "bundler"}


def linters_are_here() -> bool:
    parts = [PROGRAMS, NODE_MODULES, TSC, PARTS / "kubectl/kubectl"]
    return all(part.exists() for part in parts) and shutil.which("node") is not None


def run(
    program: Path, *arguments: str | Path, folder: Path = REPOSITORY, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a linter in a folder, with `text` as its input."""
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def complaints_of(program: str, *arguments: str | Path) -> str:
    """Return what a linter of Python finds wrong; empty if nothing."""
    result = run(PROGRAMS / program, *arguments)
    return result.stdout + result.stderr if result.returncode else ""


def documents(text: str) -> list[dict[str, Any]]:
    """Read YAML as the linters do."""
    read = run(PROGRAMS / "python", "-c", TO_JSON, text=text)
    assert read.returncode == 0, read.stderr
    return [document for document in json.loads(read.stdout) if document]


def complaints_of_types(objects: dict[str, dict[str, Any]], folder: Path) -> dict[str, str]:
    """Return what tsc says of each object, by its name, as one of the type `I…` of its kind.

    The objects are resources of KEDA. Only its types name all that there is: its schemas let
    unknown fields pass.
    """
    (folder / "node_modules").symlink_to(NODE_MODULES)
    for name, given in objects.items():
        home = f"@kubernetes-models/keda/{given['apiVersion']}/{given['kind']}"
        (folder / f"{name}.ts").write_text(
            f'import type {{ I{given["kind"]} as Kind }} from "{home}";\n'
            f"export const given: Kind = {json.dumps(given)};\n"
        )
    options = {"compilerOptions": TYPES | MODULES, "include": ["*.ts"]}
    (folder / "tsconfig.json").write_text(json.dumps(options))
    said = run(Path("node"), TSC, "--project", ".", folder=folder).stdout
    return {
        name: "\n".join(line for line in said.splitlines() if line.startswith(f"{name}.ts"))
        for name in objects
    }
