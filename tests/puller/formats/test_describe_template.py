"""A model's template is tried before the model is listed, and its tokens are protected."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from services.puller.formats.describe import describe_model
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import Description, FileRole, StoredFile
from tests.puller.formats.gguf.writer import write_gguf

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
GREEDY = "{{ ([0] * 1000000000) | length }}" + CHATML
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + CHATML


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param(
            GREEDY,
            "the model's chat template needs more than 256 MiB of memory",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="macOS limits no memory"),
        ),
        (ENDLESS, "the model's chat template takes more than 2 s of processor time"),
    ],
    ids=["greedy", "endless"],
)
def test_a_model_whose_template_exceeds_its_limits_is_refused(
    tmp_path: Path, template: str, reason: str
) -> None:
    with pytest.raises(InvalidModelFile) as caught:
        describe(tmp_path, {"tokenizer.chat_template": template})

    assert caught.value.message == reason


def test_user_defined_tokens_that_the_template_writes_are_protected(tmp_path: Path) -> None:
    tokens = ["<|im_start|>", "<table>", "user", "  "]
    found = describe(
        tmp_path,
        {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [4, 4, 4, 4],
            "tokenizer.chat_template": CHATML + "{# user #}{{ '  ' }}",
        },
    )

    assert found.user_defined_tokens == ("<|im_start|>",)
    assert "<|im_start|>" in found.protected_tokens


def test_tokens_of_every_special_kind_are_protected(tmp_path: Path) -> None:
    tokens = ["<unk>", "<bos>", "<mark>", "</s>"]
    found = describe(
        tmp_path,
        {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [2, 1, 3, 1],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.chat_template": CHATML,
        },
    )

    assert set(found.protected_tokens) >= {"<unk>", "<bos>", "<mark>", "</s>"}


def test_control_tokens_longer_than_any_real_ones_are_refused(tmp_path: Path) -> None:
    tokens = [f"<{number:0254}>" for number in range(1025)]
    with pytest.raises(InvalidModelFile, match="longer control tokens than any real one"):
        describe(
            tmp_path,
            {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [3] * len(tokens)},
        )


def describe(tmp_path: Path, changes: dict[str, Any]) -> Description:
    path = tmp_path / "m.gguf"
    path.write_bytes(write_gguf(changes))
    file = StoredFile(
        role=FileRole.MODEL, path=path.name, digest="sha256:" + "0" * 64, size_bytes=1
    )
    return describe_model([file], lambda _: path)
