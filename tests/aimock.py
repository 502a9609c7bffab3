"""aimock, a mock of models' servers that was written without this worker in mind.

    with aimock("--chaos-ratelimit", "0.2") as root:
        environment = {"OPENAI_BASE_URL": f"{root}/v1"}

It makes up a vector for each text, the same each time. A chat model answers as its `fixtures` say.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / ".parts/aimock/node_modules/@copilotkit/aimock/dist/cli.js"
START_SECONDS = 20
NO_AIMOCK = "there is no aimock, or no Node.js: see scripts/setup-parts"


def aimock_is_here() -> bool:
    return PROGRAM.is_file() and shutil.which("node") is not None


@contextmanager
def aimock(*options: str, fixtures: Sequence[object] = ()) -> Iterator[str]:
    """Yield the address of one that was started with these options, on a port of its own.

    Stopped on leaving.
    """
    assert aimock_is_here(), NO_AIMOCK
    with tempfile.TemporaryDirectory(prefix="embedding-worker-aimock-") as folder:
        file = Path(folder, "fixtures.json")
        file.write_text(json.dumps({"fixtures": fixtures}))
        command = ["node", str(PROGRAM), "--port", "0", "--fixtures", str(file), *options]
        log = Path(folder, "log")
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*command, "--log-level", "info"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield _address(process, log)
            finally:
                process.kill()  # it has nothing to lose


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while True:
        said = log.read_text(errors="replace")
        if found := re.search(r"listening on (http://\S+)", said):
            return found[1]
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"aimock did not start: {said}")
        time.sleep(0.02)
