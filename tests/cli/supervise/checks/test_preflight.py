"""The checks before a start, with real ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from services.cli.errors import CommandError
from services.cli.supervise.checks import preflight
from services.cli.supervise.checks.preflight import require_disk_space, require_free_port
from tests.waiting import free_port


def test_the_error_for_a_taken_port_names_its_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(CommandError) as error:
            require_free_port("127.0.0.1", port, "--port")
    assert error.value.message == (
        f"port {port} is taken by {psutil.Process().name()} (process {os.getpid()}):"
        " choose another with --port"
    )


def test_a_free_port_is_accepted() -> None:
    require_free_port("127.0.0.1", free_port(), "--port")


def test_an_almost_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_disk_space(tmp_path)
    monkeypatch.setattr(preflight, "FREE_BYTES_NEEDED", 1 << 60)

    with pytest.raises(CommandError, match=r"is full \(\d+ MB free\)"):
        require_disk_space(tmp_path)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"], ids=["no address", "not ours"])
def test_an_address_of_another_host_is_refused(host: str) -> None:
    with pytest.raises(CommandError, match=host):
        require_free_port(host, free_port(), "--port")
