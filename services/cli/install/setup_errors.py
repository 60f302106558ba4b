"""Explain in one line why a step of the set-up failed, and what to do. Pure.

The log file has the full output of the step; for the usual reasons it is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class SetupError(Exception):
    """The set-up cannot continue; the message is one line for a person."""


# The first match wins: a full disk or a lost network also causes errors of the later kinds.
_REASONS = (
    (r"No space left on device|Errno 28", "the disk is full: free some space and run it again"),
    (
        r"Disk quota exceeded|Errno 122",
        "your disk quota is exceeded: free some space and run it again",
    ),
    (
        (
            r"Temporary failure in name resolution|nodename nor servname|NewConnectionError"
            r"|Network is unreachable|Connection refused|ProxyError|ConnectTimeout|Read timed out"
            r"|ReadTimeoutError|Could not fetch URL|RemoteDisconnected"
        ),
        "no connection to the package index: check the network (or proxy) and run it again",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the package index's certificate is not trusted: set PIP_CERT to your network's CA file",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        (
            "a downloaded package does not have the hash in the lock file and was not installed:"
            " clear the cache of pip (pip cache purge) or of the mirror and run it again"
        ),
    ),
    (
        r"Killed signal terminated program|virtual memory exhausted|cannot allocate memory",
        "the compiler ran out of memory: run CMAKE_BUILD_PARALLEL_LEVEL=1 ./spindll setup",
    ),
    (
        (
            r"No CMAKE_C(XX)?_COMPILER could be found|is not able to compile a simple test program"
            r"|xcode-select: (note|error): "
        ),
        (
            "the C++ compiler does not work (Debian, Ubuntu: apt install build-essential;"
            " Mac: xcode-select --install)"
        ),
    ),
    (r"No matching distribution found", "the package index has no build for this platform"),
    (r"Permission denied|Read-only file system", "this folder is not writable"),
)


def explain(output: Sequence[str], status: int) -> str:
    """The reason as text. `status` is the exit status, negative for a signal."""
    text = "\n".join(output)
    for pattern, reason in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return reason
    if status < 0:
        return f"the step was ended by signal {-status} (out of memory?)"
    return _last_error(output) or f"exit status {status}"


def _last_error(output: Sequence[str]) -> str | None:
    lines = [line.strip() for line in output if re.search(r"\berror\b", line, re.IGNORECASE)]
    return lines[-1][:200] if lines else None
