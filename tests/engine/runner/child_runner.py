"""A runner as a child process, and a minimal front for tests."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import (
    FinishReason,
    LoadConfig,
    Sampling,
    Stopping,
    TextPiece,
    TokenLogprob,
)
from services.engine.messages import commands, reports
from services.engine.messages.commands import Command
from services.engine.messages.frames import HEADER, encode_frame, report_decoder
from services.engine.messages.reports import Delta, Failed, Finished, Report

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "tests" / "models" / "tiny" / "tiny-f16.gguf"
TIMEOUT_SECONDS = 60.0

R = TypeVar("R", bound=Report)


def config(model: Path | str = TINY, **changes: Any) -> LoadConfig:
    settings: dict[str, Any] = {
        "model_path": str(model),
        "backend": "llamacpp",
        "context_length": 2048,
        "max_sequences": 8,
        "threads": 1,
    } | changes
    return LoadConfig(**settings)


def fake_config(behaviour: Path | str = "", **changes: Any) -> LoadConfig:
    return config(behaviour, **({"backend": "fake"} | changes))


def write_behaviour(folder: Path, **behaviour: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "behaviour.json"
    path.write_bytes(msgspec.json.encode(Behaviour(**behaviour)))  # type: ignore[arg-type]
    return path


def submit(id_: int, text: str = "", **changes: Any) -> commands.Submit:
    """Build a request: greedy, at most 64 tokens."""
    fields: dict[str, Any] = {
        "sampling": Sampling(temperature=0.0),
        "stopping": Stopping(max_tokens=64),
    } | changes
    if not {"tokens", "infill"} & fields.keys():
        fields["pieces"] = (TextPiece(text),)
    return commands.Submit(id=id_, **fields)


@dataclass
class Answered:
    """All events of one request."""

    text: dict[int, str] = field(default_factory=dict)
    deltas: list[Delta] = field(default_factory=list)
    finished: dict[int, Finished] = field(default_factory=dict)
    failed: Failed | None = None
    started: reports.Started | None = None
    positions: list[int] = field(default_factory=list)

    @property
    def reason(self) -> FinishReason:
        return self.finished[0].reason

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [entry for delta in self.deltas for entry in delta.logprobs]

    @property
    def error_code(self) -> str:
        assert self.failed is not None, self
        return str(self.failed.error["code"])

    def add(self, event: reports.RequestEvent) -> None:
        match event:
            case Delta():
                assert event.index not in self.finished, "a delta after the end"
                self.deltas.append(event)
                self.text[event.index] = self.text.get(event.index, "") + event.text
            case Finished():
                assert event.index not in self.finished, "finished twice"
                self.finished[event.index] = event
            case Failed():
                assert self.failed is None, "failed twice"
                self.failed = event
            case reports.Started():
                self.started = event
            case reports.Queued():
                self.positions.append(event.position)


class ChildRunner:
    """The front's end of one runner process. A thread reads the reports."""

    def __init__(self, load: LoadConfig, *arguments: str) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.engine.runner", "--fd", str(theirs.fileno())]
            + list(arguments),
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
        )
        theirs.close()
        self.reports: list[Report] = []
        self.answered: dict[int, Answered] = {}
        self.has_ended = False
        self._changed = threading.Condition()
        self.send(commands.Start(load))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._paused = threading.Event()
        self._paused.set()
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, command: Command) -> None:
        self._socket.sendall(encode_frame(command))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait_for_first(self, kind: type[R]) -> R:
        """Wait for the first report of a kind."""
        self.wait_until(lambda: any(isinstance(r, kind) for r in self.reports) or self.has_ended)
        for report in self.reports:
            if isinstance(report, kind):
                return report
        raise AssertionError(f"no {kind.__name__} before the end: {self.reports}")

    def wait_for_answer(self, id_: int, n: int = 1) -> Answered:
        """Wait until all answers of a request have ended, or it has failed."""

        def is_done() -> bool:
            got = self.answered.get(id_)
            return got is not None and (got.failed is not None or len(got.finished) == n)

        self.wait_until(lambda: is_done() or self.has_ended)
        assert is_done(), f"no end of {id_}: {self.answered.get(id_)}"
        return self.answered[id_]

    def complete(self, request: commands.Submit) -> Answered:
        self.send(request)
        return self.wait_for_answer(request.id, request.n)

    def embed(self, command: commands.Embed) -> reports.Embedded:
        """Send it, and wait for its report."""
        self.send(command)
        return self.wait_for_embedded(command.id)

    def wait_for_embedded(self, id_: int) -> reports.Embedded:
        def find() -> reports.Embedded | None:
            found = (r for r in self.reports if isinstance(r, reports.Embedded) and r.id == id_)
            return next(found, None)

        self.wait_until(lambda: find() is not None or self.has_ended)
        report = find()
        assert report is not None, f"no vectors for {id_}"
        return report

    def wait_until(self, is_true: Any) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with self._changed:
            while not is_true():
                left = deadline - time.monotonic()
                assert left > 0, f"timed out: {self.answered}"
                self._changed.wait(left)

    def next_heartbeat(self) -> reports.Heartbeat:
        """Wait for a heartbeat that arrives after this call."""
        seen = self._count_heartbeats()
        self.wait_until(lambda: self._count_heartbeats() > seen or self.has_ended)
        return next(r for r in reversed(self.reports) if isinstance(r, reports.Heartbeat))

    def pause_reading(self) -> None:
        self._paused.clear()

    def resume_reading(self) -> None:
        self._paused.set()

    def close(self) -> int:
        """Hang up and wait for the process; returns its exit status."""
        self._paused.set()
        with contextlib.suppress(OSError):  # the process, or an earlier call, has closed it
            self._socket.shutdown(socket.SHUT_RDWR)
        status = self.process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        self._socket.close()
        return status

    def _count_heartbeats(self) -> int:
        return sum(isinstance(r, reports.Heartbeat) for r in self.reports)

    def _read(self) -> None:
        buffer = b""
        while data := self._receive():
            buffer += data
            while len(buffer) >= HEADER.size:
                (size,) = HEADER.unpack_from(buffer)
                if len(buffer) < HEADER.size + size:
                    break
                report = report_decoder.decode(buffer[HEADER.size : HEADER.size + size])
                buffer = buffer[HEADER.size + size :]
                with self._changed:
                    self._take(report)
                    self._changed.notify_all()
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()

    def _receive(self) -> bytes:
        self._paused.wait()
        try:
            return self._socket.recv(1 << 16)
        except OSError:
            return b""

    def _take(self, report: Report) -> None:
        self.reports.append(report)
        if isinstance(report, reports.StepReport):
            for event in report.events:
                self.answered.setdefault(event.id, Answered()).add(event)


@cache
def expected() -> dict[str, tuple[str, str]]:
    """The prompts of the tiny model, and its greedy answers, by name."""
    cases = json.loads((TINY.parent / "expected.json").read_text())
    return {case["name"]: (case["rendered"], case["text"]) for case in cases}


def prompt_for(name: str) -> str:
    return expected()[name][0]


def text_for(name: str) -> str:
    return expected()[name][1]
