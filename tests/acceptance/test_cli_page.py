"""The sessions that docs/cli.md shows, typed word for word, in their order.

The page tells of the sample tables, and of some small ones. Models of vendors are stand-ins. What
other pages tell of at length is left to `--full`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import REPOSITORY, Database
from tests.nasty_files import pdf, protected_pdf
from tests.reader import CONTRACT, Reader, prepare
from tests.shell import Shell

LOCAL = "local:wordllama-256"
SMALL = "openai:text-embedding-3-small"
COLLECTION = REPOSITORY / "tests/collection"

DOCS = """
create table docs (id bigint primary key, title text, body text);
insert into docs select n, 'Title ' || n, 'About ' || n from generate_series(1, 60) n;
"""
EVENTS = """
create table events (id bigint primary key, payload json);
insert into events values (1, '{"text": "signed up"}'), (2, '{"text": "\\u0000"}'), (3, '{}');
"""
WATCH_EVENTS = """
select watch_embeddings('events', 'payload->>''text''', 'embedding', dimensions => 256);
select backfill_embeddings('events', 'embedding');
"""
NOTES = f"""
create table notes (id bigint primary key, body text);
select watch_embeddings('notes', 'body', 'embedding', '{SMALL}', dimensions => 1536);
insert into notes select n, 'Note ' || n from generate_series(1, 200) n;
"""
WORKERS = """
insert into embedding_workers (worker, host, pid, state, cause, rss_mb, seen_at) values
    ('vm:25991:634e82', 'vm', 25991, 'waiting', 'nothing is due', 138, now()),
    ('web-2:4711:9f03be', 'web-2', 4711, 'working', null, 241, now() - interval '3 min');
"""
AUDIT = """
alter table embedding_audit disable trigger all;
delete from embedding_audit;
insert into embedding_audit (at, actor, login, source, address, event, table_name, embedding_column, figures)
values
    (now() - interval '26 h', 'postgres', 'postgres', 'cli', null, 'watched', 'docs', 'embedding',
     '{"model": "openai:text-embedding-3-small", "changed": ["model"]}'),
    (now() - interval '238 min', 'embedding_worker', 'worker_1', 'cli', null, 'backup_completed', null, null,
     '{"name": "2026-11-30T13-35-02Z", "rows": 100000, "bytes": 134000000, "destination": "s3://safe/vectors"}'),
    (now() - interval '243 s', 'service_role', 'authenticator', 'cli', '10.0.3.9', 'requeued', 'docs', 'embedding',
     '{"jobs": 12, "status": "failed"}'),
    (now() - interval '12 s', 'ada', 'postgres', 'sql', '10.0.3.7', 'controlled', null, null,
     '{"workers": 2, "desired_state": "pause"}');
"""  # noqa: E501
KEYS = """
update embedding_api_keys set last_used_at = now(), created_at = now() - interval '3 d';
update embedding_api_keys
   set last_used_at = now() - interval '4 d', created_at = now() - interval '90 d', revoked_at = now()
 where name = 'old';
"""  # noqa: E501


def create_samples(db: Database) -> None:
    db.execute((REPOSITORY / "supabase/seed.sql").read_bytes())


FIRST_TABLES = {"with_samples": create_samples}


@pytest.fixture
def with_samples() -> None:
    """The sample tables, watched, none of whose rows has a vector."""


@pytest.fixture
def shell(shell: Shell) -> Shell:
    shell.environment |= {"EMBEDDING_MODEL": LOCAL}
    return shell


def unseen(db: Database, statements: str) -> None:
    """Run statements as a restore does: no trigger sees them."""
    db.execute(f"set session_replication_role = replica; {statements}".encode())
    db.execute("reset session_replication_role")


def test_processing(with_samples: None, db: Database, shell: Shell) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "The command line",
        "worker process",
        "Before it costs anything",
        "worker run",
    )
    page.types("worker process --table nope", ends_with=2)
    page.types("worker process")
    db.execute(NOTES.encode())
    page.types("worker process --until 50%")
    prepare(shell, "worker process")
    db.execute(EVENTS + WATCH_EVENTS)
    page.types("worker process")
    db.execute("update embedding_queue set status = 'pending' where status = 'failed'")
    page.types("worker process --json", ends_with=1)
    db.execute(
        "select unwatch_embeddings(table_name, embedding_column) from embedding_targets"
        " where table_name in ('events', 'handbook', 'sessions')"
    )
    db.execute("update notes set body = body || '!'; update summaries set content = content || '!'")
    page.types("worker process --dry-run")
    page.types("ENABLE_BACKGROUND_EMBEDDING=false worker run")
    assert page.ends()


def test_keys_and_the_audit(db: Database, shell: Shell) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker keys create",
        "worker keys list",
        "worker keys revoke",
        "worker audit",
    )
    page.types("worker keys create shop", unless="ew_")
    db.execute("select create_embedding_api_key('old', sha256('key'), '{embed}', 600)")
    db.execute(KEYS)
    page.types("worker keys list")
    db.execute("update embedding_api_keys set revoked_at = null")
    page.types("worker keys revoke old")
    db.execute(AUDIT)
    page.types("worker audit")
    assert page.ends()


def test_workers_and_jobs(with_samples: None, db: Database, shell: Shell) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker psql",
        "worker pause",
        "worker requeue",
        "worker status",
        "Conditions",
        "worker monitor",
        "worker list",
        "worker reprocess",
        "worker recheck",
        "worker stats",
    )
    prepare(shell, "worker process")
    page.types("worker psql")
    db.execute(WORKERS + "update embedding_workers set seen_at = now()")
    page.types("worker pause")
    db.execute("select control_embeddings('work')")
    page.types("worker requeue --all --yes")
    db.execute("select unwatch_embeddings('handbook', 'embedding')")
    db.execute(EVENTS + WATCH_EVENTS)
    prepare(shell, "worker process || true")
    db.execute("truncate embedding_workers;" + WORKERS)
    page.types("worker status")
    page.types("worker status --fail-if")
    page.places = {"worker monitor": "timeout 2 worker monitor", "--interval 5": "--interval 1"}
    page.types("worker monitor", ends_with=124, within=60)
    db.execute(
        "select unwatch_embeddings('events', 'embedding');"
        "update sessions set title = 'Restore drill from the nightly backup (again)!'"
        " where id::text like '%17';"
        "update embedding_queue set status = 'failed', attempts = 1, error_class = 'rejected',"
        " error_message = 'api.openai.com answered 400: the input was flagged'"
        " where record_id like '5000%15'"
    )
    page.types("worker list")
    page.types("worker reprocess '*parcels*'", ends_with=2)
    page.types("worker reprocess")
    db.execute("update embedding_queue set status = 'pending' where status = 'failed'")
    prepare(shell, "worker process")
    unseen(db, "update sessions set title = title || '.' where id::text ~ '1.$'")
    page.types("worker recheck")
    db.execute("delete from embedding_usage")
    db.execute(
        "insert into embedding_usage values (date_trunc('hour', now()), %s, 62, 0, 6, 4879, 1, 0,"
        " '{0,0,3,3}', '{0,0,0,0,0,0,0,0,0,50,12}')",
        [LOCAL],
    )
    page.types("worker stats")
    assert page.ends()


def test_watching(with_samples: None, db: Database, shell: Shell) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker watch",
        "Vectors that are there",
        "worker unwatch",
        "worker index",
    )
    prepare(shell, "worker process --table sessions")
    db.execute(EVENTS)
    page.types("worker watch events")
    page.types("worker watch sessions")
    db.execute(DOCS)
    page.types("worker watch docs")
    page.types("worker watch sessions")
    db.execute(NOTES.replace("notes", "articles").encode())
    prepare(shell, "worker process --table articles")
    db.execute("select unwatch_embeddings('articles', 'embedding')")
    db.execute("update articles set embedding = null where id < 5")
    page.types("worker watch articles")
    page.types("worker unwatch sessions")
    db.execute("select watch_embeddings('sessions', 'title', 'title_embedding')")
    page.types("worker index sessions", unless="(waiting|building)")
    assert page.ends()


def test_columns_and_searches(
    with_samples: None, db: Database, shell: Shell, tmp_path: Path
) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker targets",
        "worker backfill",
        "worker search",
        "worker evaluate",
    )
    db.execute(
        "select watch_embeddings(table_name, embedding_column => embedding_column,"
        " filter => 'deleted_at is null') from embedding_targets where table_name <> 'handbook'"
    )
    page.types("worker targets")
    db.execute(EVENTS + WATCH_EVENTS.split(";")[0])
    page.types("worker backfill")
    unseen(db, NOTES)
    page.types("worker backfill --dry-run")
    db.execute("select unwatch_embeddings('notes', 'embedding')")
    db.execute("create table articles (id text primary key, title text, body text)")
    db.execute(
        "select watch_embeddings('articles', 'title, body', 'embedding', dimensions => 256,"
        " language => 'english');"
        "select watch_embeddings('summaries', embedding_column => 'content_embedding',"
        " language => 'english')"
    )
    articles = (COLLECTION / "articles.jsonl").read_text(encoding="utf-8").splitlines()
    db.execute(
        "insert into articles select article.* from unnest(%s::json[]) line,"
        " json_to_record(line) as article (id text, title text, body text)",
        [articles],
    )
    shutil.copy(COLLECTION / "queries.jsonl", tmp_path)
    folder = tmp_path / "files" / "hr"
    folder.mkdir(parents=True)
    (folder / "contract.pdf").write_bytes(CONTRACT)
    prepare(shell, "worker files add files", "worker files scan", "worker process || true")
    for _ in range(5):
        page.types("worker search")
    page.types("worker evaluate")
    assert page.ends()


def test_verifying(db: Database, shell: Shell) -> None:
    page = Reader(shell, "docs/cli.md", "worker verify", "Repair")
    db.execute(DOCS)
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 256);"
        "update docs set body = body where id > 0;"
        "select backfill_embeddings('docs', 'embedding');"
        "create index on docs using hnsw (embedding vector_cosine_ops)"
    )
    prepare(shell, "worker process", "worker backup")
    unseen(
        db,
        "update docs set embedding = null where id = 17;"
        "update docs set body = 'edited' where id = 18",
    )
    page.types("worker verify docs")
    prepare(shell, "worker recheck; worker process")
    unseen(
        db,
        "update docs set embedding = null where id in (18, 20, 21, 22);"
        "update docs set embedding = (select embedding from docs where id = 1) where id = 23",
    )
    page.types("worker verify docs --repair")
    assert page.ends()


@pytest.mark.only_in_full  # docs/files.md tells of most of these commands
def test_files(db: Database, shell: Shell, tmp_path: Path) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker files add",
        "worker files list",
        "worker files folders",
        "worker files scan",
        "worker files remove",
    )
    shell.environment["FILES_HOST"] = "app1"
    page.places = {"/home/anna": str(tmp_path)}
    folder = tmp_path / "handbook" / "it"
    folder.mkdir(parents=True)
    (folder / "plan.pdf").write_bytes(protected_pdf("plan", "secret", "secret"))
    (folder / "whiteboard.pdf").write_bytes(pdf(""))
    page.types("worker files add")
    (folder / "passwords.md").symlink_to("/etc/passwd")
    (folder / "a.md").write_text("a")
    (folder / "b.md").write_text("b")
    prepare(shell, "worker files scan", "worker process || true")
    page.types("worker files list")
    db.execute(
        "update embedding_folders set hosts = '{app1,app2}';"
        "insert into embedding_folders (name, kind, location, files, scanned_at)"
        " values ('reports', 's3', 'my-bucket/reports', 87, now() - interval '40 s')"
    )
    page.places["/srv/handbook"] = str(tmp_path / "handbook")
    page.types("worker files folders")
    db.execute("delete from embedding_folders where name = 'reports'")
    (folder / "a.md").rename(folder / "c.md")
    (folder / "b.md").write_text("changed")
    (folder / "d.md").write_text("new")
    page.types("worker files scan")
    page.types("worker files remove")
    assert page.ends()


def test_the_installation(db: Database, shell: Shell, tmp_path: Path) -> None:
    page = Reader(shell, "docs/cli.md", "worker doctor", "worker init", "worker migrate")
    db.execute(DOCS)
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 1536)")
    db.execute("alter table docs disable trigger embedding_insert_1")
    shell.environment |= {"EMBEDDING_MODEL": SMALL, "OPENAI_API_KEY": "wrong"}
    page.places = {"api.openai.com": urlsplit(shell.environment["OPENAI_BASE_URL"]).netloc}
    page.types("worker doctor", ends_with=1)
    (tmp_path / "supabase").mkdir()
    page.types("worker init")
    page.types("worker migrate")
    page.types("worker migrate --status")
    assert page.ends()


@pytest.mark.only_in_full  # docs/reembedding.md tells of the same commands
def test_reembedding(db: Database, shell: Shell) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker reembed create-config",
        "worker reembed start",
        "worker reembed status",
        "worker reembed pause",
        "worker reembed retry-failed",
        "worker reembed swap",
        "worker reembed rollback",
        "worker reembed cleanup",
    )
    shell.environment |= {"EMBEDDING_MODEL": SMALL}
    page.types("worker reembed create-config")
    db.execute(NOTES.replace("notes", "docs").encode())
    prepare(shell, "worker process")
    page.types("worker reembed start")
    prepare(shell, "worker reembed resume docs.embedding")
    page.types("worker reembed status")
    prepare(
        shell,
        "worker reembed cancel --yes",
        "worker reembed start docs.embedding --model openai:text-embedding-3-large --detach --yes",
    )
    page.types("worker reembed pause")
    prepare(shell, "worker reembed resume")
    db.execute(
        "update embedding_queue set status = 'failed', error_class = 'rejected', error_message = ''"
        " where record_id = '7' and embedding_column <> 'embedding'"
    )
    page.types("worker reembed retry-failed")
    prepare(shell, "worker process")
    page.types("worker reembed swap")
    page.types("worker reembed rollback")
    prepare(shell, "worker reembed swap")
    db.execute("create view recent as select id, embedding from docs")
    page.types("worker reembed cleanup --yes", ends_with=2)
    db.execute("drop view recent")
    page.types("worker reembed cleanup --rename --yes", unless="table docs is locked")
    assert page.ends()


@pytest.mark.only_in_full  # docs/backup.md tells of the same commands
def test_backups(db: Database, shell: Shell, tmp_path: Path) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "worker backup",
        "worker backup list",
        "worker backup check",
        "worker backup prune",
        "worker restore",
    )
    page.places = {"/srv/app": str(tmp_path)}
    db.execute(DOCS)
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 256)")
    db.execute("select backfill_embeddings('docs', 'embedding')")
    prepare(shell, "worker process", "worker backup", "worker backup check", "sleep 2")
    page.types("worker backup")
    page.types("worker backup list")
    page.types("worker backup check")
    page.places["--keep 7d"] = "--keep 1s"
    page.types("worker backup prune")
    db.execute("update docs set body = 'edited' where id = 1; delete from docs where id = 2")
    db.execute("update docs set embedding = null")
    page.types("worker restore")
    assert page.ends()
