"""One poller for all open pages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from starlette.exceptions import HTTPException

import worker.web.live as live_module
from worker.errors import Unreachable
from worker.web.live import Live, News, Topic

PAGE, OTHER, THIRD = (Topic(path, "admin") for path in ("/jobs", "/workers", "/files"))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "INTERVAL", 0.01)


class Source:
    """What the pages show."""

    def __init__(self) -> None:
        self.text = "first"
        self.error: Exception | None = None
        self.rendered: Counter[str] = Counter()

    async def render(self, topic: Topic) -> str:
        self.rendered[topic.address] += 1
        if self.error:
            raise self.error
        return self.text


async def following(watched: AsyncIterator[News | None]) -> News:
    async with asyncio.timeout(10):
        news = await anext(watched)
    assert news is not None
    return news


def test_a_page_hears_of_changes_alone() -> None:
    async def scenario() -> None:
        source = Source()
        live = Live(source.render)
        watched = live.watch(PAGE)
        assert await following(watched) == ("content", "first")
        while source.rendered[PAGE.address] < 5:
            await asyncio.sleep(0.01)
        source.text = "second"
        assert await following(watched) == ("content", "second")
        live.close()

    asyncio.run(scenario())


def test_a_hundred_pages_are_rendered_as_often_as_one() -> None:
    async def scenario() -> None:
        source = Source()
        live = Live(source.render)
        watched = [live.watch(PAGE) for _ in range(100)]
        assert {await following(each) for each in watched} == {("content", "first")}
        before = source.rendered[PAGE.address]
        source.text = "second"
        assert {await following(each) for each in watched} == {("content", "second")}
        assert source.rendered[PAGE.address] - before < 10  # and not a hundred
        live.close()

    asyncio.run(scenario())


def test_nothing_is_rendered_while_nobody_looks() -> None:
    async def scenario() -> None:
        source = Source()
        live = Live(source.render)
        watched = live.watch(PAGE)
        await following(watched)
        await watched.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)  # what was under way
        before = source.rendered.total()
        await asyncio.sleep(0.1)
        assert source.rendered.total() == before
        assert await following(live.watch(PAGE)) == ("content", "first")  # and it begins again
        live.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unreachable("the database is out of reach"), "the database is out of reach"),
        (HTTPException(404, "There is no such job."), "There is no such job."),
        (KeyError("what was in the database"), "a defect: KeyError"),
    ],
)
def test_an_error_is_news_and_so_is_its_end(error: Exception, told: str) -> None:
    async def scenario() -> None:
        source = Source()
        live = Live(source.render)
        watched = live.watch(PAGE)
        await following(watched)
        source.error = error
        assert await following(watched) == ("outage", told)
        source.error = None
        assert await following(watched) == ("content", "first")
        live.close()

    asyncio.run(scenario())


def test_a_page_that_reads_slowly_gets_the_latest_news() -> None:
    async def scenario() -> None:
        source = Source()
        live = Live(source.render)
        slow = live.watch(PAGE)
        await following(slow)
        for source.text in map(str, range(5)):
            rendered = source.rendered[PAGE.address]
            while source.rendered[PAGE.address] < rendered + 2:
                await asyncio.sleep(0.01)
        assert await following(slow) == ("content", "4")
        live.close()

    asyncio.run(scenario())


def test_pages_are_told_apart_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        source = Source()
        live = Live(source.render)
        monkeypatch.setattr(live_module, "MOST_TOPICS", 2)
        first, second = live.watch(PAGE), live.watch(OTHER)
        await following(first)
        assert live.has_room_for(THIRD)
        await following(second)
        assert not live.has_room_for(THIRD)
        assert live.has_room_for(PAGE)
        await first.aclose()  # type: ignore[attr-defined]
        assert live.has_room_for(THIRD)
        live.close()

    asyncio.run(scenario())


def test_closing_ends_all_watching() -> None:
    async def scenario() -> None:
        live = Live(Source().render)
        watched = live.watch(PAGE)
        await following(watched)
        live.close()
        async with asyncio.timeout(5):
            assert [news async for news in watched] in ([], [None], [News("content", "first")])

    asyncio.run(scenario())
