"""The CUDA toolkit of Dockerfile.cuda works without a GPU, a driver or an image of NVIDIA."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.conftest import ROOT
from tests.compose.stack import BUILD_SECONDS, docker

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(2 * BUILD_SECONDS)]

IMAGE = "spindll-test:toolchain"
# ggml's CUDA backend needs kernels, cuBLAS, and functions of the driver.
SOURCE = r"""
#include <cublas_v2.h>
#include <cuda.h>
__global__ void add_one(float *x) { x[threadIdx.x] += 1; }
extern "C" int use_all(void) {
    CUdeviceptr memory; cublasHandle_t handle;
    add_one<<<1, 32>>>(nullptr);
    return cuMemAlloc(&memory, 4) + cuMemAddressReserve(&memory, 1, 1, 0, 0) + cublasCreate(&handle);
}
"""
CMAKE = """
cmake_minimum_required(VERSION 3.20)
project(probe LANGUAGES CXX CUDA)
find_package(CUDAToolkit REQUIRED)
add_library(probe SHARED probe.cu)
target_link_libraries(probe CUDA::cudart CUDA::cublas CUDA::cuda_driver)
target_link_options(probe PRIVATE -Wl,-z,defs)
"""
BUILD = """
cd /tmp && mkdir probe && cd probe && echo "$SOURCE" > probe.cu && echo "$CMAKE" > CMakeLists.txt
export PATH=/opt/build/bin:$PATH
cmake -B out -G Ninja '-DCMAKE_CUDA_ARCHITECTURES=75-real;120a-real;90-virtual' && cmake --build out
readelf -d out/libprobe.so
"""


@pytest.fixture(scope="module")
def toolchain(docker_engine: None) -> Iterator[str]:
    build = ["docker", "build", "--quiet", "-f", "Dockerfile.cuda", "--target", "toolchain"]
    subprocess.run([*build, "-t", IMAGE, "."], cwd=ROOT, check=True, timeout=BUILD_SECONDS)
    yield IMAGE
    docker("rmi", "--force", IMAGE)


def test_the_toolchain_compiles_kernels_and_links_every_library(toolchain: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "-e", f"SOURCE={SOURCE}"]
        + ["-e", f"CMAKE={CMAKE}", toolchain, "sh", "-euc", BUILD],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for library in ("libcudart.so.13", "libcublas.so.13", "libcuda.so.1"):
        assert f"[{library}]" in done.stdout
