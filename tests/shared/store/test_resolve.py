"""Which stored model a name means."""

from __future__ import annotations

import pytest

from services.shared.errors import (
    Conflict,
    InvalidModelName,
    ModelNotFound,
)
from services.shared.store.manifest import Description
from services.shared.store.model_store import ModelStore
from tests.shared.store.builders import (
    blob_names,
    names,
    put_model,
)


def test_the_shorter_spellings_of_a_name_find_it(store: ModelStore) -> None:
    put_model(store, "owner/repo:Q4_K_M", {"sub/The-Model.Q4_K_M.gguf": b"q4"})
    put_model(store, "qwen3:0.6b")

    found = {
        text: store.resolve(text).name
        for text in (
            "OWNER/Repo:q4_k_m",
            "owner/repo",
            "owner/repo:latest",
            "hf.co/owner/repo",
            "owner/repo/The-Model.Q4_K_M.gguf",
            "the-model.q4_k_m.gguf",
            "qwen3",
            "ollama/qwen3/0.6b.gguf",
            "library/qwen3:0.6b",
        )
    }

    assert set(found.values()) == {"owner/repo:Q4_K_M", "qwen3:0.6b"}
    assert [t for t, name in found.items() if name == "qwen3:0.6b"] == [
        "qwen3",
        "ollama/qwen3/0.6b.gguf",
        "library/qwen3:0.6b",
    ]


def test_without_a_tag_latest_wins_over_newer_ones(store: ModelStore) -> None:
    put_model(store, "m:latest", created_at=1.0)
    put_model(store, "m:new", created_at=9.0)

    assert store.resolve("m").name == "m:latest"


def test_without_latest_the_newest_wins_and_then_the_first_by_name(store: ModelStore) -> None:
    put_model(store, "m:a", created_at=2.0)
    put_model(store, "m:c", created_at=5.0)
    put_model(store, "m:b", created_at=5.0)

    assert {store.resolve("m").name for _ in range(5)} == {"m:b"}


def test_an_explicit_tag_does_not_match_another_tag(store: ModelStore) -> None:
    put_model(store, "m:7b")

    with pytest.raises(ModelNotFound) as caught:
        store.resolve("m:8b")
    assert caught.value.details == {"models": ["m:7b"]}


def test_a_digest_names_a_model(store: ModelStore) -> None:
    manifest = put_model(store, "m:7b")

    assert store.resolve(manifest.digest) == manifest
    assert store.resolve(manifest.digest[:20]) == manifest


def test_a_model_is_found_by_its_base_model(store: ModelStore) -> None:
    description = Description(format="gguf", architecture="llama", base_model="Tiny-Test-1B")
    put_model(store, "m:7b", description=description)

    assert store.resolve("tiny-test:1b").name == "m:7b"


def test_a_text_that_is_not_a_name_raises_invalid_model_name(store: ModelStore) -> None:
    for ask in (store.resolve, store.delete):
        with pytest.raises(InvalidModelName):
            ask("../../etc/passwd")


def test_an_unknown_name_lists_the_stored_models(store: ModelStore) -> None:
    put_model(store, "a:1")
    put_model(store, "b:1")

    with pytest.raises(ModelNotFound, match="a:1, b:1") as caught:
        store.resolve("c")
    assert caught.value.details == {"models": ["a:1", "b:1"]}


def test_names_that_differ_in_case_are_one_model(store: ModelStore) -> None:
    put_model(store, "Model:One")
    put_model(store, "model:one")

    assert names(store) == ["model:one"]
    assert len(blob_names(store.layout.root)) == 1


def test_a_revision_is_found_by_its_own_name_only(store: ModelStore) -> None:
    old = put_model(store, "owner/repo@v1:Q8_0", {"m.gguf": b"old"})

    assert store.resolve("Owner/repo@V1") == store.resolve("owner/repo@v1/m.gguf") == old
    for other in ("owner/repo", "owner/repo:Q8_0", "owner/repo/m.gguf", "owner/repo@v2"):
        with pytest.raises(ModelNotFound):
            store.resolve(other)
        with pytest.raises(ModelNotFound):
            store.delete(other)


def test_an_ambiguous_name_deletes_nothing(store: ModelStore) -> None:
    put_model(store, "m:7b")
    put_model(store, "m:8b")

    with pytest.raises(ModelNotFound):
        store.delete("m:latest")
    with pytest.raises(Conflict, match="m:7b, m:8b"):
        store.delete("m")
    assert names(store) == ["m:7b", "m:8b"]


def test_a_name_without_a_tag_deletes_the_only_match(store: ModelStore) -> None:
    put_model(store, "owner/repo:Q4_K_M")

    assert store.delete("owner/repo").name == "owner/repo:Q4_K_M"
