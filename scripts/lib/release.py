"""Makes a release, and says what changed in migrations that were released.

A released migration never changes, because databases have applied it. `supabase/released.sha256`
has the digests of all of them, below the release that each came with. `sha256sum --check` can read
it in that folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

RELEASED = Path("supabase/released.sha256")


def released(repository: Path) -> dict[str, dict[str, str]]:
    """Return the digest of each file, by its name, of each release."""
    releases: dict[str, dict[str, str]] = {}
    for line in _text(repository).splitlines():
        if line.startswith("# "):
            files = releases.setdefault(line.removeprefix("# "), {})
        else:
            digest, name = line.split("  ", 1)
            files[name] = digest
    return releases


def changes(repository: Path) -> Iterator[str]:
    """Yield what is wrong with the files of earlier releases, and with the places of new ones."""
    known = _known(repository)
    now = _digests(repository)
    for name, digest in known.items():
        if name not in now:
            yield f"{name} was released, and is gone"
        elif now[name] != digest:
            yield f"{name} was released, and has changed"
    last = max(known, default="")
    for name in sorted(now.keys() - known):
        if name < last:
            yield f"{name} is new, and would be applied before {last}, which was released"
    text = _text(repository)
    for version in released(repository):
        tagged = _git(repository, "show", f"v{version}:{RELEASED}")
        if tagged is not None and not text.startswith(tagged):
            yield f"{RELEASED} is not what it was at the tag v{version}"


def release(repository: Path, version: str) -> None:
    """Record the new migrations, commit and tag. Exits, and changes nothing, if that is wrong."""
    if problems := list(_problems(repository, version)):
        sys.exit("".join(f"error: {problem}\n" for problem in problems).rstrip())
    known = _known(repository)
    new = {name: digest for name, digest in _digests(repository).items() if name not in known}
    lines = [f"# {version}", *(f"{digest}  {name}" for name, digest in sorted(new.items()))]
    with (repository / RELEASED).open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    for arguments in (
        ("add", str(RELEASED)),
        ("commit", "--quiet", "--message", f"Release {version}"),
        ("tag", "--annotate", f"v{version}", "--message", f"embedding-worker {version}"),
    ):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    print(f"v{version}: {len(new)} new migrations recorded. Nothing was pushed.")  # noqa: T201


def _problems(repository: Path, version: str) -> Iterator[str]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"{version} is not a version like 0.1.0"
    if f'__version__ = "{version}"\n' not in (repository / "worker/__init__.py").read_text():
        yield f"worker/__init__.py has another version than {version}"
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", changelog, re.M):
        yield f"CHANGELOG.md has no section `## {version} - YEAR-MONTH-DAY`"
    if _git(repository, "status", "--porcelain"):
        yield "there are changes that are not committed"
    if version in released(repository) or _git(repository, "tag", "--list", f"v{version}"):
        yield f"{version} was released already"
    yield from changes(repository)


def _text(repository: Path) -> str:
    file = repository / RELEASED
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _known(repository: Path) -> Mapping[str, str]:
    """The digests of the files of all releases."""
    releases = released(repository).values()
    return {name: digest for files in releases for name, digest in files.items()}


def _digests(repository: Path) -> Mapping[str, str]:
    """The digests of the files that are here, as they are named in the list."""
    folder = repository / RELEASED.parent
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in (folder / "migrations").iterdir()
    }


def _git(repository: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    result = subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=False
    )
    return None if result.returncode else result.stdout


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/release VERSION")
    release(Path(__file__).parents[2], sys.argv[1])
