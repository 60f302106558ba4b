"""Draft the next tokens by looking up what followed the same tokens earlier (prompt lookup).

Pure: no clock, no model. Answers that quote their prompt (code edits, summaries, extraction) repeat
long stretches of it, and a stretch that is decoded as one batch costs little more than one token. A
draft does not change the text: the step sampler samples every position itself, and keeps only the
tokens that agree.

Source of the idea: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NGRAM = 3  # tokens that must agree before a continuation is proposed
_FIRST_DRAFT = 2  # tokens; doubled after a draft that is accepted as a whole, halved otherwise
_MAX_CREDIT = 8.0  # steps that good drafts have saved, and bad ones may lose again
_MIN_CREDIT = -0.5
_FIRST_PAUSE = 16  # tokens without drafts after the credit is used up; doubled each time
_LONG_DRAFT = 4  # a draft of so many tokens that is accepted as a whole ends the doubling
_MAX_PAUSE = 1024
_MIN_SORTED = 256  # tokens from which on building a sorted index is faster than a dictionary


class PromptLookup:
    """The drafts of one answer. Pauses while they cost more than they save, then tries again."""

    def __init__(self) -> None:
        self._sorted = _SortedIndex(np.empty(0, np.int64))
        self._recent: dict[tuple[int, ...], int] = {}
        self._indexed = 0  # tokens whose n-grams are in one of the two indexes
        self._length = _FIRST_DRAFT
        self._min_acceptance = 1.0
        self._credit = 0.0  # steps saved by accepted tokens, less what drafted rows cost
        self._pause = _FIRST_PAUSE
        self._resume_at = 0  # tokens that the text must have before the next draft

    def propose(
        self, tokens: Sequence[int], limit: int, *, min_acceptance: float = 0.5
    ) -> list[int]:
        """Up to `limit` tokens that may follow; empty when there is no match, or during a pause.

        `tokens` is the prompt and the answer so far; between calls tokens may only be appended.
        `min_acceptance` is the accepted part from which drafting is faster (draft_costs.py).
        """
        self._min_acceptance = min_acceptance
        if limit <= 0 or len(tokens) < max(self._resume_at, _NGRAM + 1):
            return []
        self._index(tokens)
        end = self._find_continuation(tokens)
        if end is None:
            return []
        wanted = min(limit, self._length)
        draft = list(tokens[end : end + wanted])
        period = len(tokens) - end
        while len(draft) < wanted:  # the text repeats itself, so the draft does too
            draft.append(draft[-period])
        return draft

    def observe(self, proposed: int, accepted: int) -> None:
        """Record that `accepted` tokens of a draft of `proposed` tokens were accepted."""
        if proposed == 0:
            return
        saved = accepted - self._min_acceptance * proposed
        self._credit = min(self._credit + saved, _MAX_CREDIT)
        if accepted == proposed:
            self._length = self._length * 2
            if proposed >= _LONG_DRAFT:
                self._pause = _FIRST_PAUSE
        else:
            self._length = max(self._length // 2, accepted, 1)
        if self._credit < _MIN_CREDIT:
            self._resume_at = self._indexed + self._pause
            self._pause = min(2 * self._pause, _MAX_PAUSE)
            self._credit = 0.0
            self._length = _FIRST_DRAFT

    def _find_continuation(self, tokens: Sequence[int]) -> int | None:
        """Where the text continued after the latest earlier place with the same last tokens."""
        tail = tuple(tokens[-_NGRAM:])
        end = self._recent.get(tail)
        return end if end is not None else self._sorted.find(tail, tokens)

    def _index(self, tokens: Sequence[int]) -> None:
        # The n-gram at the very end has no continuation yet, so it is not indexed.
        last = len(tokens) - 1
        if last - self._indexed >= _MIN_SORTED and not self._recent:
            self._sorted = _SortedIndex(np.asarray(tokens[:last], np.int64))
        else:
            for end in range(max(self._indexed + 1, _NGRAM), last + 1):
                self._recent[tuple(tokens[end - _NGRAM : end])] = end
        self._indexed = last


class _SortedIndex:
    """The n-grams of a long text, sorted by hash: 16 bytes per token; a dictionary takes 200."""

    def __init__(self, tokens: NDArray[np.int64]) -> None:
        hashes = _compute_hashes(tokens)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._ends = order + _NGRAM

    def find(self, tail: tuple[int, ...], tokens: Sequence[int]) -> int | None:
        """The end of the last occurrence of `tail`."""
        key = _compute_hashes(np.asarray(tail, np.int64))[0]
        position = int(np.searchsorted(self._hashes, key, side="right")) - 1
        if position < 0 or self._hashes[position] != key:
            return None
        end = int(self._ends[position])
        # Equal hashes need not mean equal tokens; a rare collision costs a draft, not the answer.
        return end if tuple(tokens[end - _NGRAM : end]) == tail else None


def _compute_hashes(tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
    count = max(len(tokens) - _NGRAM + 1, 0)
    result = np.zeros(count, np.uint64)
    for offset in range(_NGRAM):
        result *= np.uint64(0x9E3779B97F4A7C15)
        result += tokens[offset : offset + count].astype(np.uint64)
        result ^= result >> np.uint64(29)
    return result
