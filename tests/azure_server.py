"""A stand-in for Azure: OpenAI's API at Azure's address, with Azure's refusals."""

from __future__ import annotations

from tests.http_server import Answer, Request, as_json
from tests.openai_server import OpenAIServer

SMALL = "text-embedding-3-small"
# In the words of Azure.
WRONG_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a"
    " valid key for an active subscription and use a correct regional API endpoint for your"
    " resource."
)
NO_DEPLOYMENT = "The API deployment for this resource does not exist."


class AzureServer(OpenAIServer):
    """OpenAI's API where Azure has it, with the deployments `text-embedding-3-small` and `mine`."""

    def due(self, request: Request) -> Answer:
        if request.bearer != self.api_key:
            return Answer(401, as_json({"error": {"code": "401", "message": WRONG_KEY}}))
        if request.path != "/openai/v1/embeddings":
            return Answer(404, as_json({"error": {"code": "404", "message": "Resource not found"}}))
        if request.body["model"] not in (SMALL, "mine"):
            error = {"code": "DeploymentNotFound", "message": NO_DEPLOYMENT}
            return Answer(404, as_json({"error": error}))
        there = Request("/v1/embeddings", request.headers, request.body | {"model": SMALL})
        return super().due(there)
