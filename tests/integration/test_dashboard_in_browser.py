"""The dashboard in a real Chromium: every screen, by keyboard, without JavaScript, in an outage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.browser import NO_BROWSER, Browser, Page, browser, browser_is_here
from tests.conftest import IN_CI, Database, eventually, value
from tests.tcp_proxy import TcpProxy
from tests.web import ADMIN_TOKEN, READ_TOKEN, Web, served_web
from worker.settings import Settings
from worker.web.screens.catalog import SCREENS

pytestmark = pytest.mark.skipif(not browser_is_here() and not IN_CI, reason=NO_BROWSER)

HOSTILE = "<img src=x onerror=alert(1)>\u202e"
FIRST_LOAD = 100_000  # bytes
SAMPLE = {"id": "1", "record": "1", "table": "docs", "column": "embedding"}
ADDRESSES = {screen.name: screen.path for screen in SCREENS}
QUERIES = {
    "search": f"?q={HOSTILE}&column=docs.embedding",
    "documents": "?table=embedding_files&column=embedding",
    "passages": "?table=embedding_files&column=embedding&record=1",
    "new_reembedding": f"?column=docs.embedding&model={HOSTILE}",
}
PICTURES = os.environ.get("PICTURES")  # a folder: then pictures of all screens are put there


@pytest.fixture(scope="module")
def db(shared_url: str) -> Iterator[Database]:
    """A queue with something to see on each screen, and names that mean harm."""
    with psycopg.connect(shared_url, autocommit=True) as db:
        db.execute("create table docs (id bigint primary key, body text, embedding vector(3))")
        db.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'local:x')")
        db.execute("insert into docs select n, 'text ' || n from generate_series(1, 60) as n")
        db.execute(
            "update embedding_queue set status = 'failed', error_class = 'too_long',"
            " error_message = %s, attempts = 1 where id <= 40",
            [HOSTILE],
        )
        db.execute(
            "select embedding_worker_heartbeat('host:1:abcdef', %s, 1, 'paused', cause => %s,"
            " rss_mb => 100)",
            [HOSTILE, HOSTILE],
        )
        add_samples(db)
        yield db


def add_samples(db: Database) -> None:
    """Something to see on the screens of re-embeddings, files, backups and the audit."""
    db.execute("select start_reembedding('docs', 'embedding', 'local:y', 3)")
    db.execute("update embedding_reembeddings set problem = %s", [HOSTILE])
    db.execute("select add_embedding_folder(%s, 'directory', '/x', '{}', '{}', 'h')", [HOSTILE])
    db.execute(
        "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
        " chunks => true)"
    )
    db.execute(
        "insert into embedding_files (folder_id, path, size, stamp, version)"
        " select id, %s || n, 1, 's', 's' from embedding_folders, generate_series(1, 60) n",
        [HOSTILE],
    )
    db.execute(
        "insert into embedding_files_chunks (id, hash, content, embedding)"
        " select 1, sha256(n::text::bytea), %s, '[1,2,3]' from generate_series(1, 60) n",
        [HOSTILE],
    )
    db.execute(
        "insert into embedding_files_chunk_places (id, position, hash, first_char, last_char)"
        " select 1, n, sha256(n::text::bytea), 1000 * n, 1000 * n + 999"
        "   from generate_series(1, 60) n"
    )
    db.execute(
        "update embedding_queue set error_class = 'unreadable',"
        " error_message = %s where embedding_column = 'content' and record_id = '60'",
        [HOSTILE],
    )
    db.execute(
        "insert into embedding_backups (destination, name, state, worker, finished_at, problem)"
        " values ('/x', %s, 'complete', 'w', now(), %s)",
        [HOSTILE, HOSTILE],
    )
    db.execute("select record_embedding_audit('repaired', %s)", [HOSTILE])


@pytest.fixture(scope="module")
def web(shared_url: str, db: Database) -> Iterator[Web]:
    with served_web(Settings(database_url=shared_url)) as web:
        yield web


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def opened(chromium: Browser, web: Web) -> Iterator[Callable[..., Page]]:
    """Opens a page that is logged in, as an admin unless another token is given."""
    pages: list[Page] = []

    def opened(token: str = ADMIN_TOKEN, **options: Any) -> Page:
        page = chromium.page(web.url, **options)
        pages.append(page)
        page.run("await page.goto('/login?token=' + argument)", token)
        return page

    yield opened
    for page in pages:
        page.close()


def address_of(screen: str) -> str:
    """The address of a screen that shows something."""
    address = ADDRESSES[screen]
    for name, sample in SAMPLE.items():
        address = address.replace("{" + name + ":int}", sample).replace("{" + name + "}", sample)
    return address + QUERIES.get(screen, "")


# -- every screen


@pytest.mark.parametrize(
    ("look", "options"),
    [("light", {}), ("dark and narrow", {"dark": True, "width": 320})],
)
def test_every_screen_is_accessible_and_fits(
    opened: Callable[..., Page], look: str, options: dict[str, Any]
) -> None:
    page = opened(**options)
    for screen in ADDRESSES:
        found = page.run(
            """
            const answer = await page.goto(argument);
            const width = await page.evaluate(() => document.documentElement.scrollWidth);
            return {status: answer.status(), width, findings: await findings()};
            """,
            address_of(screen),
        )
        assert found == {"status": 200, "width": options.get("width", 1280), "findings": []}, screen
        if PICTURES:
            path = str(Path(PICTURES) / f"{screen}-{look}.png")
            page.run("await page.screenshot({path: argument, fullPage: true})", path)
    assert page.problems == []


def test_every_screen_fits_the_widest_window(opened: Callable[..., Page]) -> None:
    page = opened(width=3840)
    widths = page.run(
        """
        const widths = [];
        for (const address of argument) {
          await page.goto(address);
          widths.push(await page.evaluate(() => document.documentElement.scrollWidth));
        }
        return widths;
        """,
        [address_of(screen) for screen in ADDRESSES],
    )
    assert set(widths) == {3840}


def test_nothing_hostile_runs_and_nothing_comes_from_another_host(
    opened: Callable[..., Page], web: Web
) -> None:
    page = opened()
    loaded = page.run(
        """
        page.requests = [];
        page.on("request", (request) => page.requests.push(request.url()));
        for (const address of argument) await page.goto(address);
        return page.requests;
        """,
        [address_of(screen) for screen in ADDRESSES],
    )
    assert len(loaded) > len(ADDRESSES)
    assert {url[: len(web.url)] for url in loaded} == {web.url}
    assert page.problems == []  # a script of theirs would have opened a dialog


def test_the_first_load_is_small(opened: Callable[..., Page]) -> None:
    page = opened()
    sizes = page.run(
        """
        await page.goto("/", {waitUntil: "load"});
        return await page.evaluate(() =>
          ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
            .map((each) => [each.name, each.encodedBodySize]));
        """
    )
    assert len(sizes) > 4
    assert sum(size for _, size in sizes) < FIRST_LOAD, sizes


def test_times_are_those_of_the_reader(opened: Callable[..., Page]) -> None:
    page = opened(zone="Asia/Tokyo")
    page.run("await page.goto('/workers')")
    shown = page.run("return await page.locator('time').first().textContent()")
    utc = page.run("return await page.locator('time').first().getAttribute('datetime')")
    hour = (int(utc[11:13]) + 9) % 24
    assert f"{hour:02}:{utc[14:16]}" in shown


# -- by keyboard, and without JavaScript


def press_until(page: Page, key: str, name: str, limit: int = 80) -> None:
    """Press a key until the element of this name has the focus."""
    page.run(
        """
        for (let pressed = 0; pressed < argument.limit; pressed++) {
          await page.keyboard.press(argument.key);
          const name = await page.evaluate(() => document.activeElement.textContent.trim());
          if (name.startsWith(argument.name)) return;
        }
        throw new Error("never reached: " + argument.name);
        """,
        {"key": key, "name": name, "limit": limit},
    )


def failed(db: Database) -> int:
    count: int = value(db, "select count(*) from embedding_queue where status = 'failed'")
    return count


def fail_again(db: Database) -> None:
    db.execute(
        "update embedding_queue set status = 'failed', error_class = 'too_long',"
        " error_message = 'as before' where id <= 40"
    )


def test_the_keyboard_alone_requeues_and_sleeps(opened: Callable[..., Page], db: Database) -> None:
    fail_again(db)
    page = opened()
    page.run("await page.goto('/failures')")
    press_until(page, "Tab", "Requeue")
    page.run("await page.keyboard.press('Enter')")  # which asks first
    press_until(page, "Tab", "Requeue")
    page.run("await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')])")
    eventually(lambda: failed(db) == 0, 20)

    page.run("await page.goto('/')")
    press_until(page, "Tab", "Force deep sleep")
    page.run("await page.keyboard.press('Enter')")
    press_until(page, "Tab", "Force deep sleep")
    page.run("await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')])")
    wanted = "select desired_state from embedding_control where worker = '*'"
    eventually(lambda: value(db, wanted) == "sleep", 20)
    assert page.problems == []
    db.execute("select control_embeddings('work')")


def test_without_javascript_requeue_works(opened: Callable[..., Page], db: Database) -> None:
    fail_again(db)
    page = opened(scripts=False)
    page.run(
        """
        await page.goto("/failures");
        const asked = page.locator("details.confirm").first();
        await asked.locator("summary").click();
        await asked.locator("button").click();
        """
    )
    eventually(lambda: failed(db) == 0, 20)


def test_a_read_only_token_sees_everything_and_no_button(opened: Callable[..., Page]) -> None:
    page = opened(READ_TOKEN)
    for screen in ADDRESSES:
        page.run("await page.goto(argument)", address_of(screen))
        buttons = page.run("return await page.locator('main form[method=post]').count()")
        assert buttons == 0, screen


# -- live


def test_an_open_page_follows_and_keeps_focus_choice_and_what_is_unfolded(
    opened: Callable[..., Page], db: Database
) -> None:
    fail_again(db)
    page = opened()
    page.run(
        """
        await page.goto("/failures");
        await page.locator("details.confirm summary").first().focus();
        await page.keyboard.press("Enter");
        """
    )
    db.execute("update embedding_queue set error_class = 'empty' where id <= 5")
    page.run("await page.getByText('empty').first().waitFor()")
    kept = page.run(
        """
        return await page.evaluate(() => ({
          focus: document.activeElement.tagName,
          isOpen: document.activeElement.parentElement.open,
        }));
        """
    )
    assert kept == {"focus": "SUMMARY", "isOpen": True}
    assert page.problems == []


@pytest.mark.parametrize("failure", ["route.abort()", "route.fulfill({status: 503, body: 'full'})"])
def test_a_page_whose_first_request_for_updates_fails_tries_again(
    opened: Callable[..., Page], db: Database, failure: str
) -> None:
    fail_again(db)
    page = opened()
    page.run(
        f"""
        let asked = 0;
        await page.route("**/live?**", (route) => asked++ ? route.continue() : {failure});
        await page.goto("/failures");
        await page.waitForTimeout(1000);
        """
    )
    assert page.run("return await page.locator('h1').textContent()") == "Failures"
    db.execute("update embedding_queue set error_class = 'refused' where id <= 5")
    page.run("await page.getByText('refused').first().waitFor()")


def test_a_page_says_that_the_database_is_away_and_recovers(
    chromium: Browser, shared_url: str, db: Database
) -> None:
    with TcpProxy(shared_url) as proxy, served_web(Settings(database_url=proxy.url)) as web:
        page = chromium.page(web.url)
        # of this screen there is one connection; the proxy could let another slip through
        page.run(
            """
            await page.goto("/login?next=%2Fworkers");
            await page.fill("#token", argument);
            await page.click("button");
            await page.getByRole("heading", {name: "Workers"}).waitFor();
            """,
            ADMIN_TOKEN,
        )
        proxy.refuse()
        page.run("await page.locator('#outage').waitFor({state: 'visible'})")
        said = page.run("return await page.locator('#outage').textContent()")
        assert "Not up to date" in said
        assert page.run("return (await page.context().request.get('/workers')).status()") == 503
        proxy.accept()
        page.run("await page.locator('#outage').waitFor({state: 'hidden'})")
        assert page.run("return (await page.goto('/workers')).status()") == 200
        page.close()
