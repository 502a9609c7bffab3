"""The pictures of the dashboard in the documentation: made here, of a shop in its work.

`PICTURES=docs/pictures scripts/test tests/integration/test_pictures.py` makes them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.browser import NO_BROWSER, Page, browser, browser_is_here
from tests.conftest import IN_CI, REPOSITORY, Database
from tests.web import ADMIN_TOKEN, served_web
from worker.engine.histogram import BUCKETS
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not browser_is_here() and not IN_CI, reason=NO_BROWSER)

KEPT = REPOSITORY / "docs/pictures"
PICTURES = {
    "overview": ("/", False),
    "overview-dark": ("/", True),
    "failures": ("/failures", False),
    "jobs": ("/jobs?status=failed", False),
}
"""By the name of its file: the screen, and whether it is dark."""
COLUMNS = {
    "articles": (2400, 2391, 2),
    "reviews": (1800, 1240, 14),
    "tickets": (300, 300, 0),
}
"""By table: rows, how many are embedded, and how many failed."""
MODEL = "openai:text-embedding-3-small"


@pytest.fixture(scope="module")
def shop(shared_url: str) -> Iterator[str]:
    """The URL of a database in the middle of its work."""
    with psycopg.connect(shared_url, autocommit=True) as db:
        for table, (rows, embedded, failed) in COLUMNS.items():
            _fill(db, table, rows, embedded, failed)
        db.execute("select set_embedding_goal('reviews', 'embedding', 99)")
        for host, cpu in (("worker-1", 41.0), ("worker-2", 87.0)):
            _report(db, host, cpu)
        db.execute(
            "insert into embedding_usage (minute, model, completed, failed, cost)"
            " select date_trunc('hour', now()) - ago * interval '1 hour', %s,"
            " 900 + 800 * sin(ago / 3.8), case ago when 7 then 240 else 3 end, 0"
            " from generate_series(1, 23) as ago",
            [MODEL],
        )
        db.execute("analyze")
        yield shared_url


def _fill(db: Database, table: str, rows: int, embedded: int, failed: int) -> None:
    db.execute(f"create table {table} (id bigint primary key, body text, embedding vector(3))")
    db.execute(f"select watch_embeddings('{table}', 'body', 'embedding', model => '{MODEL}')")
    db.execute(f"insert into {table} select n, 'text ' || n from generate_series(1, {rows}) as n")
    job = f"update embedding_queue set %s where table_name = '{table}' and record_id::bigint %s"
    done = (
        f"status = 'completed', completed_at = now(), model = '{MODEL}', tokens = 120,"
        " content_hash = sha256(convert_to('text ' || record_id, 'UTF8'))"
    )
    db.execute(f"update {table} set embedding = '[1,2,3]' where id <= {embedded}")
    db.execute(job % (done, f"<= {embedded}"))
    reason = "status = 'failed', error_class = '%s', error_message = '%s', attempts = %d"
    too_long = reason % ("too_long", "9120 tokens, and the model takes 8191", 1)
    refused = reason % ("content_policy", "the provider refused this text", 3)
    db.execute(job % (too_long, f"between {embedded + 1} and {embedded + failed}"))
    db.execute(job % (refused, f"between {embedded + 1} and {embedded + failed // 3}"))


def _report(db: Database, host: str, cpu: float) -> None:
    counts = [0] * BUCKETS
    counts[8:14] = [40, 380, 900, 420, 60, 12]
    usage = {
        "model": MODEL,
        "completed": 520,
        "failed": 8,
        "requests": 24,
        "tokens": 235_800,
        "cost": 0.0047,
        "seconds": 24,
        "request_ms": counts,
        "lag_ms": counts,
    }
    db.execute(
        "select embedding_worker_heartbeat(%s, %s, 7, 'working', 1965, 8, %s::jsonb, rss_mb => 118,"
        " version => '0.1.0', cores => 4, load => %s::real, cpu_percent => %s::real,"
        " memory_limit_mb => 512, throttle_level => %s, cause => %s)",
        [
            f"{host}:7:3fa9c1",
            host,
            json.dumps([usage]),
            cpu / 60,
            cpu,
            "slow" if cpu > 80 else "full",
            "load 1.45 of 1.5" if cpu > 80 else None,
        ],
    )


def test_the_pictures_in_the_documentation_show_the_dashboard(shop: str, tmp_path: Path) -> None:
    target = Path(os.environ.get("PICTURES") or tmp_path)
    with served_web(Settings(database_url=shop)) as web, browser() as chromium:
        for dark in (False, True):
            page = chromium.page(web.url, dark=dark, zone="UTC", width=1180)
            page.run("await page.goto('/login?token=' + argument)", ADMIN_TOKEN)
            for name, (address, is_dark) in PICTURES.items():
                if is_dark == dark:
                    _take(page, address, target / f"{name}.png")
            assert page.problems == []
    documents = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]
    shown = "".join(document.read_text(encoding="utf-8") for document in documents)
    assert {path.stem for path in KEPT.glob("*.png")} == PICTURES.keys()
    assert all(f"pictures/{name}.png" in shown for name in PICTURES)


def _take(page: Page, address: str, path: Path) -> None:
    """Take a picture of a page when it has had its first update."""
    page.run("await page.goto(argument); await page.waitForTimeout(800)", address)
    page.run("await page.screenshot({path: argument, fullPage: true})", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
