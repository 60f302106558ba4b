"""A fake hub for the real huggingface_hub: lists, model info with file metadata, downloads.

Lists follow the real API: `search` matches a part of the id without case, `filter` matches a tag,
`expand` names the fields of an entry, and the files of an entry have no sizes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.registries.server import Handler, LoopbackServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".gguf", ".safetensors", ".bin")


@dataclass
class Repository:
    """Files by path.

    Without the token, the files of a gated one are refused, and a private one is not found.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    downloads: int = 0
    tags: tuple[str, ...] = ()
    commit: str = COMMIT


class Hub(LoopbackServer):
    """Requests for large files are redirected to `cdn`, if there is one.

    A repository `owner/repo@rev` is what `owner/repo` has at that revision.
    """

    def __init__(self, *, cdn: LoopbackServer | None = None, token: str = "hf_right") -> None:
        super().__init__()
        self.cdn = cdn
        self.token = token
        self.repositories: dict[str, Repository] = {}

    def add(self, name: str, files: dict[str, bytes], **about: Any) -> None:
        self.repositories[name] = Repository(files, **about)
        if self.cdn is not None:
            for path, data in files.items():
                self.cdn.files[f"/{name}/{path}"] = data

    def answer(self, request: Handler, path: str) -> None:
        parts = path.strip("/").split("/")
        if parts == ["api", "models"]:
            self._list(request)
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._info(request, "/".join(parts[2:4]), revision=parts[5] if parts[5:] else None)
        elif len(parts) >= 5 and parts[2] == "resolve":
            name = self._find_commit("/".join(parts[:2]), parts[3])
            self._download(request, name, "/".join(parts[4:]))
        else:
            request.reply(404, b"{}")

    def _find_commit(self, name: str, commit: str) -> str:
        names = [key for key, r in self.repositories.items() if r.commit == commit]
        return next((key for key in names if key.partition("@")[0] == name), name)

    def _repository(self, request: Handler, name: str) -> Repository | None:
        repository = self.repositories.get(name)
        may_read = request.headers.get("authorization") == f"Bearer {self.token}"
        if repository is None or (repository.private and not may_read):
            body = b'{"error":"Repository not found"}'
            request.reply(
                401 if not may_read else 404,
                body,
                {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
            )
            return None
        return repository

    def _list(self, request: Handler) -> None:
        query = parse_qs(urlsplit(request.path).query)
        shown = set(query.get("expand", []))
        may_read = request.headers.get("authorization") == f"Bearer {self.token}"
        found = [
            (name, repository)
            for name, repository in self.repositories.items()
            if query.get("search", [""])[0].lower() in name.lower()
            and set(query.get("filter", [])) <= set(repository.tags)
            and (may_read or not repository.private)
        ]
        if query.get("sort") == ["downloads"]:
            found.sort(key=lambda pair: -pair[1].downloads)
        entries = [_entry(name, repository, shown) for name, repository in found]
        body = json.dumps(entries[: int(query.get("limit", ["1000"])[0])]).encode()
        request.reply(200, body, {"Content-Type": "application/json"})

    def _info(self, request: Handler, name: str, revision: str | None) -> None:
        repository = self._repository(request, name)
        if repository is None:
            return
        if revision is not None and revision not in (repository.commit, "main"):
            names = [f"{name}@{revision}", self._find_commit(name, revision)]
            known = [self.repositories[n] for n in names if n != name and n in self.repositories]
            if not known:
                request.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            repository = known[0]
        siblings = [_sibling(path, data) for path, data in repository.files.items()]
        info = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "siblings": siblings,
        }
        body = json.dumps({**info, "gated": "auto" if repository.gated else False}).encode()
        request.reply(200, body, {"Content-Type": "application/json"})

    def _download(self, request: Handler, name: str, path: str) -> None:
        repository = self._repository(request, name)
        if repository is None:
            return
        may_read = request.headers.get("authorization") == f"Bearer {self.token}"
        if repository.gated and not may_read:
            status = 403 if "authorization" in request.headers else 401
            body = b'{"error":"Access to model is restricted"}'
            request.reply(status, body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif path not in repository.files:
            request.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif self.cdn is not None and path.endswith(_LARGE):
            request.redirect(f"{self.cdn.url}/{name}/{path}", 302)
        else:
            request.serve(repository.files[path])


def _entry(name: str, repository: Repository, shown: set[str]) -> dict[str, object]:
    about = {
        "downloads": repository.downloads,
        "gated": "auto" if repository.gated else False,
        "private": repository.private,
        "siblings": [{"rfilename": path} for path in repository.files],
    }
    return {"_id": "1", "id": name, **{k: v for k, v in about.items() if k in shown}}


def _sibling(path: str, data: bytes) -> dict[str, object]:
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    about: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git}
    if path.endswith(_LARGE):
        digest = hashlib.sha256(data).hexdigest()
        about["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
    return about
