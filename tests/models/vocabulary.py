"""Vocabularies of synthetic models: copied from a GGUF, or generated in a given size.

A generated vocabulary is a working byte-level BPE with the `qwen2` pre-tokeniser. Tokenising and
detokenising returns any text unchanged, lower-case words have about three letters per token, and
tokenising costs as much as with a trained vocabulary of that size. The last tokens are the control
tokens of a ChatML template.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter, TokenType

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
INFILL = ("pre", "suf", "mid")
PADDING = CONTROL[0]
END_OF_TURN = CONTROL[2]
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SPACE = "Ġ"  # stands for a space in byte-level BPE


@dataclass(frozen=True, slots=True)
class Entry:
    """One `tokenizer.*` key of a GGUF."""

    key: str
    value: Any
    type: GGUFValueType
    item_type: GGUFValueType | None = None


def write(writer: GGUFWriter, entries: list[Entry]) -> None:
    """Write the vocabulary to a GGUF."""
    for entry in entries:
        writer.add_key_value(entry.key, entry.value, entry.type, sub_type=entry.item_type)


def size(entries: list[Entry]) -> int:
    """The number of tokens in the vocabulary."""
    return next(len(entry.value) for entry in entries if entry.key == "tokenizer.ggml.tokens")


def read(path: Path) -> list[Entry]:
    """Read the vocabulary of another GGUF, which may be vocabulary-only."""
    fields = GGUFReader(path).fields
    return [
        Entry(key, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
        for key, field in fields.items()
        if key.startswith("tokenizer.")
    ]


def generate(vocab_size: int, *, has_infill: bool = False) -> list[Entry]:
    """Generate the vocabulary of exactly this size, from 260 to about 900 000 tokens.

    `has_infill`: its last merges are also the tokens to fill in a text.
    """
    alphabet = list(byte_alphabet())
    count = vocab_size - len(alphabet) - len(CONTROL)
    merges = list(islice(_merges(), max(count, 0)))
    if count < 1 or len(merges) < count:
        raise ValueError(f"no generated vocabulary has {vocab_size} tokens")
    tokens = alphabet + [left + right for left, right in merges] + list(CONTROL)
    kinds = [TokenType.NORMAL] * (vocab_size - len(CONTROL)) + [TokenType.CONTROL] * len(CONTROL)
    text, number, array = GGUFValueType.STRING, GGUFValueType.UINT32, GGUFValueType.ARRAY
    key = "tokenizer.ggml."
    return [
        Entry(key + "model", "gpt2", text),
        Entry(key + "pre", "qwen2", text),
        Entry(key + "tokens", tokens, array, text),
        Entry(key + "token_type", [int(kind) for kind in kinds], array, GGUFValueType.INT32),
        Entry(key + "merges", [f"{left} {right}" for left, right in merges], array, text),
        Entry(key + "bos_token_id", tokens.index(PADDING), number),
        Entry(key + "eos_token_id", tokens.index(END_OF_TURN), number),
        Entry(key + "padding_token_id", tokens.index(PADDING), number),
        Entry(key + "add_bos_token", False, GGUFValueType.BOOL),
        Entry("tokenizer.chat_template", CHAT_TEMPLATE, text),
        *(
            Entry(f"{key}fim_{name}_token_id", vocab_size - len(CONTROL) - 1 - place, number)
            for place, name in enumerate(INFILL)
            if has_infill
        ),
    ]


def byte_alphabet() -> Iterator[str]:
    """Yield the 256 characters that stand for bytes in byte-level BPE, as defined by GPT-2."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    free = 256
    for byte in range(256):
        if byte in printable:
            yield chr(byte)
        else:
            yield chr(free)
            free += 1


def _merges() -> Iterator[tuple[str, str]]:
    """Yield merges in order of rank; each one makes a new token out of two existing tokens."""
    pairs = [left + right for left, right in product(ascii_lowercase, repeat=2)]
    yield from ((SPACE, letter) for letter in ascii_lowercase)
    yield from product(ascii_lowercase, repeat=2)
    yield from ((SPACE, pair) for pair in pairs)
    # Four letters come last, up to 456 976 of each kind: only large vocabularies have them.
    for left, right in product(pairs, repeat=2):
        yield left, right
        yield SPACE + left, right
