"""How long an idle sequence is worth its cells.

On a processor a cell costs every row of every step a look at its mask, used or not: 6 144 idle cells
made steps 11 to 16 % longer (1 to 16 rows, Qwen2.5-0.5B shape), 0.3 to 0.4 µs a cell and row. To
compute one token again takes 8 500 µs. So by the time `WORTH_ROWS` rows were computed beside an idle
sequence, it has cost what computing it again would, whatever its length; and it is computed again only
if somebody asks for it. A sequence stays for the rows that its chance of being asked for is worth.
The chance is learned for each principal, and there apart for sequences that go on with an earlier one:
who chats uses what was computed before, who sends a thousand prompts of a batch does not, and where
one key does both the chat's turns are told from the batch.
"""

from __future__ import annotations

from collections import OrderedDict

WORTH_ROWS = 28_000

_REMEMBERED = 64  # sequences; older ones count less and less
_MOST_HABITS = 1024

Habit = tuple[str, bool]  # the principal; whether the sequence goes on with an earlier one


class Reuse:
    """What share of the sequences of each kind is used again after it became idle."""

    def __init__(self) -> None:
        self._books: OrderedDict[Habit, tuple[float, float]] = OrderedDict()  # left, used again

    def left(self, habit: Habit) -> None:
        """A sequence of this kind became idle."""
        left, used = self._of(habit)
        fade = 1 - 1 / _REMEMBERED
        self._put(habit, left * fade + 1, used * fade)

    def used(self, habit: Habit, share: float) -> None:
        """A request began with this share, 0 to 1, of an idle sequence of this kind."""
        left, used = self._of(habit)
        self._put(habit, left, used + share)

    def chance(self, habit: Habit) -> float:
        """That such a sequence is used again; one half before anything is known."""
        left, used = self._of(habit)
        return min((used + 1) / (left + 2), 1.0)

    def _of(self, habit: Habit) -> tuple[float, float]:
        return self._books.get(habit, (0.0, 0.0))

    def _put(self, habit: Habit, left: float, used: float) -> None:
        self._books[habit] = (left, used)
        self._books.move_to_end(habit)
        if len(self._books) > _MOST_HABITS:
            self._books.popitem(last=False)
