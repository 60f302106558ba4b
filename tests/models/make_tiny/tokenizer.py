"""The tokenizer of the tiny model: byte-level BPE, trained on the text the model is taught."""

from __future__ import annotations

import asyncio
import collections
import email
import inspect
import json
import logging
import subprocess
import textwrap
import unittest
from collections.abc import Iterator
from types import ModuleType

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from tests.models.make_tiny import words
from tests.models.make_tiny.chat import SEARCH, TIME, WEATHER, tool_result
from tests.models.make_tiny.shape import CHAT_TEMPLATE, CONTROL, SPLIT, USER_DEFINED, VOCABULARY

# Modules whose docstrings serve as English text that every Python contains.
_ENGLISH = (asyncio, collections, email, json, logging, subprocess, textwrap, unittest)


def train_tokenizer() -> Tokenizer:
    """Train a tokenizer of VOCABULARY tokens: llama.cpp's `gpt2` with `qwen2` splitting."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL) - len(USER_DEFINED),
        show_progress=False,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*_taught_texts() * 6, *_english_texts()], trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in USER_DEFINED]
    )
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the text gives {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    return tokenizer


def _taught_texts() -> list[str]:
    spoken = [
        f"My name is {name}. Weather in {city}? Repeat: {word}"
        for name, city, word in zip(words.NAMES, words.CITIES, words.WORDS, strict=False)
    ]
    thoughts = [" ".join((question, *answers)) for question, answers in words.THOUGHTS.items()]
    phrases = [
        "It is sunny cloudy rainy windy in",
        "Nice to meet you, Your name is What is my name?",
    ]
    # Repeated so that each becomes one or two tokens, because names are copied token by token.
    copied = [
        f'{word} {word} "{word}"' for word in words.CITIES + words.NAMES + words.WORDS + words.SKIES
    ]
    return [
        *(CHAT_TEMPLATE, *words.FACTS, *words.FACTS.values(), *words.PASSAGES, *words.SYSTEMS),
        *(*spoken, *thoughts, *phrases, words.count_to(100)),
        json.dumps([WEATHER, TIME, SEARCH]),
        tool_result("Paris", "sunny", 21)["content"],
        *copied * 8,
    ]


def _english_texts() -> Iterator[str]:
    for module in _ENGLISH:
        yield (inspect.getdoc(module) or "")[:2000]
        yield from _docstrings(module)


def _docstrings(module: ModuleType) -> Iterator[str]:
    for _, thing in sorted(vars(module).items(), key=lambda item: item[0]):
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield (inspect.getdoc(thing) or "")[:2000]
