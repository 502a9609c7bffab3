"""The prompts of known models: what they were trained to see before a document, and before a query.

A wrong prompt is worse than none, so a model is listed only with a source. The name must match as a
whole: a fine-tuned model can have other prompts.
"""

from __future__ import annotations

import re

from worker.embedders.base import Prompts

NONE = Prompts("", "")

_SEARCH_PASSAGES = Prompts("", "Represent this sentence for searching relevant passages: ")
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"

_KNOWN: list[tuple[str, Prompts]] = [
    # https://huggingface.co/nomic-ai/nomic-embed-text-v1.5: "the text prompt must include a task
    # instruction prefix"; https://huggingface.co/nomic-ai/nomic-embed-text-v2-moe: the same
    (
        r"nomic-embed-text(-v1(\.5)?|-v2-moe)?",
        Prompts("search_document: ", "search_query: "),
    ),
    # https://huggingface.co/intfloat/e5-large-v2, …/multilingual-e5-large: "each input text should
    # start with `query: ` or `passage: `"
    (
        r"e5-(small|base|large)(-v2)?|multilingual-e5-(small|base|large)",
        Prompts("passage: ", "query: "),
    ),
    # https://huggingface.co/intfloat/multilingual-e5-large-instruct: "no need to add instruction
    # to the document side", and the task of its example
    (
        r"multilingual-e5-large-instruct",
        Prompts("", f"Instruct: {_WEB_SEARCH}\nQuery: "),
    ),
    # https://ai.google.dev/gemma/docs/embeddinggemma/model_card#prompt_instructions
    (
        r"embeddinggemma(-300m)?",
        Prompts("title: none | text: ", "task: search result | query: "),
    ),
    # https://ai.google.dev/gemini-api/docs/embeddings: unlike the first version, this one takes no
    # field for the role
    (
        r"gemini-embedding-2",
        Prompts("title: none | text: ", "task: search result | query: "),
    ),
    # https://huggingface.co/Qwen/Qwen3-Embedding-0.6B, get_detailed_instruct and
    # config_sentence_transformers.json: without a space after `Query:`
    (
        r"qwen3-embedding(-(0\.6|4|8)b)?",
        Prompts("", f"Instruct: {_WEB_SEARCH}\nQuery:"),
    ),
    # https://huggingface.co/BAAI/bge-large-en-v1.5: "the instruction is not needed for passages"
    # Ollama calls the large one `bge-large`.
    (r"bge-(small|base|large)-en(-v1\.5)?|bge-large", _SEARCH_PASSAGES),
    # https://huggingface.co/mixedbread-ai/mxbai-embed-large-v1
    (r"mxbai-embed-large(-v1)?", _SEARCH_PASSAGES),
    # https://huggingface.co/Snowflake/snowflake-arctic-embed-m-v1.5: "add a prefix to the query"
    (
        r"snowflake-arctic-embed(-(xs|s|m|l|m-long|m-v1\.5))?",
        _SEARCH_PASSAGES,
    ),
    # https://huggingface.co/Snowflake/snowflake-arctic-embed-l-v2.0
    (r"snowflake-arctic-embed(2|-[ml]-v2\.0)", Prompts("", "query: ")),
]


def known_prompts(name: str) -> Prompts:
    """Return the prompts of a model: NONE unless it is known to have any.

    `name` may have an organisation in front, and what servers add, like `:latest`, `:0.6b-q8_0`,
    `@q4_k_m`, `.Q8_0.gguf`, `text-embedding-` in front: the size and the quantization of a model
    change no prompt.
    """
    model = re.split("[:@]", name.lower().rpartition("/")[2])[0].removeprefix("text-embedding-")
    model = re.sub(r"([-.](i?q\d\w*|b?f16|fp16|f32))?[-.]gguf$", "", model)
    return next((prompts for shape, prompts in _KNOWN if re.fullmatch(shape, model)), NONE)


def chosen_prompts(own: Prompts, document: str | None, query: str | None) -> Prompts:
    """Return the prompts to use: those that are given, or else the model's own.

    Where documents were embedded without the prompt of the model, queries get none either: the
    model compares them only as a pair.
    """
    if query is None:
        query = "" if own.document and document == "" else own.query
    return Prompts(own.document if document is None else document, query)
