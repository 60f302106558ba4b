"""The grammar of model names: every accepted form, and texts that are refused."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.errors import InvalidModelName
from services.shared.model_name import ModelName, Source, canonical_host

URL = "https://files.example/dir/my-model.Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("typed", "canonical", "source"),
    [
        ("qwen3", "qwen3:latest", Source.OLLAMA),
        ("qwen3:0.6b", "qwen3:0.6b", Source.OLLAMA),
        ("library/qwen3", "qwen3:latest", Source.OLLAMA),
        ("user/model:7b", "user/model:7b", Source.OLLAMA),
        ("ollama.com/user/model", "ollama.com/user/model:latest", Source.OLLAMA),
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b", Source.OLLAMA),
        ("ollama/user/model:7b", "user/model:7b", Source.OLLAMA),
        ("ollama/qwen3", "qwen3:latest", Source.OLLAMA),
        ("ollama/qwen3/0.6b.gguf", "qwen3:0.6b", Source.OLLAMA),
        ("registry.example/ns/model:tag", "registry.example/ns/model:tag", Source.OLLAMA),
        (
            "registry.example:5000/model",
            "registry.example:5000/library/model:latest",
            Source.OLLAMA,
        ),
        ("localhost/ns/model", "localhost/ns/model:latest", Source.OLLAMA),
        ("https://registry.example/ns/model:tag", "registry.example/ns/model:tag", Source.OLLAMA),
        ("owner/repo", "owner/repo:latest", Source.HUB),
        ("owner/repo:latest", "owner/repo:latest", Source.HUB),
        ("owner/repo:Q4_K_M", "owner/repo:Q4_K_M", Source.HUB),
        ("owner/repo:UD-Q4_K_XL", "owner/repo:UD-Q4_K_XL", Source.HUB),
        ("owner/repo:mlx", "owner/repo:mlx", Source.HUB),
        ("owner/repo:4bit", "owner/repo:4bit", Source.HUB),
        ("own.er/repo", "own.er/repo:latest", Source.HUB),
        ("hf.co/owner/repo:IQ3_M", "owner/repo:IQ3_M", Source.HUB),
        ("hf.co/owner/repo:other", "hf.co/owner/repo:other", Source.HUB),
        ("hf.co/ollama/repo", "hf.co/ollama/repo:latest", Source.HUB),
        ("huggingface.co/owner/repo", "owner/repo:latest", Source.HUB),
        ("https://huggingface.co/owner/repo", "owner/repo:latest", Source.HUB),
        ("https://hf.co/owner/repo/blob/main/a.gguf", "owner/repo/a.gguf", Source.HUB),
        ("owner/repo/file.gguf", "owner/repo/file.gguf", Source.HUB),
        ("owner/repo/Q4_K_M/file-00001-of-00002.gguf",) * 2 + (Source.HUB,),
        ("hf.co/owner/repo:file.gguf", "owner/repo/file.gguf", Source.HUB),
        ("owner/repo@v1.2", "owner/repo@v1.2:latest", Source.HUB),
        ("owner/repo@v1:Q4_K_M", "owner/repo@v1:Q4_K_M", Source.HUB),
        ("owner/repo@v1:7b", "owner/repo@v1:7b", Source.HUB),
        ("own.er/repo@v1/a.gguf", "own.er/repo@v1/a.gguf", Source.HUB),
        ("hf.co/owner/repo@v1/a/b.gguf", "owner/repo@v1/a/b.gguf", Source.HUB),
        ("owner/repo@main:Q8_0", "owner/repo:Q8_0", Source.HUB),
        ("https://hf.co/owner/repo/tree/v1", "owner/repo@v1:latest", Source.HUB),
        ("https://hf.co/owner/repo/resolve/v1/a.gguf", "owner/repo@v1/a.gguf", Source.HUB),
        (URL, URL, Source.URL),
    ],
)
def test_a_typed_name_has_one_canonical_form(typed: str, canonical: str, source: Source) -> None:
    name = ModelName.parse(typed)

    assert (str(name), name.source) == (canonical, source)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "   ",
        "..",
        "../x",
        "a/../b",
        "owner/repo@",
        "owner/repo@..",
        "owner/repo@a..b",
        "owner/repo@.hidden",
        "owner/repo@v1@v2",
        "owner/repo@refs/pr/1",
        "owner@v1/repo",
        "qwen3@v1",
        "ollama.com/user/model@v1",
        "registry.example/ns/model@sha256:abc",
        "https://hf.co/owner/repo/resolve/refs%2Fpr%2F1/a.gguf",
        "/etc/passwd",
        "a//b",
        "a/",
        "/a",
        "a:",
        ":a",
        "a:b:c",
        "x\x00y",
        "a\nb",
        "a b",
        "a\\b",
        "C:\\models\\x.gguf",
        "m" * 300,
        "owner/" + "r" * 300,
        "a/b/c/d",
        "a/b/c:tag",
        "owner/repo/file.bin",
        "hf.co/onlyrepo",
        "own..er/repo",
        "owner/repo/../../x.gguf",
        "owner/repo/.hidden.gguf",
        "-rf",
        "qwеn3",  # noqa: RUF001  a Cyrillic e
        "qwen3\u200b",
        "ｑwen3",  # noqa: RUF001  full width
        "owner\u2215repo",
        "file:///etc/passwd",
        "ftp://host/x.gguf",
        "https://user:key@host/x.gguf",
        "http://registry.example/ns/model",
        "https://",
        "https://[::1",
        "sha256:../../x",
        "owner/repo?x=1",
        "owner/repo#x",
        "a%2e%2e/b",
    ],
)
def test_an_invalid_name_is_refused_with_a_sentence(typed: str) -> None:
    with pytest.raises(InvalidModelName) as caught:
        ModelName.parse(typed)

    assert len(caught.value.message.split()) > 3


def test_the_error_for_too_many_slashes_explains_one_slash() -> None:
    with pytest.raises(InvalidModelName, match="one slash is a Hugging Face repository"):
        ModelName.parse("a/b/c/d")


def test_the_query_of_a_plain_download_is_no_part_of_its_name() -> None:
    name = ModelName.parse(f"{URL}?X-Amz-Signature=SECRET#part")

    assert str(name) == URL
    assert name == ModelName.parse(URL)
    assert name.key == ModelName.parse(URL).key
    assert name.address == f"{URL}?X-Amz-Signature=SECRET"
    assert "SECRET" not in repr(name)
    assert ModelName.parse(URL).address is None


def test_names_keep_their_case_and_compare_without_it() -> None:
    one, other = ModelName.parse("Owner/Repo:q4_k_m"), ModelName.parse("owner/repo:Q4_K_M")

    assert str(one) == "Owner/Repo:q4_k_m"
    assert one.key == other.key


def test_a_key_consists_of_safe_file_names_even_for_a_long_path() -> None:
    name = ModelName.parse("owner/repo/" + "/".join(["d" * 60] * 6) + "/" + "f" * 90 + ".gguf")

    assert all(len(part) <= 250 and "/" not in part for part in name.key)


part = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=20)


@given(st.lists(part, min_size=1, max_size=5), st.none() | part, st.sampled_from(["", "hf.co/"]))
def test_parsing_a_formatted_name_gives_the_same_name(
    parts: list[str], tag: str | None, host: str
) -> None:
    text = host + "/".join(parts) + (f":{tag}" if tag else "")
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return

    assert ModelName.parse(str(name)) == name
    assert str(ModelName.parse(str(name))) == str(name)
    assert ModelName.parse(str(name).upper() if name.source is not Source.URL else str(name)).key


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return

    assert all(p and p not in (".", "..") and "/" not in p and "\x00" not in p for p in name.key)


@pytest.mark.parametrize("file", ["..gguf", "...gguf", "....gguf", ".gguf", "%2e%2e.gguf"])
def test_an_address_cannot_leave_its_folder(file: str) -> None:
    names = [ModelName.parse(f"https://h/{file}"), ModelName.parse(f"https://other/{file}")]

    assert all(part.strip(".") for name in names for part in name.key)
    assert names[0].key != names[1].key


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("huggingface.co", "hf.co"),
        ("HF.co", "hf.co"),
        ("registry.ollama.ai", "ollama.com"),
        ("Registry.Example:5000", "registry.example:5000"),
    ],
)
def test_a_source_has_one_host_in_names(host: str, canonical: str) -> None:
    assert canonical_host(host) == canonical


def test_a_revision_is_part_of_the_name_and_of_one_file_name() -> None:
    name = ModelName.parse("Owner/Repo@Feature_1:Q8_0")

    assert (name.repo, name.revision) == ("Owner/Repo", "Feature_1")
    assert name.key == ("hf.co", "owner", "repo%40feature_1", "q8_0")
    assert name.key != ModelName.parse("Owner/Repo:Q8_0").key
