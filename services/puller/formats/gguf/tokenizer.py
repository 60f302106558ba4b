"""Read the special tokens of a GGUF: control, user-defined and ending tokens, BOS and EOS.

This follows llama-vocab.cpp, which adds to the metadata of the file: tokens with certain texts end
a generation in every model that has them, and some pre-tokenizers add BOS by default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.puller.formats.gguf.header import GgufHeader
from services.puller.formats.gguf.types import TokenType
from services.shared.errors import InvalidModelFile

# special_eog_ids of llama-vocab.cpp, without the fill-in-the-middle tokens; tested with llama.cpp.
_ENDING_TEXTS = frozenset(
    {
        "<EOT>",
        "_<EOT>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|calls|>",
        "<|call|>",
        "<|end_of_text|>",
        "<|end|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|flush|>",
        "<|im_end|>",
        "<|return|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",  # noqa: RUF001  DeepSeek's own characters
        "[EOS]",
        "[EOT]",
        "</s>",
    }
)
_BOS_BY_DEFAULT = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    | {"tekken", "chameleon"}
)
# A real vocabulary has at most a few thousand (Gemma's unused ones); more is malicious.
_MAX_CONTROL_TOKENS = 16384
_MAX_CONTROL_CHARACTERS = 256 << 10  # of all of them; Gemma has 75 thousand
_MAX_USER_DEFINED_TOKENS = 65536  # models of speech have tens of thousands
_MAX_CONTROL_TEXT = 256  # characters


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens, as texts."""

    count: int
    bos: str | None
    eos: str | None
    add_bos: bool
    control: tuple[str, ...]  # recognised where control tokens are
    user_defined: tuple[str, ...]  # recognised in any text
    ending: tuple[str, ...]


def read_special_tokens(header: GgufHeader) -> SpecialTokens:
    """Read the special tokens of a header that passed `check_tokenizer`."""
    texts = header.strings("tokenizer.ggml.tokens") or ()
    # A file without a vocabulary (`no_vocab`) may have kinds and ids of tokens all the same.
    kinds = (header.numbers("tokenizer.ggml.token_type") or ())[: len(texts)]
    # llama.cpp looks for the text of an unknown token (`<unk>`) wherever it does for control tokens.
    control = {i for i, k in enumerate(kinds) if k in (TokenType.CONTROL, TokenType.UNKNOWN)}
    user_defined = {i for i, kind in enumerate(kinds) if kind == TokenType.USER_DEFINED}
    if len(control) > _MAX_CONTROL_TOKENS or len(user_defined) > _MAX_USER_DEFINED_TOKENS:
        raise InvalidModelFile("the tokenizer declares more control tokens than any real one")
    control_texts = {text for i in control if 0 < len(text := texts[i]) <= _MAX_CONTROL_TEXT}
    if sum(map(len, control_texts)) > _MAX_CONTROL_CHARACTERS:
        raise InvalidModelFile("the tokenizer declares longer control tokens than any real one")
    named: dict[str, str] = {}
    for role in ("bos", "eos", "eot", "eom"):
        index = header.integer(f"tokenizer.ggml.{role}_token_id")
        if index is not None and 0 <= index < len(texts):
            named[role] = texts[index]
    ending = {text for text in texts if text in _ENDING_TEXTS}
    ending |= {named[role] for role in ("eos", "eot", "eom") if role in named}
    # In gpt-oss, <|end|> ends a channel, not the answer.
    if {"<|return|>", "<|call|>"} <= ending or {"<|calls|>", "<|flush|>"} <= ending:
        ending.discard("<|end|>")
    return SpecialTokens(
        count=len(texts),
        bos=named.get("bos"),
        eos=named.get("eos"),
        add_bos=_adds_bos(header),
        control=_sorted(control_texts),
        user_defined=_sorted(
            t for i in user_defined if 0 < len(t := texts[i]) <= _MAX_CONTROL_TEXT
        ),
        ending=_sorted(ending),
    )


def check_tokenizer(header: GgufHeader) -> None:
    """Raise InvalidModelFile when llama.cpp could not build the vocabulary."""
    model = header.text("tokenizer.ggml.model")
    tokens = header.strings("tokenizer.ggml.tokens")
    if model is None or not tokens:
        raise InvalidModelFile("the tokenizer is incomplete: the file has no vocabulary")
    for key in ("token_type", "scores"):
        numbers = header.numbers(f"tokenizer.ggml.{key}")
        if numbers is not None and len(numbers) != len(tokens):
            raise InvalidModelFile(f"the tokenizer is damaged: {key} and tokens differ in number")
    if model == "gpt2" and not header.strings("tokenizer.ggml.merges"):
        raise InvalidModelFile("the tokenizer is incomplete: a BPE vocabulary without merges")
    if model == "llama" and header.numbers("tokenizer.ggml.scores") is None:
        raise InvalidModelFile("the tokenizer is incomplete: an SPM vocabulary without scores")
    for role in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        index = header.integer(f"tokenizer.ggml.{role}_token_id")
        if index is not None and not 0 <= index < len(tokens):
            raise InvalidModelFile(f"the tokenizer is damaged: its {role} token does not exist")


def _adds_bos(header: GgufHeader) -> bool:
    add_bos = header.flag("tokenizer.ggml.add_bos_token")
    if add_bos is not None:
        return add_bos
    model = header.text("tokenizer.ggml.model")
    return model in ("llama", "bert") or header.text("tokenizer.ggml.pre") in _BOS_BY_DEFAULT


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    # Longest first: a search in a text must not stop at a prefix of another token.
    return tuple(sorted(set(texts), key=lambda t: (-len(t), t)))
