"""Run a real stack of containers, built from this tree, as a separate Compose project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compose.conftest import ROOT, compose
from tests.waiting import free_port, until

BUILD_SECONDS = 900
UP_SECONDS = 300
CONTEXT = (
    "compose.yaml",
    ".dockerignore",
    "Dockerfile.cpu",
    "LICENSE",
    "docker",
    "locks",
    "protos",
)
LABEL = "label=com.docker.compose.project="


def find_wheel() -> Path | None:
    """Find a llama-cpp-python wheel in wheels/ or PIP_FIND_LINKS; tests do not compile one."""
    folders = [ROOT / "wheels", *map(Path, os.environ.get("PIP_FIND_LINKS", "").split())]
    return next(
        (path for folder in folders for path in folder.glob("llama_cpp_python-*.whl")), None
    )


def copy_context(wheel: Path, to: Path) -> None:
    """Copy the files that the images need, and the wheel, into a build context."""
    for name in CONTEXT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name)
        else:
            shutil.copy2(ROOT / name, to / name)
    without_bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "services", to / "services", ignore=without_bytecode)
    tiny = Path("tests", "models", "tiny", "tiny-f16.gguf")
    (to / tiny).parent.mkdir(parents=True)
    shutil.copy2(ROOT / tiny, to / tiny)
    (to / "wheels").mkdir()
    shutil.copy2(wheel, to / "wheels")


@dataclass
class Stack:
    """One Compose project. The owner must call `down` at the end."""

    folder: Path
    project: str = field(default_factory=lambda: f"spindll-test-{uuid.uuid4().hex[:8]}")
    port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)

    def run(self, *arguments: str, timeout_seconds: float = 120) -> str:
        """Run `docker compose …` and return its stdout. A failure shows the logs of the services."""
        done = self._compose(*arguments, timeout_seconds=timeout_seconds)
        if done.returncode != 0:
            logs = self._compose("logs", "--tail=30", timeout_seconds=60).stdout
            raise AssertionError(f"docker compose {arguments}:\n{done.stderr}\n{logs}")
        return done.stdout

    @property
    def variables(self) -> dict[str, str]:
        """What this stack chooses; without them, Compose would address another one."""
        return {
            "COMPOSE_PROJECT_NAME": self.project,
            "TAG": self.project,
            "PORT": str(self.port),
            "GRPC_PORT": str(self.grpc_port),
            "HEALTH_INTERVAL": "2s",  # `up --wait` waits for the first checks
        }

    def _compose(self, *arguments: str, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        return compose(
            *arguments,
            variables=self.variables,
            folder=self.folder,
            timeout_seconds=timeout_seconds,
        )

    def run_shell(self, script: str) -> None:
        """Run a script of the documentation in the folder of this stack, with its names."""
        for theirs, ours in (("spindll_", f"{self.project}_"), ("spindll-api", self.api_image)):
            script = script.replace(theirs, ours)
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self.folder,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
        )
        assert done.returncode == 0, done.stderr

    @property
    def api_image(self) -> str:
        """The image that was built for this stack."""
        return f"spindll-api:{self.project}"

    def up(self) -> None:
        """Start the stack and return when every service is healthy, and a chat would succeed."""
        self.run("up", "--detach", "--wait", timeout_seconds=UP_SECONDS)

    def down(self) -> None:
        """Remove containers, networks, volumes and the built images. Safe to call twice."""
        self.run("down", "--volumes", "--remove-orphans", timeout_seconds=UP_SECONDS)
        images = docker("images", "--quiet", "--filter", f"reference=spindll-*:{self.project}")
        if images:
            docker("rmi", "--force", *sorted(set(images.split())))

    def python(self, service: str, code: str) -> str:
        """Run Python code in a service and return what it prints."""
        return self.run("exec", "-T", service, "python", "-c", code).strip()

    def kill_main_process(self, service: str) -> None:
        """Send SIGKILL from inside: Docker does not restart a container after `docker kill`."""
        code = (
            "import os, pathlib, signal\n"
            "for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
            f"    if path.read_bytes().startswith(b'python\\0-m\\0services.{service}\\0'):\n"
            "        os.kill(int(path.parent.name), signal.SIGKILL)"
        )
        # The container ends before this command does, so its exit status has no meaning.
        self._compose("exec", "-T", service, "python", "-c", code, timeout_seconds=60)

    def user_key(self) -> str:
        """The user key, which the api created."""
        return self.run("exec", "-T", "api", "cat", "/data/secrets/user.key").strip()

    def ask(self, question: str) -> str:
        """Ask the tiny model through the published port. Raises HTTPError or OSError."""
        request_body = {
            "model": "tiny",
            "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            data=json.dumps(request_body).encode(),
            headers={
                "Authorization": f"Bearer {self.user_key()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            body: dict[str, Any] = json.load(response)
        return str(body["choices"][0]["message"]["content"])

    def ask_until_answered(self, question: str) -> str:
        """Ask until there is an answer; errors are expected while a service restarts."""

        def answer() -> str:
            try:
                return self.ask(question)
            except (urllib.error.HTTPError, OSError):
                return ""

        return until(answer, "no answer from the stack")

    def inspect(self, service: str) -> dict[str, Any]:
        """The output of `docker inspect` for the container of a service."""
        container = self.run("ps", "--all", "--quiet", service).strip()
        [description] = json.loads(docker("inspect", container))
        return dict(description)

    def list_resources(self) -> list[str]:
        """The containers, volumes and networks of this project that still exist."""
        label = f"--filter={LABEL}{self.project}"
        lists = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [line for command in lists for line in docker(*command, "--quiet", label).split()]


def docker(*arguments: str) -> str:
    """Run `docker …` and return its stdout."""
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=120
    ).stdout
