"""The bodies of requests and answers. They validate, and the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from worker.operations.queries import MOST_TEXTS

MOST_MATCHES = 100
MOST_WORDS = 10_000  # characters of a query
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
"""A text that is not blank."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
InputType = Literal["query", "document"]
Mode = Literal["hybrid", "vector", "text"]

NO_TOKENS = (
    "give texts, not tokens: only the model itself knows its tokens (LangChain:"
    " OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


class Body(BaseModel):
    """A request. Fields that are not known are ignored, as OpenAI's clients may send more."""

    model_config = ConfigDict(strict=True)


class EmbeddingsRequest(Body):
    """Texts to embed, in the shape of OpenAI."""

    model: Name = Field(
        description="A watched column, like `docs.embedding`: its model, width and prompts. Or the"
        " model of one, like `openai:text-embedding-3-small`, with the prompts that are its own."
    )
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    input_type: InputType = Field(
        "query", description="What the texts are: searched for, or found. Models embed them apart."
    )
    dimensions: Annotated[int, Field(ge=1, le=16_000)] | None = None
    encoding_format: Literal["float", "base64"] = "float"

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, given: Any) -> Any:
        if isinstance(given, list) and any(isinstance(item, int | list) for item in given):
            raise ValueError(NO_TOKENS)
        return given


class Embedding(BaseModel):
    """A vector: numbers, or their 32-bit little-endian bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class TokensUsed(BaseModel):
    """The tokens of the texts; an estimate if the provider does not report them."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """The vectors of the texts, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: TokensUsed


class ModelEntry(BaseModel):
    """What `model` may be: a watched column, or a model of one."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelsAnswer(BaseModel):
    """All that `model` may be."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class GenerateRequest(Body):
    """One text to embed."""

    text: Text
    model: Name | None = Field(None, description="As in /v1/embeddings. None: EMBEDDING_MODEL.")
    input_type: InputType = "document"


class GenerateAnswer(BaseModel):
    """The vector of the text."""

    embedding: list[float]
    dimensions: int
    model: str


class SearchRequest(Body):
    """What to search for, and where. Without `table` and `column`: the only watched column."""

    query: Annotated[str, StringConstraints(max_length=MOST_WORDS, pattern=r"\S")]
    table: Name | None = None
    column: Name | None = None
    mode: Mode | None = Field(
        None, description="None: hybrid if the column has a language, otherwise by vectors."
    )
    limit: Annotated[int, Field(ge=1, le=MOST_MATCHES)] = 5
    filter: dict[Name, Any] | None = Field(
        None, description='Only rows with these values, like {"lang": ["en", "de"]}.'
    )
    per_document: Annotated[int, Field(ge=1, le=MOST_MATCHES)] = Field(
        1, description="The most passages of one text, if texts are in chunks."
    )


class Found(BaseModel):
    """A row, or a passage of a text in chunks."""

    record_id: str
    content: str | None
    distance: float | None
    score: float | None
    vector_rank: int | None
    text_rank: int | None
    page: int | None
    heading_path: str | None
    first_char: int | None
    last_char: int | None


class SearchAnswer(BaseModel):
    """What was found, the best first."""

    matches: list[Found]


class StatusAnswer(BaseModel):
    """What `worker status --json` prints."""

    model_config = ConfigDict(extra="allow")


class HealthAnswer(BaseModel):
    """That the server can be used."""

    status: Literal["ok"] = "ok"


class ProblemBody(BaseModel):
    """Why a request was refused: the cause, and what to do."""

    message: str
    hint: str | None
    type: str
    code: str | None
    param: str | None


class ProblemAnswer(BaseModel):
    """An error, in the shape of OpenAI."""

    error: ProblemBody
