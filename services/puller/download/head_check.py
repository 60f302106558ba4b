"""Look at a GGUF's header while the file is being downloaded.

A model that the engine cannot load is refused after the first mebibytes, not after the last.
"""

from __future__ import annotations

from pathlib import Path

from services.puller.formats.gguf.description import check_first_bytes, check_part_count
from services.puller.formats.gguf.header import read_header
from services.puller.formats.gguf.reading import HeaderIncomplete

_FIRST_BYTES = 1 << 20


class HeadCheck:
    """The check of one file; call `look` as its first bytes arrive."""

    def __init__(self, path: Path, size_bytes: int, *, parts: int = 1) -> None:
        """`parts` is the number of files that the model has."""
        self._path = path
        self._parts = parts
        self._size_bytes = size_bytes
        self._wanted_bytes: int | None = min(_FIRST_BYTES, size_bytes)

    def look(self, available_bytes: int) -> None:
        """Check the header once it is complete. Raises InvalidModelFile."""
        if self._wanted_bytes is None or available_bytes < self._wanted_bytes:
            return
        try:
            header = read_header(self._path, available_bytes=available_bytes)
            check_first_bytes(header)
            check_part_count(header, self._parts)
        except HeaderIncomplete:
            # Headers have up to 16 MB; doubling reads them a few times only.
            self._wanted_bytes = min(2 * available_bytes, self._size_bytes)
        else:
            self._wanted_bytes = None
