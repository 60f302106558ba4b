"""The process that runs chat templates: `python -m services.shared.templates.renderer_main …`.

The parent (`renderer.py`) starts it with one end of a socket pair, and asks one thing at a time. It
holds no key and no setting, and can open no file. It is ended by the kernel when a request takes too
much processor time, and by the end of the stream when the parent has gone.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import resource
import signal
import socket
from pathlib import Path
from typing import Any

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.frames import (
    MAX_PROMPT_BYTES,
    MAX_REQUEST_BYTES,
    Answer,
    receive_frame,
    send_frame,
)
from services.shared.templates.go_template.chat import GoChatTemplate
from services.shared.templates.template import (
    ChatTemplate,
    RenderedTemplate,
    TemplateExceeded,
    TemplateFailed,
)
from services.shared.templates.template_probe import find_composed, probe


class Renderer:
    """Compiles templates once, and renders them. Templates are known by the parent's ids."""

    def __init__(self) -> None:
        self._templates: dict[int, RenderedTemplate] = {}

    def answer(self, frame: bytes) -> tuple[Answer, bytes]:
        """The answer to one request."""
        try:
            request = json.loads(frame.decode())
            del frame
            if "open" in request:
                return Answer.OPENED, self._open(request["id"], request["open"], request["probe"])
            prompt = self._templates[request["id"]].render(request.pop("render"))
            data = prompt.encode("utf-8", "replace")
            if len(data) > MAX_PROMPT_BYTES:
                return Answer.TOO_LONG, b""
            return Answer.PROMPT, data
        except InvalidModelFile as error:
            return Answer.INVALID, error.message.encode("utf-8", "replace")
        except InvalidRequest as error:
            return Answer.REFUSED, error.message.encode("utf-8", "replace")
        except TemplateExceeded:
            return Answer.TOO_LONG, b""
        except TemplateFailed as error:
            return Answer.FAILED, json.dumps({"kind": error.kind, "line": error.line}).encode()
        except MemoryError:
            return Answer.OUT_OF_MEMORY, b""

    def _open(self, id_: int, given: dict[str, Any], wants_probe: bool) -> bytes:  # noqa: FBT001
        kind = GoChatTemplate if given.pop("language") == "go" else ChatTemplate
        template = self._templates[id_] = kind(**given)
        if not wants_probe:
            return b""
        tokens = given.pop("control_tokens")
        traits = probe(kind(**given) if tokens else template)
        opened = {
            "traits": dataclasses.asdict(traits),
            "marked": template.marked,
            "composed": find_composed(template, traits, tokens) if tokens else (),
        }
        return json.dumps(opened).encode()


def main() -> None:
    """Answer requests until the parent has gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=float, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    arguments = parser.parse_args()
    connection = socket.socket(fileno=arguments.fd)
    renderer = Renderer()
    _warm_up(renderer)
    _limit(arguments.memory_bytes)
    send_frame(connection, b"")
    while (frame := receive_frame(connection, max_bytes=MAX_REQUEST_BYTES)) is not None:
        # The default action of its signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, arguments.cpu_seconds)
        kind, data = renderer.answer(frame)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send_frame(connection, kind.value + data)


def _warm_up(renderer: Renderer) -> None:
    """Use what is imported late or read from files, while files can be opened."""
    source = "{{ strftime_now('%Z') }}{{ messages | pprint | wordwrap(9) }}{{ lipsum(1) }}{{ nothing.here }}"
    given = {"source": source, "bos_token": "", "eos_token": "", "control_tokens": []}
    given["language"] = "jinja"
    renderer.answer(json.dumps({"id": 0, "open": given, "probe": True}).encode())


def _limit(memory_bytes: int) -> None:
    """Take from this process what a template never needs."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    with contextlib.suppress(OSError):  # where memory runs out, this process is the first to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(ValueError, OSError):  # macOS refuses it; there, only time is limited
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        resource.setrlimit(kind, (0, 0))


if __name__ == "__main__":
    main()
