"""The memory of a Mac, from recorded output of its tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.engine.memory.macos import MacMemory, compute_working_set, parse_vm_stat, run_tool
from services.engine.memory.probe import MemoryPool, SystemProbe

GIB = 1 << 30
PAGE = 16384
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              101338.
Pages active:                            388126.
Pages inactive:                          371012.
Pages speculative:                        15420.
Pages throttled:                              0.
Pages wired down:                        146311.
Pages purgeable:                           8230.
"Translation faults":                 498120394.
Pages copy-on-write:                   20571265.
Pages zero filled:                    311048172.
Pages reactivated:                      8011347.
Pages purged:                           3120935.
File-backed pages:                       246150.
Anonymous pages:                         528408.
Pages stored in compressor:              312467.
Pages occupied by compressor:            120417.
Decompressions:                         9012345.
Compressions:                          11203944.
Pageins:                               14230112.
Pageouts:                                 81344.
Swapins:                                      0.
Swapouts:                                     0.
"""
FREE = PAGE * (101338 + 371012 + 15420 + 8230)


def answers(wired_limit: str, vm_stat: str = VM_STAT) -> Callable[[Sequence[str]], str]:
    return lambda command: {"sysctl": wired_limit, "vm_stat": vm_stat}[command[0]]


def test_pages_that_can_be_had_count_as_free() -> None:
    assert parse_vm_stat(VM_STAT) == FREE


@pytest.mark.parametrize("text", ["", "command not found", VM_STAT.partition("\n")[2]])
def test_any_other_text_is_none(text: str) -> None:
    assert parse_vm_stat(text) is None


@pytest.mark.parametrize(("total", "expected"), [(24 * GIB, 16 * GIB), (64 * GIB, 48 * GIB)])
def test_the_default_working_set_depends_on_the_memory(total: int, expected: int) -> None:
    assert compute_working_set(total) == expected


def test_a_limit_that_is_set_is_the_total() -> None:
    assert MacMemory(answers("20480\n")).measure(24 * GIB, GIB) == (20 * GIB, FREE)


def test_free_memory_is_at_most_the_working_set() -> None:
    assert MacMemory(answers("4096\n")).measure(24 * GIB, GIB) == (4 * GIB, 4 * GIB)


def test_without_the_tools_free_is_what_psutil_reports() -> None:
    assert MacMemory(answers("", "")).measure(24 * GIB, GIB) == (16 * GIB, GIB)


def test_the_probe_reports_the_memory_of_a_mac(tmp_path: Path) -> None:
    probe = SystemProbe(cgroups=tmp_path, own_cgroups=tmp_path, mac=MacMemory(answers("1024\n")))

    assert probe.measure_pools() == (MemoryPool("host", "host", GIB, GIB, "main memory"),)


def test_a_tool_that_is_missing_or_fails_has_no_output() -> None:
    assert run_tool(("/nonexistent/vm_stat",)) == ""
    assert run_tool(("false",)) == ""
    assert run_tool(("echo", "text")) == "text\n"
