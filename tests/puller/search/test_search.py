"""Search a hub with the real huggingface_hub, and a registry by its protocol."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.utils._http import default_client_factory

from services.puller.build import build_search, build_sources
from services.puller.formats import engine_support
from services.puller.search.hits import build_hub_query, parse_registry_name
from services.puller.search.parallel import run_parallel
from services.puller.search.search import (
    NO_LIBRARY_SEARCH,
    NO_MLX_ENGINE,
    ModelSearch,
    set_hub_timeout,
)
from services.puller.sources.base import ResolveOptions
from services.shared.errors import SourceUnavailable
from services.shared.model_name import ModelName, Source
from services.shared.puller_rpc.search import SearchAnswer, SearchHit, SearchQuery
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.oci import Registry
from tests.puller.conftest import PullTestbed

GGUF_ONLY = "GGUF only; format=mlx finds MLX repositories"
MLX = {"config.json": b"{}", "model.safetensors": b"x" * 70, "tokenizer.json": b"{}"}


@pytest.fixture
def full_hub(hub: Hub) -> Hub:
    qwen = {"README.md": b"hi", "q-Q4_K_M.gguf": b"x" * 40, "q-Q8_0.gguf": b"x" * 80}
    seeing = {"v-Q8_0.gguf": b"x" * 50, "mmproj-f16.gguf": b"x" * 9}
    hub.add("big/Qwen3-GGUF", qwen, downloads=900, tags=("gguf",))
    hub.add("see/qwen3-vl", seeing, downloads=70, tags=("gguf",))
    hub.add("shut/qwen3-gated", {"m-f16.gguf": b"x"}, gated=True, downloads=80, tags=("gguf",))
    hub.add("my/qwen3-own", {"m.gguf": b"x" * 7}, private=True, downloads=1, tags=("gguf",))
    hub.add("no/qwen3-imatrix", {"imatrix.gguf": b"x"}, downloads=950, tags=("gguf",))
    hub.add("mlx-community/Qwen3-4bit", MLX, downloads=500, tags=("mlx",))
    hub.add("other/llama", {"l-Q4_0.gguf": b"x"}, downloads=9999, tags=("gguf",))
    return hub


@pytest.fixture
def search(testbed: PullTestbed, full_hub: Hub) -> ModelSearch:
    return build_search(testbed.settings)


def ask(
    search: ModelSearch, text: str = "qwen3", seconds: float = 10, **fields: Any
) -> SearchAnswer:
    query = SearchQuery(id="1", text=text, **{"limit": 20, **fields})
    return search.answer(query, seconds=seconds)


@pytest.mark.usefixtures("vision_engine", "mlx_engine")
def test_hits_are_what_a_pull_would_download_most_downloaded_first(search: ModelSearch) -> None:
    answer = ask(search)

    assert answer.hits == (
        SearchHit(
            name="big/Qwen3-GGUF:Q4_K_M",
            source="huggingface",
            format="gguf",
            quantization="q4_k_m",
            quantizations=("q4_k_m", "q8_0"),
            size_bytes=40,
            downloads=900,
        ),
        SearchHit(
            name="shut/qwen3-gated:F16",
            source="huggingface",
            format="gguf",
            quantization="f16",
            quantizations=("f16",),
            size_bytes=1,
            downloads=80,
            gated=True,
        ),
        SearchHit(
            name="see/qwen3-vl:Q8_0",
            source="huggingface",
            format="gguf",
            quantization="q8_0",
            quantizations=("q8_0",),
            size_bytes=59,
            downloads=70,
        ),
    )
    assert answer.failed is None
    assert answer.notes == (
        NO_LIBRARY_SEARCH,
        GGUF_ONLY,
    )


def test_the_name_of_a_hit_pulls_a_file_of_the_reported_size(
    testbed: PullTestbed, hub: Hub
) -> None:
    files = {"a-Q8_0.gguf": b"no model", "a-Q4_K_M.gguf": TINY_GGUF.read_bytes()}
    hub.add("owner/tiny", files, tags=("gguf",))
    [hit] = ask(build_search(testbed.settings), "tiny").hits

    testbed.pull(hit.name)

    manifest = testbed.store.resolve(hit.name)
    assert (manifest.name, manifest.weights_bytes) == (hit.name, hit.size_bytes)


def test_without_an_engine_for_mlx_a_search_for_it_says_so(search: ModelSearch) -> None:
    assert ask(search, format="mlx") == SearchAnswer(notes=(NO_MLX_ENGINE,))


@pytest.mark.usefixtures("mlx_engine")
def test_a_search_without_a_format_finds_only_what_can_be_loaded(
    full_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_support, "LOADS_GGUF", False)
    api = huggingface_hub.HfApi(endpoint=full_hub.url, token=False)

    hits = ask(ModelSearch(api, None, prefers_mlx=True)).hits

    assert {hit.format for hit in hits} == {"mlx"}


@pytest.mark.usefixtures("vision_engine")
@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("size", ["shut/qwen3-gated", "big/Qwen3-GGUF", "see/qwen3-vl"]),
        ("name", ["big/Qwen3-GGUF", "see/qwen3-vl", "shut/qwen3-gated"]),
    ],
)
def test_other_sort_orders_apply_to_the_most_downloaded(
    search: ModelSearch, sort: Any, names: list[str]
) -> None:
    answer = ask(search, sort=sort)

    assert [hit.name.rpartition(":")[0] for hit in answer.hits] == names
    assert "only the 3 most downloaded repositories are sorted" in answer.notes


def test_a_limit_also_limits_the_requests_to_the_hub(search: ModelSearch, full_hub: Hub) -> None:
    answer = ask(search, limit=2)  # the first of the two cannot be pulled

    assert [hit.name for hit in answer.hits] == ["big/Qwen3-GGUF:Q4_K_M"]
    assert len(full_hub.paths()) == 2


def test_the_same_search_is_answered_without_the_hub(search: ModelSearch, full_hub: Hub) -> None:
    first = ask(search)
    full_hub.requests.clear()

    assert ask(search) == first
    assert full_hub.paths() == []


def test_an_incomplete_answer_is_not_kept(search: ModelSearch, full_hub: Hub) -> None:
    full_hub.plan.faults = [Fault(path_part="/api/models?", status=400, times=1)]

    assert ask(search).failed is not None
    assert ask(search).hits


def test_only_the_first_hits_have_their_sizes_fetched(testbed: PullTestbed, hub: Hub) -> None:
    for number in range(8):
        hub.add(f"o/m{number}", {"m-Q4_0.gguf": b"x"}, downloads=9 - number, tags=("gguf",))
    search = build_search(testbed.settings)

    assert [hit.size_bytes for hit in ask(search, "o/m").hits] == [1] * 5 + [None] * 3
    assert len(hub.paths()) == 6
    assert [hit.size_bytes for hit in ask(search, "o/m", sort="size").hits] == [1] * 8
    assert len(hub.paths()) == 6 + 1 + 3


@pytest.mark.usefixtures("mlx_engine")
def test_the_size_of_an_mlx_repository_includes_all_its_files(search: ModelSearch) -> None:
    [hit] = ask(search, format="mlx").hits

    assert (hit.name, hit.format, hit.quantization) == ("mlx-community/Qwen3-4bit", "mlx", "4bit")
    assert hit.size_bytes == sum(len(data) for data in MLX.values())


@pytest.mark.usefixtures("mlx_engine")
def test_the_name_of_a_repository_with_both_formats_has_the_requested_one(
    testbed: PullTestbed, hub: Hub
) -> None:
    hub.add("both/m", MLX | {"m-Q4_0.gguf": b"x"}, tags=("mlx", "gguf"))
    search = build_search(testbed.settings)

    assert [hit.name for hit in ask(search, "both").hits] == ["both/m:Q4_0"]
    assert [hit.name for hit in ask(search, "both", format="mlx").hits] == ["both/m:mlx"]


def test_an_exact_name_finds_a_model_of_the_registry(
    testbed: PullTestbed, registry: Registry
) -> None:
    registry.add_model(
        "library/qwen3:0.6b",
        {"model": b"x" * 33, "license": b"long"},
        config={"model_format": "gguf", "file_type": "Q4_K_M"},
    )
    answer = ask(build_search(testbed.settings), "qwen3:0.6b")

    assert answer.hits == (
        SearchHit(
            name="qwen3:0.6b",
            source="ollama",
            format="gguf",
            quantization="q4_k_m",
            quantizations=("q4_k_m",),
            size_bytes=33,
        ),
    )


def test_an_exact_name_that_the_registry_does_not_have_is_reported(search: ModelSearch) -> None:
    assert "the Ollama registry has no qwen3:9b" in ask(search, "qwen3:9b").notes
    assert not any("registry has no" in note for note in ask(search, "qwen3").notes)


@pytest.mark.parametrize(
    "text",
    ["other.example/ns/model:1", "localhost:1/m", "http://127.0.0.1/m.gguf", "owner/repo", "a b"],
)
def test_a_search_sends_no_request_to_another_host(text: str) -> None:
    assert parse_registry_name(text) is None


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("qwen3", "qwen3"),
        ("qwen3:0.6b", "qwen3-0.6b"),
        ("qwen3:latest", "qwen3"),
        ("hf.co/owner/repo:Q4_K_M", "owner/repo"),
        ("qwen 3 small", "qwen 3 small"),
    ],
)
def test_the_query_for_the_hub_has_the_spelling_of_the_hub(text: str, query: str) -> None:
    assert build_hub_query(text) == query


def test_sources_that_the_settings_forbid_receive_no_request(
    make_testbed: Callable[..., PullTestbed], full_hub: Hub, registry: Registry
) -> None:
    def settings(allowed: str) -> Any:
        return make_testbed(
            ollama_registry=registry.url, hf_endpoint=full_hub.url, allowed_sources=allowed
        ).settings

    assert ask(build_search(settings("ollama.com")), "tiny:f16").hits[0].source == "ollama"
    assert full_hub.paths() == []
    ask(build_search(settings("hf.co")), "tiny:f16")
    assert len(registry.paths()) == 2  # the manifest and its configuration, of the first search


def test_a_private_repository_is_found_with_its_token_and_marked(
    make_testbed: Callable[..., PullTestbed], full_hub: Hub
) -> None:
    testbed = make_testbed(hf_endpoint=full_hub.url, hf_token="hf_right", allowed_sources="hf.co")
    private = {hit.name: hit.private for hit in ask(build_search(testbed.settings)).hits}

    assert private["my/qwen3-own:gguf"] is True
    assert sum(private.values()) == 1


def test_a_hub_that_is_down_fails_the_search(search: ModelSearch, full_hub: Hub) -> None:
    full_hub.plan.faults = [Fault(path_part="/api/models", status=503, times=ALWAYS)]

    assert ask(search, seconds=1.5).failed == "the hub does not answer"


def test_a_search_without_the_hub_returns_the_hit_of_the_registry(
    search: ModelSearch, full_hub: Hub
) -> None:
    full_hub.plan.faults = [Fault(path_part="/api/models", status=503, times=ALWAYS)]
    answer = ask(search, "tiny:f16", seconds=1.5)

    assert [hit.name for hit in answer.hits] == ["tiny:f16"]
    assert (answer.failed, "the hub does not answer" in answer.notes) == (None, True)


def test_an_unknown_size_is_not_guessed(search: ModelSearch, full_hub: Hub) -> None:
    full_hub.plan.faults = [Fault(path_part="/api/models/big/", status=500, times=ALWAYS)]

    assert ask(search).hits[0].size_bytes is None


def test_calls_run_in_parallel_and_late_ones_are_abandoned() -> None:
    def fail() -> int:
        raise ValueError

    def hang() -> int:
        never.wait(30)
        return 3

    never = threading.Event()
    calls = [lambda: 1, fail, hang]
    one, error, late = run_parallel(calls, threads=3, deadline=time.monotonic() + 0.5)

    assert (one, type(error), late) == (1, ValueError, None)
    assert run_parallel(calls, threads=3, deadline=0.0) == [None, None, None]


@pytest.fixture
def own_client() -> Iterator[None]:
    yield
    huggingface_hub.set_client_factory(default_client_factory)


@pytest.mark.usefixtures("own_client")
def test_every_call_of_huggingface_hub_has_a_timeout() -> None:
    set_hub_timeout(0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(httpx2.TimeoutException):
            huggingface_hub.get_session().get(url, timeout=None)


def test_a_hub_that_does_not_listen_is_unavailable(
    make_testbed: Callable[..., PullTestbed],
) -> None:
    sources = build_sources(make_testbed(hf_endpoint="http://127.0.0.1:1").settings)

    with pytest.raises(SourceUnavailable, match="the hub does not answer"):
        sources[Source.HUB].resolve(ModelName.parse("owner/repo"), ResolveOptions())
