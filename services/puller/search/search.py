"""Find models to pull: by the search of the hub, and by exact name in the Ollama registry.

1. The hub lists the most downloaded repositories of a format, with their file names.
2. `select_files` selects the files that a pull would download. A repository without any is no hit.
3. One request for each of the first repositories, several of them in parallel, fetches the sizes
   of those files. All of them are asked when the result is to be sorted by size.

The hub allows an address without a token a few hundred requests in five minutes, which the pulls
need too. So the answers are kept for ten minutes, and the sizes of a repository as well.

The hub cannot sort by size, so other sort orders apply to the result of step 1 only. Ollama's
library has no search.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import httpx2
import msgspec
from huggingface_hub import HfApi, set_client_factory

from services.puller.formats import engine_support
from services.puller.search.hits import (
    Repository,
    build_hub_hit,
    build_hub_query,
    build_registry_hit,
    parse_registry_name,
    select_hub_files,
)
from services.puller.search.parallel import run_parallel
from services.puller.search.recent_results import RecentResults
from services.puller.sources.base import Format, ModelSource, ResolveOptions
from services.shared.errors import ModelNotFound, SourceUnavailable, SpindllError
from services.shared.model_name import ModelName
from services.shared.puller_rpc.search import SearchAnswer, SearchHit, SearchQuery, sorted_hits

logger = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
KEEP_SECONDS = 600.0
SIZED_HITS = 5
_MAX_PARALLEL_CALLS = 8

NO_MLX_ENGINE = "there is no engine for MLX models here: the extra `mlx` is not installed"
NO_LIBRARY_SEARCH = (
    "Ollama's library has no search; only an exact name such as qwen3:0.6b finds a model there"
)


@dataclass(frozen=True, slots=True)
class _PartialAnswer:
    """The answer of one source to one request."""

    repositories: tuple[Repository, ...] = ()
    hits: tuple[SearchHit, ...] = ()
    notes: tuple[str, ...] = ()


class ModelSearch:
    """Searches the hub and the registry. Thread-safe."""

    def __init__(
        self, hub: HfApi | None, registry: ModelSource | None, *, prefers_mlx: bool = False
    ) -> None:
        """`hub` or `registry` is None when the settings allow no models from it."""
        self._hub = hub
        self._registry = registry
        self._answers: RecentResults[SearchQuery, SearchAnswer] = RecentResults(KEEP_SECONDS)
        self._sizes: RecentResults[str, dict[str, int]] = RecentResults(KEEP_SECONDS)
        gguf: tuple[Format, ...] = ("gguf",) if engine_support.LOADS_GGUF else ()
        mlx: tuple[Format, ...] = ("mlx",) if prefers_mlx and engine_support.LOADS_MLX else ()
        self._formats = gguf + mlx

    def answer(self, query: SearchQuery, *, seconds: float) -> SearchAnswer:
        """Return the hits that can be found within the time, or those of the last minutes."""
        same = msgspec.structs.replace(query, id="")
        answer = self._answers.get(same)
        if answer is None:
            answer, is_complete = self._search(query, seconds=seconds)
            if is_complete:
                self._answers.put(same, answer)
        return answer

    def _search(self, query: SearchQuery, *, seconds: float) -> tuple[SearchAnswer, bool]:
        """The answer, and whether every source has answered."""
        deadline = time.monotonic() + seconds
        formats = (query.format,) if query.format else self._formats
        if query.format == "mlx" and not engine_support.LOADS_MLX:
            return SearchAnswer(notes=(NO_MLX_ENGINE,)), False
        calls = [
            *self._build_hub_calls(query, formats),
            *self._build_registry_calls(query, formats),
        ]
        results = run_parallel(
            [call for _, call in calls], threads=_MAX_PARALLEL_CALLS, deadline=deadline
        )
        answers = [result for result in results if isinstance(result, _PartialAnswer)]
        unanswered = {
            source
            for (source, _), result in zip(calls, results, strict=True)
            if not isinstance(result, _PartialAnswer)
        }
        exact = [hit for answer in answers for hit in answer.hits]
        repositories = [found for answer in answers for found in answer.repositories]
        hits = self._add_sizes(
            _take_most_downloaded(repositories, query.limit),
            deadline,
            sized=query.limit if query.sort == "size" else SIZED_HITS,
        )
        notes = (
            NO_LIBRARY_SEARCH,
            *(f"{source} does not answer" for source in sorted(unanswered)),
            *(note for answer in answers for note in answer.notes),
            *_build_notes(query, hits, formats),
        )
        answer = SearchAnswer(
            hits=(*exact, *sorted_hits(hits, query.sort))[: query.limit],
            notes=notes,
            failed=notes[1] if unanswered and not exact and not hits else None,
        )
        return answer, not unanswered

    def _build_hub_calls(
        self, query: SearchQuery, formats: Iterable[Format]
    ) -> list[tuple[str, Callable[[], _PartialAnswer]]]:
        if self._hub is None:
            return []
        return [
            ("the hub", partial(self._list_repositories, self._hub, query, fmt)) for fmt in formats
        ]

    def _build_registry_calls(
        self, query: SearchQuery, formats: Iterable[Format]
    ) -> list[tuple[str, Callable[[], _PartialAnswer]]]:
        name = parse_registry_name(query.text)
        if self._registry is None or name is None or "gguf" not in formats:
            return []
        return [("the Ollama registry", partial(_probe_registry, self._registry, name))]

    def _list_repositories(self, hub: HfApi, query: SearchQuery, fmt: Format) -> _PartialAnswer:
        try:
            models = list(
                hub.list_models(
                    search=build_hub_query(query.text),
                    filter=fmt,
                    sort="downloads",
                    limit=query.limit,
                    expand=["downloads", "gated", "private", "siblings"],
                )
            )
        except (httpx2.HTTPError, OSError) as error:
            logger.warning("hub search failed", extra={"reason": type(error).__name__})
            raise SourceUnavailable("the hub does not answer") from error
        found = []
        for model in models:
            paths = tuple(sibling.rfilename for sibling in model.siblings or ())
            if (selection := select_hub_files(model.id, paths, fmt)) is not None:
                found.append(
                    Repository(
                        id=model.id,
                        paths=paths,
                        selection=selection,
                        downloads=model.downloads,
                        is_gated=bool(model.gated),
                        is_private=bool(model.private),
                    )
                )
        return _PartialAnswer(repositories=tuple(found))

    def _add_sizes(
        self, repositories: Sequence[Repository], deadline: float, *, sized: int
    ) -> list[SearchHit]:
        calls = [partial(self._fetch_sizes, repository.id) for repository in repositories[:sized]]
        sizes = run_parallel(calls, threads=_MAX_PARALLEL_CALLS, deadline=deadline)
        return [
            build_hub_hit(repository, known if isinstance(known, dict) else {})
            for repository, known in zip_longest(repositories, sizes)
        ]

    def _fetch_sizes(self, repo: str) -> dict[str, int]:
        assert self._hub is not None
        if (known := self._sizes.get(repo)) is not None:
            return known
        info = self._hub.model_info(repo, files_metadata=True, timeout=WAIT_SECONDS)
        sizes = {s.rfilename: s.size for s in info.siblings or [] if s.size is not None}
        self._sizes.put(repo, sizes)
        return sizes


def set_hub_timeout(seconds: float = WAIT_SECONDS) -> None:
    """Give every request of huggingface_hub in this process a timeout.

    Its list functions explicitly request no timeout, so the default of the client does not apply.
    """

    def bound(request: httpx2.Request) -> None:
        request.extensions["timeout"] = httpx2.Timeout(seconds).as_dict()

    set_client_factory(
        lambda: httpx2.Client(event_hooks={"request": [bound]}, follow_redirects=True)
    )


def _probe_registry(registry: ModelSource, name: ModelName) -> _PartialAnswer:
    try:
        return _PartialAnswer(hits=(build_registry_hit(registry.resolve(name, ResolveOptions())),))
    except SourceUnavailable:
        raise
    except ModelNotFound:
        # A bare word is a search text, not a name: the answer need not mention it.
        return _PartialAnswer(
            notes=(f"the Ollama registry has no {name}",) if name.tag_given else ()
        )
    except SpindllError as error:
        return _PartialAnswer(notes=(f"{name} in the Ollama registry: {error.message}",))


def _take_most_downloaded(repositories: Sequence[Repository], limit: int) -> list[Repository]:
    return sorted(repositories, key=lambda repository: -(repository.downloads or 0))[:limit]


def _build_notes(
    query: SearchQuery, hits: Sequence[SearchHit], formats: Sequence[Format]
) -> Iterable[str]:
    if query.format is None and "mlx" not in formats and engine_support.LOADS_MLX:
        yield "GGUF only; format=mlx finds MLX repositories"
    if query.sort != "downloads" and hits:
        yield f"only the {len(hits)} most downloaded repositories are sorted"
    if any(hit.size_bytes is None for hit in hits):
        yield "the size of some repositories is not known"
