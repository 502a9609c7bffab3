"""The routes of the dashboard: its screens, their actions, the live updates, and the login."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from worker.web.access import COOKIE, SESSION, Role
from worker.web.guard import address_of, is_of_our_site
from worker.web.live import Live, News, Topic
from worker.web.pages import Pages, notice_of
from worker.web.screens.base import Action, Done, Look, Revealed, Screen, not_found, refuse_reader
from worker.web.services import Services

LONGEST_ADDRESS = 2000  # characters
LARGEST_FORM = 2**18  # bytes
MOST_FIELDS = 1200  # a page of jobs, all chosen, and more
FOUND = 303
SAID = ("notice", "count")  # the parts of a query by which an action says what it did


class Dashboard:
    """The screens, for those who are logged in."""

    def __init__(self, services: Services, screens: tuple[Screen, ...]) -> None:
        self._services = services
        self._screens = screens
        self.pages = Pages(services, tuple(screen for screen in screens if screen.label))
        self.live = Live(self._render_topic)
        # made once: each page that somebody looks at is looked up every second
        self._found_by = [(Route(each.path, _nothing), each) for each in screens if each.is_live]

    def routes(self) -> list[BaseRoute]:
        """Return the routes of all screens and their actions."""
        shown = [
            Route(each.path, partial(self._show, each), methods=["GET"], name=each.name)
            for each in self._screens
        ]
        pressed = [
            Route(action.path, partial(self._press, each, action), methods=["POST"])
            for each in self._screens
            for action in each.actions
        ]
        return [
            *pressed,
            *shown,
            Route("/live", self._watch, methods=["GET"]),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
        ]

    # -- screens

    async def _show(self, screen: Screen, request: Request) -> Response:
        role = self.role_of(request)
        if role is None:
            return self._to_login(request)
        address = _address_of(request)
        values = _values_of(request)
        content = await run_in_threadpool(self._content, screen, role, values)
        live = address if len(address) <= LONGEST_ADDRESS else None
        page = self.pages.page(screen, role, content, live, notice_of(values))
        return HTMLResponse(page)

    def _content(self, screen: Screen, role: Role, values: Mapping[str, str]) -> str:
        with self._services.queues.lent() as queue:
            context = screen.load(Look(self._services, queue, role, values))
        return self.pages.content(screen, role, context)

    async def _press(self, screen: Screen, action: Action, request: Request) -> Response:
        role = self.role_of(request)
        if role is None:
            return self._to_login(request)
        refuse_reader(role)
        done = await run_in_threadpool(self._press_it, action, role, await _form_of(request))
        if isinstance(done, Done):
            return self._redirect(done)
        content = self.pages.content(screen, role, done.context)
        return HTMLResponse(self.pages.page(screen, role, content))

    def _press_it(self, action: Action, role: Role, form: _Form) -> Done | Revealed:
        with self._services.queues.lent() as queue:
            look = Look(self._services, queue, role, form.values, form.address, form.chosen)
            return action.press(look)

    def _redirect(self, done: Done) -> Response:
        path, _, query = done.address.partition("?")
        given = {name: value for name, value in parse_qsl(query) if name not in SAID}
        given["notice"] = done.notice
        if done.count is not None:
            given["count"] = str(done.count)
        return RedirectResponse(f"{self._services.prefix}{path}?{urlencode(given)}", FOUND)

    # -- live updates

    async def _watch(self, request: Request) -> Response:
        role = self.role_of(request)
        if role is None:
            raise HTTPException(401, "Log in first.")
        address = request.query_params.get("page", "")
        if self._find(address) is None:
            raise not_found("page")
        topic = Topic(address, role)
        if not self.live.has_room_for(topic):
            raise HTTPException(503, "Too many pages are open. Reload to see the latest state.")
        watched = self.live.watch(topic)
        events = _as_events(watched, lambda: self.role_of(request) == role)
        return StreamingResponse(events, media_type="text/event-stream")

    async def _render_topic(self, topic: Topic) -> str:
        screen, values = self._find(topic.address) or (None, {})
        assert screen is not None  # it was found before
        return await run_in_threadpool(self._content, screen, topic.role, values)

    def _find(self, address: str) -> tuple[Screen, dict[str, str]] | None:
        """Find the screen at an address, and the values in its path and query."""
        path, _, query = address.partition("?")
        if len(address) > LONGEST_ADDRESS:
            return None
        scope: Scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        for route, screen in self._found_by:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return screen, dict(parse_qsl(query)) | _texts(found["path_params"])
        return None

    # -- the login

    def role_of(self, request: Request) -> Role | None:
        """Return the role of who is logged in."""
        return self._services.access.role_of_cookie(request.cookies.get(_cookie_of(request), ""))

    async def _login(self, request: Request) -> Response:
        if request.method == "POST":
            form = (await _form_of(request)).values
            return self._log_in(request, form.get("token", ""), form.get("next", ""))
        token = request.query_params.get("token")
        if token is not None and is_of_our_site(request.headers):
            return self._log_in(request, token, "")
        return self._ask_for_token(request.query_params.get("next", ""))

    def _log_in(self, request: Request, token: str, next: str) -> Response:
        access, who = self._services.access, address_of(request)
        if access.attempts.are_too_many(who):
            return self._ask_for_token(next, "Too many wrong tokens. Wait a minute.", 429)
        role = access.role_of_token(token.strip())
        if role is None:
            access.attempts.fail(who)
            return self._ask_for_token(next, "This is not the token of this server.", 401)
        address = next if self._find(next) else "/"
        response = RedirectResponse(self._services.prefix + address, FOUND)
        response.set_cookie(
            _cookie_of(request),
            access.cookie_of(role),
            max_age=SESSION,
            path=self._services.prefix or "/",
            secure=self._services.is_secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _ask_for_token(self, next: str, problem: str | None = None, status: int = 200) -> Response:
        page = self.pages.plain("login.html", next=next[:LONGEST_ADDRESS], problem=problem)
        return HTMLResponse(page, status)

    async def _logout(self, request: Request) -> Response:
        response = RedirectResponse(self.pages.href("/login"), FOUND)
        response.delete_cookie(_cookie_of(request), path=self._services.prefix or "/")
        return response

    def _to_login(self, request: Request) -> Response:
        is_page = request.method == "GET"
        address = self.pages.href("/login", next=_address_of(request) if is_page else None)
        return RedirectResponse(address, FOUND)


def _nothing(_: Request) -> None:
    """The endpoint of routes that only find a screen."""


class _Form(NamedTuple):
    values: dict[str, str]
    chosen: tuple[str, ...]
    address: str


def _cookie_of(request: Request) -> str:
    """The name of the cookie at this port: browsers send a cookie to every port of a host, where
    another server may be."""
    port = re.search(r":([0-9]+)$", request.headers.get("host", ""))
    return f"{COOKIE}_{port[1]}" if port else COOKIE


async def _form_of(request: Request) -> _Form:
    """Read a form, with the values of its path."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FORM:
            raise HTTPException(413, f"The form is larger than {LARGEST_FORM} bytes.")
    try:
        pairs = parse_qsl(body.decode(), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    chosen = tuple(value for name, value in pairs if name == "chosen")
    values = dict(pairs) | _texts(request.path_params)
    return _Form(values, chosen, address_of(request))


def _values_of(request: Request) -> dict[str, str]:
    return dict(request.query_params) | _texts(request.path_params)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _address_of(request: Request) -> str:
    """The path of a request with its query, without the prefix and without a notice."""
    path = get_route_path(request.scope)
    query = [
        (name, value) for name, value in request.query_params.multi_items() if name not in SAID
    ]
    return path + ("?" + urlencode(query) if query else "")


async def _as_events(
    watched: AsyncIterator[News | None], may_look: Callable[[], bool]
) -> AsyncIterator[str]:
    """Write news as server-sent events, until the session is over. An outage has a name, so that
    it is not swapped in."""
    yield "retry: 2000\n\n"
    async for news in watched:
        if not may_look():
            return
        if news is None:
            yield ": still here\n\n"
            continue
        lines = "".join(f"data: {line}\n" for line in news.text.splitlines() or [""])
        yield (f"event: {news.kind}\n" if news.kind == "outage" else "") + lines + "\n"
