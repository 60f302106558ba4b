"""Run the whole stack with the CLI, on free ports and in a separate data directory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from services.cli.paths import StackPaths
from services.cli.supervise import state_file
from services.cli.supervise.stack import ROOT, STACK_VARIABLE
from tests.waiting import free_port, processes_with_environment, until

_RECORDED = Path(__file__).resolve().parents[1] / "models" / "tiny" / "expected.json"
# The command that ./spindll executes.
SPINDLL = [sys.executable, "-P", "-m", "services.cli"]


class RunningStack:
    """A stack in `data_dir`; `up` starts it and `down` stops it."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.paths = StackPaths(data_dir)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("SPINDLL_")}
        self.up_output = ""  # stdout of the last `up`
        self.environment = {**inherited, "PYTHONPATH": str(ROOT), **settings}

    def up(self) -> subprocess.CompletedProcess[str]:
        started = self.cli("up", "--detach", *self._ports())
        self.up_output = started.stdout
        return started

    def up_in_foreground(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*SPINDLL, "up", "--data", str(self.data_dir), *self._ports()],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _ports(self) -> list[str]:
        return ["--port", str(self.port), "--grpc-port", str(free_port())]

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.cli("down")

    def cli(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SPINDLL, command, "--data", str(self.data_dir), *arguments],
            env=self.environment,
            cwd=self.data_dir.parent,
            capture_output=True,
            text=True,
            timeout=110,
        )

    # ---- requests of a client

    @property
    def key(self) -> str:
        return self.paths.admin_key.read_text().strip()

    @property
    def key_files(self) -> list[Path]:
        """The files of the keys that the stack has made: two tenants."""
        return [self.paths.admin_key, self.paths.user_key]

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def ask(self, content: str, model: str = "tiny") -> str:
        with self.http() as http:
            answer = http.post("/v1/chat/completions", json=build_greedy_body(content, model=model))
        answer.raise_for_status()
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def ask_until_answered(self, content: str = "What is the capital of France?") -> str:
        """Ask until there is an answer. A 503 in the meantime must have a Retry-After header."""

        def attempt() -> str | None:
            with self.http() as http:
                try:
                    answer = http.post("/v1/chat/completions", json=build_greedy_body(content))
                except httpx.TransportError:  # the api does not run
                    return None
            if answer.status_code == 503:
                assert "retry-after" in answer.headers
                return None
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"])

        return str(until(attempt, "the stack does not answer again"))

    def readiness(self) -> tuple[int, list[str]]:
        """The status of /ready and its list of what is missing; 0 if the api does not answer."""
        try:
            answer = httpx.get(f"{self.url}/ready", timeout=20, trust_env=False)
        except httpx.TransportError:
            return 0, []
        return answer.status_code, answer.json()["missing"]

    # ---- access to the processes

    def state(self) -> state_file.StackState:
        found = state_file.read(self.paths)
        assert found is not None
        return found

    def get_pid(self, service: str) -> int:
        """The process ID of a service, once it is ready."""

        def pid() -> int | None:
            return {s.name: s.pid for s in self.state().services if s.phase == "ready"}.get(service)

        return int(until(pid, f"{service} is not ready") or 0)

    def runner(self) -> psutil.Process:
        children = psutil.Process(self.get_pid("engine")).children()
        (runner,) = [p for p in children if "services.engine.runner" in p.cmdline()]
        return runner

    def count_starts_of_runners(self) -> int:
        """How many runners have loaded a model since the stack started."""
        return sum(
            log.read_text().count("model loaded") for log in self.paths.logs_dir.glob("engine*")
        )

    def kill(self, service: str) -> None:
        """Kill the service with SIGKILL and wait until it runs again."""
        pid = self.get_pid(service)
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.get_pid(service) != pid, f"{service} did not come back")

    def list_processes(self) -> list[psutil.Process]:
        return processes_with_environment(STACK_VARIABLE, str(self.data_dir))

    def list_sockets(self) -> list[Path]:
        return [path for path in self.data_dir.rglob("*") if path.is_socket()]

    def logs(self) -> str:
        return "\n".join(
            f"---- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            for log in sorted(self.paths.logs_dir.glob("*.log"))
        )


def build_greedy_body(content: str, *, model: str = "tiny", **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": content}
    return {"model": model, "temperature": 0, "messages": [message], **more}


def load_recorded_answers(names: str) -> dict[str, str]:
    """Load recorded answers by question; `names` is a pattern for the names of the cases."""
    return {
        case["messages"][0]["content"]: case["text"]
        for case in json.loads(_RECORDED.read_text())
        if re.fullmatch(names, case["name"]) and len(case["messages"]) == 1
    }


def iterate_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a stream, without [DONE]."""
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def get_text(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")
