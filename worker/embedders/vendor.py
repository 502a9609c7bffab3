"""The embedder of the vendors whose APIs `dialects.py` describes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from worker.embedders.answers import extract_message, number_in, read_json, shared_out
from worker.embedders.base import (
    Concurrency,
    Embeddings,
    Prompts,
    RequestLimits,
    Role,
    well_formed,
)
from worker.embedders.connection import Connection, Hints, Reply
from worker.embedders.dialects import Dialect
from worker.embedders.limits import allowances
from worker.embedders.models import known
from worker.embedders.packing import size_of
from worker.embedders.prompts import NONE
from worker.errors import Rejected, SettingsError
from worker.settings import Settings

MOST_AT_ONCE = 32  # requests
# The words with which servers limit the number of texts. Other rejections for size are about bytes.
TOO_MANY_ITEMS = re.compile(
    r"batch size(?: \d+ > maximum allowed batch size (\d+))?|at most (\d+) (?:items|requests)"
)
# What EMBEDDING_EXTRA_BODY may not set besides the fields that a dialect has: what holds the texts,
# how vectors are coded, and what makes a vector depend on other texts.
RESERVED = {
    *("model", "input", "texts", "inputs", "images", "requests", "content"),
    *("encoding_format", "embedding_type", "embedding_types", "output_dtype", "late_chunking"),
}


class VendorEmbedder:
    """The model `name`, at the width of the column if the model can be asked for it.

    Raises SettingsError if there is no usable key, and no address that might need none.
    """

    count: Callable[[str], int] | None = None

    def __init__(
        self,
        provider: str,
        dialect: Dialect,
        name: str,
        dimensions: int | None,
        settings: Settings,
        prompts: Prompts = NONE,
    ) -> None:
        self.provider = provider
        self.model = f"{provider}:{name}"
        self.prompts = prompts
        self._name = name
        self._dialect = dialect
        self._path = dialect.path.format(model=quote(name, safe=""))
        self._connection = self._connect(settings)
        about = known(name)
        asked = about.width_to_ask_for(dimensions) if dialect.width else None
        self.dimensions = asked or about.width
        self.price = about.price
        self.request_limits: RequestLimits = replace(
            dialect.limits, tokens_per_text=about.tokens or dialect.limits.tokens_per_text
        )
        self.concurrency = Concurrency(first=8, most=MOST_AT_ONCE)
        self._has_roles = about.has_roles
        self._fields: dict[str, object] = {**_extra(provider, dialect, settings), **dialect.fixed}
        if dialect.width and asked:
            self._fields[dialect.width] = asked

    def _connect(self, settings: Settings) -> Connection:
        return vendor_connection(self.provider, self._dialect, settings)

    def probe(self) -> None:
        if self.dimensions is None:
            self.dimensions = self._connection.probe(self.embed).vectors.shape[1]

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        prompted = self.prompted(texts, role)
        lengths = [size_of(text) for text in prompted]
        try:
            reply = self._connection.post(self._path, self.body(prompted, role))
        except Rejected as refusal:
            raise self._learn_limits(refusal, lengths) from None
        embeddings = self._connection.decode(lambda: self._decoded(reply, lengths))
        return replace(embeddings, allowances=allowances(reply.headers))

    def prompted(self, texts: Sequence[str], role: Role) -> list[str]:
        """Return what the model gets for some texts."""
        return [well_formed(text) for text in self.prompts.before(texts, role)]

    def body(self, prompted: Sequence[str], role: Role) -> Mapping[str, object]:
        """Return the body of a request for what `prompted` returned."""
        fields = {**self._fields, **(self._dialect.role_fields(role) if self._has_roles else {})}
        return self._dialect.write(self._name, prompted, fields)

    def _decoded(self, reply: Reply, lengths: Sequence[int]) -> Embeddings:
        return self.read(read_json(reply.content), lengths)

    def read(self, answer: object, lengths: Sequence[int]) -> Embeddings:
        """Read an answer, for texts with these lengths. Raises ValueError, or another error, if it
        does not fit the request."""
        match answer:
            case {"error": error} if error:
                raise ValueError(f"an error with status 200: {extract_message(error)}")
        vectors, tokens = self._dialect.read(answer, len(lengths))
        return Embeddings(vectors, shared_out(tokens, lengths))

    def _learn_limits(self, refusal: Rejected, lengths: Sequence[int]) -> Rejected:
        """Lower the limits of a request after a rejection for size. Return the error to raise."""
        if refusal.error_class != "too_large":
            return refusal
        if len(lengths) == 1:
            return Rejected(refusal.cause, error_class="too_long")
        if limit := TOO_MANY_ITEMS.search(refusal.cause):
            most = number_in(limit[1] or limit[2]) or len(lengths) // 2
            self.request_limits = replace(
                self.request_limits, items=max(1, min(self.request_limits.items, most))
            )
        else:
            self.request_limits = replace(
                self.request_limits, bytes=min(self.request_limits.bytes, sum(lengths) // 2)
            )
        return refusal

    def close(self) -> None:
        self._connection.close()


def vendor_connection(provider: str, dialect: Dialect, settings: Settings) -> Connection:
    """Connect to a vendor, or to what its base URL names.

    Raises SettingsError if there is no usable key, and no address that might need none.
    """
    key, base_url = settings.key_and_base_url(provider)
    variable = provider.upper()
    if not key and not base_url:
        raise SettingsError(
            f"{variable}_API_KEY is not set",
            f"Set it, or set {variable}_BASE_URL to a server that needs no key.",
        )
    return Connection(
        base_url or dialect.base_url,
        key,
        settings.embedding_timeout_seconds,
        Hints(address=f"{variable}_BASE_URL if it is set", key=f"{variable}_API_KEY"),
        dialect.key_header,
    )


def _extra(provider: str, dialect: Dialect, settings: Settings) -> Mapping[str, object]:
    """Return the fields of EMBEDDING_EXTRA_BODY for a provider.

    Raises SettingsError if one of them is a field of the dialect, or could truncate texts.
    """
    extra = (settings.embedding_extra_body or {}).get(provider, {})
    taken = {*RESERVED, *dialect.fixed, dialect.role, dialect.width}
    for name in extra:
        if name in taken or "trunc" in name.lower():
            raise SettingsError(
                f"EMBEDDING_EXTRA_BODY may not set `{name[:40]}` for {provider}:",
                "The worker sets the texts, their role, the dimensions and the encoding itself, and"
                " allows no truncation. Remove this field, then start again.",
            )
    return extra
