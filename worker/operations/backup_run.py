"""A backup while it is made: columns one after the other, each in parts by ranges of its key."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, Self

import worker
from worker.digests import sha256_of
from worker.errors import (
    BackupDamaged,
    BackupError,
    Busy,
    SchemaError,
    SettingsError,
    StatementTimeout,
    Unreachable,
    WorkerError,
)
from worker.queue import AdminQueue, KnownBackup, StoredRow, Target
from worker.queue.audit import CallSource
from worker.queue.safekeeping import ROWS_EXPORTED_IN_ONE_CALL
from worker.safekeeping.inventory import delete_others, folder_of
from worker.safekeeping.manifest import (
    MANIFEST,
    PROGRESS,
    BackedUpColumn,
    ChunkSettings,
    EnhanceSettings,
    Manifest,
    Part,
    from_json,
    name_of,
    part_name,
    to_json,
)
from worker.safekeeping.parts import PartWriter, check_part
from worker.safekeeping.storage import Storage

LEASE = timedelta(minutes=10)
"""How long a backup belongs to its worker after its last report: an upload may take that long."""
REPORTED_EVERY = 5.0  # seconds
RANGE = ROWS_EXPORTED_IN_ONE_CALL
MOST_OF_A_RANGE = 4 * 2**20  # bytes: it is in memory several times
MOST_OF_A_PART = 64 * 2**20  # bytes before they are compressed, and the rest of a range
ROW = 100  # bytes of a row, without its vector
OTHER_DATABASE = "Give each database a destination of its own (--to)."


@dataclass(slots=True)
class BackupRun:
    """Makes a backup that was begun. What an earlier attempt wrote is kept, as far as it is sound.

    Raises BackupError if the destination cannot be used or another worker has taken over,
    Unreachable, and OSError if the folder for temporary files cannot be used.
    """

    queue: AdminQueue
    storage: Storage
    known: KnownBackup
    stop: Event
    on_progress: Callable[[int, int], None]
    kept_rows: int = 0
    manifest: Manifest | None = None
    _token: str = field(default_factory=lambda: token_hex(3))
    _reported_at: float = 0.0
    _left_out: int = 0  # vectors of the present column
    _parts: int = 0  # that this run has written, of all columns

    def back_up(self, targets: Sequence[Target]) -> Manifest:
        """Write all parts, and then the manifest. If stopped before, it is not finished."""
        manifest = self.manifest = self._begun(targets)
        if manifest.finished_at is None:  # otherwise only its end was not reported
            self._write(PROGRESS)
            locked = [target for target in targets if not self._back_up(target)]
            for target in locked:
                self._back_up(target, is_last=True)
            if self.stop.is_set():
                return self.manifest
            self._finish()
        parts = {part.name for column in self.manifest.columns for part in column.parts}
        delete_others(self.storage, self.known.name, parts)
        return self.manifest

    @property
    def done(self) -> tuple[int, int]:
        """The rows and the bytes of all parts so far."""
        return (self.manifest.rows, self.manifest.bytes) if self.manifest else (0, 0)

    # -- the manifest

    def _begun(self, targets: Sequence[Target]) -> Manifest:
        """Return what an earlier attempt wrote, or an empty manifest."""
        database = self._database(targets)
        now = datetime.now(UTC)
        made_by = f"embedding-worker {worker.__version__}"
        before = self._read(MANIFEST) or self._read(PROGRESS)
        if before is None:
            return Manifest(database, self.known.started_at, now, None, made_by, ())
        self._raise_unless_of(database, before)
        if before.finished_at is None:  # some may not be watched any more
            names = {_name(target) for target in targets}
            columns = tuple(column for column in before.columns if column.name in names)
            return replace(before, columns=columns)
        return before

    def _raise_unless_of(self, database: str, found: Manifest) -> None:
        if found.database != database:
            cause = f"another database has a backup {self.known.name} at this destination"
            raise BackupError(cause, OTHER_DATABASE)

    def _database(self, targets: Sequence[Target]) -> str:
        """Return what tells this database from others. Any column that can be read knows it."""
        for target in targets[:-1]:
            try:
                return self.queue.describe(target).database_id
            except WorkerError as error:
                _raise_unless_of_the_column(error)
        return self.queue.describe(targets[-1]).database_id

    def _read(self, which: str) -> Manifest | None:
        try:
            return from_json(self.storage.read(self._folder + which), which)
        except (FileNotFoundError, BackupDamaged):
            return None

    def _write(self, which: str) -> None:
        assert self.manifest
        self.storage.put_bytes(self._folder + which, to_json(self.manifest))

    def _record(self, column: BackedUpColumn) -> None:
        """Record what there is of a column, instead of what was known of it."""
        assert self.manifest
        columns = {each.name: each for each in self.manifest.columns} | {column.name: column}
        self.manifest = replace(
            self.manifest, columns=tuple(columns.values()), written_at=datetime.now(UTC)
        )
        self._write(PROGRESS)

    def _finish(self) -> None:
        assert self.manifest
        self._report()
        if now_there := self._read(MANIFEST) or self._read(PROGRESS):
            self._raise_unless_of(self.manifest.database, now_there)  # both began at once
        now = datetime.now(UTC)
        self.manifest = replace(self.manifest, written_at=now, finished_at=now)
        self._write(MANIFEST)

    @property
    def _folder(self) -> str:
        return folder_of(self.known.name)

    # -- a column

    def _back_up(self, target: Target, *, is_last: bool = False) -> bool:
        """Back up a column. False: its table is locked, and this was not the last attempt.

        If it cannot be read, that is recorded, and what there is of it stays.
        """
        if self.stop.is_set():
            return True
        before = self._recorded(target)
        try:
            self._export(target, before)
        except WorkerError as error:
            if isinstance(error, Busy) and not is_last:
                return False
            _raise_unless_of_the_column(error)
            so_far = self._recorded(target) or _undescribed(target)
            self._record(replace(so_far, problem=error.cause))
        return True

    def _recorded(self, target: Target) -> BackedUpColumn | None:
        assert self.manifest
        columns = self.manifest.columns
        return next((each for each in columns if each.name == _name(target)), None)

    def _export(self, target: Target, before: BackedUpColumn | None) -> None:
        """Write the parts of a column that are not there."""
        self._left_out = 0
        column = self._described(target)
        if before and _is_same(before, column):
            column = replace(before, parts=self._sound(before.parts), problem=None)
        self._record(column)
        is_done = bool(column.parts) and column.parts[-1].looked_to is None
        while not is_done and not self.stop.is_set():
            column, is_done = self._next_part(target, column)
            self._record(column)
        if column.parts and not _is_same(column, self._described_now(target)):
            raise SettingsError("it got another model, width or key meanwhile")
        if self._left_out:
            raise SettingsError(f"{self._left_out} vectors have another width than the first")

    def _described(self, target: Target) -> BackedUpColumn:
        kind = self.queue.describe(target)
        return replace(
            _undescribed(target),
            key_columns=tuple(kind.key_columns),
            key_types=tuple(kind.key_types),
            vector_type=kind.vector_type,
        )

    def _described_now(self, target: Target) -> BackedUpColumn:
        return self._described(self.queue.target(target.table_name, target.embedding_column))

    def _sound(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """Return the parts of an earlier attempt up to the first that is not as it was written."""
        sound: list[Part] = []
        for part in parts:
            try:
                with self.storage.local(self._folder + part.name) as path:
                    check_part(path, part)
            except (FileNotFoundError, BackupDamaged):
                break
            sound.append(part)
            self.kept_rows += part.rows
            self._report()
        return tuple(sound)

    # -- a part

    def _next_part(self, target: Target, column: BackedUpColumn) -> tuple[BackedUpColumn, bool]:
        """Return a column with its next part, and whether it is the last."""
        with TemporaryDirectory(prefix="embedding-worker-") as folder:
            path = Path(folder) / "part"
            with NewPart(path) as new:
                column, looked_to = self._fill(new, target, column)
            if new.rows:
                self._parts += 1
                part = new.part(part_name(column, self._parts, self._token), looked_to)
                self._report(is_due=True)
                self.storage.put(self._folder + part.name, path)
                return replace(column, parts=(*column.parts, part)), looked_to is None
        if looked_to is None and column.parts:
            column = _ended(column)
        return column, looked_to is None

    def _fill(
        self, new: NewPart, target: Target, column: BackedUpColumn
    ) -> tuple[BackedUpColumn, str | None]:
        """Write ranges until a part is large enough. Returns the record it ends at; None: at the
        last one. The column gets its model and width with its first vector, if they are new."""
        after = column.parts[-1].looked_to if column.parts else None
        is_in_chunks = column.chunks is not None
        while True:
            batch = max(1, min(RANGE, MOST_OF_A_RANGE // (4 * (column.width or 1))))
            found = self.queue.export(target, after, of_chunks=is_in_chunks, batch=batch)
            if found.rows and None in (column.model, column.width):
                now = self._described_now(target)
                column = replace(now, width=now.width or len(found.rows[0].vector))
            rows = [row for row in found.rows if len(row.vector) == column.width]
            self._left_out += len(found.rows) - len(rows)
            if rows:
                new.write(rows, column)
            after = found.looked_to
            self._report(new.rows, new.bytes)
            if after is None or new.size >= MOST_OF_A_PART or self.stop.is_set():
                return column, after

    # -- reports

    def _report(self, rows: int = 0, bytes: int = 0, *, is_due: bool = False) -> None:
        """Report how far the backup is, with these rows of the part that is being written, and
        extend its lease from time to time. Raises BackupError if it is lost."""
        rows, bytes = self.done[0] + rows, self.done[1] + bytes
        self.on_progress(rows, bytes)
        now = time.monotonic()
        if is_due or now - self._reported_at > REPORTED_EVERY:
            self._reported_at = now
            if not self.queue.extend_backup(self.known, LEASE, rows, bytes):
                raise BackupError(
                    f"another worker has taken over backup {self.known.name}",
                    "`worker backup list` shows how far it is.",
                )

    def release(self) -> None:
        """Let another worker continue the backup at once."""
        self.queue.extend_backup(self.known, timedelta(0), *self.done)

    def end(self, error: str | None, source: CallSource) -> None:
        """Report that the backup is complete, or why it failed."""
        self.queue.end_backup(self.known, *self.done, error, source=source)


class NewPart:
    """A part while its ranges are written, each by a thread while the next one is read."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self.size = 0  # in bytes, before it is compressed
        self._path = path
        self._thread = ThreadPoolExecutor(1)
        self._writer: PartWriter | None = None
        self._written: Future[None] | None = None
        self._first = self._last = ""

    def write(self, rows: Sequence[StoredRow], column: BackedUpColumn) -> None:
        """Add the vectors of a range. Raises the OSError of this range or the one before."""
        self._wait()
        self._writer = self._writer or PartWriter(self._path, column)
        self._written = self._thread.submit(self._writer.write, rows)
        self._first = self._first if self.rows else rows[0].record_id
        self._last = rows[-1].record_id
        self.rows += len(rows)
        self.size += len(rows) * (4 * len(rows[0].vector) + ROW)

    @property
    def bytes(self) -> int:
        """How many bytes are in the file so far."""
        return self._writer.bytes if self._writer else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown()
        if self._writer:
            self._writer.__exit__(*error)
        self._wait()

    def _wait(self) -> None:
        if self._written:
            self._written.result()

    def part(self, name: str, looked_to: str | None) -> Part:
        """Return what the manifest says of the part, which is written."""
        size, sha256 = self._path.stat().st_size, sha256_of(self._path).hex()
        return Part(name, self.rows, size, sha256, self._first, self._last, looked_to)


def _name(target: Target) -> str:
    return name_of(target.table_name, target.embedding_column)


def _undescribed(target: Target) -> BackedUpColumn:
    """Return a column as far as its target tells."""
    chunks = None
    if target.chunk_format and target.chunk_size and target.chunk_unit and target.max_chunks:
        chunks = ChunkSettings(
            target.chunk_format,
            target.chunk_size,
            target.chunk_unit,
            target.max_chunks,
            target.context,
        )
    enhancement = None
    if target.enhance_model and target.enhance_prompt:
        enhancement = EnhanceSettings(target.enhance_model, target.enhance_prompt)
    return BackedUpColumn(
        table=target.table_name,
        column=target.embedding_column,
        key_columns=(),
        key_types=(),
        vector_type="",
        width=target.dimensions,
        model=target.model,
        document_prompt=target.document_prompt,
        query_prompt=target.query_prompt,
        chunks=chunks,
        enhancement=enhancement,
        parts=(),
        problem=None,
    )


def _is_same(before: BackedUpColumn, now: BackedUpColumn) -> bool:
    """Whether the parts of a column belong to what it is now. A target may not know the width."""
    return replace(before, parts=(), problem=None) == replace(now, width=now.width or before.width)


def _ended(column: BackedUpColumn) -> BackedUpColumn:
    """Return a column with no more vectors after its last part."""
    *parts, last = column.parts
    return replace(column, parts=(*parts, replace(last, looked_to=None)))


def _raise_unless_of_the_column(error: WorkerError) -> None:
    """Raise an error, unless it may concern one column alone."""
    is_outage = isinstance(error, Unreachable) and not isinstance(error, StatementTimeout)
    if is_outage or isinstance(error, BackupError | SchemaError):
        raise error
