"""Patterns of paths, like `**/*.{md,pdf}`, which decide what of a folder is searched.

`*` and `?` stand for characters within one part of a path, `**` for any folders, `[a-z]` for one
character, `{a,b}` for either. A pattern without `/` is for a name in any folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from worker.errors import SettingsError

LONGEST_PATTERN = 1000  # characters
# What a wildcard at the beginning of a name does not stand for: a pattern must name it so.
UNNAMED = r"(?!\.|~\$|node_modules(?:/|\Z))"
IS_UNNAMED = re.compile(UNNAMED.replace("?!", ""))
NAMES = (r"(?:^|[/{,])\.", r"(?:^|[/{,])~\$", r"(?:^|[/{,])node_modules")


class Patterns:
    """What of a folder is searched: what fits one of `include` (none: everything), and neither
    fits one of `exclude` nor is in a folder that does.

    A name that begins with a dot or with ~$, and node_modules, only fit if a pattern in `include`
    begins a name like this. Raises SettingsError if a pattern is wrong.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = include or ["**"]
        self._included = re.compile("|".join(_regex(each, UNNAMED) for each in self._include))
        excluded = "|".join(_regex(each, "") for each in exclude)
        self._excluded = re.compile(excluded) if excluded else None

    def fit(self, path: str) -> bool:
        """Whether a file is searched. Its folders must be, by `enters`, each of them."""
        return bool(self._included.search(path)) and not self._is_excluded(path)

    def enters(self, folder: str) -> bool:
        """Whether a folder, whose own folder is entered, may have files that are searched."""
        if self._is_excluded(folder) or self._is_excluded(folder + "/"):
            return False
        name = folder.rpartition("/")[2]
        return not IS_UNNAMED.match(name) or any(
            re.search(begins, pattern) for begins in NAMES for pattern in self._include
        )

    def fit_with_folders(self, path: str) -> bool:
        """Whether a file is searched, and all its folders are entered."""
        parts = path.split("/")
        folders = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return self.fit(path) and all(map(self.enters, folders))

    def _is_excluded(self, path: str) -> bool:
        return self._excluded is not None and bool(self._excluded.search(path))


def path_regex(pattern: str) -> str:
    """Return a regular expression for the paths that a pattern fits, also those of hidden files.

    It means the same to Python and to Postgres. Raises SettingsError if the pattern is wrong.
    """
    return _regex(pattern, "")


def _regex(pattern: str, unnamed: str) -> str:
    """Return a regular expression. `unnamed` is what wildcards do not stand for at the beginning
    of a name."""
    given = pattern.removeprefix("./")
    if not given or len(given) > LONGEST_PATTERN or "\0" in given:
        raise _wrong(pattern, f"it must have from 1 to {LONGEST_PATTERN} characters")
    path = given if "/" in given else f"**/{given}"
    translation = _Translation(pattern, path.lstrip("/"), unnamed)
    # (?s): Postgres does not tell lines apart anyway; \Z: $ would also fit before a last line feed
    return rf"\A(?:{translation.alternatives()})\Z"


class _Translation:
    """Translates a pattern, from its beginning to its end."""

    def __init__(self, pattern: str, path: str, unnamed: str) -> None:
        self._pattern = pattern
        self._path = path
        self._unnamed = unnamed
        self._at = 0
        self._depth = 0

    def alternatives(self) -> str:
        """Translate up to the end of the pattern, or of the braces around."""
        return "".join(self._pieces())

    def _pieces(self) -> Iterator[str]:
        while self._at < len(self._path):
            folders = re.compile(r"(?:\*\*/)+|\*\*\Z").match(self._path, self._at)
            if folders and self._begins_a_name:
                self._at = folders.end()
                yield self._folders(is_last=not folders[0].endswith("/"))
                continue
            character = self._path[self._at]
            if character == "}" and self._depth:
                return
            start = self._unnamed if self._begins_a_name and character in "*?[" else ""
            translate = _WILDCARDS.get(character, _Translation._literal)
            yield start + translate(self)
        if self._depth:
            raise _wrong(self._pattern, "a { has no }")

    @property
    def _begins_a_name(self) -> bool:
        return self._at == 0 or self._path[self._at - 1] in "/{" or self._follows_comma

    @property
    def _follows_comma(self) -> bool:
        return self._depth > 0 and self._path[self._at - 1] == ","

    def _folders(self, is_last: bool) -> str:
        any_folders = f"(?:{self._unnamed}[^/]+/)*"
        return f"{any_folders}{self._unnamed}[^/]+" if is_last else any_folders

    def _literal(self) -> str:
        character = self._path[self._at]
        self._at += 1
        if character == "," and self._depth:
            return "|"
        return re.escape(character)

    def _star(self) -> str:
        while self._path[self._at : self._at + 1] == "*":
            self._at += 1
        return "[^/]*"

    def _question_mark(self) -> str:
        self._at += 1
        return "[^/]"

    def _braces(self) -> str:
        self._at += 1
        self._depth += 1
        inside = self.alternatives()
        self._depth -= 1
        self._at += 1
        return f"(?:{inside})"

    def _brackets(self) -> str:
        found = re.compile(r"\[([!^]?)(\]?[^\]]*)\]").match(self._path, self._at)
        if not found or not found[2]:
            raise _wrong(self._pattern, "a [ has no ]")
        self._at = found.end()
        members = "".join(self._members(found[2]))
        return f"[^/{members}]" if found[1] else f"(?!/)[{members}]"

    def _members(self, inside: str) -> Iterator[str]:
        for first, last in re.findall(r"(.)(?:-(.))?", inside, re.DOTALL):
            if last and last < first:
                raise _wrong(self._pattern, f"{first}-{last} is not a range")
            yield _escaped(first) + (f"-{_escaped(last)}" if last else "")


_WILDCARDS: dict[str, Callable[[_Translation], str]] = {
    "*": _Translation._star,
    "?": _Translation._question_mark,
    "[": _Translation._brackets,
    "{": _Translation._braces,
}


def _escaped(character: str) -> str:
    """Escape a character between brackets, where some mean something in either language."""
    return character if character.isalnum() or not character.isascii() else f"\\{character}"


def _wrong(pattern: str, reason: str) -> SettingsError:
    return SettingsError(
        f"the pattern `{pattern}` is wrong: {reason}",
        "Write it like '**/*.{md,pdf}', 'drafts/**' or 'report-[0-9]*'. A bracket that is part of"
        " a name is written [[] or [{].",
    )
