"""A server of the dashboard and the API in this process, and those who use it.

with served_web(Settings(database_url=url)) as web:
    web.get("/jobs").text
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import unescape

import httpx

from tests.conftest import eventually
from worker.settings import Settings
from worker.web.server import served
from worker.web.services import Traced

ADMIN_TOKEN = "the-token-of-the-admin"
READ_TOKEN = "the-token-of-readers"
PATIENCE = 60.0  # seconds; the machine may be busy
HOSTILE = '<script>alert("1")</script> \u202e"quoted\'&amp; 💥 ' + "long" * 70
"""A name or a text that would break a page that does not escape it."""


@dataclass(frozen=True)
class Web:
    """A running server, and a client of each role. No client follows redirects."""

    url: str
    as_admin: httpx.Client
    as_reader: httpx.Client
    as_nobody: httpx.Client

    def get(self, path: str, **options: str) -> httpx.Response:
        """Open a page as the admin."""
        return self.as_admin.get(path, headers={"accept": "text/html"}, params=options or None)

    def post(self, path: str, form: Mapping[str, str | list[str]] | None = None) -> httpx.Response:
        """Send a form as the admin, as a browser does."""
        return self.as_admin.post(path, data=form or {}, headers=self.of_a_browser)

    def page(self, path: str) -> str:
        """A page that must be there."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{answer.status_code}: {read(answer.text)}"
        return answer.text

    def press(self, path: str, form: Mapping[str, str | list[str]] | None = None) -> str:
        """Send a form that must be answered with a page, and return what is said on it."""
        answer = self.post(path, form)
        if answer.status_code == 303:
            return read(self.page(answer.headers["location"]))
        assert answer.status_code == 200, f"{answer.status_code}: {read(answer.text)}"
        return read(answer.text)

    def task_ends(self, state: str = "done", within: float = 20) -> str:
        """Wait until the latest task has ended in this state, and return what is said of it."""
        latest = ""

        def has_ended() -> bool:
            nonlocal latest
            found = re.search(r'<li id="task-\d+">(.*?)</li>', self.page("/"), re.DOTALL)
            latest = read(found[1]) if found else ""
            return ": running" not in latest and ": ending" not in latest

        eventually(has_ended, within)
        assert f": {state}" in latest, latest
        return latest

    @property
    def of_a_browser(self) -> dict[str, str]:
        """The headers of a form that a page of this server sends."""
        return {"accept": "text/html", "origin": self.url, "sec-fetch-site": "same-origin"}


def read(page: str) -> str:
    """What a page says, without its markup."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


@contextmanager
def served_web(settings: Settings, traced: Traced | None = None) -> Iterator[Web]:
    """Serve the web application at a free port, with a token for each role."""
    settings = replace(
        settings,
        worker_web_token=settings.worker_web_token or ADMIN_TOKEN,
        worker_web_read_token=settings.worker_web_read_token or READ_TOKEN,
    )
    with (
        served(settings, "127.0.0.1:0", traced=traced) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as admin,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as reader,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as nobody,
    ):
        for client, token in (
            (admin, settings.worker_web_token),
            (reader, settings.worker_web_read_token),
        ):
            assert client.post("/login", data={"token": token}).status_code == 303
        yield Web(server.url, admin, reader, nobody)
