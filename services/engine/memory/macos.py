"""How much memory models may take on a Mac, where the GPU uses main memory.

    free    pages that are free, inactive, purgeable or speculative (`vm_stat`)
    total   what Metal may wire: `iogpu.wired_limit_mb`, or the system's default of about two thirds
            of a memory of up to 36 GB, and three quarters of a larger one

Both are read with the system's own tools. Never run on a Mac: the tests have recorded output.
"""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Callable, Sequence

_TOOL_SECONDS = 5.0
_PAGE_SIZE = re.compile(r"page size of (\d+) bytes")
_PAGES = re.compile(r"^Pages (free|inactive|purgeable|speculative):\s+(\d+)\.?$", re.MULTILINE)
_GIB = 1 << 30
_MIB = 1 << 20

logger = logging.getLogger(__name__)


def run_tool(command: Sequence[str]) -> str:
    """The output of a tool; empty where it fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_TOOL_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("memory not read", extra={"tool": command[0], "reason": str(error)})
        return ""


class MacMemory:
    """Main memory of a Mac. Reads the limit of wired memory when it is created."""

    def __init__(self, run: Callable[[Sequence[str]], str] = run_tool) -> None:
        self._run = run
        limit = run(("sysctl", "-n", "iogpu.wired_limit_mb")).strip()
        self._wired_limit = int(limit) * _MIB if limit.isdigit() else 0

    def measure(self, total: int, free: int) -> tuple[int, int]:
        """Total and free bytes for models, from those that psutil reports."""
        working_set = min(self._wired_limit or compute_working_set(total), total)
        pages = parse_vm_stat(self._run(("vm_stat",)))
        return working_set, min(free if pages is None else pages, working_set)


def parse_vm_stat(text: str) -> int | None:
    """The bytes that a new process can have; None for any other text."""
    size = _PAGE_SIZE.search(text)
    pages = dict(_PAGES.findall(text))
    if size is None or "free" not in pages:
        return None
    return int(size[1]) * sum(map(int, pages.values()))


def compute_working_set(total: int) -> int:
    """The recommended working set of Metal where no limit is set."""
    return total * 2 // 3 if total <= 36 * _GIB else total * 3 // 4
