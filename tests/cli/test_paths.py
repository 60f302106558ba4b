"""The folder of a stack's sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.paths import MAX_SOCKET_PATH_BYTES, StackPaths


def test_the_sockets_of_a_deep_folder_get_a_short_private_folder(tmp_path: Path) -> None:
    paths = StackPaths(tmp_path / ("deep" * 30))
    paths.make_dirs()

    assert len(str(paths.engine_socket)) <= MAX_SOCKET_PATH_BYTES
    assert paths.sockets_dir.stat().st_mode & 0o777 == 0o700
    paths.sockets_dir.rmdir()


def test_a_short_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    paths = StackPaths(tmp_path / ("deep" * 30))
    paths.sockets_dir.mkdir(mode=0o755)
    try:
        with pytest.raises(PermissionError):
            paths.make_dirs()
    finally:
        paths.sockets_dir.rmdir()
