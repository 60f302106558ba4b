"""A runner without a model: a real child process that follows the protocol and fails on request.

Its "model file" is JSON, see Script. The answer to a prompt is the prompt's words, one token each,
repeated until max_tokens. A prompt may begin with a command:

    !die N      kills itself with SIGKILL after N tokens of this answer
    !freeze N   stops itself with SIGSTOP after N tokens
    !busy N     reports a step that does not end, after N tokens
    !garbage N  writes bytes that are no frame, after N tokens
    !slow       makes a step every 50 ms instead of every 2 ms
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import struct
import sys
from pathlib import Path

import msgspec

from services.engine.core import Counters, FinishReason, LoadConfig, MemoryPolicy, ModelInfo
from services.engine.messages import commands, reports
from services.engine.messages.frames import HEADER, command_decoder, encode_frame
from services.shared.errors import InvalidRequest, to_wire


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the "model file"."""

    weights_bytes: int = 100 << 20
    kv_bytes_per_cell: int = 1024
    trained_context_length: int = 4096
    load_seconds: float = 0.0
    load_failed: str | None = None
    load_failed_code: str = "model_load_failed"
    dies_loading: bool = False
    never_ready: bool = False
    no_estimate: bool = False
    ignores_stop: bool = False


class ScriptedAnswer:
    def __init__(self, submit: commands.Submit) -> None:
        text = "".join(piece.text for piece in submit.pieces or ())
        words = text.split() or ["nothing"]
        self.submit = submit
        self.command, self.command_at = "", -1
        if words[0].startswith("!"):
            self.command = words.pop(0)[1:]
            if self.command != "slow":
                self.command_at = int(words.pop(0))
        self.words = words or ["word"]
        self.count = 0
        self.max_tokens = submit.stopping.max_tokens or len(self.words)


class ScriptedRunner:
    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.answers: dict[int, ScriptedAnswer] = {}
        self.script = Script()
        self.busy_seconds = 0.0
        self.counters = Counters()

    async def run(self, *, only_estimate: bool) -> None:
        self.reader, self.writer = await asyncio.open_connection(sock=self.socket)
        start = await self.read_command()
        assert isinstance(start, commands.Start)
        self.script = msgspec.json.decode(Path(start.config.model_path).read_bytes(), type=Script)
        if only_estimate:
            if not self.script.no_estimate:
                self.send(reports.Ready(self.build_info(start.config)))
            await self.writer.drain()
            return
        await self.load(start.config)
        heartbeats = asyncio.create_task(self.send_heartbeats())
        steps = asyncio.create_task(self.run_steps())
        while not isinstance(command := await self.read_command(), commands.Stop):
            self.handle(command)
        if self.script.ignores_stop:
            await asyncio.sleep(3600)
        while self.answers:
            await asyncio.sleep(0.005)
        heartbeats.cancel()
        steps.cancel()
        await self.writer.drain()

    async def load(self, config: LoadConfig) -> None:
        script = self.script
        if script.dies_loading:
            os.kill(os.getpid(), signal.SIGABRT)
        if script.never_ready:
            await asyncio.sleep(3600)
        if script.load_failed:
            self.send_load_failed()
            await self.writer.drain()
            sys.exit(1)
        for tenth in range(1, 11):
            await asyncio.sleep(script.load_seconds / 10)
            self.send(reports.Progress(tenth / 10))
        self.send(reports.Ready(self.build_info(config)))

    def send_load_failed(self) -> None:
        self.send(reports.LoadFailed(self.script.load_failed_code, self.script.load_failed or ""))

    def build_info(self, config: LoadConfig) -> ModelInfo:
        kv = config.context_length * self.script.kv_bytes_per_cell
        weights = self.script.weights_bytes
        return ModelInfo(
            architecture="scripted",
            vocab_size=1000,
            context_length=config.context_length,
            trained_context_length=self.script.trained_context_length,
            max_sequences=config.max_sequences,
            memory_policy=MemoryPolicy.DENSE,
            gpu_layers=0,
            backend="scripted",
            weights_bytes=weights,
            kv_bytes=kv,
            compute_bytes=1 << 20,
            pool_bytes={"host": weights + kv + (1 << 20)},
        )

    def handle(self, command: commands.Command) -> None:
        if isinstance(command, commands.Submit):
            self.answers[command.id] = ScriptedAnswer(command)
            self.counters.prompt_tokens += 1
        elif isinstance(command, commands.Cancel):
            ended = [self.answers.pop(id_) for id_ in command.ids if id_ in self.answers]
            if ended:
                self.send(
                    reports.StepReport(
                        [self.build_finished(a, FinishReason.CANCELLED) for a in ended]
                    )
                )
        elif isinstance(command, commands.Embed):
            self.embed(command)
        elif isinstance(command, commands.Detokenize):
            text = " ".join("x" * token for token in command.tokens)
            self.send(reports.Detokenized(command.id, text))
        elif isinstance(command, commands.Tokenize):
            text = "".join(piece.text for piece in command.pieces)
            if "!bad" in text:
                error = to_wire(InvalidRequest("the text is refused"))
                self.send(reports.Tokenized(command.id, error=error))
            else:
                self.send(reports.Tokenized(command.id, tuple(len(word) for word in text.split())))

    def embed(self, command: commands.Embed) -> None:
        """The vector of a text is its length; a text "!wait" is never answered."""
        texts = [text.text for text in command.inputs]
        if "!wait" in texts:
            return
        self.send(reports.MemoryAdded({"host": 1 << 20}))
        self.send(
            reports.Embedded(
                command.id,
                dimensions=1,
                vectors=struct.pack(f"<{len(texts)}f", *map(len, texts)),
                tokens=tuple(len(text.split()) for text in texts),
            )
        )

    async def run_steps(self) -> None:
        while True:
            slow = any(a.command == "slow" for a in self.answers.values())
            await asyncio.sleep(0.05 if slow else 0.002)
            events: list[reports.RequestEvent] = []
            for answer in list(self.answers.values()):
                self.advance(answer, events)
            if events:
                self.send(reports.StepReport(events))
                await self.writer.drain()
            for answer in list(self.answers.values()):
                await self.fail_if_commanded(answer)

    def advance(self, answer: ScriptedAnswer, events: list[reports.RequestEvent]) -> None:
        id_ = answer.submit.id
        if answer.count == 0:
            events.append(reports.Started(id_, len(answer.words), 0))
        word = answer.words[answer.count % len(answer.words)]
        events.append(reports.Delta(id_, 0, word + " ", 1))
        answer.count += 1
        self.counters.completion_tokens += 1
        if answer.count >= answer.max_tokens:
            del self.answers[id_]
            events.append(self.build_finished(answer, FinishReason.LENGTH))

    async def fail_if_commanded(self, answer: ScriptedAnswer) -> None:
        if answer.command_at < 0 or answer.count < answer.command_at:
            return
        if answer.command == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif answer.command == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif answer.command == "busy":
            self.busy_seconds = 1e6
            await asyncio.sleep(3600)
        elif answer.command == "garbage":
            self.writer.write(HEADER.pack(4) + b"\xc1\xc1\xc1\xc1")
            await asyncio.sleep(3600)

    def build_finished(self, answer: ScriptedAnswer, reason: FinishReason) -> reports.Finished:
        return reports.Finished(
            id=answer.submit.id,
            index=0,
            reason=reason,
            prompt_tokens=len(answer.words),
            cached_tokens=0,
            completion_tokens=answer.count,
            queue_seconds=0.0,
            prompt_seconds=0.0,
            generate_seconds=0.0,
        )

    async def send_heartbeats(self) -> None:
        while True:
            running = len(self.answers)
            self.send(reports.Heartbeat(self.busy_seconds, running, 0, running, self.counters))
            await asyncio.sleep(0.2)

    async def read_command(self) -> commands.Command:
        try:
            header = await self.reader.readexactly(HEADER.size)
            (size,) = HEADER.unpack(header)
            return command_decoder.decode(await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            sys.exit(0)  # the front has ended

    def send(self, report: reports.Report) -> None:
        self.writer.write(encode_frame(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--estimate", action="store_true")
    args = parser.parse_args()
    asyncio.run(ScriptedRunner(args.fd).run(only_estimate=args.estimate))
