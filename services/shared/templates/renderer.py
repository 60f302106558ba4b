"""Render chat templates in processes of their own, which are killed when they take too much.

    open(source) ─► Template (its traits, its control tokens)      compiled and probed once
    render(template, variables) ─► the text of the prompt

A template is a stranger's program. Its process starts from a fresh interpreter, so it inherits no
key, no setting and no connection. A template whose process was killed several times is refused for
a while. Any thread may call; the call blocks until the render has ended.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Self

from services.shared.errors import InvalidModelFile, InvalidRequest, Unavailable
from services.shared.templates.frames import MAX_REQUEST_BYTES, Answer
from services.shared.templates.marks import make_prefix
from services.shared.templates.renderer_process import (
    ProcessEnded,
    Reason,
    RendererProcess,
    RenderLimits,
)
from services.shared.templates.traits import TemplateLanguage, TemplateTraits

logger = logging.getLogger(__name__)

_MAX_TEMPLATES = 64
# A template that fails on a request of this size is at fault itself; on a larger one, the client
# may be, and must not make the template fail for others. (Gemma 4's template takes 1 s for 500
# short messages: it looks at all of them for each.)
_SMALL_REQUEST_BYTES = 4 << 10
_MAX_KILLS = 3
_REFUSED_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Template:
    """A template that was opened. It belongs to the renderer that opened it."""

    id: int
    source: str = field(repr=False)
    bos_token: str | None
    eos_token: str | None
    control_tokens: tuple[str, ...] = field(repr=False)
    language: TemplateLanguage = "jinja"
    mark_prefix: str = field(default_factory=make_prefix, repr=False)
    traits: TemplateTraits | None = None  # None until it was probed
    is_valid: bool = True  # False: it cannot be compiled, and the traits have the reason
    marked: tuple[str, ...] = ()  # see ChatTemplate
    composed: tuple[str, ...] = ()  # see find_composed
    kills: int = 0
    refused_until: float = 0.0  # time.monotonic

    @property
    def digest(self) -> str:
        """Names the template in logs: the start of the SHA-256 of its source."""
        return hashlib.sha256(self.source.encode("utf-8", "replace")).hexdigest()[:12]

    def build_open_request(self, *, probe: bool) -> bytes:
        """The frame that opens it in a process."""
        given = {
            "language": self.language,
            "source": self.source,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "control_tokens": self.control_tokens,
            "mark_prefix": self.mark_prefix,
        }
        return json.dumps({"id": self.id, "open": given, "probe": probe}).encode()


class TemplateRenderer:
    """Owns the processes. They start when they are needed, and end with `close` or this process."""

    def __init__(self, limits: RenderLimits | None = None, *, max_processes: int = 2) -> None:
        self._limits = limits or RenderLimits()
        self._max_processes = max_processes
        # Guards all fields below.
        self._changed = threading.Condition()
        self._idle: list[RendererProcess] = []
        self._busy: set[RendererProcess] = set()
        self._starting = 0
        self._is_closed = False
        self._ids = itertools.count(1)
        self._templates: OrderedDict[tuple[object, ...], Template] = OrderedDict()

    def __enter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        control_tokens: tuple[str, ...] = (),
        language: TemplateLanguage = "jinja",
    ) -> Template:
        """Compile and probe a template, or return it from memory.

        A template that does not work is returned as well: its traits have a `failure`. Raises
        InvalidModelFile when it exceeds the limits, and Unavailable when this machine is too busy.
        """
        key = (source, bos_token, eos_token, control_tokens, language)
        with self._changed:
            template = self._templates.get(key)
            if template is None:
                template = Template(next(self._ids), *key)
                self._templates[key] = template
                if len(self._templates) > _MAX_TEMPLATES:
                    self._templates.popitem(last=False)
            self._templates.move_to_end(key)
        if template.traits is None:
            self._probe(template)
        return template

    def render(self, template: Template, variables: str) -> str:
        """The prompt. `variables`: the variables of the template, as a JSON object.

        Raises InvalidRequest when the template does not accept the conversation, or takes too long
        with a large one, InvalidModelFile when the template fails, and Unavailable when this
        machine is too busy.
        """
        if not template.is_valid and template.traits is not None:
            raise InvalidModelFile(template.traits.failure or "the chat template is not valid")
        data = variables.encode("utf-8", "replace")
        if len(data) > MAX_REQUEST_BYTES - 64:
            raise InvalidRequest("the conversation is too long", param="messages")
        frame = b'{"id":%d,"render":%b}' % (template.id, data)
        kind, answer = self._ask(template, frame)
        if kind is Answer.REFUSED:
            raise InvalidRequest(answer.decode(), param="messages")
        if kind is Answer.TOO_LONG and len(data) > _SMALL_REQUEST_BYTES:
            raise InvalidRequest("the conversation is too long", param="messages")
        if kind is not Answer.PROMPT:
            raise _describe_failure(template, kind, answer)
        return answer.decode()

    def close(self) -> None:
        """End all processes, and with them the renders under way. May be called twice."""
        with self._changed:
            self._is_closed = True
            processes = [*self._idle, *self._busy]
            self._idle.clear()
            self._changed.notify_all()
        for process in processes:
            process.close()

    def _probe(self, template: Template) -> None:
        kind, answer = self._ask(template, template.build_open_request(probe=True))
        if kind is Answer.INVALID:
            template.is_valid = False
            template.traits = TemplateTraits(failure=answer.decode())
            return
        if kind is not Answer.OPENED:
            raise _describe_failure(template, kind, answer)
        opened = json.loads(answer)
        template.marked, template.composed = tuple(opened["marked"]), tuple(opened["composed"])
        template.traits = TemplateTraits(**opened["traits"])

    def _ask(self, template: Template, frame: bytes) -> tuple[Answer, bytes]:
        if time.monotonic() < template.refused_until:
            raise InvalidModelFile(
                "the model's chat template has exceeded its limits several times; it is refused"
                " for a minute"
            )
        process = self._take()
        try:
            if template.traits is not None and template.id not in process.known:
                process.ask(template.build_open_request(probe=False))
            process.known.add(template.id)
            answer = process.ask(frame)
        except ProcessEnded as error:
            raise self._find_fault(template, error.reason, len(frame)) from None
        finally:
            self._give_back(process)
        return answer

    def _take(self) -> RendererProcess:
        deadline = time.monotonic() + self._limits.wall_seconds
        with self._changed:
            while not self._is_closed:
                while self._idle:
                    process = self._idle.pop()
                    if process.is_alive:
                        self._busy.add(process)
                        return process
                    process.close()  # the kernel has ended it, for want of memory
                if len(self._busy) + self._starting < self._max_processes:
                    self._starting += 1
                    break
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Unavailable("too many prompts are being rendered")
            else:
                raise Unavailable("the service is ending")
        return self._start()

    def _start(self) -> RendererProcess:
        process: RendererProcess | None = None
        try:
            process = RendererProcess(self._limits)
        except OSError as error:
            logger.error("renderer not started", extra={"reason": str(error)})
            raise Unavailable("the process for chat templates could not be started") from error
        finally:
            with self._changed:
                self._starting -= 1
                if process is not None:
                    self._busy.add(process)
                self._changed.notify()
        return process

    def _give_back(self, process: RendererProcess) -> None:
        is_usable = process.is_alive and len(process.known) < _MAX_TEMPLATES
        with self._changed:
            self._busy.discard(process)
            is_kept = is_usable and not self._is_closed
            if is_kept:
                self._idle.append(process)
            self._changed.notify()
        if not is_kept:
            process.close()

    def _find_fault(self, template: Template, reason: Reason, size: int) -> Exception:
        """The error for a render whose process has ended."""
        if self._is_closed:
            return Unavailable("the service is ending")
        fields = {"template": template.digest, "reason": reason.value, "request_bytes": size}
        logger.warning("renderer ended", extra=fields)
        if reason is Reason.WALL_TIME:
            return Unavailable("the prompt could not be rendered in time: this machine is busy")
        if reason is Reason.KILLED:  # the limits of the process make it answer, or end otherwise
            return Unavailable("the prompt could not be rendered: this machine is out of memory")
        what = {
            Reason.CPU_TIME: f"takes more than {self._limits.cpu_seconds:g} s of processor time",
            Reason.MEMORY: f"needs more than {self._limits.memory_bytes >> 20} MiB of memory",
            Reason.CRASH: "ends the process that renders it",
        }[reason]
        if template.traits is not None and size > _SMALL_REQUEST_BYTES:
            return InvalidRequest(
                f"the conversation is too long for the model's chat template, which {what}",
                param="messages",
            )
        template.kills += 1
        if template.kills >= _MAX_KILLS:
            template.refused_until = time.monotonic() + _REFUSED_SECONDS
        return InvalidModelFile(f"the model's chat template {what}")


def _describe_failure(template: Template, kind: Answer, answer: bytes) -> InvalidModelFile:
    """The error of a template that failed. Neither it nor the log quotes the conversation."""
    if kind is not Answer.FAILED:
        return InvalidModelFile(
            "the model's chat template renders too long a prompt, or takes too many steps"
        )
    failure = json.loads(answer)
    line, error = failure["line"], failure["kind"]
    fields = {"template": template.digest, "line": line, "error": error}
    logger.warning("chat template failed", extra=fields)
    place = f" in line {line}" if line else ""
    return InvalidModelFile(f"the model's chat template failed{place} ({error})")
