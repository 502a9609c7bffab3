"""Makes the pages of the dashboard out of their templates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from worker import __version__
from worker.durations import format_duration
from worker.figures import counted, dollars, milliseconds, rounded_down
from worker.terminal import printable
from worker.web.access import Role
from worker.web.screens.base import Screen
from worker.web.services import Services

HERE = Path(__file__).parent
STATIC = HERE / "static"
NOTHING = "\N{EN DASH}"  # in place of what is not known
NOTICES: Mapping[str, str] = {
    "paused": "All workers are paused, and those that start later.",
    "asleep": "All workers are in deep sleep, and those that start later.",
    "resumed": "All workers continue.",
    "commanded": "The command is on its way.",
    "requeued": "{count} made pending again.",
    "started": "Task {count} has started.",
    "cancelled": "Task {count} ends after its current step.",
    "ended": "Task {count} had ended before.",
    "goal": "The goal is set.",
    "done": "Done.",
}
"""What an action can have to say. An address names one, so that no address can bring words of its
own onto a page."""


class Watched(Protocol):
    """Whatever names a watched column."""

    @property
    def table_name(self) -> str: ...

    @property
    def embedding_column(self) -> str: ...


class Pages:
    """Renders pages. Everything that a template shows is escaped, and without characters that
    control the direction of a text."""

    def __init__(self, services: Services, menu: tuple[Screen, ...]) -> None:
        self._services = services
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_finalized,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "ago": ago,
            "counted": counted,
            "dollars": dollars,
            "exactly": exactly,
            "figures": figures,
            "key": key,
            "shortened": shortened,
            "duration": lambda seconds: NOTHING if seconds is None else format_duration(seconds),
            "milliseconds": lambda count: NOTHING if count is None else milliseconds(count),
            "number": number,
            "percent": percent,
            "time": time_tag,
        }
        self._environment.globals |= {
            "menu": menu,
            "version": __version__,
            "static": self._static,
            "address": address,
            "href": self.href,
            "target_value": target_value,
            "share": share,
        }

    def content(self, screen: Screen, role: Role, context: Mapping[str, Any]) -> str:
        """Render what a screen shows, without the page around it."""
        return self._render(
            f"{screen.name}.html", role=role, tasks=self._services.tasks.all(), **context
        )

    def page(
        self,
        screen: Screen,
        role: Role,
        content: str,
        address: str | None = None,
        notice: str | None = None,
    ) -> str:
        """Render a page around its content. `address` is its path with the query; without one, it
        is not kept up to date."""
        return self._render(
            "page.html",
            screen=screen,
            role=role,
            content=Markup(content),
            live=self.href("/live", page=address) if screen.is_live and address else None,
            notice=notice,
        )

    def plain(self, template: str, **context: Any) -> str:
        """Render a page of its own: the login, or an error."""
        return self._render(template, **context)

    def href(self, path: str, **query: str | int | None) -> str:
        """Return the address of a path in the browser, with the parts of a query that are given."""
        return self._services.prefix + address(path, **query)

    def _static(self, name: str) -> str:
        return self.href(f"/static/{name}", v=_fingerprint(name))

    def _render(self, template: str, **context: Any) -> str:
        return self._environment.get_template(template).render(now=datetime.now(UTC), **context)


def notice_of(values: Mapping[str, str]) -> str | None:
    """Return what an action had to say, as the address of the page it led to names it."""
    notice = NOTICES.get(values.get("notice", ""))
    count = values.get("count", "")
    return notice and notice.format(count=count if count.isascii() and count.isdigit() else "")


def address(path: str, **query: str | int | None) -> str:
    """A path with the parts of a query that are given."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return path + ("?" + urlencode(given) if given else "")


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands apart: `1,234,567`."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A percentage, rounded down: 100 % only if it is."""
    return NOTHING if value is None else f"{rounded_down(value):g} %"


def share(done: int, of: int) -> float:
    """A percentage; 100 of nothing."""
    return min(100 * done / of, 100.0) if of else 100.0


def shortened(text: str, most: int = 300) -> str:
    """A text, cut if it is long."""
    return text if len(text) <= most else text[:most] + "…"


def figures(values: Mapping[str, Any]) -> str:
    """Figures as compact JSON."""
    return shortened(json.dumps(values, ensure_ascii=False, default=str))


def exactly(value: object) -> Markup:
    """A value as it is, for a field of a form that is sent back."""
    return escape(value)


def key(parts: Iterable[object]) -> str:
    """What stands for some names in the id of an element."""
    return hashlib.sha256(json.dumps([*parts], default=str).encode()).hexdigest()[:16]


def target_value(watched: Watched) -> str:
    """What stands for a watched column in addresses and forms; Look.watched reads it."""
    return json.dumps([watched.table_name, watched.embedding_column])


def ago(when: datetime | str | None, now: datetime) -> str:
    """How long before `now` a time was."""
    if when is None:
        return NOTHING
    return f"{format_duration(max((now - _as_time(when)).total_seconds(), 0))} ago"


def time_tag(when: datetime | str | None) -> Markup | str:
    """A time in UTC, which a script puts into the zone of the reader."""
    if when is None:
        return NOTHING
    utc = _as_time(when).astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    )


def _as_time(when: datetime | str) -> datetime:
    return when if isinstance(when, datetime) else datetime.fromisoformat(when)


def _finalized(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(printable(line) for line in value.split("\n"))
    return NOTHING if value is None else value


@cache
def _fingerprint(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
