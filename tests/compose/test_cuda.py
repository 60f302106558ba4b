"""The CUDA toolkits of Dockerfile.cuda work without a GPU, a driver or an image of NVIDIA."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.conftest import ROOT
from tests.compose.stack import BUILD_SECONDS, docker

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(2 * BUILD_SECONDS)]

# By major version of CUDA: the base image, and architectures of the first and the last supported GPUs.
TOOLCHAINS = {
    "13": ("python:3.11-slim-bookworm", "75-real;120a-real;90-virtual"),
    "12": ("python:3.13-slim-trixie", "60-real;90-real;90-virtual"),
}
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
cmake -B out -G Ninja "-DCMAKE_CUDA_ARCHITECTURES=$ARCHITECTURES" "-DCMAKE_LIBRARY_PATH=$CUDA_STUBS"
cmake --build out
readelf -d out/libprobe.so
"""


@pytest.fixture(scope="module", params=TOOLCHAINS)
def version(request: pytest.FixtureRequest, docker_engine: None) -> Iterator[str]:
    """A major version of CUDA whose toolchain has been built."""
    cuda = str(request.param)
    base_image, _ = TOOLCHAINS[cuda]
    if subprocess.run(["docker", "pull", "--quiet", base_image], capture_output=True).returncode:
        known = subprocess.run(["docker", "image", "inspect", base_image], capture_output=True)
        if known.returncode != 0:
            pytest.skip(f"the image {base_image} is not available")
    build = ["docker", "build", "--quiet", "-f", "Dockerfile.cuda", "--target", "toolchain"]
    arguments = ["--build-arg", f"CUDA={cuda}", "--build-arg", f"PYTHON_IMAGE={base_image}"]
    command = [*build, *arguments, "-t", image_name(cuda), "."]
    subprocess.run(command, cwd=ROOT, check=True, timeout=BUILD_SECONDS)
    yield cuda
    docker("rmi", "--force", image_name(cuda))


def image_name(cuda: str) -> str:
    return f"spindll-test:toolchain-{cuda}"


def test_the_toolchain_compiles_kernels_and_links_every_library(version: str) -> None:
    _, architectures = TOOLCHAINS[version]
    variables = {"SOURCE": SOURCE, "CMAKE": CMAKE, "ARCHITECTURES": architectures}
    options = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", *options, image_name(version)]
        + ["sh", "-euc", BUILD],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for library in (f"libcudart.so.{version}", f"libcublas.so.{version}", "libcuda.so.1"):
        assert f"[{library}]" in done.stdout
