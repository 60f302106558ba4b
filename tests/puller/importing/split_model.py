"""A model in two parts, as llama.cpp splits one."""

from __future__ import annotations

from pathlib import Path

from tests.puller.formats.gguf.writer import TENSORS, write_gguf


def write_split(folder: Path) -> Path:
    """Write both parts into the folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in (0, 1):
        header = {"split.no": i, "split.count": 2, "split.tensors.count": 2}
        data = write_gguf(header, tensors=[TENSORS[i]])
        (folder / f"m-Q4_K_M-0000{i + 1}-of-00002.gguf").write_bytes(data)
    return folder
