"""The manifest of a stored model: its files, and a description of what they contain.

The puller writes it once, after it has verified and described the files; other services only read
it. The format is our own (JSON with a schema number). If a registry provided a manifest, that is
kept as a file with the role `registry_manifest`.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Any, Literal

import msgspec

from services.shared.structs import resolved
from services.shared.templates.traits import TemplateLanguage

SCHEMA = 1
_MAX_TOKEN_TEXT = 256  # characters; longer ones are in no real vocabulary


class FileRole(Enum):
    """The purpose of a file."""

    MODEL = "model"  # the weights; each part, if there are several GGUF or safetensors files
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
    """One file of a model. `path` is relative; its last part is the name the engine expects."""

    role: FileRole
    path: str
    digest: str  # "sha256:<64 hex>"
    size_bytes: int


class Capability(Enum):
    """Something that a model can do."""

    CHAT = "chat"
    COMPLETION = "completion"
    TOOLS = "tools"
    THINKING = "thinking"
    VISION = "vision"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What the puller has read from a model's files; None where the files do not say."""

    format: Literal["gguf", "mlx"]
    architecture: str
    parameter_count: int | None = None
    context_length: int | None = None  # as trained
    embedding_length: int | None = None
    quantization: str | None = None  # "Q4_K_M", "F16", "4bit"
    base_model: str | None = None
    capabilities: tuple[Capability, ...] = (Capability.COMPLETION,)
    chat_template: str | None = None  # None: completion only
    template_language: TemplateLanguage = "jinja"
    template_source: str | None = None  # "gguf", "file", "ollama" or "renderer NAME"
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    control_tokens: tuple[str, ...] = ()  # texts that a client must not be able to inject
    # Of the tokens that the engine matches in any text: those that the template contains.
    user_defined_tokens: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # sentences for the operator, each with a remedy

    @property
    def backend(self) -> Literal["llamacpp", "mlx"]:
        """The backend of the engine that serves the model: its format decides."""
        return "mlx" if self.format == "mlx" else "llamacpp"

    @property
    def protected_tokens(self) -> tuple[str, ...]:
        """Every text that a client must not be able to turn into a token, each once."""
        named = filter(None, (self.bos_token, self.eos_token))
        # llama.cpp makes a control token of each token that ends an answer, whatever its type.
        texts = (*self.control_tokens, *named, *self.stop_tokens, *self.user_defined_tokens)
        return tuple(dict.fromkeys(text for text in texts if len(text) <= _MAX_TOKEN_TEXT))


@resolved
class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One stored model under one name."""

    schema: int = SCHEMA
    name: str  # canonical short form, "tiny:latest"
    source: str  # the origin of the model, as text for a person
    created_at: float  # unix seconds
    files: tuple[StoredFile, ...]
    description: Description
    params: dict[str, Any] = {}  # default options, by Ollama's option names
    system: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    license: str | None = None
    # The name that was pulled, and what its source calls this state of it: the commit of a hub
    # repository, the digest of a registry's manifest. None for imports and plain downloads.
    pulled_name: str | None = None
    version: str | None = None
    owned: bool = True  # False: blobs are hard links to files outside the store

    @property
    def digest(self) -> str:
        """The digest of all files with their paths and roles; the model's name does not matter."""
        parts = sorted((f.role.value, f.path, f.digest) for f in self.files)
        return "sha256:" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The size of all files; a file that is listed twice counts once."""
        return sum({f.digest: f.size_bytes for f in self.files}.values())

    @property
    def weights_bytes(self) -> int:
        """The size of the files that hold weights."""
        return sum(
            {f.digest: f.size_bytes for f in self.files if f.role is FileRole.MODEL}.values()
        )
