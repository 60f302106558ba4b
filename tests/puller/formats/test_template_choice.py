"""Which of a model's chat templates is used: Jinja, the Go template of Ollama, or ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.puller.formats.describe import describe_model
from services.puller.formats.renderers.renderer_table import find_template
from services.puller.formats.template_choice import Candidate, is_written_by_person, order
from services.shared.model_name import ModelName
from services.shared.store.manifest import Capability, Description, FileRole, StoredFile
from tests.puller.formats.gguf.writer import write_gguf

JINJA = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
JINJA_TOOLS = (
    "{{ tools | tojson if tools }}{% for m in messages %}<|im_start|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{% endfor %}"
)
GO = "{{ if .System }}[S]{{ .System }}{{ end }}[U]{{ .Prompt }}[A]"
GO_TOOLS = (
    "{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}[{{ .Role }}]{{ .Content }}"
    "{{ range .ToolCalls }}{{ .Function.Name }}{{ .Function.Arguments }}{{ end }}{{ end }}[A]"
)
LAYER = "application/vnd.ollama.image"
PULLED = {"layers": [{"mediaType": f"{LAYER}.model"}, {"mediaType": f"{LAYER}.template"}]}
MADE_HERE = {
    "layers": [
        {"mediaType": f"{LAYER}.model", "from": "/blobs/sha256-1"},
        {"mediaType": f"{LAYER}.template"},
    ]
}
COPIED = {
    "layers": [
        {"mediaType": f"{LAYER}.model", "from": "/blobs/sha256-1"},
        {"mediaType": f"{LAYER}.template", "from": "/blobs/sha256-2"},
        {"mediaType": f"{LAYER}.params"},
    ]
}


def describe(
    tmp_path: Path,
    *,
    go: str | None,
    jinja: str | None,
    name: str = "m",
    config: bytes | None = None,
    **manifest: Any,
) -> Description:
    metadata = {} if jinja is None else {"tokenizer.chat_template": jinja}
    contents = {"m.gguf": (FileRole.MODEL, write_gguf(metadata))}
    if go is not None:
        contents["template"] = (FileRole.TEMPLATE, go.encode())
    if manifest:
        raw = json.dumps(manifest).encode()
        contents["manifest.json"] = (FileRole.REGISTRY_MANIFEST, raw)
    if config is not None:
        contents["config.json"] = (FileRole.CONFIG, config)
    files = []
    for path, (role, data) in contents.items():
        (tmp_path / path).write_bytes(data)
        digest = "sha256:" + "0" * 64
        files.append(StoredFile(role=role, path=path, digest=digest, size_bytes=len(data)))
    return describe_model(files, lambda file: tmp_path / file.path, name=ModelName.parse(name))


@pytest.mark.parametrize(
    ("name", "go", "jinja", "manifest", "language"),
    [
        ("m", GO, None, {}, "go"),
        ("m", GO, JINJA, {}, "jinja"),
        ("m", GO, JINJA, PULLED, "jinja"),
        ("m", GO_TOOLS, JINJA, PULLED, "go"),
        ("m", GO, JINJA, MADE_HERE, "go"),
        ("m", GO, JINJA, COPIED, "jinja"),
        ("ollama.com/someone/m", GO, JINJA, PULLED, "go"),
        ("registry.example/ns/m", GO, JINJA, PULLED, "go"),
        ("hf.co/owner/m", GO, JINJA, PULLED, "jinja"),
        ("ollama.com/someone/m", "{{ if }}", JINJA, PULLED, "jinja"),
    ],
    ids=[
        "only Go",
        "Jinja is there",
        "of the library",
        "only Go shows tools",
        "TEMPLATE of this machine",
        "copied without a TEMPLATE",
        "of a user's account",
        "of a private registry",
        "of the hub",
        "of a user, broken",
    ],
)
def test_the_template_that_is_used(
    tmp_path: Path, name: str, go: str, jinja: str | None, manifest: Any, language: str
) -> None:
    found = describe(tmp_path, go=go, jinja=jinja, name=name, **manifest)

    assert found.template_language == language
    assert found.chat_template == (go if language == "go" else jinja)
    assert Capability.CHAT in found.capabilities


def test_a_go_template_with_tools_gives_the_model_tools(tmp_path: Path) -> None:
    found = describe(tmp_path, go=GO_TOOLS, jinja=None)

    assert Capability.TOOLS in found.capabilities
    assert (found.template_source, found.warnings) == ("ollama", ())


@pytest.mark.parametrize(
    ("go", "reason"),
    [
        ("{{ .Prompt }}", "writes nothing between the messages"),
        ("x\n{{ if .Prompt }}", "not valid Go, line 2: a block has no `end`"),
        ("[U]{{ .Prompt.Text }}", "it fails in line 1: a string has no field .Text"),
        ("[U]{{ .Question }}", "it leaves out the user's message"),
    ],
)
def test_a_go_template_that_does_not_work_leaves_only_completion(
    tmp_path: Path, go: str, reason: str
) -> None:
    found = describe(tmp_path, go=go, jinja=None)

    assert found.capabilities == (Capability.COMPLETION,)
    assert reason in found.warnings[0]


def test_a_broken_template_of_a_person_is_reported(tmp_path: Path) -> None:
    found = describe(tmp_path, go="{{ if }}", jinja=JINJA, name="ollama.com/someone/m")

    assert "not valid Go, line 1" in found.warnings[0]


def test_the_order_of_templates() -> None:
    jinja, go = Candidate("jinja", "gguf"), Candidate("go", "ollama", "go")

    known = order(jinja=jinja, go=go, is_own=False)
    own = order(jinja=jinja, go=go, is_own=True)

    assert [candidate.source for candidate in known] == ["jinja", "go"]
    assert [candidate.source for candidate in own] == ["go", "jinja"]
    assert (known[1].is_own, own[0].is_own) == (False, True)


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b'{"layers": 1}'])
def test_an_unreadable_manifest_says_nothing_about_the_template(manifest: bytes | None) -> None:
    assert not is_written_by_person(ModelName.parse("m"), manifest)


@pytest.mark.parametrize("go", [None, "{{ .Prompt }}"])
def test_a_model_with_only_the_name_of_an_unknown_renderer_says_where_to_get_another(
    tmp_path: Path, go: str | None
) -> None:
    found = describe(tmp_path, go=go, jinja=None, config=b'{"renderer": "tomorrow"}')

    assert found.capabilities == (Capability.COMPLETION,)
    assert "only in Ollama's program, under the name 'tomorrow'" in found.warnings[-1]


@pytest.mark.parametrize("name", ["m", "ollama.com/someone/m"])
@pytest.mark.parametrize("go", [None, "{{ .Prompt }}\n"])
def test_a_model_with_only_the_name_of_a_known_renderer_gets_our_template(
    tmp_path: Path, go: str | None, name: str
) -> None:
    config = b'{"renderer": "glm-4.7"}'
    found = describe(tmp_path, go=go, jinja=None, name=name, config=config)

    assert found.chat_template == find_template("glm-4.7")
    assert (found.template_language, found.template_source) == ("jinja", "renderer glm-4.7")
    assert set(found.capabilities) == {
        Capability.COMPLETION,
        Capability.CHAT,
        Capability.TOOLS,
        Capability.THINKING,
    }
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("go", "jinja", "name", "source"),
    [
        (GO, None, "m", "renderer glm-4.7"),
        (GO, None, "ollama.com/someone/m", "ollama"),
        (None, JINJA, "m", "renderer glm-4.7"),
        (None, JINJA_TOOLS, "m", "gguf"),
    ],
    ids=["Go of the library", "Go of a person", "Jinja without tools", "Jinja with tools"],
)
def test_our_template_comes_after_a_persons_and_the_makers(
    tmp_path: Path, go: str | None, jinja: str | None, name: str, source: str
) -> None:
    config = b'{"renderer": "glm-4.7"}'
    found = describe(tmp_path, go=go, jinja=jinja, name=name, config=config)

    assert found.template_source == source


@pytest.mark.parametrize("config", [b'{"renderer": "tomorrow"}', b"{", b'{"renderer": 3}', b"{}"])
def test_an_unknown_renderer_does_not_matter_where_a_template_is(
    tmp_path: Path, config: bytes
) -> None:
    assert describe(tmp_path, go=None, jinja=JINJA, config=config).warnings == ()
