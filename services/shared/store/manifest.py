"""What is known of one stored model: its files, and what they turned out to be.

Made once by the puller, after the files were verified and described; everyone else only reads it.
The manifest is ours (JSON, schema number inside); a registry's own manifest is kept as a file of
role `registry_manifest` where there was one.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Any, Literal

import msgspec

from services.shared.structs import resolved

SCHEMA = 1


class FileRole(Enum):
    """What a file is for."""

    MODEL = "model"  # the weights; of several GGUF parts or safetensors, every one
    PROJECTOR = "projector"
    ADAPTER = "adapter"
    DRAFT = "draft"
    TOKENIZER = "tokenizer"
    CONFIG = "config"
    TEMPLATE = "template"
    SYSTEM = "system"
    PARAMS = "params"
    MESSAGES = "messages"
    LICENSE = "license"
    REGISTRY_MANIFEST = "registry_manifest"
    OTHER = "other"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model. `path` is relative, its last part the name the engine expects."""

    role: FileRole
    path: str
    digest: str  # "sha256:<64 hex>"
    size_bytes: int


class Capability(Enum):
    """What a model can be asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    TOOLS = "tools"
    THINKING = "thinking"
    VISION = "vision"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Read from the files by the puller; None where the file does not say."""

    format: Literal["gguf", "mlx"]
    architecture: str
    parameter_count: int | None = None
    context_length: int | None = None  # as trained
    embedding_length: int | None = None
    quantization: str | None = None  # "Q4_K_M", "F16", "4bit"
    base_model: str | None = None
    capabilities: tuple[Capability, ...] = (Capability.COMPLETION,)
    chat_template: str | None = None  # Jinja; None: completion only
    template_source: str | None = None  # "gguf", "registry go template", "file", ...
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    control_tokens: tuple[str, ...] = ()  # texts a person must not be able to forge
    stop_tokens: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # sentences for a person, each with what to do


@resolved
class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One stored model under one name."""

    schema: int = SCHEMA
    name: str  # canonical short form, "tiny:latest"
    source: str  # where it came from, in words a person knows
    created_at: float  # unix seconds
    files: tuple[StoredFile, ...]
    description: Description
    params: dict[str, Any] = {}  # default options, by Ollama's option names
    system: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    license: str | None = None
    owned: bool = True  # False: blobs are links to somebody else's files

    @property
    def digest(self) -> str:
        """Identity: equal files under equal names and roles, whatever the model is called."""
        parts = sorted((f.role.value, f.path, f.digest) for f in self.files)
        return "sha256:" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    @property
    def size_bytes(self) -> int:
        """All files, each counted once."""
        return sum({f.digest: f.size_bytes for f in self.files}.values())

    @property
    def weights_bytes(self) -> int:
        """The model's own files."""
        return sum(
            {f.digest: f.size_bytes for f in self.files if f.role is FileRole.MODEL}.values()
        )
