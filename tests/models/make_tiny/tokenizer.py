"""The tiny model's tokenizer: byte-level BPE, trained on what the model is taught."""

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

# Their docstrings are plain English that every Python brings along.
_ENGLISH = (asyncio, collections, email, json, logging, subprocess, textwrap, unittest)


def train_tokenizer() -> Tokenizer:
    """A tokenizer of exactly VOCABULARY tokens, llama.cpp's `gpt2` model with `qwen2` splitting."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL) - len(USER_DEFINED),
        show_progress=False,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator([*_taught() * 6, *_english()], trainer)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in USER_DEFINED])
    if made.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the text gives {made.get_vocab_size()} tokens, not {VOCABULARY}")
    return made


def _taught() -> list[str]:
    spoken = [
        f"My name is {name}. Weather in {city}? Repeat: {word}"
        for name, city, word in zip(words.NAMES, words.CITIES, words.WORDS, strict=False)
    ]
    thoughts = [" ".join((asked, *answered)) for asked, answered in words.THOUGHTS.items()]
    phrases = [
        "It is sunny cloudy rainy windy in",
        "Nice to meet you, Your name is What is my name?",
    ]
    # Repeated until each becomes one token or two: names are copied token by token.
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


def _english() -> Iterator[str]:
    for module in _ENGLISH:
        yield (inspect.getdoc(module) or "")[:2000]
        yield from _docstrings(module)


def _docstrings(module: ModuleType) -> Iterator[str]:
    for _, thing in sorted(vars(module).items(), key=lambda item: item[0]):
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield (inspect.getdoc(thing) or "")[:2000]
