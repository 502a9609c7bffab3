"""The configuration of a re-embedding, as a file of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

from worker.errors import SettingsError

LONGEST = 100_000  # bytes of a file
WantedStore = Literal["auto", "column", "table"]
WRONG = "Correct the file; `worker reembed create-config` prints one with all keys."


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingMigrationConfig:
    """What a re-embedding does, and how.

    `source_collection`: the column, as `table.column`; `target_collection`: the column for the new
    vectors, None: a free name. `model` is `provider:model`, and makes `dimensions` (None: as many
    as it gives). `store`: whether the new vectors go into a `column` of the table or into a side
    `table`; `auto` decides that. `checkpoint_file`: where the state is written for people; the
    database itself is the checkpoint. `batch_size` texts go into a request, with
    `delay_between_batches` seconds after each; None and 0: as fast as the provider lets. A text
    that fails is tried `max_retries` times; None: as often as for the old vectors. Without
    `verification_enabled`, the new vectors are not compared, and a swap has to say so.
    `backup_enabled` asks for a backup before, which this version cannot make.
    """

    source_collection: str
    model: str
    target_collection: str | None = None
    dimensions: int | None = None
    store: WantedStore = "auto"
    document_prompt: str | None = None
    query_prompt: str | None = None
    checkpoint_file: str | None = None
    batch_size: int | None = None
    max_retries: int | None = None
    delay_between_batches: float = 0.0
    backup_enabled: bool = False
    verification_enabled: bool = True

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not _FITS[name](value):
                raise SettingsError(f"`{name}` cannot be {_short(value)}", WRONG)
        if not self._is_of_its_table:
            raise SettingsError(
                f"`target_collection` is not a column of the table of {self.source_collection}",
                "The new vectors are stored beside the old ones: name a column of that table.",
            )
        if self.backup_enabled:
            raise SettingsError(
                "`backup_enabled` is true, and this version makes no backups",
                "Set it to false. The old vectors stay until `worker reembed cleanup`.",
            )

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read a file. Raises SettingsError if it cannot be read, or says what no key can."""
        try:
            with Path(path).open("rb") as file:
                return cls.parse(file.read(LONGEST + 1))
        except (OSError, ValueError) as problem:  # ValueError: a path with a null character
            cause = f"cannot read {path}: {getattr(problem, 'strerror', problem)}"
            raise SettingsError(cause, "Give the path of a JSON file.") from None

    @classmethod
    def parse(cls, content: bytes | str) -> Self:
        """Parse the content of a file. Raises SettingsError."""
        try:
            given = json.loads(content) if len(content) <= LONGEST else None
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise SettingsError("the configuration is not a JSON object", WRONG)
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                [near] = get_close_matches(name, known, n=1) or [None]
                meant = f": is `{near}` meant?" if near else ""
                raise SettingsError(f"there is no key {_short(name)}{meant}", WRONG)
        for name in ("source_collection", "model"):
            if name not in given:
                raise SettingsError(f"the configuration lacks `{name}`", WRONG)
        return cls(**given)

    @property
    def column(self) -> str | None:
        """The name of the column for the new vectors."""
        return self.target_collection and self.target_collection.rpartition(".")[2]

    @property
    def _is_of_its_table(self) -> bool:
        table, _, _ = (self.target_collection or "").rpartition(".")
        return not table or table in (
            self.source_collection,
            self.source_collection.rpartition(".")[0],
        )

    def as_json(self) -> str:
        """Return the configuration as the content of a file, with all keys."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def _short(value: object) -> str:
    """A value as JSON, of the length of a line at most."""
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _text(value: object) -> bool:
    return _prompt(value) and 0 < len(str(value).strip()) <= 4000


def _prompt(value: object) -> bool:
    """Whether the database can hold it."""
    return isinstance(value, str) and not _UNFIT.search(value)


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _yes_or_no(value: object) -> bool:
    return isinstance(value, bool)


_UNFIT = re.compile(r"[\x00\ud800-\udfff]")

_FITS: Mapping[str, Callable[[Any], bool]] = {
    "source_collection": _text,
    "model": _text,
    "target_collection": _optional(_text),
    "dimensions": _optional(_whole(1, 4000)),
    "store": lambda value: value in get_args(WantedStore),
    "document_prompt": _optional(_prompt),
    "query_prompt": _optional(_prompt),
    "checkpoint_file": _optional(_text),
    "batch_size": _optional(_whole(1, 10_000)),
    "max_retries": _optional(_whole(1, 100)),
    "delay_between_batches": lambda value: type(value) in (int, float) and 0 <= value <= 86_400,
    "backup_enabled": _yes_or_no,
    "verification_enabled": _yes_or_no,
}
