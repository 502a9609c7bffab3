"""Keeps open pages up to date: one poller a process, however many pages are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from worker.web.access import Role
from worker.web.problems import problem_of

INTERVAL = 1.0  # seconds
SHARE = 0.1  # of the time that the poller may spend; above that it slows down …
LONGEST_INTERVAL = 5.0  # seconds; … to this
MOST_TOPICS = 50  # of each role, so that readers leave admins their room
MOST_WATCHERS = 500
KEEP_ALIVE = 15.0  # seconds of silence; a proxy may cut a silent connection


class Topic(NamedTuple):
    """What a page shows: its path with the query, and for whom."""

    address: str
    role: Role


class News(NamedTuple):
    """The content of a page, or why there is none at the moment."""

    kind: Literal["content", "outage"]
    text: str


@dataclass(slots=True, eq=False)
class _Watcher:
    """An open page. It gets the latest news, and none in between if it is slow."""

    latest: News | None = None
    has_news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, news: News) -> None:
        self.latest = news
        self.has_news.set()


@dataclass(slots=True)
class Live:
    """Renders each topic that somebody watches once an INTERVAL, and tells its watchers if it has
    changed. While nobody watches, it does nothing."""

    render: Callable[[Topic], Awaitable[str]]
    _watchers: dict[Topic, set[_Watcher]] = field(default_factory=dict)
    _told: dict[Topic, News] = field(default_factory=dict)
    _poller: asyncio.Task[None] | None = None
    _is_closed: bool = False

    def has_room_for(self, topic: Topic) -> bool:
        """Whether one more page can be kept up to date."""
        of_role = [each for each in self._watchers if each.role == topic.role]
        watchers = sum(len(self._watchers[each]) for each in of_role)
        is_known = topic in self._watchers
        return watchers < MOST_WATCHERS and (is_known or len(of_role) < MOST_TOPICS)

    async def watch(self, topic: Topic) -> AsyncIterator[News | None]:
        """Yield the news of a topic, and None after KEEP_ALIVE without any, until it is closed."""
        watcher = _Watcher(self._told.get(topic))
        if watcher.latest:
            watcher.has_news.set()
        self._watchers.setdefault(topic, set()).add(watcher)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            while not self._is_closed:
                yield await _next(watcher)
        finally:
            self._leave(topic, watcher)

    def close(self) -> None:
        """End all watching."""
        self._is_closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.has_news.set()

    def _leave(self, topic: Topic, watcher: _Watcher) -> None:
        watchers = self._watchers[topic]
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[topic]
            self._told.pop(topic, None)

    async def _poll(self) -> None:
        while self._watchers and not self._is_closed:
            began = time.monotonic()
            for topic in list(self._watchers):
                self._tell(topic, await self._news_of(topic))
            spent = time.monotonic() - began
            interval = max(INTERVAL, min(spent / SHARE, LONGEST_INTERVAL))
            await asyncio.sleep(max(interval - spent, 0))

    async def _news_of(self, topic: Topic) -> News:
        try:
            return News("content", await self.render(topic))
        except Exception as error:  # also a defect, or one page would end the updates of all
            _, cause, _ = problem_of(error)
            return News("outage", cause)

    def _tell(self, topic: Topic, news: News) -> None:
        if topic not in self._watchers or self._told.get(topic) == news:
            return
        self._told[topic] = news
        for watcher in self._watchers[topic]:
            watcher.tell(news)


async def _next(watcher: _Watcher) -> News | None:
    try:
        async with asyncio.timeout(KEEP_ALIVE):
            await watcher.has_news.wait()
    except TimeoutError:
        return None
    watcher.has_news.clear()
    return watcher.latest
