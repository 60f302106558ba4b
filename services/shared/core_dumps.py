"""Leave no core dumps: the memory of a process may have keys and people's texts in it."""

from __future__ import annotations

import resource


def forbid_core_dumps() -> None:
    """Let the kernel write none of this process and its later children, also not to a program.

    A limit of 0 bytes is not applied where `core_pattern` pipes dumps to a program, as those of
    systemd and Ubuntu; 1 is (coredump_pipe of Linux), and is too little for a file. Where another
    process has set the hard limit to 0, it stays 0: files alone are forbidden then.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    size = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (size, size))
