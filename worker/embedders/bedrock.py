"""`bedrock:…`: the embedding models of Amazon and Cohere on Amazon Bedrock.

boto3 finds the credentials and the region as every AWS tool does: in the environment, in its files,
or by the role of the machine; and it signs the requests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from worker.embedders.answers import (
    decode_vector,
    extract_message,
    number_in,
    shared_out,
    stacked,
)
from worker.embedders.base import Embeddings, Prompts, RequestLimits, Vectors
from worker.embedders.connection import Connection, Hints, Reply
from worker.embedders.dialects import DIALECTS, Dialect, Fields
from worker.embedders.models import without_region
from worker.embedders.prompts import NONE
from worker.embedders.vendor import VendorEmbedder
from worker.errors import ProviderRefused, SettingsError
from worker.settings import Settings

# Ids of keys, and tokens of sessions: both are in messages about a signature.
SECRETS = r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}|[\w+/=%-]{100,}"
# Bedrock answers 400 also where no text is to blame: to signatures, for one.
STATUSES = {"": 400, "ValidationException": 400, "ServiceQuotaExceededException": 429}
PATH = "/model/{model}/invoke"
OF_THE_MODEL = ("model identifier is invalid", "on-demand throughput")


def _write_titan(model: str, texts: Sequence[str], fields: Fields) -> Fields:
    [text] = texts
    return {"inputText": text, **fields}


def _read_titan(answer: object, count: int) -> tuple[Vectors, object]:
    match answer:
        case {"embedding": list(numbers), "inputTextTokenCount": tokens}:
            return stacked([decode_vector(numbers)]), tokens
        case {"embedding": list(numbers)}:
            return stacked([decode_vector(numbers)]), None
    raise ValueError(f"no list `embedding` in {extract_message(answer)}")


def _write_cohere(model: str, texts: Sequence[str], fields: Fields) -> Fields:
    return {"texts": texts, **fields}


# docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-…: titan-embed-text, embed-v3 and
# embed-v4. Titan rejects a text that is too long.
FAMILIES = {
    "amazon.titan-embed-text-v2": Dialect(
        base_url="",
        path=PATH,
        limits=RequestLimits(items=1),
        fixed={"normalize": True},
        write=_write_titan,
        read=_read_titan,
    ),
    "cohere.embed-": replace(
        DIALECTS["cohere"],
        base_url="",
        path=PATH,
        fixed={"embedding_types": ["float"], "truncate": "NONE"},
        write=_write_cohere,
    ),
}


class BedrockEmbedder(VendorEmbedder):
    """The model `name`, or an inference profile that is named after its model.

    Raises SettingsError if boto3 is not installed, there is no region, or the model is another one.
    """

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        model = without_region(name.rpartition("/")[2])
        dialect = next((FAMILIES[known] for known in FAMILIES if model.startswith(known)), None)
        if dialect is None:
            raise SettingsError(
                f"the worker does not know how to call the model bedrock:{name}",
                f"The names of the models that it knows begin with {' or '.join(FAMILIES)}, maybe"
                " after a region, as in us.cohere.embed-v4:0.",
            )
        super().__init__("bedrock", dialect, name, dimensions, settings, prompts)

    def _connect(self, settings: Settings) -> BedrockConnection:
        return BedrockConnection(settings.embedding_timeout_seconds)

    def _decoded(self, reply: Reply, lengths: Sequence[int]) -> Embeddings:
        embeddings = super()._decoded(reply, lengths)
        if embeddings.tokens is not None:
            return embeddings
        tokens = number_in(reply.headers.get("x-amzn-bedrock-input-token-count"))
        return replace(embeddings, tokens=shared_out(tokens, lengths))


class BedrockConnection(Connection):
    """Sends requests to Bedrock, each with the signature that boto3 makes, or with a key of Bedrock
    (AWS_BEARER_TOKEN_BEDROCK) if there is one.

    boto3's own client is not used: it restarts its timeout with every byte.

    Raises SettingsError if boto3 is not installed, or there is no region.
    """

    def __init__(self, timeout: float) -> None:
        if find_spec("boto3") is None:
            raise SettingsError(
                "bedrock: models need boto3, which is not installed",
                "Install it with: pip install 'embedding-worker[bedrock]'.",
            )
        import boto3

        try:
            # Of the two variables for the region, boto3 itself reads only AWS_DEFAULT_REGION.
            self._session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
            base_url = self._session.client("bedrock-runtime").meta.endpoint_url
        except Exception as problem:  # errors of its own, of files and of the environment
            raise SettingsError(
                f"boto3 found no region, or cannot be set up ({type(problem).__name__})",
                "Set AWS_REGION to a region with this model, and check AWS_PROFILE and the files of"
                " the AWS command line.",
            ) from None
        key = os.environ.get("AWS_BEARER_TOKEN_BEDROCK") or None
        named = "AWS_BEARER_TOKEN_BEDROCK" if key else "the AWS credentials"
        hints = Hints(address="AWS_REGION", key=named)
        self._credentials: Any = None
        super().__init__(base_url, key, timeout, hints, sign=None if key else self._signed)
        self._secrets = re.compile(f"{self._secrets.pattern}|{SECRETS}")

    def post(self, path: str, body: object, timeout: float | None = None) -> Reply:
        if not self.key:
            self._credentials = self._find_credentials()
        return super().post(path, body, timeout)

    def _find_credentials(self) -> Any:
        """Return the credentials; they may have been renewed. Raises ProviderRefused without any.

        Not done while a request is signed, on the event loop of all requests: this may wait.
        """
        try:
            found = self._session.get_credentials()
            credentials = found and found.get_frozen_credentials()
        except Exception as problem:  # an expired login, a role that cannot be reached
            cause = f"boto3 found no AWS credentials: {type(problem).__name__}"
        else:
            if credentials:
                return credentials
            cause = "boto3 found no AWS credentials"
        raise ProviderRefused(cause, self.hints.for_status(401), error_class="unauthorized")

    def _signed(self, request: Any) -> Any:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        signed = AWSRequest(
            request.method,
            str(request.url),
            {"content-type": request.headers["content-type"]},
            request.content,
        )
        SigV4Auth(self._credentials, "bedrock", self._session.region_name).add_auth(signed)
        request.headers.update(dict(signed.headers))
        return request

    def _meaning(self, status: int, words: str, headers: Mapping[str, str]) -> int:
        if status != 400:
            return status
        if any(phrase in words for phrase in OF_THE_MODEL):
            return 404
        return STATUSES.get(headers.get("x-amzn-errortype", "").partition(":")[0], 403)
