"""The process that gathers the facts about the GPUs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from services.engine.backends.llamacpp.devices import parse_architectures
from services.engine.gpu import GpuReport
from services.engine.runner.gpu_report import read_driver, read_runtime_cuda

# What a driver of CUDA 12.2 answers on a computer without a GPU.
STAND_IN = """
int cuInit(unsigned flags) { return 100; }
int cuDriverGetVersion(int *version) { *version = 12020; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library with the functions of libcuda and libcudart that are asked."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stand-in of libcuda")
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(path), "-"]
    subprocess.run(command, input=STAND_IN, text=True, check=True)
    return str(path)


def test_the_driver_reports_its_error_and_the_cuda_version_that_it_supports(library: str) -> None:
    assert read_driver(library) == (True, 100, 12020)


def test_a_missing_libcuda_is_reported() -> None:
    assert read_driver("libspindll-does-not-exist.so.1") == (False, 0, 0)


def test_the_runtime_of_the_build_is_the_first_that_can_be_opened(library: str) -> None:
    assert read_runtime_cuda(("libspindll-does-not-exist.so.13", library)) == 13000
    assert read_runtime_cuda(("libspindll-does-not-exist.so.13",)) == 0


def test_the_architectures_stand_in_the_system_info() -> None:
    cpu = "CPU : SSE3 = 1 | AVX2 = 1 | "

    assert parse_architectures("CUDA : ARCHS = 610,750,900 | USE_GRAPHS = 1 | " + cpu) == (
        61,
        75,
        90,
    )
    assert parse_architectures(cpu) == ()


def test_the_process_writes_a_report_about_this_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.engine.runner.gpu_report"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    report = msgspec.json.decode(done.stdout.splitlines()[-1], type=GpuReport)

    assert bool(report.driver) == Path("/dev/nvidiactl").exists()
    assert bool(report.driver) != bool(report.nvml_error)


def test_without_llama_cpp_there_is_nothing_to_report() -> None:
    program = (
        "import runpy, sys; sys.modules['llama_cpp'] = None\n"
        "runpy.run_module('services.engine.runner.gpu_report', run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, check=True)

    assert msgspec.json.decode(result.stdout, type=GpuReport) == GpuReport()
