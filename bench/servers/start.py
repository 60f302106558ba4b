"""Start and stop the compared servers, with the same model file and the same number of threads.

Spindll runs as the whole stack that `spindll up` starts: Redis, engine, puller and api. The peers
are found by peers.py.
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
from bench.servers.peers import LLAMA_CPP_PYTHON, LLAMA_SERVER, MLX_LM, XLLAMACPP, Peers
from bench.wire import ServerAddress
from services.puller.importing.local_files import import_file, import_folder
from services.shared.store.model_store import ModelStore

SPINDLL = "spindll"
READY_SECONDS = 600.0
STOP_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The options that all servers of one comparison share."""

    models: Mapping[str, Path]  # files or MLX folders, by name; peers serve the first one
    context_tokens: int = 8192  # shared by all sequences
    sequences: int = 16
    batch_tokens: int = 512
    threads: int = 0  # 0: one per core that this process may use
    gpu_layers: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)  # SPINDLL_*, for Spindll only

    @property
    def thread_count(self) -> int:
        """The number of compute threads of every server."""
        return self.threads or core_count()

    @property
    def peer_gpu_layers(self) -> int:
        """The number of GPU layers for llama-server, which has no value for "all"."""
        return 999 if self.gpu_layers < 0 else self.gpu_layers


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready."""

    name: str
    pid: int  # the root of its process tree
    target: Target
    admin_address: ServerAddress | None = None  # Spindll only: with the key of another client

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Send a request with the admin key. Raises RuntimeError with the text of an error."""
        address = self.admin_address or self.target.address
        response = httpx.request(
            method,
            f"http://{address.host}:{address.port}{path}",
            json=body if body is not None else {},
            headers={"Authorization": f"Bearer {address.key}"},
            timeout=READY_SECONDS,
        )
        if response.is_error:
            raise RuntimeError(f"{self.name}: {method} {path}: {response.text[:500]}")
        return dict(response.json())


@contextmanager
def start_servers(
    names: Sequence[str], options: ServerOptions, peers: Peers, workdir: Path
) -> Iterator[list[RunningServer]]:
    """Start the named servers that are installed, in this order, and wait until they are ready."""
    starts: dict[str, Callable[[], RunningServer]] = {}
    with ExitStack() as stack:
        starts[SPINDLL] = lambda: stack.enter_context(start_spindll(options, workdir))
        if peers.llama_server is not None:
            program = peers.llama_server
            starts[LLAMA_SERVER] = lambda: stack.enter_context(
                start_llama_server(options, program, workdir)
            )
        if peers.has_llama_cpp_python:
            starts[LLAMA_CPP_PYTHON] = lambda: stack.enter_context(
                start_llama_cpp_python(options, workdir)
            )
        if peers.has_xllamacpp:
            starts[XLLAMACPP] = lambda: stack.enter_context(start_xllamacpp(options, workdir))
        yield [starts[name]() for name in names if name in starts]


@contextmanager
def start_spindll(
    options: ServerOptions, workdir: Path, *, keeps_data: bool = False
) -> Iterator[RunningServer]:
    """Start the whole stack in its own data directory and load the first model.

    `keeps_data`: continue with that of an earlier start.
    """
    data, port = workdir / "spindll", free_port()
    if not keeps_data:
        shutil.rmtree(data, ignore_errors=True)
        store = ModelStore(data / "models")
        for name, path in options.models.items():
            (import_folder if path.is_dir() else import_file)(store, path, name)
    command = [sys.executable, "-P", "-m", "services.cli", "up"]
    command += ["--data", str(data), "--port", str(port), "--grpc-port", "0"]
    environment = _clean_environment() | {
        "PYTHONPATH": str(_ROOT),
        "SPINDLL_CONTEXT_LENGTH": str(options.context_tokens),
        "SPINDLL_MAX_SEQUENCES": str(options.sequences),
        "SPINDLL_BATCH_TOKENS": str(options.batch_tokens),
        "SPINDLL_THREADS": str(options.thread_count),
        "SPINDLL_GPU_LAYERS": str(options.gpu_layers),
        "SPINDLL_KEEP_ALIVE_SECONDS": "-1",
        "SPINDLL_SPECULATE": "false",
        **options.settings,
    }
    with _run_process(SPINDLL, command, environment, workdir) as process:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/ready", workdir / f"{SPINDLL}.log")
        model = next(iter(options.models))
        user = (data / "secrets" / "user.key").read_text().strip()
        admin = (data / "secrets" / "admin.key").read_text().strip()
        target = Target(ServerAddress("127.0.0.1", port, user), model)
        server = RunningServer(
            SPINDLL, process.pid, target, ServerAddress("127.0.0.1", port, admin)
        )
        server.call("POST", f"/v1/models/{model}/load")
        yield server


@contextmanager
def start_llama_server(
    options: ServerOptions, program: Path, workdir: Path, *, arguments: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """Start llama-server with a unified KV cache and without its prompt cache in memory.

    `arguments` come last, so they override these.
    """
    port, (name, model) = free_port(), next(iter(options.models.items()))
    threads = str(options.thread_count)
    command = [str(program), "-m", str(model), "-a", name, "--host", "127.0.0.1"]
    command += ["--port", str(port), "-t", threads, "-tb", threads]
    command += ["-c", str(options.context_tokens), "-np", str(options.sequences), "-kvu"]
    command += ["-b", str(options.batch_tokens), "-ub", str(options.batch_tokens)]
    command += ["-ngl", str(options.peer_gpu_layers), "--cache-ram", "0", "--no-webui"]
    command += arguments
    with _run_process(LLAMA_SERVER, command, _clean_environment(), workdir) as process:
        _wait_until_ready(
            process, f"http://127.0.0.1:{port}/health", workdir / f"{LLAMA_SERVER}.log"
        )
        yield RunningServer(
            LLAMA_SERVER, process.pid, Target(ServerAddress("127.0.0.1", port), name)
        )


@contextmanager
def start_llama_cpp_python(options: ServerOptions, workdir: Path) -> Iterator[RunningServer]:
    """Start llama-cpp-python's server. New requests do not interrupt a running stream."""
    port, (name, model) = free_port(), next(iter(options.models.items()))
    threads = str(options.thread_count)
    command = [sys.executable, "-m", "bench.servers.llama_cpp_server", "--model", str(model)]
    command += ["--model_alias", name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_ctx", str(options.context_tokens), "--n_batch", str(options.batch_tokens)]
    command += ["--n_threads", threads, "--n_threads_batch", threads]
    command += ["--n_gpu_layers", str(options.gpu_layers)]
    command += ["--interrupt_requests", "false", "--verbose", "false"]
    environment = _clean_environment() | {"PYTHONPATH": str(_ROOT)}
    with _run_process(LLAMA_CPP_PYTHON, command, environment, workdir) as process:
        log = workdir / f"{LLAMA_CPP_PYTHON}.log"
        _wait_until_ready(process, f"http://127.0.0.1:{port}/v1/models", log)
        yield RunningServer(
            LLAMA_CPP_PYTHON, process.pid, Target(ServerAddress("127.0.0.1", port), name)
        )


@contextmanager
def start_xllamacpp(options: ServerOptions, workdir: Path) -> Iterator[RunningServer]:
    """Start xllamacpp's server with a unified KV cache and without its prompt cache in memory."""
    port, (name, model) = free_port(), next(iter(options.models.items()))
    sizes = (options.context_tokens, options.sequences, options.batch_tokens, options.thread_count)
    command = [sys.executable, "-m", "bench.servers.xllamacpp_server", str(model), name]
    command += [str(number) for number in (port, *sizes, options.peer_gpu_layers)]
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = _clean_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with _run_process(XLLAMACPP, command, environment, workdir) as process:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", workdir / f"{XLLAMACPP}.log")
        yield RunningServer(XLLAMACPP, process.pid, Target(ServerAddress("127.0.0.1", port), name))


@contextmanager
def start_mlx_lm(options: ServerOptions, workdir: Path) -> Iterator[RunningServer]:
    """Start mlx-lm's server, which batches as many answers and keeps prompts in memory only."""
    port, model = free_port(), next(iter(options.models.values()))
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--decode-concurrency", str(options.sequences)]
    command += ["--prefill-step-size", str(options.batch_tokens)]
    environment = _clean_environment() | {"HF_HUB_OFFLINE": "1"}
    with _run_process(MLX_LM, command, environment, workdir) as process:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", workdir / f"{MLX_LM}.log")
        # Another name would be looked for on Hugging Face.
        target = Target(ServerAddress("127.0.0.1", port), "default_model")
        yield RunningServer(MLX_LM, process.pid, target)


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SPINDLL_")}


@contextmanager
def _run_process(
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
