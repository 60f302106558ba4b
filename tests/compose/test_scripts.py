"""The scripts of docker/, run without Docker."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.compose.conftest import ROOT
from tests.waiting import free_port

DOCKER = ROOT / "docker"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.removeprefix("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a server that answers `/503` with status 503."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http.server_port
        http.shutdown()
        thread.join()


def accept_and_close(listener: socket.socket) -> None:
    listener.accept()[0].close()


def check_http(port: int, path: str) -> int:
    command = [str(DOCKER / "check-http"), "127.0.0.1", str(port), path]
    return subprocess.run(command, capture_output=True, timeout=30).returncode


def test_a_health_check_passes_only_with_status_200(server: int) -> None:
    assert [check_http(server, path) for path in ("/200", "/503", "/404")] == [0, 1, 1]


def test_a_health_check_fails_when_nothing_listens_or_the_server_says_nothing() -> None:
    assert check_http(free_port(), "/200") == 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closer = threading.Thread(target=accept_and_close, args=(listener,))
        closer.start()
        assert check_http(listener.getsockname()[1], "/200") == 1
        closer.join()


# ---- docker/gpu-settings


def gpu_settings(folder: Path, nvidia_smi: str) -> subprocess.CompletedProcess[str]:
    """Run the script on a computer whose nvidia-smi is this shell script."""
    stand_in = folder / "nvidia-smi"
    stand_in.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    stand_in.chmod(0o755)
    return subprocess.run(
        [str(DOCKER / "gpu-settings")],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("gpus", "variant", "architectures"),
    [
        ("580.95.05, 8.9", "cuda", "89-real"),
        ("580.95.05, 12.0\n580.95.05, 8.6\n580.95.05, 8.6", "cuda", "86-real;120-real"),
        ("535.183.01, 8.6", "cuda12", "86-real"),
        ("580.95.05, 6.1", "cuda12", "61-real"),
    ],
    ids=["one GPU", "three GPUs of two kinds", "an old driver", "an old GPU"],
)
def test_gpu_settings_chooses_the_variant_and_the_architectures(
    tmp_path: Path, gpus: str, variant: str, architectures: str
) -> None:
    done = gpu_settings(tmp_path, f"printf '%s\\n' '{gpus}'")

    assert done.stdout == f"ENGINE={variant}\nCUDA_ARCHS={architectures}\n"


@pytest.mark.parametrize(
    "nvidia_smi",
    ["echo 'NVIDIA-SMI has failed' >&2; exit 9", "echo '470.1, 3.7'"],
    ids=["no driver", "too old for both variants"],
)
def test_gpu_settings_prints_nothing_for_a_gpu_that_no_variant_supports(
    tmp_path: Path, nvidia_smi: str
) -> None:
    done = gpu_settings(tmp_path, nvidia_smi)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("gpu-settings: ")


# ---- docker/llama-wheel


@pytest.mark.parametrize(
    ("memory_gib", "cores", "chosen", "jobs"),
    [(16, 16, "", "5"), (64, 4, "", "4"), (2, 4, "", "1"), (16, 16, "9", "9")],
    ids=["memory is the limit", "cores are the limit", "at least one", "BUILD_JOBS"],
)
def test_compilers_do_not_need_more_memory_than_there_is(
    tmp_path: Path, memory_gib: int, cores: int, chosen: str, jobs: str
) -> None:
    """The programs pip and nproc are stand-ins: pip prints the jobs and ends the build."""
    programs = {"nproc": f"echo {cores}", "pip": 'echo "$BUILD_JOBS jobs"; exit 1'}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "meminfo").write_text(f"MemTotal:       {memory_gib << 20} kB\n")
    done = subprocess.run(
        [str(DOCKER / "llama-wheel"), str(tmp_path)],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "MEMINFO": str(tmp_path / "meminfo"),
            "BUILD_JOBS": chosen,
        },
        capture_output=True,
        text=True,
    )

    assert f"compiling with {jobs} jobs;" in done.stdout
