"""Where the new vectors of a re-embedding are stored: in a second column, or in a side table."""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import SettingsError
from worker.queue import Store
from worker.reembedding.config import WantedStore
from worker.reembedding.preflight import SLOW_FILL_ROWS, ReembeddingFacts


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """A store and the reason for it. None: the texts are in chunks, which have their own tables."""

    store: Store | None
    reason: str

    def __str__(self) -> str:
        places = {
            "column": "a column of the table",
            "table": "a side table",
            None: "tables of chunks",
        }
        return f"the new vectors go into {places[self.store]}: {self.reason}"


def choose_store(wanted: WantedStore, facts: ReembeddingFacts) -> StoreChoice:
    """Choose a store. Raises SettingsError if one is wanted for texts in chunks."""
    if facts.store == "chunks":
        if wanted != "auto":
            raise SettingsError(
                f"the texts of {facts.table_name} are in chunks, which have tables of their own",
                "Leave out the store.",
            )
        return StoreChoice(None, "the texts are in chunks")
    if wanted != "auto":
        return StoreChoice(wanted, "you asked for it")
    if facts.store == "table":
        return StoreChoice("table", "the present ones are in one")
    if facts.is_partitioned:
        return StoreChoice("table", "the table is partitioned")
    if facts.is_of_type:
        return StoreChoice("table", "the table has the columns of a type")
    if facts.index_name and (facts.row_count or 0) >= SLOW_FILL_ROWS:
        return StoreChoice("table", f"the index {facts.index_name} would slow down each write")
    return StoreChoice("column", "the present ones are in one")
