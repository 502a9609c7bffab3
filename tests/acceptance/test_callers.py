"""Who searches with a token of Supabase finds what row level security lets them see, however the
worker reaches the database."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

import worker as api
from tests.conftest import IN_CI, REPOSITORY, Database, value
from tests.supabase_project import NO_SUPABASE, Project, supabase_is_here
from tests.typescript import compiled, run_javascript
from tests.web import served_web
from worker.errors import CallerRefused, SettingsError
from worker.operations.callers import Callers, caller_of
from worker.operations.search import Mode, search
from worker.queue import Match
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)

SECRET = "a secret of a project, of more than 32 characters"
ANNA = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"
WAYS = ["the Data API", "both", "a connection"]


def token_of(
    user: str = ANNA, secret: str = SECRET, algorithm: str = "HS256", **claims: Any
) -> str:
    given = {"sub": user, "role": "authenticated", "aud": "authenticated", "exp": time.time() + 60}
    return jwt.encode(
        {name: claim for name, claim in (given | claims).items() if claim is not None},
        secret,
        algorithm,
    )


@pytest.fixture
def notes(project: Project, owner: Database) -> Database:
    """Two notes of each of two users, embedded, and a function by which they search."""
    owner.execute(
        "create table notes (id bigint, place text, body text, user_id uuid,"
        " primary key (id, place))"
    )
    owner.execute("alter table notes enable row level security")
    owner.execute(
        "create policy own on notes to authenticated using (user_id = (select auth.uid()))"
    )
    owner.execute(
        "select public.watch_embeddings('public.notes', 'body', 'embedding', dimensions => 256,"
        " language => 'english', match_function => true)"
    )
    settings = Settings(database_url=project.database_url)
    with api.open_database(settings) as queue:
        owner.execute("insert into notes values (9, 'x', 'of nobody', null)")
        assert api.process(queue, settings).stats.completed == 1
    return owner


@pytest.fixture(params=WAYS)
def settings(request: pytest.FixtureRequest, project: Project) -> Settings:
    of_the_api = {
        "supabase_url": project.url,
        "supabase_service_role_key": project.secret_key,
    }
    connection = {"database_url": project.database_url}
    return Settings(
        **{  # type: ignore[arg-type]
            "the Data API": of_the_api,
            "both": of_the_api | connection,
            "a connection": connection | {"supabase_jwt_secret": SECRET},
        }[request.param]
    )


@pytest.fixture
def anna(settings: Settings, project: Project, notes: Database) -> str:
    """The token of a user who has two notes."""
    if settings.supabase_url:
        answer = httpx.post(
            f"{project.url}/auth/v1/signup",
            headers={"apikey": project.publishable_key},
            json={"email": "anna@example.com", "password": "correct horse battery"},
        )
        token: str = answer.json()["access_token"]
        user = jwt.decode(token, options={"verify_signature": False})["sub"]
    else:
        token, user = token_of(), ANNA
    with api.open_database(Settings(database_url=project.database_url)) as queue:
        notes.execute(
            "insert into notes values (1, 'a', 'A castle in the snow', %s),"
            " (1, 'b', 'A recipe for bread', %s)",
            [user, user],
        )
        api.process(queue, Settings())
    return token


SearchAs = Callable[..., list[Match]]


@pytest.fixture
def search_as(settings: Settings) -> Iterator[SearchAs]:
    with api.open_queue(settings) as queue, closing(Callers(settings)) as callers:

        def search_as(token: str, words: str = "bread", mode: Mode | None = None) -> list[Match]:
            by = partial(callers.search, queue, token)
            return search(queue, settings, words, table="notes", mode=mode, search_as=by)

        yield search_as


def test_a_user_finds_their_own_rows(notes: Database, search_as: SearchAs, anna: str) -> None:
    modes: tuple[Mode, ...] = ("hybrid", "vector", "text")
    for mode in modes:
        found = search_as(anna, mode=mode)
        assert [match.content for match in found][:1] == ["A recipe for bread"]
        assert len(found) == (1 if mode == "text" else 2)
        assert found[0].record_id == '[1, "b"]'
        queued = "select count(*) from embedding_queue where record_id = %s"
        assert value(notes, queued, found[0].record_id) == 1
        if mode != "text":
            near, far = (match.distance or 0 for match in found)
            assert 0 < near < far < 1.5


def test_who_has_no_rows_finds_none_and_a_token_that_is_not_valid_is_refused(
    settings: Settings, notes: Database, search_as: SearchAs, anna: str
) -> None:
    if settings.supabase_url is None:
        assert search_as(token_of("9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963")) == []
    for token in ("no token", "é.é.é", "a.b.c\r\nd: e", ""):
        with pytest.raises(CallerRefused) as refused:
            search_as(token)
        assert not refused.value.is_known
    try:
        found = search_as(anna[:-4] + "AAAA")
    except CallerRefused:
        found = []
    else:
        assert settings.supabase_url, "Supabase Lite takes who has no valid token for nobody"
    assert found == []


def test_a_user_needs_the_right_to_call_the_function(
    notes: Database, search_as: SearchAs, anna: str
) -> None:
    notes.execute("revoke execute on all functions in schema public from authenticated, public")
    with pytest.raises(CallerRefused, match="match_notes") as refused:
        search_as(anna)
    assert refused.value.is_known


def test_a_search_changes_nothing_and_leaves_the_connection_as_it_was(
    project: Project, notes: Database
) -> None:
    notes.execute(
        "create function public.note() returns boolean language plpgsql volatile as"
        " $$ begin insert into public.seen values (1); return true; end $$"
    )
    notes.execute("create table seen (id integer)")
    notes.execute("create policy seen on notes to authenticated using (public.note())")
    settings = Settings(database_url=project.database_url, supabase_jwt_secret=SECRET)
    with api.open_queue(settings) as queue, closing(Callers(settings)) as callers:
        by = partial(callers.search, queue, token_of())
        with pytest.raises(api.WorkerError, match="read-only"):
            search(queue, settings, "bread", table="notes", search_as=by)
        notes.execute("drop policy seen on notes")
        assert search(queue, settings, "bread", table="notes", search_as=by) == []
        assert len(search(queue, settings, "nobody", table="notes")) == 1
    assert value(notes, "select count(*) from seen") == 0


def test_a_user_searches_by_the_http_api(settings: Settings, notes: Database, anna: str) -> None:
    with served_web(settings) as web:

        def ask(token: str, path: str = "/search") -> httpx.Response:
            headers = {"authorization": f"Bearer {token}"}
            asked = {"query": "bread", "table": "notes"}
            return web.as_nobody.post(path, headers=headers, json=asked)

        found = ask(anna)
        assert [each["record_id"] for each in found.json()["matches"]] == ['[1, "b"]', '[1, "a"]']
        assert ask(anna, "/v1/embeddings").status_code == 403
        refused = ask(token_of(exp=time.time() - 60))
        if settings.supabase_url is None:  # Supabase Lite takes who has no valid token for nobody
            assert refused.status_code == 401
        assert "matches" not in refused.json() or refused.json()["matches"] == []
        notes.execute("revoke execute on all functions in schema public from authenticated, public")
        assert ask(anna).status_code == 403


SIGN_UP = """
import { createClient } from "@supabase/supabase-js";
declare const process: { env: Record<string, string> };
const { SUPABASE_URL, PUBLISHABLE_KEY } = process.env;
const supabase = createClient(SUPABASE_URL, PUBLISHABLE_KEY, { auth: { persistSession: false } });
await supabase.auth.signUp({ email: "ben@example.com", password: "correct horse battery" });
const user_id = (await supabase.auth.getUser()).data.user!.id;
await supabase.from("notes").insert({ id: 5, place: "js", body: "A notice period", user_id });
"""


def test_a_user_of_supabase_js_searches_as_the_docs_say(
    project: Project, notes: Database, tmp_path: Path
) -> None:
    docs = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    [snippet] = re.findall(r"^```ts\n(.*?)^```$", docs, re.M | re.S)
    settings = Settings(supabase_url=project.url, supabase_service_role_key=project.secret_key)
    notes.execute("create policy adds on notes for insert to authenticated with check (true)")
    with served_web(settings) as web:
        script = SIGN_UP + snippet.replace("http://127.0.0.1:8080", web.url).replace(
            '"manuals"', '"notes", mode: "text"'
        )
        script += "console.log((await answer.json()).matches[0].content);"
        said = run_javascript(
            compiled(script, tmp_path),
            tmp_path,
            SUPABASE_URL=project.url,
            PUBLISHABLE_KEY=project.publishable_key,
        )
    assert said == "A notice period\n"


DENO = """
let handler;
globalThis.Deno = {
    env: { get: (name) => process.env[name] },
    serve: (given) => { handler = given; },
};
"""
CALL = """
const { access_token } = (await supabase.auth.getSession()).data.session;
const call = async (method, headers, body) => {
    const answer = await handler(new Request("http://edge/search", { method, headers, body }));
    const allowed = answer.headers.get("Access-Control-Allow-Origin");
    console.log(answer.status, allowed, await answer.text());
};
const asked = JSON.stringify({ query: "notice", table: "notes", limit: 1 });
const signed = { Authorization: `Bearer ${access_token}` };
await call("OPTIONS");
await call("POST", {}, asked);
await call("POST", signed, asked);
await call("POST", signed, asked.replace("notes", "nowhere"));
"""


def test_a_browser_searches_by_the_edge_function(
    project: Project, notes: Database, tmp_path: Path
) -> None:
    """deploy/supabase-function, which sends the token of the user to the worker."""
    function = (REPOSITORY / "deploy/supabase-function/index.ts").read_text(encoding="utf-8")
    settings = Settings(supabase_url=project.url, supabase_service_role_key=project.secret_key)
    notes.execute("create policy adds on notes for insert to authenticated with check (true)")
    with served_web(settings) as web:
        said = run_javascript(
            DENO + compiled(SIGN_UP + function, tmp_path) + CALL,
            tmp_path,
            SUPABASE_URL=project.url,
            PUBLISHABLE_KEY=project.publishable_key,
            WORKER_URL=web.url,
            ALLOWED_ORIGIN="https://app.example",
        )
    lines = [line.split(" ", 2) for line in said.splitlines()]
    assert [line[:2] for line in lines] == [
        [status, "https://app.example"] for status in ("200", "401", "200", "404")
    ]
    assert [each["record_id"] for each in json.loads(lines[2][2])["matches"]] == ['[5, "js"]']


@pytest.mark.parametrize(
    "token",
    [
        token_of(secret="another secret, of more than 32 characters"),
        token_of(algorithm="none", secret=""),
        token_of(algorithm="HS512", secret=SECRET * 2),
        token_of(exp=time.time() - 60),
        token_of(exp=None),
        token_of(role="service_role"),
        token_of(role="postgres"),
        token_of(role=None),
        token_of(role=["authenticated"]),
        token_of(aud="another"),
        token_of(aud=None),
        "",
        "..",
    ],
)
def test_only_a_valid_token_of_a_user_is_taken(token: str) -> None:
    with pytest.raises(CallerRefused):
        caller_of(token, SECRET)


def test_nobody_has_the_role_of_the_key_for_browsers() -> None:
    assert caller_of(token_of(role="anon", aud=None), SECRET).role == "anon"
    assert caller_of(token_of(aud=["authenticated", "x"]), SECRET).claims["sub"] == ANNA


def test_a_setting_is_missing_to_check_tokens(project: Project, notes: Database) -> None:
    settings = Settings(database_url=project.database_url)
    with api.open_queue(settings) as queue, closing(Callers(settings)) as callers:
        by = partial(callers.search, queue, token_of())
        with pytest.raises(SettingsError) as refused:
            search(queue, settings, "bread", table="notes", search_as=by)
        assert "SUPABASE_JWT_SECRET" in str(refused.value.hint)


def test_the_role_of_the_connection_must_be_able_to_act_as_users(
    project: Project, notes: Database
) -> None:
    notes.execute(
        "do $$ begin create role lonely login password 'pw' in role embedding_worker;"
        " exception when duplicate_object then null; end $$"
    )
    notes.execute("grant usage on schema public, extensions to lonely")
    url = project.database_url.replace("postgres:", "lonely:").replace(
        "//postgres@", "//lonely:pw@"
    )
    with psycopg.connect(url):
        pass
    settings = Settings(database_url=url, supabase_jwt_secret=SECRET)
    with api.open_queue(settings) as queue, closing(Callers(settings)) as callers:
        by = partial(callers.search, queue, token_of())
        with pytest.raises(SettingsError, match="cannot act as authenticated"):
            search(queue, settings, "bread", table="notes", search_as=by)


def test_a_column_needs_a_match_function(project: Project, owner: Database) -> None:
    owner.execute("create table docs (id bigint primary key, body text)")
    owner.execute(
        "select public.watch_embeddings('public.docs', 'body', 'embedding', dimensions => 256)"
    )
    settings = Settings(database_url=project.database_url, supabase_jwt_secret=SECRET)
    with api.open_queue(settings) as queue, closing(Callers(settings)) as callers:
        by = partial(callers.search, queue, token_of())
        with pytest.raises(SettingsError, match="no match function") as refused:
            search(queue, settings, "bread", table="docs", search_as=by)
        assert "--match-function" in str(refused.value.hint)
