"""What speaks against a re-embedding, and what to know before it: all findings in one report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

from worker.database.connection import PostgresConnection, translated
from worker.queue import Finding, Store
from worker.reembedding.indexing import WIDEST, is_parallel_safe, version_of

PAGE = 8192  # bytes
USED_OF_A_PAGE = 8100
NEIGHBORS = 300
"""Bytes of an hnsw index for a row besides its vector: its neighbors with m = 16, and headers."""

SLOW_FILL_ROWS = 10_000
"""From this many rows on it matters that an index makes the fill of a column six times slower."""


@dataclass(frozen=True, slots=True)
class ReembeddingFacts:
    """What embedding.reembedding_facts found. The store and the index are the present ones.

    `dependents`: what would keep reading the old column, each with its kind, name and cure.
    """

    table_name: str
    column_type: str
    present_dimensions: int | None
    wanted_dimensions: int
    row_count: int | None
    table_bytes: int
    is_partitioned: bool
    is_of_type: bool
    has_children: bool
    store: Literal["column", "table", "chunks"]
    problem: str | None
    index_name: str | None
    index_is_valid: bool | None
    index_bytes: int | None
    vector_version: str
    server_version: str
    publications: list[str]
    standbys: int
    slots: int
    dependents: list[Mapping[str, str]]


def find_reembedding_facts(
    database: PostgresConnection, relation: str, column: str, dimensions: int
) -> ReembeddingFacts:
    """Return what matters for the re-embedding of a column. Raises SettingsError.

    `relation`: the name of the table in SQL, quoted.
    """
    query: LiteralString = (
        "select pg_catalog.to_jsonb(facts) from embedding.reembedding_facts("
        "%s::pg_catalog.text::pg_catalog.regclass, %s, %s) as facts"
    )
    with translated():
        row: Any = database.current.execute(query, [relation, column, dimensions]).fetchone()
    return ReembeddingFacts(**row[0])


def left_behind(database: PostgresConnection, relation: str, column: str) -> list[Finding]:
    """Return what may use the vectors of a column although it is no dependent of it in Postgres.

    `relation`: the name of the table in SQL, quoted.
    """
    query: LiteralString = (
        "select kind, name from embedding.left_behind(%s::pg_catalog.text::pg_catalog.regclass, %s)"
    )
    with translated():
        found = database.current.execute(query, [relation, column]).fetchall()
    return [_left_behind(kind, f"{kind} {name}") for kind, name in found]


def _left_behind(kind: str, subject: str) -> Finding:
    if kind == "index":
        cause = "the new vectors get the best vector index of the old ones, and this is another one"
        cure = "Create it over the new vectors as well, if your searches use it."
    else:
        cause = "its text has the names of the table and the column: it may read the old vectors"
        cure = "If it does, let it use the match function, or the new column after the cleanup."
    return Finding("warning", "left_behind", subject, cause, cure)


def preflight(
    facts: ReembeddingFacts, store: Store | None = "column", others: Sequence[Finding] = ()
) -> list[Finding]:
    """Return everything at once, with `others`, problems first. Without a problem, a re-embedding
    can begin.

    `store`: of the new vectors; None: in tables of chunks.
    """
    in_column = store == "column"
    found = [
        *_problems(facts, in_column),
        *_warnings(facts),
        *others,
        *_notes(facts, in_column),
        *_server_notes(facts, in_column),
    ]
    order = ("problem", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def bytes_of_vectors(facts: ReembeddingFacts) -> int:
    """Return how many bytes the new vectors take. Above 2000 dimensions they are halfvecs."""
    return (facts.row_count or 0) * _vector_bytes(facts.wanted_dimensions)


def bytes_of_index(facts: ReembeddingFacts) -> int:
    """Return how many bytes an hnsw index over the new vectors takes, in whole pages."""
    rows_a_page = max(1, USED_OF_A_PAGE // (_vector_bytes(facts.wanted_dimensions) + NEIGHBORS))
    return -(-(facts.row_count or 0) // rows_a_page) * PAGE


def _vector_bytes(dimensions: int) -> int:
    return 8 + dimensions * (4 if dimensions <= WIDEST["vector"] else 2)


def _problems_of_table(facts: ReembeddingFacts, in_column: bool) -> Iterator[Finding]:
    if in_column and (facts.is_partitioned or facts.is_of_type):
        kind = "is partitioned" if facts.is_partitioned else "has the columns of a type"
        yield Finding(
            "problem",
            "table",
            facts.table_name,
            f"the table {kind}, and its vector column cannot be replaced",
            "Store the new vectors in a side table, with --store table.",
        )
    elif facts.has_children and not facts.is_partitioned:
        yield Finding(
            "problem",
            "table",
            facts.table_name,
            "the table has tables that inherit from it, and its vectors cannot be replaced",
            "Add a column by hand, watch it with the new model, and let your searches use it.",
        )


def _problems(facts: ReembeddingFacts, in_column: bool) -> Iterator[Finding]:
    yield from _problems_of_table(facts, in_column)
    if facts.problem:
        yield Finding(
            "problem",
            "suspended",
            facts.table_name,
            f"the column is suspended: {facts.problem}",
            "Fix the cause, then run `worker watch` for it.",
        )
    if not 1 <= facts.wanted_dimensions <= WIDEST["halfvec"]:
        yield Finding(
            "problem",
            "dimensions",
            facts.table_name,
            f"no index takes {facts.wanted_dimensions} dimensions",
            f"Choose a width from 1 to {WIDEST['halfvec']} with --dimensions, or another model.",
        )
    if version_of(facts.vector_version) < (0, 7, 0):
        yield Finding(
            "problem",
            "vector_version",
            f"vector {facts.vector_version}",
            "before 0.7 pgvector has no halfvec, which this needs",
            "Upgrade pgvector, then run `alter extension vector update`.",
        )


def _warnings(facts: ReembeddingFacts) -> Iterator[Finding]:
    for dependent in facts.dependents:
        yield Finding(
            "warning",
            "dependent",
            f"{dependent['kind']} {dependent['name']}",
            "it keeps using the old column after the swap, which therefore cannot be dropped",
            dependent["cure"],
        )
    if facts.index_name and not facts.index_is_valid:
        yield Finding(
            "warning",
            "index_invalid",
            facts.index_name,
            "a build of this index was interrupted, so no search uses it",
            "Run `worker index`, which drops it and builds it again.",
        )
    if facts.slots:
        yield Finding(
            "warning",
            "inactive_slots",
            f"replication slots: {facts.slots}",
            "a slot that nobody reads keeps all that is written to the log, and fills the disk",
            "Drop those that are not needed: select * from pg_replication_slots where not active.",
        )


def _note_of_space(facts: ReembeddingFacts, in_column: bool) -> Finding:
    vectors, index = _size(bytes_of_vectors(facts)), _size(bytes_of_index(facts))
    rows = ", and new versions of its rows until the next vacuum" if in_column else ""
    return Finding(
        "note",
        "space",
        facts.table_name,
        f"it takes about {vectors} for the vectors and {index} for an index{rows} (the table has"
        f" {_size(facts.table_bytes)} now); how much is free cannot be seen in SQL",
        "Compare it with the free space of the server's disk, and with the log that a standby or"
        " a backup keeps.",
    )


def _notes(facts: ReembeddingFacts, in_column: bool) -> Iterator[Finding]:
    yield _note_of_space(facts, in_column)
    if facts.wanted_dimensions > WIDEST["vector"]:
        yield Finding(
            "note",
            "halfvec",
            facts.table_name,
            f"above {WIDEST['vector']} dimensions the new vectors are halfvecs, with half the"
            " precision of each number",
            None,
        )
    is_slow = facts.store == "column" and (facts.row_count or 0) >= SLOW_FILL_ROWS
    if facts.index_name and in_column and is_slow:
        yield Finding(
            "note",
            "index_during_fill",
            facts.index_name,
            "each row that is written goes into this index again, so filling a column beside it"
            " is about six times slower than without",
            "Store the new vectors in a side table, with --store table.",
        )


def _server_notes(facts: ReembeddingFacts, in_column: bool) -> Iterator[Finding]:
    if facts.publications or facts.standbys:
        readers = [*facts.publications, *([f"{facts.standbys} standbys"] * bool(facts.standbys))]
        if in_column:
            cause = (
                "the new vectors are replicated as well; a subscriber needs the new column before"
            )
            cure = "Add the column there first: alter table … add column …"
        else:
            cause = "a standby gets the new vectors; a publication of single tables does not"
            cure = "Create the new table there, then: alter publication … add table …"
        yield Finding("note", "replication", ", ".join(readers), cause, cure)
    if not is_parallel_safe(facts.vector_version):
        yield Finding(
            "note",
            "serial_build",
            f"vector {facts.vector_version}",
            "its index is built by one process, since parallel builds are not safe before 0.8.2",
            "Upgrade pgvector, then run `alter extension vector update`.",
        )


def _size(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
