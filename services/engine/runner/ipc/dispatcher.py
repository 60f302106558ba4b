"""Dispatch commands from the front: prepare them for the loop, or answer them directly."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.engine.messages.commands import (
    Cancel,
    Command,
    Detokenize,
    Embed,
    Locate,
    Start,
    Stop,
    Submit,
    Tokenize,
)
from services.engine.messages.reports import Detokenized, Embedded, Failed, Located, Tokenized
from services.engine.queue_shares import has_place
from services.engine.runner.embedding.embedding_processor import (
    EmbeddingProcessor,
    PreparedEmbedding,
    count_characters,
)
from services.engine.runner.ipc.command_queue import CommandQueue
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import InputProcessor, PreparedRequest
from services.shared.errors import EngineBusy, SpindllError, to_wire

_THREADS = 2  # one long preparation does not delay all others
_QUICK_LENGTH = 16 << 10  # characters, which take 10 ms to tokenize, or tokens
_MAX_LENGTH = 256 << 20  # of all prompts in preparation together

_Work = Submit | Tokenize | Detokenize | Locate | Embed


@dataclass(frozen=True, slots=True, eq=False)
class _Preparation:
    """A command that another thread prepares."""

    command: _Work
    arrived_at: float  # on the monotonic clock
    length: int

    @property
    def principal(self) -> str:
        """Who takes turns with others; what is asked without one shares one turn."""
        return self.command.principal


class Dispatcher:
    """Handles commands on the reading thread; those that need the model wait until it is loaded.

    What takes long to prepare is prepared on other threads, so that Cancel, Stop and short requests
    pass it: a constraint, for the first of which llguidance builds its tokenizer; DRY, for which
    all tokens are read once; and a long text, which takes 0.6 s per megabyte. Principals take turns
    there. At most `max_queued` such requests, by the shares of queue_shares.py, with `max_length`
    characters may be in preparation; further ones fail with EngineBusy. A Cancel is queued behind
    its request, and a Stop behind all that came before it.
    """

    def __init__(
        self,
        command_queue: CommandQueue,
        report_writer: ReportWriter,
        *,
        max_queued: int,
        max_length: int = _MAX_LENGTH,
        threads: int = _THREADS,
    ) -> None:
        self._command_queue = command_queue
        self._report_writer = report_writer
        self._max_queued = max_queued
        self._max_length = max_length
        self._input_processor: InputProcessor | None = None
        self._embedding_processor: EmbeddingProcessor | None = None
        self._opened = threading.Event()
        self._in_use = threading.Lock()  # held while the reading thread handles a command
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="preparation")
        self._order = threading.Lock()  # guards all below, and what is queued because of them
        self._in_preparation: set[_Preparation] = set()
        # Those of them that no thread has begun, by principal; the one whose turn is next is first.
        self._waiting: dict[str, deque[_Preparation]] = {}
        self._held_back: list[tuple[set[_Preparation], Cancel | Stop]] = []

    def open(
        self,
        input_processor: InputProcessor,
        embedding_processor: EmbeddingProcessor | None = None,
    ) -> None:
        """The model is loaded: accept requests."""
        self._embedding_processor = embedding_processor
        self._input_processor = input_processor
        self._opened.set()

    def close(self) -> None:
        """Stop accepting requests; returns when no thread reads the model's vocabulary any more."""
        with self._in_use:
            self._input_processor = None
            self._executor.shutdown(cancel_futures=True)
            with self._order:
                self._waiting.clear()
                self._in_preparation.clear()
                self._held_back.clear()

    def dispatch(self, command: Command) -> None:
        """Pass the command on to the loop, or handle it here."""
        if isinstance(command, Start):
            raise ValueError("a runner loads one model, once")
        if isinstance(command, _Work):
            self._opened.wait()
        with self._in_use:
            if isinstance(command, Cancel):
                self._cancel(command)
            elif isinstance(command, Stop):
                with self._order:
                    self._hold_back(command, set(self._in_preparation))
            elif self._input_processor is not None:  # else the process is ending
                self._handle(self._input_processor, command)

    def _handle(self, input_processor: InputProcessor, command: _Work) -> None:
        preparation = _Preparation(command, time.monotonic(), _measure(command))
        if _is_quick(preparation):
            self._prepare(input_processor, preparation)
            return
        with self._order:
            has_room = (
                self._has_place(preparation.principal)
                and sum(other.length for other in self._in_preparation) < self._max_length
            )
            if has_room:
                self._in_preparation.add(preparation)
                self._waiting.setdefault(preparation.principal, deque()).append(preparation)
                self._executor.submit(self._prepare_next, input_processor)
        if not has_room:
            error = EngineBusy("too many requests are waiting already, try again later")
            self._fail(command, error)

    def _has_place(self, principal: str) -> bool:
        waiting = (other.principal for other in self._in_preparation)
        return has_place(principal, 1, waiting, limit=self._max_queued)

    def _prepare_next(self, input_processor: InputProcessor) -> None:
        """Prepare the command whose turn it is: principals take turns."""
        with self._order:
            if not self._waiting:  # the process is ending
                return
            principal, commands = next(iter(self._waiting.items()))
            preparation = commands.popleft()
            del self._waiting[principal]
            if commands:
                self._waiting[principal] = commands  # behind the others
        self._prepare(input_processor, preparation)

    def _prepare(self, input_processor: InputProcessor, preparation: _Preparation) -> None:
        """Prepare a command and queue it; then what was held back until then."""
        command = preparation.command
        if isinstance(command, Tokenize):
            self._report_writer.send(input_processor.tokenize(command))
        elif isinstance(command, Detokenize):
            self._report_writer.send(input_processor.detokenize(command))
        elif isinstance(command, Locate):
            self._report_writer.send(input_processor.locate(command))
        else:
            try:
                self._command_queue.put(self._build(input_processor, command, preparation))
            except SpindllError as error:
                self._fail(command, error)
        with self._order:
            self._release(preparation)

    def _release(self, preparation: _Preparation) -> None:
        """Queue what was held back until this is prepared. `_order` is held."""
        self._in_preparation.discard(preparation)
        held_back, self._held_back = self._held_back, []
        for behind, later in held_back:
            self._hold_back(later, behind - {preparation})

    def _build(
        self,
        input_processor: InputProcessor,
        command: Submit | Embed,
        preparation: _Preparation,
    ) -> PreparedRequest | PreparedEmbedding:
        if isinstance(command, Submit):
            return input_processor.prepare(command, arrived_at=preparation.arrived_at)
        assert self._embedding_processor is not None
        return self._embedding_processor.prepare(command)

    def _cancel(self, cancel: Cancel) -> None:
        """Queue a Cancel for the loop: for each request in preparation, behind that request."""
        with self._order:
            preparing = {
                preparation.command.id: preparation
                for preparation in self._in_preparation
                if isinstance(preparation.command, Submit | Embed)
            }
            for id_ in preparing.keys() & cancel.ids:
                if not self._withdraw(preparing[id_]):
                    self._hold_back(Cancel((id_,)), {preparing[id_]})
            others = tuple(id_ for id_ in cancel.ids if id_ not in preparing)
        if others:
            self._command_queue.put(Cancel(others))

    def _withdraw(self, preparation: _Preparation) -> bool:
        """Forget texts to embed that no thread has begun; whether it did. `_order` is held.

        Only the loop can report the end of a prompt.
        """
        waiting = self._waiting.get(preparation.principal, deque())
        if not isinstance(preparation.command, Embed) or preparation not in waiting:
            return False
        waiting.remove(preparation)
        if not waiting:
            del self._waiting[preparation.principal]
        self._release(preparation)
        return True

    def _hold_back(self, command: Cancel | Stop, behind: set[_Preparation]) -> None:
        """Queue a command when `behind` are done, which may be now. `_order` is held."""
        if behind:
            self._held_back.append((behind, command))
        else:
            self._command_queue.put(command)

    def _fail(self, command: _Work, error: SpindllError) -> None:
        if isinstance(command, Tokenize):
            self._report_writer.send(Tokenized(command.id, error=to_wire(error)))
        elif isinstance(command, Detokenize):
            self._report_writer.send(Detokenized(command.id, error=to_wire(error)))
        elif isinstance(command, Locate):
            self._report_writer.send(Located(command.id, error=to_wire(error)))
        elif isinstance(command, Embed):
            self._report_writer.send(Embedded(command.id, error=to_wire(error)))
        else:
            self._report_writer.post([Failed(command.id, to_wire(error))])


def _measure(command: _Work) -> int:
    """The length of a prompt or of all texts, in characters or tokens."""
    if isinstance(command, Embed):
        return count_characters(command.inputs) + len(command.query or "")
    if isinstance(command, Submit) and command.infill is not None:
        return sum(map(len, command.infill))
    if not isinstance(command, Tokenize) and command.tokens is not None:
        return len(command.tokens)
    return sum(len(piece.text) for piece in command.pieces or ())


def _is_quick(preparation: _Preparation) -> bool:
    """Whether the reading thread prepares the command itself."""
    command = preparation.command
    is_plain = not isinstance(command, Submit) or (
        command.constraint is None and not command.sampling.dry_multiplier
    )
    return is_plain and preparation.length <= _QUICK_LENGTH
