"""The project folder, and copies in a project of somebody else's, under the real Supabase CLI."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import LiteralString

import psycopg
import pytest
from dotenv import dotenv_values
from psycopg import sql

from tests.acceptance.conftest import Completed, refused
from tests.conftest import (
    IN_CI,
    REPOSITORY,
    Database,
    Server,
    TemplateOf,
    new_database,
    rest_in_full,
    rows,
    run_worker,
    value,
)
from tests.documentation import assert_shows, blocks
from tests.integration.tables import acting_as
from tests.integration.test_access import ANNA
from tests.shell import Shell
from tests.supabase_project import (
    NO_SUPABASE,
    PARTS,
    data_api,
    make_project,
    over_tcp,
    supabase_cli,
    supabase_is_here,
)
from worker.database.migrations import migrations
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)

OURS = [migration.name for migration in migrations()]
LATER = "20991231235950"  # than any of ours
LATER_STILL = "21000101010000"
WATCH = ["notes", "--source", "body", "--column", "embedding", "--create-column"]


@dataclass(frozen=True)
class Project:
    """A project folder, and the database that it is pushed to, as one of its roles."""

    folder: Path
    db: Database
    url: str

    def supabase(self, *arguments: str) -> str:
        """What a command of the Supabase CLI says, on this database."""
        result = supabase_cli(*arguments, f"--remote={self.url}", workdir=self.folder)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def worker(self, *arguments: str, **environment: str) -> Completed:
        """`worker ARGUMENTS` in the folder, on this database."""
        return run_worker(
            *arguments, cwd=self.folder, environment={"DATABASE_URL": self.url, **environment}
        )

    def worked(self, *arguments: str, **environment: str) -> str:
        """The same, which has to work: what it prints."""
        result = self.worker(*arguments, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def write(self, file: str, text: str) -> None:
        path = self.folder / "supabase" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def copies(self) -> list[str]:
        """The names of the files that were copied, in the order in which they are applied."""
        found = sorted((self.folder / "supabase/migrations").glob("*_embedding_worker_*.sql"))
        return [path.stem.split("_embedding_worker_")[1] for path in found]

    def listed(self) -> dict[str, str]:
        """The version of each file, and under which the database has it, says the CLI."""
        lines = re.findall(
            r"^ *`?(\d*)`? *\| *`?(\d*)`? *\|", self.supabase("migration", "list"), re.M
        )
        return dict(lines)

    def findings(self) -> set[tuple[str, str]]:
        """What the advisors find, at any level: the name of each, and what it is about."""
        arguments = ["--type", "all", "--level", "info", "--output-format", "json"]
        said = self.supabase("db", "advisors", *arguments)
        found = json.loads(said[said.index("{") : said.rindex("}") + 1])["results"]
        return {(finding["name"], finding["detail"].split("`")[1]) for finding in found}

    def is_all_applied(self) -> bool:
        """Whether the worker and the history of the CLI both say so, and of the same versions."""
        return len(ours := self.applied()) == len(OURS) and ours <= self.recorded()

    def applied(self) -> set[str]:
        """The versions of the migrations that are applied, says the worker."""
        status = [line.split() for line in self.worked("migrate", "--status").splitlines()[1:]]
        return {version for version, _, applied in status if applied == "yes"}

    def recorded(self) -> set[str]:
        """The versions in the table from which `supabase db push` knows what is applied."""
        recorded = "select version from supabase_migrations.schema_migrations"
        return {version for (version,) in rows(self.db, recorded)}


Open = Callable[..., Project]


@pytest.fixture
def opened(empty_project: str, tmp_path: Path) -> Iterator[Open]:
    """Opens the folder of a project whose database has nothing but what Supabase brings."""
    with (
        over_tcp(empty_project) as url,
        psycopg.connect(empty_project, autocommit=True) as empty_db,
    ):
        (tmp_path / "supabase").mkdir()

        def opened(user: str = "") -> Project:
            return Project(
                tmp_path, empty_db, re.sub(r"//\w+@", f"//{user}@", url) if user else url
            )

        yield opened


@pytest.fixture
def this(opened: Open) -> Project:
    """The project folder of this repository."""
    project = opened()
    shutil.copytree(REPOSITORY / "supabase", project.folder / "supabase", dirs_exist_ok=True)
    return project


def write_theirs(project: Project) -> None:
    project.write("config.toml", 'project_id = "theirs"\n')
    project.write(
        f"migrations/{LATER}_search.sql",  # a name like one of ours
        "create table public.notes (id bigint primary key, body text, user_id uuid);\n"
        "alter table public.notes enable row level security;\n"
        "create policy own on public.notes to authenticated"
        " using (user_id = (select auth.uid()));\n",
    )


def push_theirs(db: Database) -> None:
    make_project(db.info.dsn)
    with over_tcp(db.info.dsn) as url, TemporaryDirectory() as folder:
        project = Project(Path(folder), db, url)
        write_theirs(project)
        project.supabase("db", "push")


@pytest.fixture
def theirs(project_server: Server, template_of: TemplateOf, tmp_path: Path) -> Iterator[Project]:
    """The project of somebody, pushed, with a table `notes` and versions behind all of ours."""
    with (
        new_database(project_server.url, template_of(project_server.url, push_theirs)) as name,
        over_tcp(project_server.url_of(name)) as url,
        psycopg.connect(project_server.url_of(name), autocommit=True) as db,
    ):
        project = Project(tmp_path, db, url)
        write_theirs(project)
        yield project


# -- the folder of this repository


def test_push_applies_the_folder_and_then_the_worker_finds_nothing_to_do(this: Project) -> None:
    assert "Applying migration 20261121000056_schema_version.sql" in this.supabase("db", "push")
    assert "up to date" in this.supabase("db", "push")
    assert this.is_all_applied()
    assert this.listed() == {version: version for version in this.applied()}
    assert "nothing to apply" in this.worker("migrate").stderr


@pytest.mark.only_in_full
def test_the_worker_applies_the_folder_and_then_push_finds_nothing_to_do(this: Project) -> None:
    assert len(this.worked("migrate").splitlines()) == len(OURS)
    assert this.is_all_applied()
    assert "up to date" in this.supabase("db", "push")


@pytest.mark.only_in_full
def test_push_with_the_seed_brings_the_sample_tables_twice_the_same(this: Project) -> None:
    for _ in range(2):
        this.supabase("db", "push", "--include-seed")
        assert value(this.db, "select count(*) from sessions") == 33
        assert value(this.db, "select count(*) from embedding_queue") == 60
    this.worked("process")
    assert value(this.db, "select count(title_embedding) from sessions") == 33
    assert value(this.db, "select count(distinct id) from handbook_passages") == 5


@pytest.mark.only_in_full
def test_a_signed_in_user_reads_their_own_sample_rows(this: Project) -> None:
    this.supabase("db", "push", "--include-seed")
    owner = value(this.db, "select user_id from sessions where user_id is not null limit 1")
    hers = value(this.db, "select count(*) from sessions where user_id = %s", owner)
    this.db.execute("select set_config('request.jwt.claim.sub', %s, false)", [str(owner)])
    this.db.execute("set role authenticated")
    assert value(this.db, "select count(*) from sessions") == hers


# -- in a project of somebody else's


@pytest.mark.only_in_full
def test_copies_are_pushed_and_then_the_worker_finds_nothing_to_do(theirs: Project) -> None:
    theirs.worked("init")
    assert theirs.copies() == OURS
    theirs.supabase("db", "push")
    assert theirs.is_all_applied()
    assert "nothing to apply" in theirs.worker("migrate").stderr
    assert "nothing to copy" in theirs.worker("init").stderr
    assert "up to date" in theirs.supabase("db", "push")


def test_what_the_worker_applied_before_there_were_copies_is_entered_as_the_copies(
    theirs: Project,
) -> None:
    theirs.worked("migrate")
    theirs.worked("init")
    assert theirs.copies() == OURS
    assert theirs.worked("migrate") == ""
    assert theirs.is_all_applied()
    assert "up to date" in theirs.supabase("db", "push")


@pytest.mark.only_in_full
def test_what_was_copied_first_is_applied_under_the_versions_of_the_copies(
    theirs: Project,
) -> None:
    theirs.worked("migrate", "--copy-to", ".")
    theirs.worked("migrate")
    assert theirs.is_all_applied()
    assert "up to date" in theirs.supabase("db", "push")


def test_what_a_newer_worker_brings_is_copied_behind_what_is_there(theirs: Project) -> None:
    theirs.worked("init")
    max((theirs.folder / "supabase/migrations").glob("*_embedding_worker_*.sql")).unlink()
    theirs.supabase("db", "push")
    theirs.write(f"migrations/{LATER_STILL}_theirs.sql", "select 1;")
    theirs.supabase("db", "push")
    assert len(theirs.worked("migrate", "--copy-to", ".").splitlines()) == 1
    theirs.supabase("db", "push")
    assert theirs.is_all_applied()


@pytest.mark.only_in_full
def test_a_watch_that_is_kept_in_git_is_pushed(theirs: Project) -> None:
    theirs.worked("init")
    theirs.write(
        f"migrations/{LATER_STILL}_watch_notes.sql", theirs.worked("watch", *WATCH, "--sql")
    )
    theirs.supabase("db", "push")
    theirs.db.execute("insert into notes values (1, 'a note')")
    theirs.worked("process")
    assert value(theirs.db, "select embedding is not null from notes")
    assert "up to date" in theirs.supabase("db", "push")


def test_what_pg_cron_is_to_do_is_pushed_also_where_it_is_not(theirs: Project) -> None:
    theirs.worked("init", "--with-cron")
    assert theirs.copies() == [*OURS, "pg_cron"]
    theirs.supabase("db", "push")
    assert theirs.is_all_applied()
    assert "nothing to copy" in theirs.worker("init", "--with-cron").stderr


# -- what is written into a folder


def test_a_copy_that_differs_is_overwritten_only_by_force(theirs: Project) -> None:
    theirs.worked("init")
    [copy] = (theirs.folder / "supabase/migrations").glob("*_embedding_worker_search.sql")
    right = copy.read_text()
    copy.write_text("select 1;")
    cause, hint = refused(theirs.worker("init"), 2)
    assert copy.name in cause
    assert "--force" in hint
    assert theirs.worked("init", "--force").splitlines() == [str(copy.relative_to(theirs.folder))]
    assert copy.read_text() == right


def test_a_folder_that_is_no_project_is_left_alone(tmp_path: Path) -> None:
    result = run_worker("init", cwd=tmp_path, environment={})
    assert "no folder supabase" in refused(result, 2)[0]
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase/migrations").touch()
    cause, _ = refused(run_worker("init", cwd=tmp_path, environment={}), 2)
    assert cause == "supabase/migrations: File exists"
    (tmp_path / "supabase/migrations").unlink()
    (tmp_path / ".env").write_bytes("OTHER=größer".encode("latin-1"))
    result = run_worker("init", str(tmp_path), cwd=tmp_path.parent, environment={})
    assert "UTF-8" in result.stderr
    assert result.returncode == 2


def test_settings_that_are_there_stay_and_the_others_come_as_comments(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    dotenv = tmp_path / ".env"
    mine = "export OPENAI_API_KEY='mine'\n# EMBEDDING_MODEL=openai:m\nOTHER=1"
    dotenv.write_text(mine)
    for _ in range(2):
        assert run_worker("init", str(tmp_path), cwd=tmp_path, environment={}).returncode == 0
        after = dotenv.read_text()
        assert after.startswith(f"{mine}\n\n# ")
        assert dotenv_values(dotenv) == {"OPENAI_API_KEY": "mine", "OTHER": "1"}
        listed = re.findall(r"^(?:# |export )?([A-Z0-9_]+)=", after, re.M)
        assert sorted(listed) == sorted({*Settings.variables(), "OTHER"})


# -- an owner who is no superuser


HOSTED = """
-- roles are those of the whole server
do $$ begin
    create role landlady login createrole bypassrls;
exception when duplicate_object then null;
end $$;
do $$ begin
    create role tenant;
exception when duplicate_object then null;
end $$;
grant tenant to landlady;
grant usage on schema auth to landlady;
grant usage, create on schema public to tenant;
alter schema public owner to landlady;
alter schema extensions owner to landlady;
alter schema supabase_migrations owner to landlady;
alter table supabase_migrations.schema_migrations owner to landlady;
"""


@pytest.fixture
def schema_of_vector() -> str:
    """The schema that pgvector is in; a test may name another."""
    return "extensions"


@pytest.fixture
def hosted(theirs: Project, schema_of_vector: str) -> Project:
    """The same, pushed to as one who has what `postgres` has on a hosted project, with our copies.

    The table `notes` belongs to another user.
    """
    database = sql.Identifier(theirs.db.info.dbname)
    theirs.db.execute(HOSTED)
    theirs.db.execute("alter table notes owner to tenant")
    theirs.db.execute(sql.SQL("alter database {} owner to landlady").format(database))
    theirs.db.execute(
        sql.SQL("drop extension vector; create extension vector schema {}").format(
            sql.Identifier(schema_of_vector)
        )
    )
    landlady = Project(theirs.folder, theirs.db, re.sub(r"//\w+@", "//landlady@", theirs.url))
    landlady.worked("init")
    landlady.supabase("db", "push")
    return landlady


@pytest.mark.parametrize("schema_of_vector", rest_in_full(["extensions", "public"]))
def test_an_owner_who_is_no_superuser_pushes_watches_and_embeds(hosted: Project) -> None:
    hosted.worked("watch", *WATCH)
    hosted.db.execute("insert into notes values (1, 'a note')")
    hosted.worked("process")
    assert value(hosted.db, "select embedding is not null from notes")
    owners = "select distinct proowner::regrole::text from pg_proc where proname ~ 'embeddings$'"
    assert rows(hosted.db, owners) == [("landlady",)]
    assert hosted.is_all_applied()


def test_a_signed_in_user_writes_and_sees_the_state_of_their_own_record(hosted: Project) -> None:
    hosted.worked("watch", *WATCH)
    hosted.db.execute("grant all on notes to authenticated")
    hosted.db.execute("insert into notes values (1, 'of somebody else', gen_random_uuid())")
    hosted.db.execute("select set_config('request.jwt.claim.sub', %s, false)", [ANNA])
    with acting_as(hosted.db, "authenticated"):
        hosted.db.execute("insert into notes values (2, 'of Anna', auth.uid())")
        state: LiteralString = "select record_id, user_id::text, status from embedding_queue"
        assert rows(hosted.db, state) == [("2", ANNA, "pending")]
        hosted.worked("process")
        assert rows(hosted.db, state) == [("2", ANNA, "completed")]


# -- the documentation

DOCUMENTATION = (REPOSITORY / "docs/supabase.md").read_text(encoding="utf-8")
WITH_THE_CLI = (
    "Install into your project",
    "Keep watches in git",
    "pg_cron",
    "Findings of the Supabase advisors",
)


def run_blocks(
    section: str, project: Project, page: str = "docs/supabase.md", **environment: str
) -> list[str]:
    """Run the commands of a section. Returns what each prints."""
    known = {"SUPABASE_YES": "true", "SUPABASE_TELEMETRY_DISABLED": "1", **environment}
    said = []
    with Shell(project.folder, known) as shell:
        shell.environment["PATH"] += f":{PARTS / '.bin'}"
        for block in blocks(page, section):
            for step in block.steps():
                done = shell.run(f"pip() {{ :; }}; {step.command}")
                assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
                assert_shows(step, done.stdout, done.stderr)
                said.append(done.stdout)
    return said


def test_the_documentation_leads_from_an_empty_project_to_a_search(
    opened: Open, empty_project: str
) -> None:
    project = opened()
    project.db.execute("create table docs (id bigint primary key, title text, body text)")
    project.db.execute(
        "insert into docs values (1, 'Opening hours', 'We are there from nine to five.'),"
        " (2, 'Refunds', 'Send it back, and you are paid back what it cost.')"
    )
    for section in WITH_THE_CLI:
        run_blocks(section, project, DATABASE_URL=project.url)
    assert project.is_all_applied()
    assert value(project.db, "select table_name from embedding_targets") == "docs"

    with data_api(empty_project) as api, (project.folder / ".env").open("a") as settings:
        settings.write(f"SUPABASE_URL={api.url}\nSUPABASE_SERVICE_ROLE_KEY={api.secret_key}\n")
        settings.flush()
        said = run_blocks("Over the Data API", project)
    assert "nothing is wrong" in said[0]
    assert "Refunds" in said[-1].splitlines()[0]  # the nearest


@pytest.mark.only_in_full  # docs/supabase.md has the same commands
def test_the_readme_leads_to_a_watched_table(opened: Open) -> None:
    project = opened()
    project.db.execute("create table docs (id bigint primary key, title text, body text)")
    run_blocks("On Supabase", project, "README.md", DATABASE_URL=project.url)
    assert project.is_all_applied()
    assert value(project.db, "select table_name from embedding_targets") == "docs"


def test_the_settings_it_names_are_those_of_the_worker() -> None:
    named = set(re.findall(r"^([A-Z_]+)=", DOCUMENTATION, re.M))
    assert named == {"SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"} <= Settings.variables()


# -- the advisors


EXPLAINED = {
    (finding, about)
    for finding, about in re.findall(r"^\| `(\w+)` \| `(\w+)` \|", DOCUMENTATION, re.M)
}
VECTOR_IN_PUBLIC = ("extension_in_public", "vector")
SAMPLE_INDEXES = {
    ("unused_index", "embedding_files_words"),
    ("unused_index", "handbook_chunk_places_id_hash_idx"),
    ("unused_index", "summaries_session_id"),
}


def test_the_advisors_find_what_the_documentation_explains_and_no_more(this: Project) -> None:
    this.supabase("db", "push", "--include-seed")
    assert this.findings() == EXPLAINED - {VECTOR_IN_PUBLIC}
    this.worked("process", EMBEDDING_CACHE_MB="1")
    assert {about for _, about in this.findings()} == {
        "batch_jobs_of_a_text",
        "embedding_audit_of_table",
        "embedding_enhancements_oldest",
        "embedding_files_missing",
        "embedding_files_of_folder",
        "embedding_files_words",
        "embedding_queue_failed",
        "embedding_queue_owner",
        "embedding_audit_of_reembedding",
        "summaries_session_id",
    }


@pytest.mark.only_in_full
def test_the_advisors_have_nothing_to_say_of_a_watched_table(hosted: Project) -> None:
    before = hosted.findings()
    assert before | {VECTOR_IN_PUBLIC} | SAMPLE_INDEXES == EXPLAINED
    hosted.worked("watch", *WATCH)
    hosted.db.execute(
        "select watch_embeddings('notes', 'id::text', 'other', dimensions => 3,"
        " on_change => 'clear')"
    )
    assert hosted.findings() == before
