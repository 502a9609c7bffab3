"""What every request and every answer has to keep to, before any handler sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.web.problems import as_json

MOST_BYTES = 8 * 2**20  # of a body
LONGEST_PATH = 2000  # characters
LONGEST_REQUEST = 60.0  # seconds until the answer begins
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # which browsers leave out
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: with that, browsers send forms with the Origin "null"
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Refused(HTTPException):
    """A request that is answered with this status and one line."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Refuses requests for other hosts (DNS rebinding), forms of other sites, and bodies that are
    too large or too slow; adds the security headers.

    `prefix`: the path under which a proxy serves this server, whether it passes that on or not.
    `hosts`: the names by which browsers may know this server. `public_url`: its URL behind a proxy.
    """

    app: ASGIApp
    prefix: str
    hosts: frozenset[str]
    public_url: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["root_path"] = self.prefix
        if scope["path"] == self.prefix:
            scope["path"] += "/"
        if not scope["path"].startswith(f"{self.prefix}/"):  # a proxy took it away
            scope["path"] = self.prefix + scope["path"]
        answer = _Answer(send)
        headers = Headers(scope=scope)
        try:
            if scope["path"] not in self._health:
                self._check_host(headers)
            _check_shape(scope["path"], headers)
            self._check_origin(scope["method"], headers)
            body = _Body(receive, headers)
            await _within(LONGEST_REQUEST, self.app(scope, body.receive, answer.send), answer)
        except Refused as refusal:
            if not answer.has_begun:
                response = _refusal(refusal, headers)
                await response(scope, receive, answer.send)

    @property
    def _health(self) -> tuple[str, ...]:
        """What tells nothing, and is asked for by the address of a container."""
        return f"{self.prefix}/healthz", f"{self.prefix}/readyz"

    def _check_host(self, headers: Headers) -> None:
        if _host_of(f"//{headers.get('host', '')}") not in self.hosts:
            raise Refused(
                421, "This host name is not served. Set WORKER_WEB_URL to the URL in the browser."
            )

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Refuse what a page of another site sends: a browser says so by itself.

        A request with a key or a token in its headers was not made by a form.
        """
        if method in SAFE_METHODS or "authorization" in headers:
            return
        if not is_of_our_site(headers):
            raise Refused(403, "Requests from other sites are refused.")
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin, headers.get("host", "")):
            raise Refused(403, "Requests from other origins are refused.")

    def _is_ours(self, origin: str, host: str) -> bool:
        ours = {f"http://{host}", f"https://{host}"}
        if self.public_url:
            parts = urlsplit(self.public_url)
            netloc = parts.netloc.removesuffix(DEFAULT_PORTS[parts.scheme])
            ours = {f"{parts.scheme}://{netloc}", f"http://{host}"}
        return origin.lower() in {each.lower() for each in ours}


def _refusal(refusal: Refused, headers: Headers) -> Response:
    """The answer for a refusal: a line for people, JSON for programs."""
    if "text/html" in headers.get("accept", ""):
        return PlainTextResponse(f"{refusal.detail}\n", refusal.status_code, refusal.headers)
    return as_json((refusal.status_code, refusal.detail, None), refusal.headers)


def address_of(request: HTTPConnection) -> str:
    """The address of a browser or app; empty if it is not known."""
    return request.client.host if request.client else ""


def is_of_our_site(headers: Mapping[str, str]) -> bool:
    """Whether a page of this server, or a person, makes a request, as far as a browser says."""
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _check_shape(path: str, headers: Headers) -> None:
    """Refuse what a proxy may read otherwise than we do, and what no address here looks like."""
    if "transfer-encoding" in headers and "content-length" in headers:
        raise Refused(400, "The body has two lengths.", {"connection": "close"})
    if len(path) > LONGEST_PATH:
        raise Refused(414, "There is no such page.")


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class _Body:
    """Passes on a body while it is not too large."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._bytes = 0
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MOST_BYTES:
            raise Refused(413, f"The body is larger than {MOST_BYTES} bytes.")

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BYTES:
            raise Refused(413, f"The body is larger than {MOST_BYTES} bytes.")
        return message


class _Answer:
    """Passes on an answer, with the security headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begins = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        return self.begins.is_set()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begins.set()
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


async def _within(seconds: float, work: Awaitable[None], answer: _Answer) -> None:
    """Do the work. Raises Refused if its answer does not begin in that time."""

    async def lift(deadline: asyncio.Timeout) -> None:
        await answer.begins.wait()
        deadline.reschedule(None)

    try:
        async with asyncio.timeout(seconds) as deadline:
            lifting = asyncio.create_task(lift(deadline))
            try:
                await work
            finally:
                lifting.cancel()
    except TimeoutError:
        raise Refused(408, "The request took too long.") from None
