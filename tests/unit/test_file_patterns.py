"""Patterns of paths, as Python reads them."""

from __future__ import annotations

import re

import pytest

from tests.path_patterns import FITS
from worker.errors import SettingsError
from worker.files.patterns import Patterns, path_regex


@pytest.mark.parametrize(("pattern", "path", "fits"), FITS)
def test_a_pattern_fits_paths(pattern: str, path: str, fits: bool) -> None:
    assert bool(re.search(path_regex(pattern), path)) is fits


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("a.md", True),
        ("a/b/c.pdf", True),
        (".hidden", False),
        ("a/.hidden/b.md", False),
        (".git/config", False),
        (".DS_Store", False),
        ("a/node_modules/b/c.md", False),
        ("node_modules", False),
        ("node_modules.md", True),
        ("a/~$letter.docx", False),
        ("a/..b", False),
    ],
)
def test_what_is_searched_by_default(path: str, fits: bool) -> None:
    assert Patterns().fit_with_folders(path) is fits
    assert Patterns(["**", "*"]).fit_with_folders(path) is fits


@pytest.mark.parametrize(
    ("include", "path", "fits"),
    [
        ([".github/**"], ".github/workflows/a.yml", True),
        ([".github/**"], ".git/a.yml", False),
        (["**/.env*"], "a/.env.example", True),
        (["**/.env*"], "a/b.md", False),
        ([".[a-g]*/*"], ".git/config", True),
        (["*.md", ".notes/*.md"], "a/b.md", True),
        (["*.md", ".notes/*.md"], "a/.notes/b.md", False),
        (["node_modules/*/README.md"], "node_modules/x/README.md", True),
        (["{docs,.docs}/*"], ".docs/a", True),
        (["{docs,.docs}/*"], "docs/a", True),
    ],
)
def test_a_hidden_file_is_searched_if_a_pattern_names_it_so(
    include: list[str], path: str, fits: bool
) -> None:
    assert Patterns(include).fit_with_folders(path) is fits


@pytest.mark.parametrize(
    ("exclude", "path", "fits"),
    [
        ("drafts", "a/drafts/b.md", False),
        ("drafts/", "drafts/b.md", False),
        ("drafts/", "a/drafts/b.md", True),
        ("drafts/**", "drafts/b/c.md", False),
        ("drafts/**", "a/drafts/c.md", True),
        ("*.tmp", "a/b.tmp", False),
        ("**/old/*", "a/old/b/c.md", False),
        ("old", "a/older/c.md", True),
    ],
)
def test_excluding_wins(exclude: str, path: str, fits: bool) -> None:
    assert Patterns(["**", "drafts/*"], [exclude]).fit_with_folders(path) is fits


def test_excluding_also_fits_hidden_files() -> None:
    assert not Patterns([".github/**"], ["*.log"]).fit_with_folders(".github/a.log")


@pytest.mark.parametrize("pattern", ["", "a[", "a[]", "{a,b", "[z-a]", "a" * 1001, "a\0b"])
def test_a_wrong_pattern_is_an_error_with_a_cure(pattern: str) -> None:
    with pytest.raises(SettingsError, match="the pattern `") as problem:
        path_regex(pattern)
    assert problem.value.hint
