"""The common part of all calls: a transport, and rows that become objects."""

from __future__ import annotations

from typing import Any, LiteralString, Self, TypeVar

from worker.queue.portion import Portion
from worker.queue.transports import Transport, columns_of

Made = TypeVar("Made")


class Calls:
    """Calls functions of the SQL API over a transport, which is closed at the end of a `with`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._portion = Portion()  # jobs or rows in one call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def _call(self, function: LiteralString, **arguments: Any) -> Any:
        """Return the value of a function."""
        return self._transport.call(function, arguments)

    def _rows(self, made: type[Made], function: LiteralString, **arguments: Any) -> list[Made]:
        """Return an object for each row of a function; the columns are its fields."""
        rows = self._transport.rows(function, arguments, columns_of(made))
        return [made(**row) for row in rows]

    def _batch(
        self, made: type[Made], function: LiteralString, batch: int, **arguments: Any
    ) -> Made:
        """Return the object of the only row of a function for a batch, or for a smaller one if
        that takes too long."""
        return self._portion.within_time(
            batch, lambda size: self._rows(made, function, **arguments, batch=size)[0]
        )

    def _read(self, made: type[Made], view: LiteralString, *order: str) -> list[Made]:
        """Return an object for each row of a table or view, in the order of these columns."""
        return [made(**row) for row in self._transport.read(view, columns_of(made), *order)]

    def _range(
        self, made: type[Made], function: LiteralString, batch: int, **arguments: Any
    ) -> tuple[list[Made], str | None]:
        """Return the objects of a range of the key, and the record at which it ends (None: there
        are no more). Of a range without an object, the only row has just this record."""
        columns = {**columns_of(made), "looked_to": str}
        rows = self._portion.within_time(
            batch,
            lambda size: self._transport.rows(function, {**arguments, "batch": size}, columns),
        )
        looked_to = [row.pop("looked_to") for row in rows]
        found = [made(**row) for row in rows if row["record_id"] is not None]
        return found, looked_to[0] if rows else None
