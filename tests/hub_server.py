"""A stand-in for the hub of Hugging Face, with one model: its list of files, and the files.

with HubServer({"config.json": b"{}"}, "acme/model") as hub:
    environment = {"HF_ENDPOINT": hub.root}
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from tests.http_server import Answer, ModelServer, Request, as_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ModelServer):
    """The hub at `root`, with the files of `model`. `downloaded` has the names of those that were
    sent."""

    def __init__(self, files: Mapping[str, bytes], model: str) -> None:
        super().__init__()
        self.files = dict(files)
        self.model = model
        self.is_gated = False
        self.downloaded: list[str] = []

    def due(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        api, files = f"/api/models/{self.model}", f"/{self.model}/resolve/{COMMIT}/"
        if not path.startswith((f"{api}/", files)):
            return Answer(401, b"", {"x-error-code": "RepoNotFound"})
        if self.is_gated:
            return Answer(403, b"", {"x-error-code": "GatedRepo"})
        if path == f"{api}/revision/main":
            return Answer(200, as_json({"id": self.model, "sha": COMMIT, "siblings": []}))
        if path == f"{api}/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
                for name, content in self.files.items()
            ]
            return Answer(200, as_json(listed))
        return self._file(path.removeprefix(files), request)

    def _file(self, name: str, request: Request) -> Answer:
        if name not in self.files:
            return Answer(404, b"", {"x-error-code": "EntryNotFound"})
        if request.method == "GET":
            self.downloaded.append(name)
        content = self.files[name]
        return Answer(200, content, {"etag": f'"{_digest(content)}"', "x-repo-commit": COMMIT})


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:40]
