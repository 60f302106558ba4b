"""A fake registry with Ollama's protocol: manifests, blobs, tokens, redirects to another host."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.registries.server import Handler, LoopbackServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
IMAGE = "application/vnd.ollama.image."


def sha256_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry(LoopbackServer):
    """Requests for blobs are redirected to `cdn`; requests without the `token` get a 401."""

    def __init__(self, *, cdn: LoopbackServer | None = None, token: str | None = None) -> None:
        super().__init__()
        self.cdn = cdn
        self.token = token
        self.realm: str | None = None
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}

    def add_blob(self, data: bytes) -> str:
        digest = sha256_digest(data)
        self.blobs[digest] = data
        if self.cdn is not None:
            self.cdn.files[f"/{digest}"] = data
        return digest

    def add_model(
        self, name: str, layers: dict[str, Any], *, config: dict[str, Any] | None = None
    ) -> bytes:
        """Add `namespace/model:tag` with layers by kind, and return the manifest's bytes."""
        entries = []
        for kind, content in layers.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            media_type = kind if "/" in kind else IMAGE + kind.partition("#")[0]
            entries.append(
                {"mediaType": media_type, "digest": self.add_blob(data), "size": len(data)}
            )
        about = json.dumps(config or {"model_format": "gguf"}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": self.add_blob(about),
                "size": len(about),
            },
            "layers": entries,
        }
        raw = json.dumps(manifest, indent=1).encode()
        return self.add_manifest(name, raw)

    def add_manifest(self, name: str, raw: bytes) -> bytes:
        model, _, tag = name.partition(":")
        self.manifests[f"/v2/{model}/manifests/{tag}"] = raw
        return raw

    def answer(self, request: Handler, path: str) -> None:
        if path == "/v2/token":
            self._reply_token(request)
        elif self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            realm = self.realm or f"{self.url}/v2/token"
            challenge = f'Bearer realm="{realm}",service="test",scope="repository:x:pull"'
            request.reply(401, b"{}", {"WWW-Authenticate": challenge})
        elif path in self.manifests:
            request.reply(200, self.manifests[path], {"Content-Type": MANIFEST})
        elif "/blobs/" in path and path.rpartition("/")[2] in self.blobs:
            digest = path.rpartition("/")[2]
            if self.cdn is not None:
                request.redirect(f"{self.cdn.url}/{digest}")
            else:
                request.serve(self.blobs[digest])
        else:
            request.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    def _reply_token(self, request: Handler) -> None:
        query = parse_qs(urlsplit(request.path).query)
        if query.get("service") != ["test"] or "nonce" not in query:
            request.reply(400, b"{}")
        else:
            request.reply(200, json.dumps({"token": self.token}).encode())
