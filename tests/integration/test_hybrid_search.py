"""Search by words beside vectors: what is found, in which order, by whom, and by which index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest

from tests.conftest import Database, Server, TemplateOf, rows, value
from tests.integration.tables import acting_as, create_role, refusal
from worker.errors import SettingsError
from worker.queue import AdminQueue, Target
from worker.queue.postgres import PostgresQueue

WATCH: LiteralString = (
    "select watch_embeddings('docs', 'body', 'embedding', language => 'english',"
    " match_function => true)"
)
BUILD: LiteralString = (
    "select embedding_index_statements('docs', 'embedding', blocks_writers => true)"
)
INDEXES: LiteralString = (
    "select class.relname::text, pg_get_indexdef(indexrelid, 1, false), indisvalid"
    "  from pg_index join pg_class as class on class.oid = indexrelid"
    " where indrelid = 'docs'::regclass and indexprs is not null order by 1"
)
WORDS: LiteralString = (
    "to_tsvector('english'::regconfig, translate(\"left\"(body, 100000), '-/'::text, '  '::text))"
)
HYBRID: LiteralString = "select id from match_docs('[1,0,0]', 10, query_text => %s)"
BOTH: tuple[LiteralString, ...] = (
    "select * from match_docs('[1,0,0]', ",
    "select * from search_embeddings('docs', 'embedding', '[1,0,0]', ",
)
FILTER_HINT = (
    'A filter is an object of columns and values, like {"tenant_id": 5, "lang": ["en", "de"]}.'
)
BY_WORDS: LiteralString = "select id from match_docs(null, 10, query_text => %s)"


def build_index(db: Database) -> int:
    """Build what is missing of the index over words. Returns the number of statements."""
    statements = [statement for (statement,) in rows(db, BUILD)]
    for statement in statements:
        db.execute(statement)
    return len(statements)


def create_texts(docs: Database) -> None:
    docs.execute(
        "insert into docs values"
        " (1, 'The printer refuses to print', 0, '[1,0,0]'),"
        " (2, 'How to pay an invoice', 0, '[1,1,0]'),"
        " (3, 'Error E-4711 while printing a label', 0, '[0,1,0]'),"
        " (4, 'E-4711 again, not embedded yet', 0, null),"
        " (5, 'Holidays', 0, '[-1,0,0]')"
    )
    docs.execute(WATCH)
    assert build_index(docs) == 1
    docs.execute("analyze docs")


def create_tenants(db: Database) -> None:
    db.execute(
        "create table docs (id bigint primary key, body text, tenant_id integer, lang varchar(2))"
    )
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " language => 'english', match_function => true)"
    )
    db.execute(
        "insert into docs select i, 'text number ' || i, case when i % 1000 = 0 then 7 else 0 end,"
        "  case when i % 2000 = 0 then 'de' when i % 3 = 0 then null else 'en' end,"
        "  array[case when i % 1000 = 0 then -1 else 1 end, sin(i) / 2, cos(i) / 3]::vector"
        " from generate_series(1, 20000) as i"
    )
    db.execute("create index nearest on docs using hnsw (embedding vector_cosine_ops)")
    build_index(db)
    db.execute("analyze docs")


@pytest.fixture
def template(
    request: pytest.FixtureRequest, server: Server, template: str, template_of: TemplateOf
) -> str:
    """The database that a test begins with: its rows and indexes are made once, and cloned."""
    for fixture, create in {"texts": create_texts, "tenants": create_tenants}.items():
        if fixture in request.fixturenames:
            return template_of(server.url, create, template)
    return template


@pytest.fixture
def texts(docs: Database) -> Database:
    """A table `docs` with a language, its index, and texts at growing angles to [1,0,0]."""
    return docs


def ids(db: Database, query: LiteralString, *parameters: Any) -> list[int]:
    return [key for (key,) in rows(db, query, *parameters)]


# -- what is found, and in which order


def test_words_find_what_the_vector_does_not(texts: Database) -> None:
    assert ids(texts, "select id from match_docs('[1,0,0]', 2)") == [1, 2]
    assert ids(texts, HYBRID, "e-4711")[:2] == [3, 4]
    assert set(ids(texts, HYBRID, "e-4711")) == {1, 2, 3, 4, 5}


def test_a_row_is_found_by_its_words_before_it_has_a_vector(texts: Database) -> None:
    [(similarity, vector_rank, text_rank)] = rows(
        texts,
        "select similarity, vector_rank, text_rank"
        " from match_docs('[1,0,0]', query_text => 'e-4711 again') where id = 4",
    )
    assert (similarity, vector_rank, text_rank) == (None, None, 1)


def test_the_score_is_made_of_both_ranks(texts: Database) -> None:
    found = rows(
        texts,
        "select id, score, vector_rank, text_rank, similarity from match_docs("
        " '[1,0,0]', query_text => 'printing', full_text_weight => 2, rrf_k => 10)",
    )
    assert [row[0] for row in found[:2]] == [1, 3]
    for _, score, vector_rank, text_rank, _ in found:
        by_vector = 1 / (10 + vector_rank) if vector_rank else 0
        assert score == pytest.approx(by_vector + (2 / (10 + text_rank) if text_rank else 0))
    assert [row[1] for row in found] == sorted((row[1] for row in found), reverse=True)
    assert {row[0]: row[4] for row in found}[3] == pytest.approx(0)


def test_without_words_nothing_is_different(texts: Database) -> None:
    nearest = rows(texts, "select * from match_docs('[1,0,0]')")
    assert [row[0] for row in nearest] == [1, 2, 3, 5]
    assert {row[3:] for row in nearest} == {(None, None, None)}
    assert nearest == rows(
        texts, "select * from match_docs('[1,0,0]', query_text => 'e-4711', full_text_weight => 0)"
    )


def test_words_alone_find_only_rows_that_have_one(texts: Database) -> None:
    assert ids(texts, BY_WORDS, "a printing E-4711") == [3, 4, 1]
    assert rows(texts, "select distinct similarity from match_docs(null, query_text => 'pay')") == [
        (None,)
    ]


def test_the_threshold_holds_for_vectors_only(texts: Database) -> None:
    query: LiteralString = "select id from match_docs('[1,0,0]', 10, 0.5, query_text => 'e-4711')"
    assert set(ids(texts, query)) == {1, 2, 3, 4}


def test_a_rare_word_counts_more_and_a_long_text_less(docs: Database) -> None:
    docs.execute("insert into docs select i, 'common words' from generate_series(1, 50) as i")
    docs.execute("insert into docs values (51, 'common words and a rare one')")
    docs.execute("insert into docs values (52, 'rare ' || repeat('filling up the text ', 50))")
    docs.execute(WATCH)
    build_index(docs)
    assert ids(docs, BY_WORDS, "rare common words")[:2] == [51, 52]
    assert ids(docs, BY_WORDS, "rare") == [51, 52]


@pytest.mark.parametrize(
    "words",
    [
        *[
            "",
            "   ",
            "the of and",
            "'",
            "'''",
            "\\",
            "a \\' b",
            "!&|()<->:*",
            "''; drop table docs; --",
        ],
        *["%s %I {eq} $1", "/* eq_filter */", "\u202e\U0001f600", "x" * 5000, "<a href='&'>", "$$"],
    ],
)
def test_any_words_can_be_searched_for(texts: Database, words: str) -> None:
    assert ids(texts, HYBRID, words)[0] == 1
    assert len(ids(texts, HYBRID, words)) >= 4
    assert ids(texts, BY_WORDS, words) in ([], [3, 4])


@pytest.mark.parametrize(
    ("words", "found"),
    [("4711", [3, 4]), ("e4711", []), ("cooling", [8]), ("heating-cooling", [8]), ("19", [9])],
)
def test_a_hyphen_and_a_slash_separate_words(texts: Database, words: str, found: list[int]) -> None:
    texts.execute("insert into docs values (8, 'heating/cooling'), (9, 'covid-19')")
    assert sorted(ids(texts, BY_WORDS, words)) == found


def test_a_text_with_such_characters_is_found(texts: Database) -> None:
    texts.execute("insert into docs values (9, %s)", [r"path c:\dir\o'neil.txt and it's"])
    assert ids(texts, BY_WORDS, r"c:\dir\o'neil.txt") == [9]


def test_a_query_as_long_as_a_book_ends_soon(texts: Database) -> None:
    words = " ".join(f"word{i}" for i in range(9_000)) + " printer" * 3
    assert ids(texts, HYBRID, words)[0] == 1
    assert 1 in ids(texts, BY_WORDS, words)


def test_several_columns_are_searched_for_their_words(db: Database) -> None:
    db.execute('create table docs (id bigint primary key, "my, title" text, year int, body text)')
    db.execute("insert into docs values (1, 'Winter', 2019, null), (2, null, 2020, 'Summer')")
    db.execute(
        "select watch_embeddings('docs', '\"my, title\"', 'embedding', dimensions => 3,"
        " language => 'english', match_function => true)"
    )
    source = """concat_ws(E'\\n\\n', "my, title", year, body)"""
    db.execute("select watch_embeddings('docs', %s, 'embedding')", [source])
    build_index(db)
    assert ids(db, BY_WORDS, "winter") == [1]
    assert ids(db, BY_WORDS, "2020 summers") == [2]


def test_words_are_those_of_the_language(texts: Database) -> None:
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', language => 'simple')")
    build_index(texts)
    assert ids(texts, BY_WORDS, "print") == [1]
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', language => 'english')")
    build_index(texts)
    assert ids(texts, BY_WORDS, "print") == [1, 3]


def test_a_column_without_a_language_is_not_searched_for_words(texts: Database) -> None:
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', language => '')")
    said = (
        "column embedding of table docs is not set up for full text",
        "Run `worker watch docs --column embedding --hybrid`, or search without words.",
    )
    assert refusal(texts, "select * from match_docs('[1,0,0]', query_text => 'a')") == said
    assert said == refusal(
        texts, "select * from search_embeddings('docs', 'embedding', '[1,0,0]', query_text => 'a')"
    )
    assert ids(texts, "select id from match_docs('[1,0,0]', 1)") == [1]


def test_the_queue_searches_as_the_match_function_does(texts: Database, queue: AdminQueue) -> None:
    target = queue.target("docs", "embedding")
    vector = np.array([1, 0, 0], dtype=np.float32)
    expected = rows(
        texts,
        "select id::text, content, 1 - similarity, score, vector_rank, text_rank"
        " from match_docs('[1,0,0]', 3, query_text => 'printing', full_text_weight => 0.5,"
        " rrf_k => 7, filter => '{\"views\": 0}')",
    )
    found = queue.search(
        target, vector, 3, text="printing", full_text_weight=0.5, rrf_k=7, filter={"views": 0}
    )
    assert len(found) == 3
    for match, row in zip(found, expected, strict=True):
        assert (match.record_id, match.content) == row[:2]
        assert match.distance == pytest.approx(row[2], abs=1e-6)
        assert match.score == pytest.approx(row[3])
        assert (match.vector_rank, match.text_rank) == row[4:]
    by_words = queue.search(target, None, 5, text="printing")
    assert [(match.record_id, match.distance) for match in by_words] == [("1", None), ("3", None)]
    assert [match.record_id for match in queue.search(target, vector, 5, exact=True)] == list(
        "1235"
    )


def test_a_common_word_chooses_no_row_where_a_rare_one_does(docs: Database) -> None:
    docs.execute("insert into docs select i, 'usual text ' || i from generate_series(1, 10500) i")
    docs.execute("insert into docs values (20001, 'usual text of a zebra'), (20002, 'a zebra')")
    docs.execute(WATCH)
    build_index(docs)
    docs.execute("analyze docs")
    assert set(ids(docs, BY_WORDS, "usual zebra")[:2]) == {20001, 20002}
    assert len(ids(docs, BY_WORDS, "usual zebra")) == 10
    assert len(ids(docs, BY_WORDS, "usual")) == 10


def test_a_search_in_a_large_table_finds_the_same_when_it_is_repeated(docs: Database) -> None:
    """Postgres begins a scan of a table above a quarter of its buffers where another one ended."""
    docs.execute("alter table docs add filler text")
    docs.execute(
        "insert into docs (id, body, filler) select i, case when i <= 10 then 'rare'"
        " when i % 5 = 0 then 'one two three four five six' else 'other' end, repeat('x', 900)"
        " from generate_series(1, 40000) as i"
    )
    docs.execute(WATCH)
    build_index(docs)
    query: LiteralString = (
        "select id from match_docs(null, 1, query_text => 'rare one two three four five six')"
    )
    [first, *others] = [ids(docs, query) for _ in range(5)]
    assert others == [first] * 4


# -- filters, tenants, and the rights of the caller


@pytest.fixture
def tenants(db: Database) -> Database:
    """20,000 rows, with the nearest of tenant 0, and 20 rows in the distance of tenant 7."""
    return db


@pytest.fixture
def tenant(tenants: Database) -> Iterator[Database]:
    """Tenant 7, who sees only their own rows."""
    create_role(tenants, "anon")
    tenants.execute("grant select on docs, embedding_targets to anon")
    tenants.execute("alter table docs enable row level security")
    tenants.execute("create policy own on docs for select to anon using (tenant_id = 7)")
    with acting_as(tenants, "anon"):
        yield tenants


OWN = set(range(1000, 20001, 1000))


def test_a_tenant_gets_as_many_rows_as_they_ask_for(tenant: Database) -> None:
    tenant.execute("set enable_seqscan = off")  # as for a table so large that the index pays
    for query in (
        "select id from match_docs('[1,0,0]', 10)",
        "select id from match_docs('[1,0,0]', 10, query_text => 'number 5000 text')",
        "select id from match_docs(null, 10, query_text => 'number 5000 text')",
    ):
        found = ids(tenant, query)
        assert (len(found), set(found) <= OWN) == (10, True)
    assert len(ids(tenant, "select id from match_docs('[1,0,0]', 50)")) == 20
    assert ids(tenant, "select id from match_docs(null, 1, query_text => 'number 5000')") == [5000]


def test_where_the_index_gives_up_all_vectors_are_compared(tenant: Database) -> None:
    tenant.execute("set enable_seqscan = off")
    tenant.execute("set hnsw.max_scan_tuples = 1")
    assert len(ids(tenant, "select id from match_docs('[1,0,0]', 10)")) == 10
    assert len(ids(tenant, "select id from match_docs('[1,0,0]', 10, query_text => 'text')")) == 10


def test_a_search_leaves_the_settings_of_the_session(tenant: Database) -> None:
    tenant.execute("select '[1]'::vector")  # loads pgvector
    tenant.execute("set hnsw.iterative_scan = relaxed_order")
    with tenant.transaction():
        tenant.execute("select * from match_docs('[1,0,0]', query_text => 'text')")
        assert value(tenant, "select current_setting('hnsw.iterative_scan')") == "relaxed_order"
        assert value(tenant, "select current_setting('jit')") == "on"


def test_words_tell_nothing_about_hidden_rows(tenant: Database) -> None:
    assert ids(tenant, "select id from match_docs(null, 10, query_text => '5001')") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        tenant.execute("select * from embedding_index_statements('docs', 'embedding')")


def test_a_filter_leaves_as_many_rows_as_are_asked_for(tenants: Database) -> None:
    query: LiteralString = (
        "select id from match_docs(%s, 10, query_text => %s, filter => '{\"tenant_id\": 7}')"
    )
    tenants.execute("set enable_seqscan = off")
    for vector, words in (("[1,0,0]", None), ("[1,0,0]", "number 5000"), (None, "number 5000")):
        found = ids(tenants, query, vector, words)
        assert (len(found), set(found) <= OWN) == (10, True)
    assert ids(tenants, query, None, "5000")[0] == 5000


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        ({"tenant_id": 7}, "tenant_id = 7"),
        ({"tenant_id": "7", "lang": "de"}, "tenant_id = 7 and lang = 'de'"),
        ({"tenant_id": [6, 7], "lang": ["de", "en"]}, "tenant_id = 7 and lang is not null"),
        ({"tenant_id": 7, "lang": None}, "tenant_id = 7 and lang is null"),
        ({"tenant_id": 7, "lang": ["de", None]}, "tenant_id = 7 and lang is distinct from 'en'"),
        ({"id": []}, "false"),
        ({"lang": "den"}, "false"),
        ({"lang": "x' or true --"}, "false"),
        ({}, "true"),
    ],
)
def test_a_filter_is_equality_on_columns(
    tenants: Database, queue: AdminQueue, wanted: dict[str, Any], condition: LiteralString
) -> None:
    [(expected,)] = rows(tenants, "select array_agg(id) from docs where " + condition)
    every: LiteralString = "select id from match_docs('[1,0,0]', 30000, filter => %s)"
    found = set(ids(tenants, every, json.dumps(wanted)))
    assert found == set(expected or [])
    target = queue.target("docs", "embedding")
    by_words = queue.search(target, None, 20, text="text", filter=wanted)
    assert {int(match.record_id) for match in by_words} <= found
    assert len(by_words) == min(20, len(found))


def test_an_index_serves_a_filter(tenants: Database) -> None:
    tenants.execute("create index tenant on docs (tenant_id)")
    tenants.execute("analyze docs")
    query: LiteralString = "select id from match_docs('[1,0,0]', filter => '{\"tenant_id\": 7}')"
    assert len(ids(tenants, query)) == 10
    assert scans(tenants, "tenant") > 0


def test_a_filter_names_columns_of_the_table(tenants: Database) -> None:
    sentence, hint = refusal(
        tenants, "select * from match_docs('[1,0,0]', filter => '{\"tenant\": 7}')"
    )
    assert sentence == "the filter names a column tenant that table public.docs does not have"
    assert '{"tenant_id": 5, "lang": ["en", "de"]}' in hint


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ("[]", "the filter is not a JSON object: []"),
        ("7", "the filter is not a JSON object: 7"),
        ('"tenant_id = 7"', 'the filter is not a JSON object: "tenant_id = 7"'),
        ('"[7]"', 'the filter is not a JSON object: "[7]"'),
        *[
            (
                json.dumps({"tenant_id": wrong}),
                f"the filter cannot compare column tenant_id of type integer with {shown}",
            )
            for wrong, shown in [
                ("a", '"a"'),
                ("", '""'),
                (1.5, "1.5"),
                (True, "true"),
                (10**10, "10000000000"),
                ({"a": 1}, '{"a": 1}'),
                ([7, "a"], '[7, "a"]'),
                ([[7]], "[[7]]"),
                ("x" * 50, '"' + "x" * 39),
            ]
        ],
        ('{"tags": "a"}', 'the filter cannot compare column tags of type text[] with "a"'),
        ('{"tags": ["a"]}', 'the filter cannot compare column tags of type text[] with ["a"]'),
        ('{"meta": 1}', "the filter cannot compare column meta of type json with 1"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused(
    docs: Database, given: LiteralString, cause: str
) -> None:
    docs.execute("alter table docs add tenant_id integer, add tags text[], add meta json")
    docs.execute(WATCH)
    for search in BOTH:
        sentence, hint = refusal(docs, search + "filter => '" + given + "')")
        assert sentence == cause
        assert hint.endswith((FILTER_HINT, "A column of json or of arrays cannot be used."))


def test_a_filter_may_be_sent_as_a_string(texts: Database) -> None:
    for search in BOTH:
        assert len(rows(texts, search + """filter => '"{\\"id\\": [1, 3]}"')""")) == 2
        assert len(rows(texts, search + "filter => 'null')")) == 4


def test_a_filter_compares_a_domain_as_its_base_type(texts: Database) -> None:
    texts.execute("create domain positive as integer check (value > 0)")
    texts.execute("alter table docs add tenant_id positive")
    texts.execute("update docs set tenant_id = 5 where id = 3")
    query: LiteralString = "select id from match_docs('[1,0,0]', filter => %s)"
    assert ids(texts, query, '{"tenant_id": 5}') == [3]
    assert ids(texts, query, '{"tenant_id": -5}') == []


# -- arguments that cannot be used


@pytest.mark.parametrize(
    ("argument", "cause", "cure"),
    [
        ("{count} => -1", "the number of rows cannot be -1", "Ask for 0 rows or more."),
        *[
            (
                "full_text_weight => '" + wrong + "'",
                "full_text_weight cannot be " + wrong,
                "Give 0 or more; 1 is the default.",
            )
            for wrong in ("-0.5", "NaN", "Infinity")
        ],
        ("rrf_k => -7", "rrf_k cannot be -7", "Give 0 or more; 50 is the default."),
    ],
)
def test_a_number_that_means_nothing_is_refused(
    texts: Database, argument: str, cause: str, cure: str
) -> None:
    for search, count in zip(BOTH, ("match_count", "matches"), strict=True):
        statement = search + argument.format(count=count) + ")"
        assert refusal(texts, statement) == (cause, cure)


def test_a_threshold_that_is_no_number_is_refused(texts: Database) -> None:
    statement: LiteralString = "select * from match_docs('[1,0,0]', match_threshold => 'NaN')"
    assert refusal(texts, statement) == (
        "match_threshold cannot be NaN",
        "Give a similarity from -1 to 1.",
    )


def test_null_is_the_default_of_every_number(texts: Database) -> None:
    search: LiteralString = "select * from match_docs('[1,0,0]', query_text => 'printing'"
    nulls: LiteralString = (
        ", match_count => null, match_threshold => null, full_text_weight => null, rrf_k => null)"
    )
    assert rows(texts, search + nulls) == rows(texts, search + ")")
    named: LiteralString = (
        "select * from search_embeddings('docs', 'embedding', '[1,0,0]', query_text => 'printing'"
    )
    some: LiteralString = ", matches => null, full_text_weight => null, rrf_k => null)"
    assert rows(texts, named + some) == rows(texts, named + ")")


def test_more_rows_than_there_are_can_be_asked_for(texts: Database) -> None:
    assert ids(texts, "select id from match_docs('[1,0,0]', 2147483647)") == [1, 2, 3, 5]
    both: LiteralString = "select id from match_docs('[1,0,0]', %s, query_text => 'e-4711')"
    assert set(ids(texts, both, 2147483647)) == {1, 2, 3, 4, 5}
    assert ids(texts, both, 0) == []


@pytest.mark.parametrize("type_of_column", ["vector", "halfvec"])
def test_a_vector_of_another_width_is_refused(
    docs: Database, type_of_column: LiteralString
) -> None:
    docs.execute("alter table docs alter embedding type " + type_of_column + "(3)")
    docs.execute(WATCH)
    for search in BOTH:
        assert refusal(docs, search.replace("1,0,0", "1,0") + "filter => null)") == (
            "the vector of the query has 2 dimensions, and those of column embedding of table"
            " public.docs have 3",
            "Embed the query with the model of the column.",
        )


def test_bad_arguments_of_a_search_over_the_api_say_what_to_do(
    texts: Database, queue: AdminQueue
) -> None:
    target = queue.target("docs", "embedding")
    vector = np.array([1, 0, 0], dtype=np.float32)
    bad: list[dict[str, Any]] = [
        {"limit": -1},
        {"full_text_weight": float("nan"), "text": "a"},
        {"rrf_k": -1},
        {"filter": {"nothing": 1}},
        {"filter": {"views": "a"}},
        {"vector": np.array([1, 0], dtype=np.float32)},
    ]
    for arguments in bad:
        with pytest.raises(SettingsError) as problem:
            queue.search(target, **{"vector": vector, "limit": 5, **arguments})
        assert problem.value.hint


@pytest.mark.over_a_connection  # Supabase Lite grants all to everybody
def test_a_filter_needs_the_right_to_read_its_column(tenants: Database) -> None:
    create_role(tenants, "anon")
    tenants.execute("grant select (id, body, embedding) on docs to anon")
    with acting_as(tenants, "anon"):
        assert len(ids(tenants, "select id from match_docs('[1,0,0]', 3)")) == 3
        sentence, _ = refusal(
            tenants, "select * from match_docs('[1,0,0]', filter => '{\"tenant_id\": 7}')"
        )
    assert sentence == "permission denied for table docs"


def test_the_filter_of_the_column_holds_for_words_too(texts: Database) -> None:
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'id <> 3')")
    assert ids(texts, BY_WORDS, "e-4711") == [4]


def test_rows_are_ranked_alike_with_and_without_the_index(texts: Database) -> None:
    create_role(texts, "anon")
    texts.execute("grant select on docs to anon")
    query: LiteralString = "select id, text_rank from match_docs(%s, query_text => %s)"
    searches = [(vector, "e-4711 print again") for vector in (None, "[1,0,0]")]
    expected = [rows(texts, query, *search) for search in searches]
    texts.execute("alter table docs enable row level security")
    texts.execute("create policy visible on docs for select to anon using (true)")
    with acting_as(texts, "anon"):
        assert [rows(texts, query, *search) for search in searches] == expected
    texts.execute("drop index docs_embedding_full_text")
    assert [rows(texts, query, *search) for search in searches] == expected


def test_of_many_visible_rows_the_nearest_are_searched_for_words(tenants: Database) -> None:
    create_role(tenants, "anon")
    tenants.execute("grant select on docs to anon")
    tenants.execute("alter table docs enable row level security")
    tenants.execute("create policy visible on docs for select to anon using (true)")
    with acting_as(tenants, "anon"):
        query: LiteralString = "select * from match_docs('[1,0,0]', 10, query_text => 'number')"
        assert len(rows(tenants, query)) == 10
        assert ids(tenants, BY_WORDS, "5000") == [5000]


# -- the index over words


def scans(db: Database, index: str) -> Any:
    db.execute("select pg_stat_force_next_flush()")
    return value(db, "select idx_scan from pg_stat_user_indexes where indexrelname = %s", index)


def test_the_index_serves_searches_for_words(tenants: Database) -> None:
    assert ids(tenants, BY_WORDS, "5001") == [5001]
    assert scans(tenants, "docs_embedding_full_text") == 1
    assert ids(tenants, HYBRID, "5001")[0] == 5001
    assert scans(tenants, "docs_embedding_full_text") == 2


def test_the_index_is_built_once(texts: Database) -> None:
    assert rows(texts, INDEXES) == [("docs_embedding_full_text", WORDS, True)]
    assert build_index(texts) == 0
    texts.execute(WATCH)
    assert build_index(texts) == 0


def test_an_index_of_somebody_else_that_fits_is_enough(texts: Database) -> None:
    texts.execute("drop index docs_embedding_full_text")
    texts.execute("create index mine on docs using gin (" + WORDS + ")")
    assert build_index(texts) == 0
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', language => '')")
    assert rows(texts, INDEXES) == [("mine", WORDS, True)]


@pytest.mark.parametrize("change", ["source => 'upper(body)'", "language => 'simple'"])
def test_the_index_follows_the_source_and_the_language(
    texts: Database, change: LiteralString
) -> None:
    texts.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', " + change + ")"
    )
    assert rows(texts, INDEXES) == []
    [finding] = rows(
        texts, "select cause, hint from diagnose_embeddings() where check_name ~ 'full_text'"
    )
    assert "no valid index serves the words of docs.embedding" in finding[0]
    assert "create index concurrently docs_embedding_full_text on public.docs" in finding[1]
    assert build_index(texts) == 1
    assert rows(texts, INDEXES)[0][1] != WORDS
    assert ids(texts, BY_WORDS, "holidays") == [5]
    assert rows(texts, "select * from diagnose_embeddings() where check_name ~ 'full_text'") == []


def test_the_index_goes_with_the_language_and_with_the_column(
    texts: Database, database_url: str
) -> None:
    texts.execute("select watch_embeddings('docs', 'body', 'embedding', language => '')")
    assert rows(texts, INDEXES) == []
    texts.execute(WATCH)
    build_index(texts)
    assert value(texts, "select unwatch_embeddings('docs', 'embedding')")
    assert rows(texts, INDEXES) == []


def test_a_build_that_was_interrupted_begins_anew(texts: Database) -> None:
    texts.execute("update pg_index set indisvalid = false where indrelid = 'docs'::regclass")
    texts.execute("update pg_index set indisvalid = true where indisprimary")
    assert ids(texts, BY_WORDS, "holidays") == [5]  # without the index
    assert build_index(texts) == 2
    assert rows(texts, INDEXES) == [("docs_embedding_full_text", WORDS, True)]


def test_the_queue_builds_the_index_without_blocking_writers(
    texts: Database, database_url: str
) -> None:
    texts.execute("drop index docs_embedding_full_text")
    with PostgresQueue(database_url, "tests") as queue:
        target = queue.target("docs", "embedding")
        [statement] = queue.full_text_statements(target)
        assert statement.startswith("create index concurrently ")
        queue.run_script(statement)
        assert queue.full_text_statements(target) == []


@pytest.mark.parametrize("name", ["docs", 'we"ird %', "n" * 63, "\u00fc" * 31])
def test_the_index_of_any_table_has_a_name(db: Database, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    db.execute(f"create table {quoted} (id bigint primary key, body text)")
    for column in ("embedding", "other"):
        db.execute(
            "select watch_embeddings(%s::regclass, 'body', %s, dimensions => 3,"
            " language => 'english')",
            [quoted, column],
        )
    statements: LiteralString = (
        "select embedding_index_statements(table_name, embedding_column, true)"
        " from embedding_targets"
    )
    [(first,), (second,)] = rows(db, statements)
    assert first != second
    db.execute(first)
    assert rows(db, statements) == []  # both columns have the same words
    assert rows(db, "select * from diagnose_embeddings() where check_name ~ 'full_text'") == []


def test_a_source_that_no_index_can_hold_is_refused(texts: Database) -> None:
    sentence, hint = refusal(
        texts, "select watch_embeddings('docs', 'concat(body, views)', 'embedding')"
    )
    assert sentence == (
        "no index can hold the words of the source of table docs:"
        " functions in index expression must be marked IMMUTABLE"
    )
    assert "coalesce" in hint
    assert value(texts, "select source from embedding_targets") == "body"


def test_an_unknown_language_is_refused(docs: Database) -> None:
    sentence, hint = refusal(
        docs, "select watch_embeddings('docs', 'body', 'embedding', language => 'klingon')"
    )
    assert sentence == "there is no text search configuration klingon"
    assert "english" in hint


def test_no_text_is_too_long_for_the_index(texts: Database) -> None:
    """A tsvector ends at a megabyte: what goes beyond would fail the INSERT of its writer."""
    words = " ".join(f"\U00010330\U00010331-{i:x}\U00010332" for i in range(60_000))
    texts.execute("insert into docs values (9, %s)", [words])
    assert ids(texts, BY_WORDS, "\U00010330\U00010331-7\U00010332") == [9]


def test_a_language_is_shown_in_the_preview(texts: Database) -> None:
    preview = (
        "select changes from preview_watch_embeddings("
        "'docs', embedding_column => 'embedding', language => 'german')"
    )
    assert value(texts, preview) == ["language: english -> german"]


def test_partitions_are_searched_for_words(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, body text) partition by range (id)")
    db.execute("create table low partition of docs for values from (0) to (10)")
    db.execute("create table high partition of docs for values from (10) to (20)")
    db.execute("insert into docs values (1, 'one text'), (11, 'another text')")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " language => 'english', match_function => true)"
    )
    build_index(db)
    assert ids(db, BY_WORDS, "another") == [11]
    assert set(ids(db, BY_WORDS, "text")) == {1, 11}


def test_a_search_for_words_needs_no_model(texts: Database, queue: AdminQueue) -> None:
    target: Target = queue.target("docs", "embedding")
    assert target.language == "english"
    with pytest.raises(SettingsError):
        queue.search(target, None, 5, text="pay", filter={"nothing": 1})
