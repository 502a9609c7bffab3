"""A stand-in for an endpoint of one's own, as many a Next.js project has one for its scripts:

POST /api/embeddings/generate  {"text": "…"}  →  {"embedding": […]}
"""

from __future__ import annotations

from tests.http_server import Answer, ModelServer, Request, as_json, vector_for

PATH = "/api/embeddings/generate"
WIDTH = 384


class AppServer(ModelServer):
    """The endpoint at `url`. It wants a bearer token if `token` is set."""

    def __init__(self, token: str | None = None) -> None:
        super().__init__()
        self.token = token

    @property
    def url(self) -> str:
        return self.root + PATH

    def due(self, request: Request) -> Answer:
        if self.token and request.bearer != self.token:
            return Answer(401, as_json({"error": "Unauthorized"}))
        if request.path != PATH:
            return Answer(404, b"<!DOCTYPE html><html></html>", {"content-type": "text/html"})
        text = request.body.get("text")
        if not text or not isinstance(text, str):
            return Answer(400, as_json({"error": "Text is required"}))
        return Answer(200, as_json({"embedding": vector_for(text, WIDTH).tolist()}))

    def stumbled(self, due: Answer) -> Answer:
        return Answer(500, as_json({"error": "Failed to generate embedding"}))
