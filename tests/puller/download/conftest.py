"""A server with one file, and a partial file for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.puller.download import progress, range_workers
from services.puller.download.partial_file import PartialFile
from tests.fakes.registries.server import LoopbackServer
from tests.puller.download.runs import (
    DATA,
    POOL,
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "choose_piece_bytes", lambda size_bytes: 500_000)
    monkeypatch.setattr(range_workers, "choose_request_bytes", lambda bytes_per_second: 500_000)
    yield
    POOL.close()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        running.files["/file"] = DATA
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[PartialFile]:
    opened = PartialFile.lock(tmp_path / "file.partial")
    assert opened is not None
    yield opened
    opened.close()
