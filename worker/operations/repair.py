"""Finds damaged vectors and repairs them: from the cache, from a backup, or by embedding again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from worker.embedders.base import cost_of
from worker.embedders.registry import open_embedder
from worker.queue import AdminQueue, Damaged, StoredRow, Target
from worker.settings import Settings

MOST_AT_ONCE = 10_000  # rows; a backup is read once for them
LARGE = 0.05  # of the vectors of a column: more at once is for a person to look at
FEW = 10  # fewer rows than these are repaired whatever their share is


@dataclass(slots=True)
class Damage:
    """How many of the `vectors` of a column are damaged, as far as a walk has come."""

    vectors: int
    lost: int = 0
    overwritten: int = 0

    @property
    def rows(self) -> int:
        return self.lost + self.overwritten

    @property
    def is_large(self) -> bool:
        """Whether so much is damaged at once that a person should look at it first."""
        return self.rows >= FEW and self.rows > LARGE * self.vectors

    def add(self, rows: Sequence[Damaged]) -> None:
        """Add the damaged rows of a range."""
        lost = sum(row.damage == "lost" for row in rows)
        self.lost += lost
        self.overwritten += len(rows) - lost


@dataclass(slots=True)
class Repaired:
    """What became of damaged vectors: where they came back from, how many texts are `requeued` to
    be embedded again, and how many are left because that would cost too much.

    `cost`: US dollars for those that are requeued, as an estimate; None: not known.
    """

    from_cache: int = 0
    from_backup: int = 0
    requeued: int = 0
    over_budget: int = 0
    cost: float | None = 0.0


def damaged_ranges(
    queue: AdminQueue, target: Target, after: str | None = None
) -> Iterator[tuple[list[Damaged], str | None]]:
    """Walk over the rows of a column, from the one after a record. Yields the damaged ones of each
    range, and where the next range begins; None: it was the last one."""
    while True:
        found = queue.damaged(target, after)
        yield found.rows, found.looked_to
        after = found.looked_to
        if after is None:
            return


def in_batches(ranges: Iterable[Sequence[Damaged]]) -> Iterator[list[Damaged]]:
    """Join the rows of small ranges, since a backup is read as a whole for each batch."""
    batch: list[Damaged] = []
    for rows in ranges:
        batch += rows
        if len(batch) >= MOST_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(slots=True)
class Repairer:
    """Repairs damaged vectors of a column. `budget`: the US dollars that embedding texts again may
    cost; None: whatever it takes."""

    queue: AdminQueue
    settings: Settings
    target: Target
    budget: float | None
    done: Repaired = field(default_factory=Repaired)

    def repair(self, rows: Sequence[Damaged]) -> None:
        """Repair these rows, each in the cheapest way that there is."""
        left = self._restore(rows, self._cached(rows))
        self.done.from_cache += len(rows) - len(left)
        for found in self._backed_up(left):
            before = len(left)
            left = self._restore(left, found)
            self.done.from_backup += before - len(left)
        self._embed_again(left)

    def _cached(self, rows: Sequence[Damaged]) -> list[StoredRow]:
        """Return the vectors that the cache has."""
        target = self.target
        if target.dimensions is None or target.enhance_model is not None:
            return []
        model = rows[0].model
        known = self.queue.cached(model, target.dimensions, [row.content_hash for row in rows])
        return [
            StoredRow(row.record_id, row.content_hash, model, tokens, row.cost, None, None, None, v)
            for row in rows
            if row.content_hash in known
            for v, tokens in [known[row.content_hash]]
        ]

    def _backed_up(self, rows: Sequence[Damaged]) -> Iterator[list[StoredRow]]:
        """Return vectors of these rows from backups."""
        return iter(())

    def _restore(self, rows: Sequence[Damaged], found: Sequence[StoredRow]) -> list[Damaged]:
        """Write the vectors that were found. Return the rows that are still damaged."""
        outcomes = self.queue.restore(self.target, found, overwrite=True) if found else []
        sound = {each.record_id for each in outcomes if each.outcome in ("restored", "present")}
        return [row for row in rows if row.record_id not in sound]

    def _embed_again(self, rows: Sequence[Damaged]) -> None:
        """Requeue as many as the budget allows."""
        if not rows:
            return
        price = self._price()
        affordable: list[str] = []
        for row in rows:
            cost = cost_of(row.tokens, price)
            spent = None if cost is None or self.done.cost is None else self.done.cost + cost
            if self.budget is not None and (spent is None or spent > self.budget):
                continue
            self.done.cost = spent
            affordable.append(row.record_id)
        self.done.requeued += self.queue.requeue_damaged(self.target, affordable)
        self.done.over_budget += len(rows) - len(affordable)

    def _price(self) -> float | None:
        """Return the price of the model of the column; None: not known."""
        name = self.target.model or self.settings.embedding_model
        with closing(open_embedder(name, None, self.settings)) as embedder:
            return embedder.price
