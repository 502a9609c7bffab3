"""Rerankers of the vendors: `cohere:`, `voyage:` and `jina:`. A reranker reads a query and a text
together, and so judges better than a comparison of vectors, but only a few texts at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.embedders.answers import extract_message, read_json
from worker.embedders.base import well_formed
from worker.embedders.dialects import DIALECTS
from worker.embedders.vendor import vendor_connection
from worker.settings import Settings

MOST_CHARACTERS = 16_000  # of a text: the 4096 tokens that Cohere's rerankers read by default
# All three take a model, a query and documents, and give a place and a score for each document:
# docs.cohere.com/reference/rerank, docs.voyageai.com/reference/reranker-api, docs.jina.ai.
# Each reads only the beginning of a text that is too long. Voyage can be told to refuse it, but a
# search that fails because of one long text is of less use. These fields are added:
FIELDS: Mapping[str, Mapping[str, object]] = {
    "cohere": {},
    "voyage": {"truncation": True},
    "jina": {"return_documents": False},
}


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a search, or for a million tokens."""

    search: float = 0.0
    tokens: float = 0.0


# cohere.com/pricing, docs.voyageai.com/docs/pricing, api.jina.ai/v1/models, November 2026
PRICES = {
    "rerank-v3.5": Price(search=0.002),
    "rerank-v4.0-fast": Price(search=0.002),
    "rerank-v4.0-pro": Price(search=0.0025),
    "rerank-2.5": Price(tokens=0.05),
    "rerank-2.5-lite": Price(tokens=0.02),
    "jina-reranker-v2-base-multilingual": Price(tokens=0.05),
    "jina-reranker-m0": Price(tokens=0.05),
}


class VendorReranker:
    """The reranker `name` of a vendor. Raises SettingsError as VendorEmbedder does."""

    def __init__(self, provider: str, name: str, settings: Settings) -> None:
        self.provider = provider
        self.model = f"{provider}:{name}"
        self._name = name
        self._price = PRICES.get(name)
        self.spent: float | None = 0.0
        self._connection = vendor_connection(provider, DIALECTS[provider], settings)

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return a score for each of `texts`, in their order: the higher, the better it answers.

        Only the beginning of a long text is read. Raises ProviderRefused, Transient or Rejected.
        """
        documents = [well_formed(text[:MOST_CHARACTERS]) for text in texts]
        body = {"model": self._name, "query": well_formed(query), "documents": documents}
        reply = self._connection.post("/rerank", {**body, **FIELDS[self.provider]})
        answer = self._connection.decode(lambda: read_json(reply.content))
        scores = self._connection.decode(lambda: _scores_in(answer, len(texts)))
        self._add_cost(answer)
        return scores

    def _add_cost(self, answer: object) -> None:
        if self._price is None or self.spent is None:
            self.spent = None
            return
        match answer:
            case {"usage": {"total_tokens": int(tokens)}}:
                self.spent += self._price.search + tokens * self._price.tokens / 1e6
            case {"meta": {"billed_units": {"search_units": int() | float() as searches}}}:
                self.spent += searches * self._price.search
            case _:
                self.spent = None

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()


def _scores_in(answer: object, count: int) -> list[float]:
    """Return the scores in an answer by the places of the texts. Raises ValueError without them."""
    match answer:
        case {"results": list(items)} | {"data": list(items)}:
            scores = dict(map(_score_in, items))
        case _:
            raise ValueError(f"no list `results` in {extract_message(answer)}")
    if len(items) != count or scores.keys() != set(range(count)):
        raise ValueError(f"places other than 0 to {count - 1}, each once")
    return [scores[place] for place in range(count)]


def _score_in(item: object) -> tuple[int, float]:
    match item:
        case {"index": index, "relevance_score": int() | float() as score}:
            if type(index) is int and type(score) is not bool and math.isfinite(score):
                return index, float(score)
    raise ValueError("an item without `index` and `relevance_score`")
