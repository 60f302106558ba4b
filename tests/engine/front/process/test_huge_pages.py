from __future__ import annotations

import platform
from pathlib import Path

import pytest

from services.engine.front.process.huge_pages import request_huge_pages
from services.engine.front.process.launcher import RUNNER_COMMAND
from tests.conftest import TINY_GGUF
from tests.engine.engine_server import add_model, running_front

_HAS_TUNABLE = platform.libc_ver()[0] == "glibc" and platform.libc_ver()[1] >= "2.35"


@pytest.mark.parametrize(
    ("owner", "runner"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, "glibc.malloc.hugetlb=1"),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=3"},
            "glibc.malloc.check=3:glibc.malloc.hugetlb=1",
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
    ids=["not set", "empty", "another tunable", "huge pages off"],
)
def test_huge_pages_are_requested_unless_the_owner_has_set_the_tunable(
    owner: dict[str, str], runner: str
) -> None:
    environment = request_huge_pages({"HOME": "/nowhere", **owner})

    assert environment == {"HOME": "/nowhere", "GLIBC_TUNABLES": runner}


@pytest.mark.skipif(not _HAS_TUNABLE, reason="the C library does not know the tunable")
async def test_the_memory_of_a_runner_is_advised_to_use_huge_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    add_model(tmp_path, "tiny", TINY_GGUF.read_bytes())
    async with running_front(
        tmp_path, runner=RUNNER_COMMAND, context_length=2048, threads=1
    ) as front:
        await front.client().ask("tiny", "Hello")
        (model,) = (await front.loaded()).models
        mappings = Path(f"/proc/{model.pid}/smaps").read_text()

    flags = [line.split()[1:] for line in mappings.splitlines() if line.startswith("VmFlags:")]
    assert any("hg" in found for found in flags), "no mapping is advised to use huge pages"
