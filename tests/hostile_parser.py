"""What runs in a parser process of the tests: there, plain text is code that the parser runs.

So a test can make a parser do what a hostile file might make it do.
"""

from __future__ import annotations

from worker.files.parsing import child
from worker.files.parsing.formats import text
from worker.files.parsing.source import Extracted, Source


def run(source: Source) -> Extracted:
    """Run the code in a file. What it assigns to `content` is the text of the file."""
    names = {"content": "no content", "text": text}
    exec(source.text().text, names)
    return Extracted(str(names["content"]))


def main(given: str) -> None:
    """Answer requests, as the real parser process does."""
    text.read = run
    child.main(given)
