"""Where backups are: a directory, and a bucket on a server that speaks S3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.s3_server import KEY, SECRET, S3Server
from worker.errors import BackupDamaged, BackupError, SettingsError
from worker.safekeeping.bucket import Bucket
from worker.safekeeping.directory import Directory
from worker.safekeeping.locations import open_storage, parse_destination
from worker.safekeeping.storage import Storage
from worker.settings import Settings

NAMES = [f"daily/one/parts/{number}.parquet" for number in range(7)]
LARGE = 20 * 2**20  # bytes: three pieces of an upload


@pytest.fixture(params=["directory", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "directory":
        return Directory(tmp_path / "backups")
    return bucket(request.getfixturevalue("s3"))


def bucket(s3: S3Server, location: str = "shelf/here", **changes: str | None) -> Storage:
    settings = replace(s3.settings, **changes)  # type: ignore[arg-type]
    return open_storage(parse_destination(f"s3://{location}"), settings)


def file_of(folder: Path, content: bytes) -> Path:
    file = folder / "file"
    file.write_bytes(content)
    return file


# Both


def test_objects_are_stored_listed_read_and_deleted(storage: Storage, tmp_path: Path) -> None:
    assert list(storage.names()) == []
    for name in NAMES:
        storage.put(name, file_of(tmp_path, name.encode()))
    storage.put_bytes("daily/one/manifest.json", b"{}")
    storage.put_bytes("daily/one2/manifest.json", b"{}")
    assert sorted(storage.names("daily/one/")) == ["daily/one/manifest.json", *NAMES]
    assert sorted(storage.names("daily/one")) == [
        "daily/one/manifest.json",
        *NAMES,
        "daily/one2/manifest.json",
    ]
    assert list(storage.names("other/")) == []
    assert storage.read("daily/one/manifest.json") == b"{}"
    with storage.local(NAMES[3]) as local:
        assert local.read_bytes() == NAMES[3].encode()
    storage.delete([*NAMES, "daily/one/never-there"])
    assert sorted(storage.names()) == ["daily/one/manifest.json", "daily/one2/manifest.json"]


def test_an_object_is_replaced_as_a_whole(storage: Storage, tmp_path: Path) -> None:
    storage.put_bytes("a", b"long before")
    storage.put("a", file_of(tmp_path, b"now"))
    assert storage.read("a") == b"now"


def test_a_large_file_is_stored(storage: Storage, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    storage.put("a", file_of(tmp_path, content))
    with storage.local("a") as local:
        assert local.read_bytes() == content


def test_what_is_not_there_is_told_from_what_cannot_be_reached(storage: Storage) -> None:
    storage.put_bytes("a", b"")
    with pytest.raises(FileNotFoundError):
        storage.read("b")
    with pytest.raises(FileNotFoundError), storage.local("b"):
        pass


def test_a_small_object_that_is_not_small_is_not_read(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.safekeeping.storage.MOST_READ", 10)
    storage.put_bytes("a", b"0123456789")
    storage.put_bytes("b", b"0123456789A")
    assert storage.read("a") == b"0123456789"
    with pytest.raises(BackupDamaged, match="too large"):
        storage.read("b")


# Directories


def test_files_are_only_for_the_user_who_made_them(tmp_path: Path) -> None:
    Directory(tmp_path / "x/backups").put_bytes("daily/one/parts/a", b"")
    made = sorted((tmp_path / "x").rglob("*"))
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * (len(made) - 1) + [0o600]


def test_the_last_file_of_a_folder_takes_it_along(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.put_bytes("daily/one/parts/a", b"")
    directory.delete(["daily/one/parts/a"])
    assert list(tmp_path.iterdir()) == []


def test_no_name_leads_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    directory = Directory(tmp_path / "backups")
    directory.put_bytes("a", b"")
    for name in ("../secret", "daily/../../secret", str(tmp_path / "secret")):
        with pytest.raises(BackupDamaged, match="leads out"):
            directory.read(name)
        with pytest.raises(BackupDamaged, match="leads out"):
            directory.delete([name])
    assert (tmp_path / "secret").exists()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A disk of 1 MB. Needs the right to mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of a given size can only be had by mounting one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        directory = Directory(disk)
        directory.put_bytes("a", b"before")
        with pytest.raises(BackupError, match=r"/disk: No space left on device") as problem:
            directory.put("b", file_of(tmp_path, bytes(2**21)))
        assert "Make room" in str(problem.value.hint)
        assert list(directory.names()) == ["a"]
        assert [path.name for path in disk.rglob("*")] == ["a"]
        directory.put_bytes("a", b"after")
        assert directory.read("a") == b"after"


def test_a_disk_that_cannot_be_written_is_said_with_its_cure(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        Directory(disk).put_bytes("a", b"")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(BackupError, match="Read-only file system") as problem:
            Directory(disk).put_bytes("b", b"")
        assert "Mount it" in str(problem.value.hint)
        assert list(Directory(disk).names()) == ["a"]


def test_a_disk_that_vanished_is_not_replaced_by_the_one_below(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        directory = Directory(disk)
        directory.put_bytes("a", b"")
        subprocess.run(["umount", str(disk)], check=True)
        with pytest.raises(BackupError, match="another directory has taken") as problem:
            directory.put_bytes("b", b"")
        assert "mounted" in str(problem.value.hint)
        assert list(disk.iterdir()) == []
        disk.rmdir()
        with pytest.raises(BackupError, match="No such file or directory"):
            directory.put_bytes("b", b"")
        assert not disk.exists()


def test_a_directory_that_is_none_is_said_with_its_cure(tmp_path: Path) -> None:
    file_of(tmp_path, b"")
    with pytest.raises(BackupError, match=r"Not a directory|File exists") as problem:
        Directory(tmp_path / "file").put_bytes("a", b"")
    assert problem.value.hint


KILLED_WRITER = """
import sys, pathlib
from worker.safekeeping.directory import Directory
class Slow:
    def read(self, size):
        print("written", flush=True)
        sys.stdin.read()
pathlib.Path.open = lambda *_: __import__("contextlib").nullcontext(Slow())
Directory(pathlib.Path(sys.argv[1])).put("daily/one/a", pathlib.Path("x"))
"""


def test_what_a_killed_writer_left_is_no_object_and_goes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"written\n"
    process.kill()
    process.communicate()
    directory = Directory(tmp_path)
    assert [path.suffix for path in (tmp_path / "daily/one").iterdir()] == [".partial"]
    assert list(directory.names()) == []
    directory.delete_unfinished("daily/two/")
    assert len(list((tmp_path / "daily/one").iterdir())) == 1
    directory.delete_unfinished("daily/one/")
    assert list(tmp_path.iterdir()) == []


# Buckets


def test_nothing_outside_of_the_prefix_is_touched(s3: S3Server, tmp_path: Path) -> None:
    client = s3.client()
    for key in ("daily/one/a", "here2/daily/one/a", "other"):
        client.put_object(Bucket="shelf", Key=key, Body=b"")
    storage = bucket(s3)
    storage.put("daily/one/a", file_of(tmp_path, b"x"))
    assert list(storage.names()) == ["daily/one/a"]
    storage.delete(storage.names())
    keys = [found["Key"] for found in client.list_objects_v2(Bucket="shelf", MaxKeys=9)["Contents"]]
    assert keys == ["daily/one/a", "here2/daily/one/a", "other"]


def test_a_bucket_that_refuses_is_said_with_its_cure(s3: S3Server, tmp_path: Path) -> None:
    file = file_of(tmp_path, b"x" * LARGE)
    with pytest.raises(BackupError, match="there is no such bucket"):
        bucket(s3, "nowhere").put_bytes("a", b"")
    with pytest.raises(BackupError, match="there is no such bucket"):
        bucket(s3, "nowhere").put("a", file)
    s3.check_keys()
    storage = bucket(s3)
    for act in (
        lambda: storage.put("a", file),
        lambda: storage.read("a"),
        lambda: list(storage.names()),
    ):
        with pytest.raises(
            BackupError, match=r"does not know the access key|may not use"
        ) as problem:
            act()
        words = f"{problem.value.cause} {problem.value.hint}"
        assert "S3_ACCESS_KEY_ID" in words or "s3:PutObject, s3:DeleteObject" in words
        assert not {KEY, SECRET} & set(words.split())
    with pytest.raises(BackupError, match="cannot be reached: EndpointConnectionError") as problem:
        bucket(s3, s3_endpoint="http://127.0.0.1:9").put("a", file)
    assert "S3_ENDPOINT" in str(problem.value.hint)


def test_no_headers_are_sent_that_only_aws_takes(s3: S3Server, tmp_path: Path) -> None:
    storage = bucket(s3)
    assert isinstance(storage, Bucket)
    sent: list[str] = []
    storage._client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.extend(map(str.lower, request.headers))
    )
    storage.put("a", file_of(tmp_path, os.urandom(LARGE)))
    storage.put_bytes("b", b"x")
    storage.delete(["a", "b"])
    assert "authorization" in sent
    assert not [name for name in sent if "checksum" in name or "trailer" in name]


KILLED_UPLOAD = """
import os, sys, signal
from pathlib import Path
from worker.safekeeping.locations import open_storage, parse_destination
from worker.settings import Settings
storage = open_storage(parse_destination("s3://shelf/here"), Settings.from_environment())
client = storage._client
send, sent = client.upload_part, []
def upload_part(**given):
    if sent:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(send(**given))
    return sent[-1]
client.upload_part = upload_part
storage.put("a", Path(sys.argv[1]))
"""


def test_a_torn_upload_is_no_object_and_goes(s3: S3Server, tmp_path: Path) -> None:
    file = file_of(tmp_path, os.urandom(LARGE))
    given = {
        "PATH": os.environ["PATH"],
        "S3_ENDPOINT": s3.url,
        "S3_REGION": "eu-central-1",
        "S3_ACCESS_KEY_ID": KEY,
        "S3_SECRET_ACCESS_KEY": SECRET,
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_UPLOAD, str(file)], env=given, check=False
    )
    assert killed.returncode == -9
    client, storage = s3.client(), bucket(s3)
    assert len(client.list_multipart_uploads(Bucket="shelf")["Uploads"]) == 1
    assert list(storage.names()) == []
    storage.delete_unfinished("other")
    assert len(client.list_multipart_uploads(Bucket="shelf")["Uploads"]) == 1
    storage.delete_unfinished("")
    assert "Uploads" not in client.list_multipart_uploads(Bucket="shelf")


# As people write it


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("s3://shelf", "s3://shelf"),
        ("s3://shelf/a/b/", "s3://shelf/a/b"),
        ("storage://shelf/a", "storage://shelf/a"),
        ("/srv/../backups/", "/backups"),
        ("backups", f"{os.getcwd()}/backups"),
    ],
)
def test_a_destination_as_people_write_it(given: str, name: str) -> None:
    assert str(parse_destination(given)) == name


@pytest.mark.parametrize("given", ["", " ", "ftp://x", "s3://", "s3://key:secret@host/x", "a\0b"])
def test_what_is_no_destination(given: str) -> None:
    with pytest.raises(SettingsError, match="not a destination for backups"):
        parse_destination(given)


def test_a_storage_of_each_kind(tmp_path: Path) -> None:
    assert isinstance(open_storage(parse_destination(str(tmp_path)), Settings()), Directory)
    given = Settings(
        supabase_url="https://example.supabase.co",
        s3_region="eu-central-1",
        s3_access_key_id="x",
        s3_secret_access_key="y",
    )
    assert isinstance(open_storage(parse_destination("storage://shelf"), given), Bucket)
    with pytest.raises(SettingsError, match="S3_ACCESS_KEY_ID"):
        open_storage(parse_destination("storage://shelf"), Settings())
