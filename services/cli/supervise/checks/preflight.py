"""Checks before a start: is a port free, and is there space on the disk."""

from __future__ import annotations

import errno
import shutil
import socket
from pathlib import Path

from services.cli.errors import CommandError

FREE_BYTES_NEEDED = 64 << 20


def require_free_port(host: str, port: int, option: str) -> None:
    """Raise CommandError when a server cannot listen on the port.

    `option` is the flag that chooses another port.
    """
    if port == 0:
        return
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CommandError(f"--host {host}: there is no such address") from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a connection in TIME_WAIT after a stop does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError as error:
            raise CommandError(
                f"port {port} needs root: choose one above 1023 with {option}"
            ) from error
        except OSError as error:
            raise CommandError(_describe_bind_error(host, port, option, error)) from error


def require_disk_space(data_dir: Path) -> None:
    """Raise CommandError when the disk is almost full."""
    free = shutil.disk_usage(data_dir).free
    if free < FREE_BYTES_NEEDED:
        raise CommandError(
            f"the disk of {data_dir} is full ({free >> 20} MB free):"
            " free some space, or choose another folder with --data"
        )


def _describe_bind_error(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on {host} port {port}: {error.strerror}"
    return f"port {port} is taken{_describe_listener(port)}: choose another with {option}"


def _describe_listener(port: int) -> str:
    """The process that listens on the port, as text; empty when the system does not reveal it."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port:
                name = psutil.Process(connection.pid).name() if connection.pid else None
                return f" by {name} (process {connection.pid})" if name else ""
    except (psutil.Error, OSError):
        return ""
    return ""
