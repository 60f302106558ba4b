"""A runner's weights and KV cache lie in huge pages where the kernel gives them.

Every token reads all weights: in pages of 4 KiB the processor looks up an address each 4 KiB, in
those of 2 MiB hardly ever. docs/decisions/006 has what it brings. Kernels that give such pages only
on request ("madvise") get the request from glibc, for every large allocation; it reads its tunables
once, when a process starts. Other C libraries and other kernels ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"  # name=value pairs, separated by colons
_TUNABLE = "glibc.malloc.hugetlb"
_ON_REQUEST = "1"


def with_huge_pages(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, and the request in it. The owner's own word counts."""
    tunables = environment.get(_VARIABLE, "")
    if _TUNABLE in tunables:
        return environment
    request = f"{_TUNABLE}={_ON_REQUEST}"
    return {**environment, _VARIABLE: f"{tunables}:{request}" if tunables else request}
