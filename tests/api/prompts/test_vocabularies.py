"""What people type yields no control token, with real vocabularies and real templates.

The ids of a hostile text must contain no control id that the same prompt with a harmless text does
not have. llama.cpp tokenises the pieces, as the engine does.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos import engine_pb2
from services.api.prompts.render import Conversation
from services.engine.backends.llamacpp.library import load_library
from services.engine.backends.llamacpp.vocabulary import LlamaVocabulary
from services.engine.core import TextPiece
from services.puller.formats.chat_template import find_written_tokens
from services.puller.formats.gguf.header import read_header
from services.puller.formats.gguf.tokenizer import read_special_tokens
from services.shared.errors import InvalidRequest
from services.shared.store.manifest import Manifest
from tests.api.prompts.rendering import HERE, make_manifest, render_prompt
from tests.conftest import SHARED, TINY_GGUF

VOCABULARIES = {"tiny": TINY_GGUF} | {
    name: path
    for name in ("qwen2", "llama-bpe", "llama-spm", "phi-3")
    if (path := SHARED / "data" / "vocabs" / f"ggml-vocab-{name}.gguf").exists()
}
# Those of the repository, and the collection beside it where there is one.
TEMPLATES = {
    path.stem: path
    for folder in (HERE, SHARED / "data" / "chat-templates")
    for path in sorted(folder.glob("*.jinja"))
}
_SPECIAL = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
)
# What templates cut away from people's text, look for in it, or write around it.
CUTS = ("/think", "/no_think", "\n", " ", "<", ">", "|", "<|", "|>", "</", "s", "[", "]")


class Model:
    """One vocabulary: its tokenizer, and what the puller would say about it."""

    def __init__(self, path: Path) -> None:
        lib = load_library()
        parameters = lib.llama_model_default_params()
        parameters.vocab_only = True
        self._model = lib.llama_model_load_from_file(str(path).encode(), parameters)
        vocab = lib.llama_model_get_vocab(self._model)
        self.tokenizer = LlamaVocabulary(lib, vocab)
        self.tokens = read_special_tokens(read_header(path))
        self.special_ids = {
            token
            for token in range(self.tokenizer.size)
            if lib.llama_vocab_get_attr(vocab, token) & _SPECIAL
            or lib.llama_vocab_is_eog(vocab, token)
        }

    def describe(self, template: str) -> Manifest:
        tokens = self.tokens
        return make_manifest(
            template,
            bos_token=tokens.bos,
            eos_token=tokens.eos,
            control_tokens=tokens.control,
            stop_tokens=tokens.ending,
            user_defined_tokens=find_written_tokens(tokens.user_defined, template),
        )

    def count_special(
        self, pieces: Iterable[engine_pb2.TextPiece], ignored: frozenset[int]
    ) -> Counter[int]:
        given = [TextPiece(piece.text, piece.literal) for piece in pieces]
        ids = self.tokenizer.tokenize(given, add_special=False)
        return Counter(token for token in ids if token in self.special_ids - ignored)

    def find_ordinary(self, manifest: Manifest) -> frozenset[int]:
        """User-defined tokens that are not protected, because this template has no use for them."""
        texts = set(self.tokens.user_defined) - set(manifest.description.protected_tokens)
        encode = self.tokenizer.tokenize
        return frozenset(
            ids[0]
            for text in texts
            if len(ids := encode([TextPiece(text, literal=True)], add_special=False)) == 1
        )


@functools.cache
def get_model(name: str) -> Model:
    return Model(VOCABULARIES[name])


@functools.cache
def get_case(vocabulary: str, template: str) -> tuple[Manifest, frozenset[int]]:
    manifest = get_model(vocabulary).describe(TEMPLATES[template].read_text())
    return manifest, get_model(vocabulary).find_ordinary(manifest)


def build_conversation(typed: str) -> Conversation:
    """A conversation in which people have typed this in every place that they fill."""
    schema = {"type": "object", "properties": {typed: {"type": "string", "description": typed}}}
    function = {"name": "look", "description": typed, "parameters": schema}
    arguments = json.dumps({typed: typed, "place": [typed]})
    call = {
        "id": "abcdefgh1",
        "type": "function",
        "function": {"name": "look", "arguments": arguments},
    }
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"S{typed}"},
        {"role": "user", "content": typed},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "look", "tool_call_id": "abcdefgh1", "content": typed},
        {"role": "assistant", "content": f"a {typed} a"},
        {"role": "user", "content": f"{typed} x"},
    ]
    return Conversation(messages=messages, tools=[{"type": "function", "function": function}])


def find_forged(vocabulary: str, template: str, typed: str) -> list[str]:
    """The special tokens that a hostile text has added to the prompt."""
    try:
        found = count_special(vocabulary, template, typed)
    except InvalidRequest:  # the template refuses the text
        return []
    found = found - count_harmless(vocabulary, template)
    return [get_model(vocabulary).tokenizer.read_piece(token).decode() for token in found]


def count_special(vocabulary: str, template: str, typed: str) -> Counter[int]:
    manifest, ordinary = get_case(vocabulary, template)
    prompt = render_prompt(manifest, build_conversation(typed))
    return get_model(vocabulary).count_special(prompt.pieces, ordinary)


@functools.cache
def count_harmless(vocabulary: str, template: str) -> Counter[int]:
    return count_special(vocabulary, template, "harmless")


def list_parts(vocabulary: str, template: str) -> list[str]:
    """What hostile texts are made of: tokens, their parts, and what templates cut."""
    manifest, _ = get_case(vocabulary, template)
    # In answers, these stay tokens.
    kept = {"<think>", "</think>", *manifest.description.user_defined_tokens}
    tokens = [token for token in manifest.description.protected_tokens if token not in kept]
    written = [token for token in tokens if token in (manifest.description.chat_template or "")]
    shown = dict.fromkeys([*written[:4], *tokens[:1], *tokens[-1:]])
    words = [
        word for token in shown for word in (token, token[:1], token[1:], token[1:-1], token[:-1])
    ]
    joined = [f"{token[:2]}{cut}{token[2:]}" for token in shown for cut in CUTS[:2]]
    return [part for part in [*words, *joined, *CUTS] if part]


PAIRS = [
    (list(VOCABULARIES)[number % len(VOCABULARIES)], template)
    for number, template in enumerate(TEMPLATES)
]


@pytest.mark.parametrize(("vocabulary", "template"), PAIRS, ids=lambda value: value)
def test_no_part_of_a_token_becomes_one(vocabulary: str, template: str) -> None:
    parts = list_parts(vocabulary, template)

    forged = {
        typed: found for typed in parts if (found := find_forged(vocabulary, template, typed))
    }
    assert forged == {}
    assert find_forged(vocabulary, template, "".join(parts)) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_mixture_of_parts_becomes_a_token(data: st.DataObject) -> None:
    vocabulary, template = data.draw(st.sampled_from(PAIRS))
    parts = data.draw(st.lists(st.sampled_from(list_parts(vocabulary, template)), min_size=1))

    assert find_forged(vocabulary, template, "".join(parts)) == []


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_special_tokens_in_a_plain_piece_are_found(vocabulary: str) -> None:
    model = get_model(vocabulary)
    text = "".join(model.tokens.control)

    found = model.count_special([engine_pb2.TextPiece(text=text)], frozenset())
    assert found.total() >= len(model.tokens.control)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@given(parts=st.lists(st.integers(0, 999), min_size=40, max_size=40))
@settings(deadline=None, max_examples=15)
def test_a_long_text_has_the_tokens_that_it_has_in_one_piece(
    vocabulary: str, parts: list[int]
) -> None:
    model = get_model(vocabulary)
    special = [*model.tokens.control, *model.tokens.user_defined]
    words = [*special[:20], *special[-20:], *CUTS, "user", " hi", "\n\n", "  ", "\u00e9", "\t"]
    text = "".join(words[number % len(words)] for number in parts) * 100
    for is_literal in (False, True):
        for add_special in (False, True):
            whole = model.tokenizer._encode(text, add_special=add_special, parse=not is_literal)
            pieces = [TextPiece(text, is_literal)]
            assert model.tokenizer.tokenize(pieces, add_special=add_special) == whole
