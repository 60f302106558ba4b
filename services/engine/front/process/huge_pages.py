"""Huge pages for the weights and the KV cache of a runner, where the kernel provides them.

Every token reads all weights. With pages of 4 KiB the processor translates an address for each
4 KiB; with pages of 2 MiB it does so 512 times less often. The measurements are in
bench/performance.md.

A kernel whose transparent huge pages are set to "madvise" provides them on request. glibc makes the
request for every large allocation when a tunable is set; it reads its tunables once, when a process
starts. Other C libraries and other kernels ignore the tunable.
"""

from __future__ import annotations

from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"  # name=value pairs, separated by colons
_TUNABLE = "glibc.malloc.hugetlb"
_MADVISE = "1"


def request_huge_pages(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with the request added, unless the operator has set the tunable."""
    tunables = environment.get(_VARIABLE, "")
    if _TUNABLE in tunables:
        return environment
    request = f"{_TUNABLE}={_MADVISE}"
    return {**environment, _VARIABLE: f"{tunables}:{request}" if tunables else request}
