"""JSON, indented, so that its lines can be found; records of JSON Lines with blank lines between.

What is no JSON, such as a configuration with comments, is kept as it is.
"""

from __future__ import annotations

import json
from typing import Any

from worker.files.parsing.decoding import without_surrogates
from worker.files.parsing.detection import BY_SUFFIX
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.source import Extracted, Source


def read(source: Source) -> Extracted:
    """Return the values of a file."""
    text, encoding = source.text()
    markdown = Markdown(source.options)
    if BY_SUFFIX[source.suffix] == "jsonl":
        text = "\n\n".join(_indented(line) for line in text.split("\n") if line.strip())
    else:
        text = _indented(text)
    markdown.code(text, "json")
    return Extracted(markdown.content(), encoding=encoding)


def _indented(text: str) -> str:
    try:
        value = json.loads(text, object_pairs_hook=_with_all_pairs)
        return without_surrogates(json.dumps(value, ensure_ascii=False, indent=1))
    except (ValueError, RecursionError):
        return text


def _with_all_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises ValueError if a name in it occurs twice, as one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found
