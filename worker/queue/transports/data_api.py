"""The SQL API over the Data API of a Supabase project.

HTTPS, a URL and a key are all it needs; no connection to the database is ever open. A call ends
after the statement timeout of the API's role, which is 8 s unless somebody changed it.

Vectors are sent as the shortest decimals that give the same 32-bit numbers. Base64 is less than
half as long, but SQL has no function that turns bytes into numbers: decoding a vector of 1536
dimensions by hand takes the database 9 ms, decimals take half a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, LiteralString

import numpy as np
import orjson

from worker.queue.functions import FUNCTIONS
from worker.queue.transports import Columns, Row, Vector, bytea_array
from worker.queue.transports.decoding import decoded
from worker.queue.transports.rest import Rest


class DataApiTransport:
    """Calls the SQL API in the project at `url`."""

    cuts_answers = True

    def __init__(self, url: str, key: str, application_name: str) -> None:
        """Create the transport, and send nothing yet."""
        self._rest = Rest(url, key, application_name)

    @property
    def answered_at(self) -> datetime:
        """When the last answer was sent, by the server's clock and to the second if it says so."""
        return self._rest.answered_at

    def call(self, function: LiteralString, arguments: Mapping[str, Any]) -> Any:
        types = FUNCTIONS[function]
        return self._rest.call(
            function,
            {name: encoded(types[name], value) for name, value in arguments.items()},
        )

    def rows(
        self, function: LiteralString, arguments: Mapping[str, Any], columns: Columns
    ) -> list[Row]:
        return decoded(self.call(function, arguments), columns)

    def read(self, view: LiteralString, columns: Columns, *order: str) -> list[Row]:
        return decoded(self._rest.read(view, list(columns), order), columns)

    def listen(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False

    def storable(self, words: str | None) -> str | None:
        return words

    def close(self) -> None:
        self._rest.close()


def encoded(type_: str, value: Any) -> Any:
    """Return a value of this type in SQL as JSON has it."""
    encode = _ENCODERS.get(type_)
    return value if encode is None or value is None else encode(value)


def _interval(time: timedelta) -> str:
    return f"{time.total_seconds()} seconds"


def _decimals(vector: Vector) -> str:
    return orjson.dumps(
        np.ascontiguousarray(vector, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY
    ).decode()


# By the type of an argument in SQL, for values that JSON cannot express.
_ENCODERS: Mapping[str, Callable[[Any], Any]] = {
    "interval": _interval,
    "interval[]": lambda times: [time if time is None else _interval(time) for time in times],
    "timestamp with time zone": datetime.isoformat,
    "timestamp with time zone[]": lambda times: [time and time.isoformat() for time in times],
    "uuid": str,
    "uuid[]": lambda values: [str(value) for value in values],
    "bytea": lambda value: f"\\x{value.hex()}",
    "bytea[]": bytea_array,  # every server passes the literal on to Postgres
    "vector": _decimals,
    "vector[]": lambda vectors: [_decimals(vector) for vector in vectors],
}
