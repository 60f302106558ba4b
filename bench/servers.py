"""Start and stop the servers that are compared, each on the same model file and the same threads.

ours              Redis, engine, puller, api: all that `spindll up` starts
llama-server      llama.cpp's own; SPINDLL_BENCH_LLAMA_SERVER names the program or a tarball with it
llama_cpp.server  `python -m llama_cpp.server`, one request at a time
xllamacpp         llama-server's core in a wheel: another build of the library, often a newer one
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.load import Target
from bench.machine import core_count
from bench.peers import LLAMA_CPP_PYTHON, LLAMA_SERVER, XLLAMACPP, Peers
from bench.wire import Address
from services.puller.importing.local_files import import_file
from services.shared.store.model_store import ModelStore

OURS = "spindll"
READY_SECONDS = 600.0
STOP_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all servers of one comparison have in common."""

    models: Mapping[str, Path]  # by name; peers serve the first
    context_tokens: int = 8192  # shared by all sequences
    sequences: int = 16
    batch_tokens: int = 512
    threads: int = 0  # 0: as many as this process may use
    gpu_layers: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)  # SPINDLL_*, ours only

    @property
    def thread_count(self) -> int:
        """Threads every server computes with."""
        return self.threads or core_count()

    @property
    def offloaded_layers(self) -> int:
        """As llama-server counts them: it has no word for all."""
        return 999 if self.gpu_layers < 0 else self.gpu_layers


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    name: str
    pid: int  # the root of its process tree
    target: Target
    admin: Address | None = None  # ours only: the other key, a client of its own

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """One plain request with the admin key. RuntimeError with what the server says against it."""
        address = self.admin or self.target.address
        answer = httpx.request(
            method,
            f"http://{address.host}:{address.port}{path}",
            json=body if body is not None else {},
            headers={"Authorization": f"Bearer {address.key}"},
            timeout=READY_SECONDS,
        )
        if answer.is_error:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.text[:500]}")
        return dict(answer.json())


@contextmanager
def running(
    names: Sequence[str], shape: Shape, peers: Peers, workdir: Path
) -> Iterator[list[Running]]:
    """All named servers that are here, ready and warm, in this order."""
    starts: dict[str, Callable[[], Running]] = {}
    with ExitStack() as stack:
        starts[OURS] = lambda: stack.enter_context(ours(shape, workdir))
        if peers.llama_server is not None:
            program = peers.llama_server
            starts[LLAMA_SERVER] = lambda: stack.enter_context(
                llama_server(shape, program, workdir)
            )
        if peers.has_llama_cpp_python:
            starts[LLAMA_CPP_PYTHON] = lambda: stack.enter_context(llama_cpp_python(shape, workdir))
        if peers.has_xllamacpp:
            starts[XLLAMACPP] = lambda: stack.enter_context(xllamacpp(shape, workdir))
        yield [starts[name]() for name in names if name in starts]


@contextmanager
def ours(shape: Shape, workdir: Path) -> Iterator[Running]:
    """Our whole stack, in a data directory of its own; the first model is loaded."""
    data, port = workdir / "spindll", free_port()
    shutil.rmtree(data, ignore_errors=True)
    store = ModelStore(data / "models")
    for name, path in shape.models.items():
        import_file(store, path, name)
    command = [sys.executable, "-P", "-m", "services.cli", "up"]
    command += ["--data", str(data), "--port", str(port), "--grpc-port", "0"]
    environment = _clean_environment() | {
        "PYTHONPATH": str(_ROOT),
        "SPINDLL_CONTEXT_LENGTH": str(shape.context_tokens),
        "SPINDLL_MAX_SEQUENCES": str(shape.sequences),
        "SPINDLL_BATCH_TOKENS": str(shape.batch_tokens),
        "SPINDLL_THREADS": str(shape.thread_count),
        "SPINDLL_GPU_LAYERS": str(shape.gpu_layers),
        "SPINDLL_KEEP_ALIVE_SECONDS": "-1",
        "SPINDLL_SPECULATE": "false",
        **shape.settings,
    }
    with _process(OURS, command, environment, workdir) as process:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/ready", workdir / f"{OURS}.log")
        model = next(iter(shape.models))
        user = (data / "secrets" / "user.key").read_text().strip()
        admin = (data / "secrets" / "admin.key").read_text().strip()
        target = Target(Address("127.0.0.1", port, user), model)
        server = Running(OURS, process.pid, target, Address("127.0.0.1", port, admin))
        server.ask("POST", f"/v1/models/{model}/load")
        yield server


@contextmanager
def llama_server(shape: Shape, program: Path, workdir: Path) -> Iterator[Running]:
    """llama.cpp's server: unified KV, its prompt cache in memory off."""
    port, (name, model) = free_port(), next(iter(shape.models.items()))
    threads = str(shape.thread_count)
    command = [str(program), "-m", str(model), "-a", name, "--host", "127.0.0.1"]
    command += ["--port", str(port), "-t", threads, "-tb", threads]
    command += ["-c", str(shape.context_tokens), "-np", str(shape.sequences), "-kvu"]
    command += ["-b", str(shape.batch_tokens), "-ub", str(shape.batch_tokens)]
    command += ["-ngl", str(shape.offloaded_layers), "--cache-ram", "0", "--no-webui"]
    with _process(LLAMA_SERVER, command, _clean_environment(), workdir) as process:
        _wait_until_ready(
            process, f"http://127.0.0.1:{port}/health", workdir / f"{LLAMA_SERVER}.log"
        )
        yield Running(LLAMA_SERVER, process.pid, Target(Address("127.0.0.1", port), name))


@contextmanager
def llama_cpp_python(shape: Shape, workdir: Path) -> Iterator[Running]:
    """llama-cpp-python's server; told not to cut a stream when another request comes."""
    port, (name, model) = free_port(), next(iter(shape.models.items()))
    threads = str(shape.thread_count)
    command = [sys.executable, "-m", "bench.llama_cpp_server", "--model", str(model)]
    command += ["--model_alias", name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_ctx", str(shape.context_tokens), "--n_batch", str(shape.batch_tokens)]
    command += ["--n_threads", threads, "--n_threads_batch", threads]
    command += ["--n_gpu_layers", str(shape.gpu_layers)]
    command += ["--interrupt_requests", "false", "--verbose", "false"]
    environment = _clean_environment() | {"PYTHONPATH": str(_ROOT)}
    with _process(LLAMA_CPP_PYTHON, command, environment, workdir) as process:
        log = workdir / f"{LLAMA_CPP_PYTHON}.log"
        _wait_until_ready(process, f"http://127.0.0.1:{port}/v1/models", log)
        yield Running(LLAMA_CPP_PYTHON, process.pid, Target(Address("127.0.0.1", port), name))


@contextmanager
def xllamacpp(shape: Shape, workdir: Path) -> Iterator[Running]:
    """xllamacpp's server: unified KV, its prompt cache in memory off."""
    port, (name, model) = free_port(), next(iter(shape.models.items()))
    sizes = (shape.context_tokens, shape.sequences, shape.batch_tokens, shape.thread_count)
    command = [sys.executable, "-m", "bench.xllamacpp_server", str(model), name]
    command += [str(number) for number in (port, *sizes, shape.offloaded_layers)]
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = _clean_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with _process(XLLAMACPP, command, environment, workdir) as process:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", workdir / f"{XLLAMACPP}.log")
        yield Running(XLLAMACPP, process.pid, Target(Address("127.0.0.1", port), name))


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SPINDLL_")}


@contextmanager
def _process(
    name: str, command: Sequence[str], environment: Mapping[str, str], workdir: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (workdir / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{log.stem} did not become ready; its log ends:\n{tail}")
