"""Long documents in each format, made from a seed: prose that reads like a manual, and code."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from worker.queue import ChunkFormat

SUBJECTS = "the worker|a queue|each index|this table|the old server|a second replica|your client"
VERBS = "reads|keeps|replaces|measures|refuses|copies|waits for|reports|forgets|compresses"
OBJECTS = "every vector|the last batch|its own lease|two columns|a long text|the whole backlog"
ADVERBS = "at night|within a minute|after a restart|without a lock|for each tenant|in small steps"
PARTS = [part.split("|") for part in (SUBJECTS, VERBS, OBJECTS, ADVERBS)]

Document = list[str]
"""The paragraphs of a document. Edits replace, insert or delete one of them."""


def sentence(random: Random) -> str:
    clauses = [
        " ".join([*map(random.choice, PARTS), str(random.randrange(10_000))])
        for _ in range(random.randint(1, 3))
    ]
    return (", ".join(clauses) + random.choice("...?!")).capitalize()


def prose(random: Random) -> str:
    return " ".join(sentence(random) for _ in range(random.randint(1, 6)))


def markdown(random: Random) -> str:
    """A paragraph of Markdown, or a heading, a list, a table or a code block."""
    kind = random.random()
    if kind < 0.12:
        return "#" * random.randint(1, 4) + " " + sentence(random)[:40]
    if kind < 0.17:
        return sentence(random)[:40] + "\n" + random.choice("=-") * 12
    if kind < 0.24:
        return "\n".join(f"- {sentence(random)}" for _ in range(random.randint(2, 6)))
    if kind < 0.30:
        rows = (f"| {sentence(random)} | {sentence(random)} |" for _ in range(random.randint(2, 9)))
        return "\n".join(["| a | b |", "|---|---|", *rows])
    if kind < 0.38:
        fence = random.choice(["```", "~~~~"])
        return f"{fence}python\n{code(random)}\n\n{code(random)}\n{fence}"
    return prose(random)


def html(random: Random) -> str:
    kind = random.random()
    if kind < 0.12:
        level = random.randint(1, 4)
        return f'<h{level} id="s{random.randrange(999)}">{sentence(random)[:40]}</h{level}>'
    if kind < 0.2:
        items = (f"<li>{sentence(random)}</li>" for _ in range(random.randint(2, 6)))
        return "<ul>" + "".join(items) + "</ul>"
    return f'<p class="text">{prose(random)} See <a href="/page?a=1">the page</a>.</p>'


def code(random: Random) -> str:
    names = [f"{random.choice('abcdefgh')}{random.randrange(1_000)}" for _ in range(4)]
    body = [
        f"    {random.choice(names)} = {random.choice(names)}({random.randrange(10_000)})"
        for _ in range(random.randint(2, 12))
    ]
    if len(body) > 6:
        body.insert(4, "")
    return "\n".join([f"def {names[0]}({names[1]}):", *body, f"    return {names[2]}"])


KINDS: dict[str, tuple[ChunkFormat, Callable[[Random], str], str]] = {
    "Markdown": ("markdown", markdown, "\n\n"),
    "prose": ("text", prose, "\n\n"),
    "text without blank lines": ("text", prose, "\n"),
    "one line": ("text", prose, " "),
    "HTML": ("html", html, "\n"),
    "code": ("code", code, "\n\n\n"),
}
"""The format of each kind of document, what makes a paragraph, and what is between two."""


def document(kind: str, characters: int, seed: int) -> Document:
    """Make a document of about so many characters."""
    _, paragraph, _ = KINDS[kind]
    random = Random(seed)
    made: Document = []
    length = 0
    while length < characters:
        made.append(paragraph(random))
        length += len(made[-1])
    return made


def text_of(kind: str, paragraphs: Document) -> str:
    return KINDS[kind][2].join(paragraphs)


def edited(kind: str, paragraphs: Document, random: Random) -> Document:
    """Return a copy with one edit: a word, a sentence, words that go, a paragraph new or gone."""
    copy = list(paragraphs)
    place = random.randrange(len(copy))
    words = copy[place].split(" ")
    word = random.choice([at for at, each in enumerate(words) if at and "\n" not in each] or [-1])
    match random.randrange(5):
        case 0:
            copy[place] = " ".join([*words[:word], "altogether", *words[word + 1 :]])
        case 1:
            copy[place] = " ".join([*words[:word], sentence(random), *words[word:]])
        case 2:
            copy[place] = " ".join([*words[:word], *words[word + 8 :]])
        case 3:
            copy.insert(place, KINDS[kind][1](random))
        case 4:
            del copy[place]
    return copy


def edited_at_the_top(kind: str, paragraphs: Document, random: Random) -> Document:
    return [KINDS[kind][1](random), *paragraphs]
