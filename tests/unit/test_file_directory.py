"""What a scan finds in a directory: links, pipes, strange names, folders that cannot be read."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker.files.directory import Directory
from worker.files.patterns import Patterns
from worker.files.sources import FolderUnavailable, SeenFile, SkippedFile

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def write(file: Path, text: str = "text") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def directory(root: Path, include: list[str] | None = None) -> Directory:
    return Directory(root, Patterns(include or []))


def seen(root: Path, *include: str) -> list[str]:
    found = directory(root, list(include)).list()
    return sorted(file.path for file in found if isinstance(file, SeenFile))


def skipped(root: Path) -> dict[str, str]:
    found = directory(root).list()
    return {file.path: file.reason for file in found if isinstance(file, SkippedFile)}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything, so for that time this process is nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that nobody may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_files_of_all_folders_with_their_stamps(root: Path) -> None:
    write(root / "a.md", "12345")
    write(root / "b/c/d.pdf")
    os.utime(root / "a.md", ns=(7, 1_700_000_000_000_000_007))
    found = {file.path: file for file in directory(root).list() if isinstance(file, SeenFile)}
    assert found.keys() == {"a.md", "b/c/d.pdf"}
    file = found["a.md"]
    assert (file.size, file.stamp) == (5, "5-1700000000000000007")
    assert file.modified
    assert file.modified.isoformat() == "2023-11-14T22:13:20+00:00"
    assert directory(root).stamp("a.md") == file.stamp
    assert directory(root).stamp("a.md/b") is None
    assert directory(root).stamp("gone") is None


def test_only_what_fits_the_patterns(root: Path) -> None:
    for path in ("a.md", "b.txt", ".git/c.md", "d/node_modules/e.md", ".notes/f.md"):
        write(root / path)
    assert seen(root) == ["a.md", "b.txt"]
    assert seen(root, "*.md", ".notes/*") == [".notes/f.md", "a.md"]


def test_links_are_followed_within_the_folder_only(root: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "secret.md")
    write(tmp_path / "root-2/b.md")
    write(root / "a/b.md")
    (root / "inside.md").symlink_to("a/b.md")
    (root / "linked").symlink_to(root / "a")
    (root / "out.md").symlink_to(outside)
    (root / "neighbour").symlink_to(tmp_path / "root-2")
    (root / "up").symlink_to("..")
    (root / "nowhere").symlink_to("gone")
    assert seen(root) == ["a/b.md", "inside.md", "linked/b.md"]
    assert skipped(root) == dict.fromkeys(["out.md", "neighbour", "up", "nowhere"], "outside")


def test_circles_of_links_end(root: Path) -> None:
    write(root / "a/x.md")
    write(root / "b/y.md")
    (root / "self").symlink_to(".")
    (root / "a/up").symlink_to("..")
    (root / "a/b").symlink_to("../b")
    (root / "b/a").symlink_to("../a")
    (root / "loop").symlink_to("loop")
    assert seen(root) == ["a/b/y.md", "a/x.md", "b/a/x.md", "b/y.md"]
    assert skipped(root) == {"loop": "outside"}


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    write(root / "a.md")
    (tmp_path / "link").symlink_to(root)
    assert seen(tmp_path / "link") == ["a.md"]


@pytest.fixture
def depth(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How deep the folder is: deeper than Python calls itself, and than a path may be long."""
    depth = 3000
    monkeypatch.chdir(root)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    bottom = os.open(".", os.O_RDONLY)
    os.chdir(root)
    yield depth
    os.fchdir(bottom)
    os.close(bottom)
    for _ in range(depth):
        os.chdir("..")
        os.rmdir("d")


def test_deep_folders_end_as_unreadable(root: Path, depth: int) -> None:
    assert seen(root) == []
    [(path, reason)] = skipped(root).items()
    assert 1000 < path.count("/") < depth
    assert reason == "unreadable"


def test_pipes_and_sockets_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        assert skipped(root) == {"pipe": "special", "socket": "special"}
    with pytest.raises(PermissionError), directory(root).local("pipe", 0):
        pass


def test_names_that_are_not_utf8_are_left_out(root: Path) -> None:
    for name in (b"caf\xe9.md", b"f\xff"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).mkdir()
    write(Path(os.fsdecode(os.fsencode(root) + b"/f\xff/a.md")))
    write(root / "café\n\x01.md")
    assert seen(root) == ["café\n\x01.md"]
    assert list(skipped(root).values()) == ["not_utf8", "not_utf8"]


def test_a_folder_that_may_not_be_read_is_reported(public: Path) -> None:
    write(public / "a.md")
    write(public / "closed/b.md")
    write(public / "listed/c.md")
    os.chmod(public / "closed", 0)
    os.chmod(public / "listed", 0o444)
    with unprivileged():
        assert seen(public) == ["a.md"]
        assert skipped(public) == {"closed": "unreadable", "listed/c.md": "unreadable"}
    os.chmod(public / "closed", 0o700)
    os.chmod(public / "listed", 0o700)


def test_a_root_that_cannot_be_read_is_unavailable(public: Path) -> None:
    file = write(public / "closed/a.md")
    os.chmod(public / "closed", 0)
    with unprivileged(), pytest.raises(FolderUnavailable, match="Permission denied"):
        seen(public / "closed")
    os.chmod(public / "closed", 0o700)
    with pytest.raises(FolderUnavailable, match="No such file or directory") as gone:
        seen(public / "gone")
    assert "mounted" in str(gone.value.hint)
    with pytest.raises(FolderUnavailable, match="Not a directory"):
        seen(file)


def test_a_file_that_became_a_link_to_the_outside_is_not_opened(root: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.md")
    (root / "a.md").symlink_to(secret)
    for path in ("a.md", "../secret.md"):
        with pytest.raises(PermissionError, match="leads out"), directory(root).local(path, 4):
            pass
