from __future__ import annotations

import platform
from pathlib import Path

import pytest

from services.engine.front.process.huge_pages import with_huge_pages
from services.engine.front.process.launcher import RUNNER
from tests.conftest import TINY_GGUF
from tests.engine.engine_server import add_model, running_front

_HAS_TUNABLE = platform.libc_ver()[0] == "glibc" and platform.libc_ver()[1] >= "2.35"


@pytest.mark.parametrize(
    ("owners", "runners"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, "glibc.malloc.hugetlb=1"),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=3"},
            "glibc.malloc.check=3:glibc.malloc.hugetlb=1",
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
    ids=["no word", "an empty word", "about something else", "no huge pages"],
)
def test_huge_pages_are_asked_for_unless_the_owner_spoke(
    owners: dict[str, str], runners: str
) -> None:
    environment = with_huge_pages({"HOME": "/nowhere", **owners})

    assert environment == {"HOME": "/nowhere", "GLIBC_TUNABLES": runners}


@pytest.mark.skipif(not _HAS_TUNABLE, reason="the C library does not know the tunable")
async def test_a_runner_asks_the_kernel_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    add_model(tmp_path, "tiny", TINY_GGUF.read_bytes())
    async with running_front(tmp_path, runner=RUNNER, context_length=2048, threads=1) as front:
        await front.client().ask("tiny", "Hello")
        (model,) = (await front.loaded()).models
        mappings = Path(f"/proc/{model.pid}/smaps").read_text()

    flags = [line.split()[1:] for line in mappings.splitlines() if line.startswith("VmFlags:")]
    assert any("hg" in found for found in flags), "no mapping is advised to use huge pages"
