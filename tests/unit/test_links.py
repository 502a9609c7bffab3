"""Links in the documentation lead to files and headings that exist, as GitHub names them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, REPOSITORY
from tests.documentation import PAGES

DOCUMENTS = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "tests/collection/README.md"]
BLOCK = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def links() -> list[tuple[str, str]]:
    """Each document with each of its links that leads nowhere else than into the repository."""
    found = []
    for document in DOCUMENTS:
        text = BLOCK.sub("", (REPOSITORY / document).read_text(encoding="utf-8"))
        targets = LINK.findall(re.sub(r"`[^`\n]+`(?!\])", "", text))
        found += [(document, target) for target in targets if ":" not in target]
    return found


@cache
def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6} (.+)$", text, re.M)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {heading.replace(" ", "-") for heading in words}


def problem(document: str, target: str) -> str | None:
    name, _, anchor = target.partition("#")
    source = REPOSITORY / document
    path = (source.parent / name).resolve() if name else source
    if not path.exists():
        return f"{document}: there is no file {name}"
    if anchor and anchor not in anchors(path):
        return f"{document}: there is no heading #{anchor} in {path.name}"
    return None


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    found = links()
    assert len(found) > 300
    assert [said for link in found if (said := problem(*link))] == []


def test_a_wrong_link_is_found() -> None:
    assert problem("README.md", "docs/search.md#measure-it") is None
    assert problem("README.md", "docs/nothing.md") == "README.md: there is no file docs/nothing.md"
    assert str(problem("docs/cli.md", "search.md#nothing")).endswith("#nothing in search.md")


def pages_in(navigation: object) -> Iterator[str]:
    match navigation:
        case str():
            yield navigation
        case list():
            for entry in navigation:
                yield from pages_in(entry)
        case dict():
            yield from pages_in([*navigation.values()])


def test_the_navigation_of_the_site_has_each_page_once() -> None:
    site = tomllib.loads((REPOSITORY / "zensical.toml").read_text(encoding="utf-8"))
    there = (path.name for path in (REPOSITORY / "docs").glob("*.md"))
    assert sorted(pages_in(site["project"]["nav"])) == sorted(there)


@pytest.mark.only_in_full
def test_the_site_is_built_without_a_warning() -> None:
    built = subprocess.run(
        [REPOSITORY / "scripts/docs"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for file in ("index.html", "search/index.html", "repository/.env.example"):
        assert (REPOSITORY / ".parts/site/site" / file).is_file(), file
