"""Choose among the chat templates of a model of Ollama: Jinja, Go, or ours for its renderer.

1  a Go template that a person wrote: that of a model made on this machine, or of a user's account
2  the Jinja template in the GGUF or beside it
3  our Jinja template for the renderer that the model names (`renderers/`)
4  without such a renderer, any other Go template

The first that works is taken. Apart from a person's own, one that cannot show tools, calls and
results gives way to a later one that can. Ollama's own rule is selectedTemplateSource in its
server/images.go. Pure, apart from the probe that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from services.puller.formats.renderers.renderer_table import find_template
from services.shared.model_name import HUB_HOST, LIBRARY, OLLAMA_HOST, ModelName
from services.shared.structs import decode_json, resolved
from services.shared.templates.traits import TemplateLanguage, TemplateTraits

_TEMPLATE_LAYERS = (
    "application/vnd.ollama.image.template",
    "application/vnd.ollama.image.prompt",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A template that a model could use. `origin` is for people."""

    source: str
    origin: str
    language: TemplateLanguage = "jinja"
    is_own: bool = False  # a person wrote it for this model


@dataclass(frozen=True, slots=True)
class Choice:
    """The template to use, if there is one, and why others do not work."""

    candidate: Candidate | None
    traits: TemplateTraits | None = None
    failures: tuple[str, ...] = ()


def choose(candidates: Sequence[Candidate], probe: Callable[[Candidate], TemplateTraits]) -> Choice:
    """The best of the candidates, which are in the order of preference."""
    failures: list[str] = []
    first: Choice | None = None
    for candidate in candidates:
        traits = probe(candidate)
        if traits.failure is not None:
            failures.append(traits.failure)
            continue
        choice = Choice(candidate, traits)
        if candidate.is_own or _has_tool_round_trip(traits):
            first = choice
            break
        first = first or choice
    return replace(first or Choice(None), failures=tuple(failures))


def order(
    *,
    jinja: Candidate | None = None,
    go: Candidate | None = None,
    renderer: Candidate | None = None,
    is_own: bool,
) -> list[Candidate]:
    """The templates of a model in the order of preference. `is_own`: a person wrote the Go one.

    Beside a renderer, Ollama does not read its library's Go template, and writes `{{ .Prompt }}`
    where a person gave none.
    """
    if go is not None and renderer is not None and (not is_own or _is_placeholder(go)):
        go = None
    own = replace(go, is_own=True) if is_own and go is not None else None
    found = (own, jinja, renderer, None if own else go)
    return [candidate for candidate in found if candidate is not None]


def is_written_by_person(name: ModelName | None, manifest: bytes | None) -> bool:
    """Whether a model's Go template was written by the person who published or made the model.

    Ollama's library and the hub choose a template for the model. `ollama create` marks the layers
    that it takes from another model with `from`, so a template without the mark beside layers with
    one is new.
    """
    if name is not None and name.host == OLLAMA_HOST and name.namespace != LIBRARY:
        return True
    if name is not None and name.host not in {OLLAMA_HOST, HUB_HOST}:
        return True
    layers = _read_layers(manifest)
    is_made_here = any(layer.source for layer in layers)
    return is_made_here and any(
        layer.media_type in _TEMPLATE_LAYERS and not layer.source for layer in layers
    )


def find_renderer(config: str | None) -> str | None:
    """The renderer that a model's configuration names: a prompt format inside Ollama's program."""
    try:
        return decode_json(config or "{}", _Config).renderer or None
    except msgspec.DecodeError:
        return None


def renderer_candidate(name: str | None, parameter_count: int | None) -> Candidate | None:
    """Our template for a renderer, if there is one."""
    source = find_template(name, parameter_count) if name else None
    return Candidate(source, f"renderer {name}") if source is not None else None


def no_renderer(name: str) -> str:
    """The warning for a model that has nothing but the name of a renderer that we do not know."""
    return (
        f"Its prompt format is only in Ollama's program, under the name {name[:40]!r}; pull a GGUF of"
        " it from Hugging Face to chat with it."
    )


def _is_placeholder(go: Candidate) -> bool:
    return "".join(go.source.split()) == "{{.Prompt}}"


def _has_tool_round_trip(traits: TemplateTraits) -> bool:
    return traits.tools and traits.tool_calls and traits.tool_results


@resolved
class _Config(msgspec.Struct, frozen=True):
    renderer: str = ""


class _Layer(msgspec.Struct, frozen=True):
    media_type: str = msgspec.field(default="", name="mediaType")
    source: str = msgspec.field(default="", name="from")


@resolved
class _Layers(msgspec.Struct, frozen=True):
    layers: tuple[_Layer, ...] = ()


def _read_layers(manifest: bytes | None) -> Iterable[_Layer]:
    if manifest is None:
        return ()
    try:
        return decode_json(manifest, _Layers).layers
    except msgspec.DecodeError:
        return ()
