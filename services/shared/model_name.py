"""The grammar of model names: the forms a person may type, and the canonical form of each.

| typed | meaning |
|-|-|
| `qwen3`, `qwen3:0.6b` | the Ollama library, by default with tag `latest`; also a local import |
| `user/model:7b` | an Ollama user's model: one slash, and a tag that is not a quantisation |
| `ollama.com/user/model`, `ollama/user/model` | the same, with any tag |
| `owner/repo`, `owner/repo:Q4_K_M`, `owner/repo:mlx` | a Hugging Face repository, and its variant |
| `owner/repo@rev`, `owner/repo@rev:Q4_K_M` | its state at a branch, tag or commit; `@main` is the default |
| `owner/repo/file.gguf`, `hf.co/owner/repo:file.gguf` | one file of a Hugging Face repository |
| `hf.co/owner/repo[:Q4_K_M]`, `https://huggingface.co/owner/repo` | the same repository in full |
| `registry.example/ns/model:tag`, `localhost:5000/model` | a registry with Ollama's protocol |
| `https://host/path/file.gguf` | a plain download |
| `ollama/qwen3/0.6b.gguf` | a key of the original Spindll; it means `qwen3:0.6b` |

Names keep their case but are compared without it. The query of a plain download is not part of its
name, because it may hold a secret (a signature, a token) and names are shown and logged; only
`address` has it. Parsing is pure: it does no I/O.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from urllib.parse import quote, urlsplit, urlunsplit

from services.shared.errors import InvalidModelName
from services.shared.quantization_tag import is_quantization_tag

DEFAULT_TAG = "latest"
LIBRARY = "library"
OLLAMA_HOST = "ollama.com"
HUB_HOST = "hf.co"
DEFAULT_REVISION = "main"

ONE_SLASH_RULE = (
    "a name with one slash is a Hugging Face repository (owner/repo, owner/repo:Q4_K_M) unless its "
    "tag is something other than a quantisation; an Ollama user's model can always be written "
    f"{OLLAMA_HOST}/user/model:tag, a Hugging Face repository {HUB_HOST}/owner/repo"
)

_MAX_NAME = 512
_MAX_URL = 2048
_OLLAMA_HOSTS = {OLLAMA_HOST, "www.ollama.com", "registry.ollama.ai", "ollama"}
_HUB_HOSTS = {HUB_HOST, "huggingface.co", "www.huggingface.co"}

# Ollama's types/model/name.go, and huggingface_hub's validate_repo_id.
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?", re.IGNORECASE)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HUB_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
# A branch whose name has a slash is given by its commit: a revision is one part of a path.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


class Source(Enum):
    """The kind of server that provides the model."""

    OLLAMA = "ollama"  # any registry with Ollama's protocol; local imports have such names too
    HUB = "hub"
    URL = "url"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed name. `==` compares case; use `key` to compare names without it."""

    source: Source
    host: str
    namespace: str
    model: str
    tag: str = DEFAULT_TAG
    file: str | None = None  # a file of a hub repository; for a plain download its URL, no query
    revision: str | None = None  # branch, tag or commit of a hub repository; None: its main branch
    tag_given: bool = field(default=True, compare=False)
    query: str = field(default="", compare=False, repr=False)  # of a plain download; secret

    @staticmethod
    def parse(text: str) -> ModelName:
        """The name in a text. Raises InvalidModelName with what is wrong with it."""
        return _parse(text)

    def __str__(self) -> str:
        """The canonical form, with its tag: the shortest text that parses back to this name."""
        for form in self._forms():
            if _parse_or_none(form) == self:
                return form
        raise AssertionError(f"no form of {self!r} parses back")

    def _forms(self) -> tuple[str, ...]:
        if self.source is Source.URL:
            return (self.file or "",)
        last = f"/{self.file}" if self.file else f":{self.tag}"
        full = f"{self.host}/{self.repo_at}{last}"
        if self.source is Source.HUB:
            return (f"{self.repo_at}{last}", full)
        if self.host != OLLAMA_HOST:
            return (full,)
        if self.namespace == LIBRARY:
            return (f"{self.model}{last}", full)
        return (f"{self.namespace}/{self.model}{last}", full)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Host, namespace, model and tag in lower case, each a safe file name.

        Two names are the same model when their keys are equal; the store builds paths from keys.
        """
        if self.source is Source.URL:
            digest = hashlib.sha256((self.file or "").encode()).hexdigest()
            return ("url", digest[:32], _safe(self.model), DEFAULT_TAG)
        tag = self.tag if self.file is None else self.file
        model = self.repo_at.partition("/")[2]
        return (_safe(self.host), _safe(self.namespace), _safe(model), _safe(tag))

    @property
    def address(self) -> str | None:
        """The URL of a plain download if it is more than the name: with its query. A secret."""
        return f"{self.file}?{self.query}" if self.query else None

    @property
    def repo(self) -> str:
        """`owner/repo` for the hub, `namespace/model` for a registry."""
        return f"{self.namespace}/{self.model}"

    @property
    def repo_at(self) -> str:
        """`repo`, with its revision if the name has one: `owner/repo@rev`."""
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


@lru_cache(maxsize=4096)
def _parse(text: str) -> ModelName:
    """Parse a name in these steps.

    1  a URL                      4  Ollama's own hosts, or a key of the original Spindll
    2  split tag and segments     5  another registry
    3  the hub's own hosts        6  no host: a revision, or the number of segments, decides
    """
    text = _checked(text)
    if "://" in text:  # 1
        return _parse_address(text)
    head, slash, last = text.rpartition("/")  # 2
    last, colon, tag = last.partition(":")
    segments = [*head.split("/"), last] if slash else [last]
    if "" in segments or (colon and not tag):
        raise InvalidModelName("a part of the model name is empty")
    given = tag or None
    first = segments[0].lower()
    if len(segments) > 1 and first in _HUB_HOSTS:  # 3
        return _hub(segments[1:], given)
    if len(segments) > 1 and first in _OLLAMA_HOSTS:  # 4
        return _ollama(segments[1:], given)
    if len(segments) > 1 and _is_host(segments, given):  # 5
        return _registry(first, segments[1:], given)
    if len(segments) > 1 and "@" in segments[1]:  # 6
        return _hub(segments, given)
    if len(segments) == 1:
        return _registry(OLLAMA_HOST, segments, given)
    if len(segments) == 2 and (first == LIBRARY or not _is_hub_tag(given)):
        return _registry(OLLAMA_HOST, segments, given)
    return _hub(segments, given)


def _parse_or_none(text: str) -> ModelName | None:
    try:
        return _parse(text)
    except InvalidModelName:
        return None


def _checked(text: str) -> str:
    text = text.strip(" ")
    if not text:
        raise InvalidModelName("the model name is empty")
    if len(text) > (_MAX_URL if "://" in text else _MAX_NAME):
        raise InvalidModelName(f"a model name has at most {_MAX_NAME} characters")
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise InvalidModelName(
            "a model name consists of ASCII letters, digits, and . _ - / : @ without spaces"
        )
    return text


def _parse_address(text: str) -> ModelName:
    try:
        parts = urlsplit(text)
        host = (parts.netloc or "").lower()
    except ValueError as error:
        raise InvalidModelName("the address is not well formed") from error
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise InvalidModelName("an address starts with https:// and a host, without a user or key")
    path = parts.path.strip("/")
    if host in _HUB_HOSTS:
        segments = path.split("/")
        if len(segments) > 3 and segments[2] in ("resolve", "blob", "tree"):
            owner, repo, _, revision, *rest = segments
            return _hub([owner, f"{repo}@{revision}", *rest], None)
        if len(segments) <= 2 or segments[2] not in ("resolve", "blob", "tree"):
            return _parse(f"{HUB_HOST}/{path}")
    if path.lower().endswith(".gguf"):
        stem = re.sub(r"[^A-Za-z0-9_.-]", "-", path.rsplit("/", 1)[-1][:-5])[:80].strip(".")
        file = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        return ModelName(Source.URL, host, "", stem or "model", file=file, query=parts.query)
    if parts.scheme == "http":
        raise InvalidModelName(
            "write the name without http://; SPINDLL_PLAIN_HTTP_HOSTS lists the hosts without TLS"
        )
    return _parse(f"{host}/{path}")


def _is_host(segments: list[str], tag: str | None) -> bool:
    # A hub owner may contain a dot (`a.b/repo`); it then has one slash, or a .gguf file follows.
    first = segments[0].lower()
    if first == "localhost" or ":" in first:
        return True
    is_file = tag is None and segments[-1].lower().endswith(".gguf")
    return "." in first and len(segments) > 2 and not is_file


def _is_hub_tag(tag: str | None) -> bool:
    lower = (tag or DEFAULT_TAG).lower()
    return lower == DEFAULT_TAG or is_quantization_tag(lower) or lower.endswith(".gguf")


def _ollama(segments: list[str], tag: str | None) -> ModelName:
    if len(segments) == 2 and tag is None and segments[1].lower().endswith(".gguf"):
        return _registry(OLLAMA_HOST, segments[:1], segments[1][:-5])
    return _registry(OLLAMA_HOST, segments, tag)


def _registry(host: str, segments: list[str], tag: str | None) -> ModelName:
    if len(segments) == 1:
        segments = [LIBRARY, *segments]
    if len(segments) != 2:
        raise InvalidModelName(f"too many slashes in the model name: {ONE_SLASH_RULE}")
    _match(_HOST, host, "the registry's host")
    if "@" in segments[1]:
        raise InvalidModelName("only a Hugging Face repository has revisions: owner/repo@revision")
    _match(_NAMESPACE, segments[0], "the namespace")
    _match(_MODEL, segments[1], "the model")
    _match(_MODEL, tag or DEFAULT_TAG, "the tag")
    namespace = LIBRARY if segments[0].lower() == LIBRARY else segments[0]
    given = tag is not None
    return ModelName(
        Source.OLLAMA, host, namespace, segments[1], tag or DEFAULT_TAG, tag_given=given
    )


def _hub(segments: list[str], tag: str | None) -> ModelName:
    if tag is not None and tag.lower().endswith(".gguf"):
        segments, tag = [*segments, tag], None
    if len(segments) < 2:
        raise InvalidModelName(f"a Hugging Face name is owner/repo: {ONE_SLASH_RULE}")
    owner, repo, *path = segments
    repo, at, revision = repo.partition("@")
    _match(_HUB_PART, owner, "the owner")
    _match(_HUB_PART, repo, "the repository")
    if at:
        _match(_REVISION, revision, "the revision")
    pinned = revision if at and revision != DEFAULT_REVISION else None
    if not path:
        _match(_MODEL, tag or DEFAULT_TAG, "the tag")
        given = tag is not None
        tag = tag or DEFAULT_TAG
        return ModelName(Source.HUB, HUB_HOST, owner, repo, tag, revision=pinned, tag_given=given)
    if tag is not None or not path[-1].lower().endswith(".gguf") or len(path) > 8:
        raise InvalidModelName(f"more than two parts must end in a .gguf file: {ONE_SLASH_RULE}")
    for part in path:
        _match(_FILE_PART, part, "the file")
    return ModelName(Source.HUB, HUB_HOST, owner, repo, file="/".join(path), revision=pinned)


def _match(pattern: re.Pattern[str], part: str, what: str) -> None:
    # No real name contains two dots, and a path traversal needs them.
    if not pattern.fullmatch(part) or ".." in part:
        rule = "letters, digits, and . _ - of bounded length, starting with a letter or digit"
        raise InvalidModelName(f"{what} in the model name must be {rule}")


def canonical_host(host: str) -> str:
    """The host of a source as names contain it: `huggingface.co` is `hf.co`."""
    lower = host.lower()
    if lower in _HUB_HOSTS:
        return HUB_HOST
    return OLLAMA_HOST if lower in _OLLAMA_HOSTS else lower


def _safe(part: str) -> str:
    # File systems allow 255 bytes per file name, and the store appends `.json`.
    quoted = quote(part.lower(), safe="")
    if not quoted.strip("."):  # `.` and `..` are folders
        quoted = quoted.replace(".", "%2E")
    if len(quoted) <= 200:
        return quoted
    return f"{quoted[:150]}-{hashlib.sha256(quoted.encode()).hexdigest()[:32]}"
