"""The tiny model at the first start, as a file or as a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.puller.first_start import TINY, FirstStart
from services.shared.store.model_store import ModelStore
from tests.conftest import TINY_GGUF
from tests.puller.conftest import PullTestbed


@pytest.mark.parametrize(
    ("path", "format_"),
    [(TINY_GGUF, "gguf"), (TINY_GGUF.parent / "mlx-f16", "mlx")],
    ids=["file", "folder"],
)
def test_the_tiny_model_is_imported_in_its_format(
    testbed: PullTestbed, mlx_engine: None, path: Path, format_: str
) -> None:
    store: ModelStore = testbed.store
    FirstStart(store, testbed.commands, testbed.job_queue).import_tiny(path)

    assert store.resolve(TINY).description.format == format_
