"""Chromium, driven by playwright-core.

with browser() as chromium:
    page = chromium.page(width=320, dark=True)
    page.run("await page.goto(argument); return await page.title()", url)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = HERE.parent / ".parts/browser/node_modules"
PROGRAM = shutil.which("chromium")
NO_BROWSER = "there is no Chromium, or no playwright-core: see scripts/setup-parts"


def browser_is_here() -> bool:
    """Whether the tests in a browser can run."""
    return bool(PROGRAM and shutil.which("node") and PARTS.is_dir())


@dataclass(frozen=True)
class Page:
    """A page in a context of its own."""

    browser: Browser
    number: int

    def run(self, script: str, argument: object = None) -> Any:
        """Run the body of an `async (page, argument, findings) => …`, and return its value.

        `findings()` is what axe finds on the page.
        """
        return self.browser.ask({"page": self.number, "script": script, "argument": argument})

    @property
    def problems(self) -> list[str]:
        """The errors and dialogs of the page so far."""
        found: list[str] = self.run("return page.problems")
        return found

    def close(self) -> None:
        self.browser.ask({"close": self.number})


@dataclass(frozen=True)
class Browser:
    """A running browser."""

    process: subprocess.Popen[str]

    def page(
        self,
        base_url: str,
        *,
        width: int = 1280,
        dark: bool = False,
        scripts: bool = True,
        zone: str = "Asia/Tokyo",
    ) -> Page:
        """Open an empty page."""
        options = {
            "baseURL": base_url,
            "viewport": {"width": width, "height": 900},
            "colorScheme": "dark" if dark else "light",
            "javaScriptEnabled": scripts,
            "reducedMotion": "reduce",
            "timezoneId": zone,
            "locale": "en-GB",
        }
        return Page(self, self.ask({"open": options}))

    def ask(self, request: object) -> Any:
        """Send a request, and return the value of its answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the browser has ended"}')
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, until the end of the `with`."""
    parts = {"BROWSER_PARTS": str(PARTS), "BROWSER_PROGRAM": PROGRAM or ""}
    process = subprocess.Popen(
        ["node", HERE / "browser.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | parts,
    )
    with process:
        yield Browser(process)
        assert process.stdin
        process.stdin.close()
        process.wait(10)
