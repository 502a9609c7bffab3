"""A stand-in for Amazon Bedrock: InvokeModel for Titan's and Cohere's embedding models.

    with BedrockServer() as server:
        environment = server.environment

It reads the access key from the signature, and does not check the signature itself.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from tests.http_server import Answer, ModelServer, Request, as_json, tokens_in, vector_for

TITAN = "amazon.titan-embed-text-v2:0"
COHERE = "cohere.embed-v4:0"
COHERE_3 = "cohere.embed-english-v3"
KEY = "AKIARIGHT98765432109"
MOST_TOKENS = 8192  # of a text for Titan
MOST_CHARACTERS = 2048  # of one for the third version of Cohere's models


class BedrockServer(ModelServer):
    """The models of one region, for who has the access key `key`."""

    def __init__(self, key: str = KEY) -> None:
        super().__init__()
        self.key = key

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 reads."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-signs-requests",
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": self.root,
            # and nothing of this machine
            "AWS_CONFIG_FILE": "/nowhere/config",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def due(self, request: Request) -> Answer:
        credential = re.search(r"Credential=([^/]+)/", request.headers.get("authorization", ""))
        if not credential or credential[1] != self.key:
            return _refusal(
                403,
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        found = re.fullmatch(r"/model/([^/]+)/invoke", request.path)
        model = unquote(found[1]).removeprefix("eu.") if found else ""
        if model == TITAN:
            return _titan(request)
        if model in (COHERE, COHERE_3):
            return _cohere(request, model)
        return _refusal(400, "ValidationException", "The provided model identifier is invalid.")

    def stumbled(self, due: Answer) -> Answer:
        return _refusal(500, "InternalServerException", "something went wrong")


def _titan(request: Request) -> Answer:
    if unknown := request.body.keys() - {"inputText", "dimensions", "normalize"}:
        return _refusal(400, "ValidationException", f"extraneous keys {sorted(unknown)}")
    [text] = request.texts
    if (tokens := tokens_in(text)) > MOST_TOKENS:
        words = f"Max input tokens: {MOST_TOKENS}, request input token count: {tokens}"
        return _refusal(
            400, "ValidationException", f"400 Bad Request: Too many input tokens. {words}"
        )
    vector = vector_for(text, request.body.get("dimensions", 1024))
    body = {"embedding": vector.tolist(), "inputTextTokenCount": tokens}
    return Answer(200, as_json(body))


def _cohere(request: Request, model: str) -> Answer:
    body = request.body
    known = {"texts", "input_type", "truncate", "embedding_types", "output_dimension"}
    if (unknown := body.keys() - known) or body.get("input_type") not in (
        "search_document",
        "search_query",
    ):
        return _refusal(400, "ValidationException", f"Malformed input request: {sorted(unknown)}")
    for place, text in enumerate(request.texts):
        if model == COHERE_3 and len(text) > MOST_CHARACTERS:
            return _refusal(
                400,
                "ValidationException",
                f"Malformed input request: #/texts/{place}: expected maxLength: {MOST_CHARACTERS},"
                f" actual: {len(text)}, please reformat your input and try again.",
            )
    width = body.get("output_dimension", 1536 if model == COHERE else 1024)
    vectors = [vector_for(text, width).tolist() for text in request.texts]
    return Answer(
        200,
        as_json({"embeddings": {"float": vectors}, "response_type": "embeddings_by_type"}),
        {"x-amzn-bedrock-input-token-count": str(sum(map(tokens_in, request.texts)))},
    )


def _refusal(status: int, kind: str, words: str) -> Answer:
    return Answer(status, as_json({"message": words}), {"x-amzn-errortype": kind})
