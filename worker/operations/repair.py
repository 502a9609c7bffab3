"""Finds damaged vectors and repairs them: from the cache, from a backup, or by embedding again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from worker.embedders.base import ChatPrice, cost_of
from worker.embedders.registry import open_chat_model, open_embedder
from worker.errors import BackupDamaged, BackupError, SettingsError
from worker.operations.restore_texts import Restore, TextsInChunks
from worker.queue import AdminQueue, Damaged, RestoreOutcome, StoredRow, Target
from worker.safekeeping.fitting import is_enhanced_alike
from worker.safekeeping.inventory import find_backups, read_column
from worker.safekeeping.locations import destination_of, open_storage
from worker.safekeeping.parts import check_installed
from worker.settings import Settings

MOST_AT_ONCE = 10_000  # rows; a backup is read once for them
LARGE = 0.05  # of the vectors of a column: more at once is for a person to look at
MOST_BACKUPS = 3  # the newest; an older one has little that these do not have
FEW = 10  # fewer rows than these are repaired whatever their share is


@dataclass(slots=True)
class Damage:
    """How many of the `vectors` of a column are damaged, as far as a check has come."""

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
    """Read the rows of a column, from the one after a record. Yields the damaged ones of each
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
    cost; None: whatever it takes. `shares_budget`: with all repairs of the last 24 hours."""

    queue: AdminQueue
    settings: Settings
    target: Target
    budget: float | None
    shares_budget: bool = False
    done: Repaired = field(default_factory=Repaired)

    def repair(self, rows: Sequence[Damaged]) -> None:
        """Repair these rows, each in the cheapest way that there is."""
        with self._restoring() as restore:
            left = _not_restored(rows, restore(self._cached(rows)))
            self.done.from_cache += len(rows) - len(left)
            for found in self._backed_up(left):
                before = len(left)
                left = _not_restored(left, restore(found))
                self.done.from_backup += before - len(left)
        self._embed_again(left)

    @contextmanager
    def _restoring(self) -> Iterator[Restore]:
        """Yield what writes vectors that were found to their rows."""
        restore: Restore = partial(self.queue.restore, self.target)
        with ExitStack() as opened:
            if self.target.chunk_format is not None:
                texts = TextsInChunks.opened(
                    self.queue, self.settings, self.target, dry_run=False, whole=True
                )
                try:
                    restore = opened.enter_context(texts).restore
                except SettingsError:  # this worker has not the model that counts the tokens
                    restore = _nothing
            yield restore

    def _cached(self, rows: Sequence[Damaged]) -> list[StoredRow]:
        """Return the vectors that the cache has. Chunks are looked up when they are embedded."""
        target = self.target
        if None in (target.dimensions, target.model) or target.chunk_format or target.enhance_model:
            return []
        assert target.dimensions is not None
        model = rows[0].model
        known = self.queue.cached(model, target.dimensions, [row.content_hash for row in rows])
        return [
            StoredRow(row.record_id, row.content_hash, model, tokens, row.cost, None, None, None, v)
            for row in rows
            if row.content_hash in known
            for v, tokens in [known[row.content_hash]]
        ]

    def _backed_up(self, rows: Sequence[Damaged]) -> Iterator[list[StoredRow]]:
        """Return vectors of these rows from the newest backups, as far as these can be read."""
        wanted = {row.record_id: row for row in rows}
        with suppress(BackupError, SettingsError):
            for group in self._groups(wanted):
                found = [row for row in group if self._fits(row, wanted[row.record_id])]
                if found:
                    yield found

    def _groups(self, wanted: Mapping[str, Damaged]) -> Iterator[list[StoredRow]]:
        """Return the rows of these records from backups."""
        if not wanted:
            return
        check_installed()
        storage = open_storage(destination_of(self.settings), self.settings)
        names = (self.target.table_name, self.target.embedding_column)
        sound = [backup for backup in find_backups(storage) if backup.is_restorable]
        for backup in sound[:MOST_BACKUPS]:
            for column in backup.manifest.columns if backup.manifest else ():
                is_this = (column.table, column.column) == names
                is_alike = is_enhanced_alike(column, self.target)
                if is_this and is_alike and column.width == self.target.dimensions:
                    with suppress(BackupDamaged, FileNotFoundError):
                        yield from read_column(storage, backup.name, column, wanted)

    def _fits(self, found: StoredRow, row: Damaged) -> bool:
        is_same_text = (
            self.target.chunk_format is not None or found.content_hash == row.content_hash
        )
        return found.model == row.model and is_same_text

    def _embed_again(self, rows: Sequence[Damaged]) -> None:
        """Requeue as many as the budget allows."""
        if not rows:
            return
        price, chat_is_free = self._price(), self._chat_is_free()
        left = None if self.budget is None else max(0.0, self.budget - self._spent())
        now: float | None = 0.0
        affordable: list[str] = []
        for row in rows:
            cost = self._cost_of(row, price, chat_is_free)
            total = None if cost is None or now is None else now + cost
            if left is not None and (total is None or total > left):
                continue
            now = total
            affordable.append(row.record_id)
        self.done.cost = None if now is None or self.done.cost is None else self.done.cost + now
        self.done.requeued += self.queue.requeue_damaged(self.target, affordable, now or 0.0)
        self.done.over_budget += len(rows) - len(affordable)

    def _spent(self) -> float:
        """Return what of the budget is spent by now, also by other workers if they share it."""
        return self.queue.repair_cost() if self.shares_budget else self.done.cost or 0.0

    def _cost_of(self, row: Damaged, price: float | None, chat_is_free: bool) -> float | None:
        """Return what it costs to embed a text again; None: not known. What a chat model wrote for
        it may have to be written again: that is known of a whole text, which cost as much before.
        """
        cost = cost_of(row.tokens, price)
        if cost is None or chat_is_free:
            return cost
        is_known = row.cost is not None and self.target.chunk_format is None
        return max(cost, row.cost or 0.0) if is_known else None

    def _chat_is_free(self) -> bool:
        """Whether no chat model enhances the texts of the column, or one that costs nothing."""
        name = self.target.enhance_model
        if name is None:
            return True
        with suppress(SettingsError), closing(open_chat_model(name, self.settings)) as chat:
            return chat.price == ChatPrice(0.0, 0.0)
        return False

    def _price(self) -> float | None:
        """Return the price of the model of the column; None: not known."""
        name = self.target.model or self.settings.embedding_model
        with suppress(SettingsError), closing(open_embedder(name, None, self.settings)) as embedder:
            return embedder.price
        return None


def why_no_backup(settings: Settings) -> str | None:
    """Say why no vector can come from a backup; None: there is one that can be read."""
    try:
        check_installed()
        destination = destination_of(settings)
        found = find_backups(open_storage(destination, settings))
    except (BackupError, SettingsError) as error:
        return error.cause
    is_there = any(backup.is_restorable for backup in found)
    return None if is_there else f"there is no backup at {destination}"


def _nothing(found: Sequence[StoredRow]) -> list[RestoreOutcome]:
    return []


def _not_restored(rows: Sequence[Damaged], outcomes: Sequence[RestoreOutcome]) -> list[Damaged]:
    """Return the rows that are still damaged."""
    sound = {each.record_id for each in outcomes if each.outcome in ("restored", "present")}
    return [row for row in rows if row.record_id not in sound]
