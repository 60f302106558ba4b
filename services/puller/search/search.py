"""Find models to pull: the hub's search, and an exact name in the Ollama registry.

1. the hub lists the most downloaded repositories of a format, with their file names
2. `choose` says which files a pull would take; a repository with none is no hit
3. one call a repository, several abreast, tells how large those files are

The hub cannot sort by size: other orders are of what step 1 found. Ollama's library has no search.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import httpx2
from huggingface_hub import HfApi, set_client_factory

from services.puller.search.hits import (
    Repository,
    choice_of,
    exact_name,
    hub_hit,
    hub_text,
    registry_hit,
)
from services.puller.search.parallel import run_abreast
from services.puller.sources.base import Format, Order
from services.puller.sources.base import Source as ModelSource
from services.shared.errors import ModelNotFound, SourceUnavailable, SpindllError
from services.shared.model_name import ModelName
from services.shared.search import SearchAnswer, SearchHit, SearchQuery, sorted_hits

logger = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
_ABREAST = 8

NO_LIBRARY_SEARCH = (
    "Ollama's library has no search: of it only an exact name such as qwen3:0.6b is found"
)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one of those who are asked said."""

    repositories: tuple[Repository, ...] = ()
    hits: tuple[SearchHit, ...] = ()
    notes: tuple[str, ...] = ()


class Search:
    """One puller's way to search. Thread-safe."""

    def __init__(
        self, hub: HfApi | None, registry: ModelSource | None, *, prefers_mlx: bool = False
    ) -> None:
        """None: the settings allow no models from there."""
        self._hub = hub
        self._registry = registry
        self._formats: tuple[Format, ...] = ("gguf", "mlx") if prefers_mlx else ("gguf",)

    def answer(self, question: SearchQuery, *, seconds: float) -> SearchAnswer:
        """What there is, as far as it can be known within the time."""
        deadline = time.monotonic() + seconds
        formats = (question.format,) if question.format else self._formats
        asked = [
            *self._hub_calls(question, formats),
            *self._registry_calls(question, formats),
        ]
        said = run_abreast([call for _, call in asked], threads=_ABREAST, deadline=deadline)
        parts = [part for part in said if isinstance(part, _Part)]
        silent = {
            who for (who, _), part in zip(asked, said, strict=True) if not isinstance(part, _Part)
        }
        exact = [hit for part in parts for hit in part.hits]
        repositories = [one for part in parts for one in part.repositories]
        hits = self._measured(_most_downloaded(repositories, question.limit), deadline)
        notes = (
            NO_LIBRARY_SEARCH,
            *(f"{who} does not answer" for who in sorted(silent)),
            *(note for part in parts for note in part.notes),
            *_notes(question, hits, formats),
        )
        return SearchAnswer(
            hits=(*exact, *sorted_hits(hits, question.sort))[: question.limit],
            notes=notes,
            failed=notes[1] if silent and not exact and not hits else None,
        )

    def _hub_calls(
        self, question: SearchQuery, formats: Iterable[Format]
    ) -> list[tuple[str, Callable[[], _Part]]]:
        if self._hub is None:
            return []
        return [("the hub", partial(self._listed, self._hub, question, fmt)) for fmt in formats]

    def _registry_calls(
        self, question: SearchQuery, formats: Iterable[Format]
    ) -> list[tuple[str, Callable[[], _Part]]]:
        name = exact_name(question.text)
        if self._registry is None or name is None or "gguf" not in formats:
            return []
        return [("the Ollama registry", partial(_probed, self._registry, name))]

    def _listed(self, hub: HfApi, question: SearchQuery, fmt: Format) -> _Part:
        try:
            models = list(
                hub.list_models(
                    search=hub_text(question.text),
                    filter=fmt,
                    sort="downloads",
                    limit=question.limit,
                    expand=["downloads", "gated", "private", "siblings"],
                )
            )
        except (httpx2.HTTPError, OSError) as error:
            logger.warning("hub not searched", extra={"reason": type(error).__name__})
            raise SourceUnavailable("the hub does not answer") from error
        found = []
        for model in models:
            paths = tuple(sibling.rfilename for sibling in model.siblings or ())
            if (choice := choice_of(model.id, paths, fmt)) is not None:
                found.append(
                    Repository(
                        id=model.id,
                        paths=paths,
                        choice=choice,
                        downloads=model.downloads,
                        is_gated=bool(model.gated),
                        is_private=bool(model.private),
                    )
                )
        return _Part(repositories=tuple(found))

    def _measured(self, found: Sequence[Repository], deadline: float) -> list[SearchHit]:
        calls = [partial(self._sizes, one.id) for one in found]
        sizes = run_abreast(calls, threads=_ABREAST, deadline=deadline)
        return [
            hub_hit(one, known if isinstance(known, dict) else {})
            for one, known in zip(found, sizes, strict=True)
        ]

    def _sizes(self, repo: str) -> dict[str, int]:
        assert self._hub is not None
        info = self._hub.model_info(repo, files_metadata=True, timeout=WAIT_SECONDS)
        return {s.rfilename: s.size for s in info.siblings or [] if s.size is not None}


def bound_hub_waits(seconds: float = WAIT_SECONDS) -> None:
    """Give every call of huggingface_hub in this process a timeout. Its lists ask for none in so
    many words, so that a client's own default would not do."""

    def bound(request: httpx2.Request) -> None:
        request.extensions["timeout"] = httpx2.Timeout(seconds).as_dict()

    set_client_factory(
        lambda: httpx2.Client(event_hooks={"request": [bound]}, follow_redirects=True)
    )


def _probed(registry: ModelSource, name: ModelName) -> _Part:
    try:
        return _Part(hits=(registry_hit(registry.resolve(name, Order())),))
    except SourceUnavailable:
        raise
    except ModelNotFound:
        # A bare word was a search, not a name: that there is no such model is no news.
        return _Part(notes=(f"the Ollama registry has no {name}",) if name.tag_given else ())
    except SpindllError as error:
        return _Part(notes=(f"{name} in the Ollama registry: {error.message}",))


def _most_downloaded(found: Sequence[Repository], limit: int) -> list[Repository]:
    return sorted(found, key=lambda one: -(one.downloads or 0))[:limit]


def _notes(
    question: SearchQuery, hits: Sequence[SearchHit], formats: Sequence[Format]
) -> Iterable[str]:
    if question.format is None and "mlx" not in formats:
        yield "GGUF only; MLX repositories are found with format=mlx"
    if question.sort != "downloads" and hits:
        yield f"sorted are the {len(hits)} most downloaded"
    if any(hit.size_bytes is None for hit in hits):
        yield "the size of some repositories could not be had"
