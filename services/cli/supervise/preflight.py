"""Look before starting: is a port free, is there room on the disk."""

from __future__ import annotations

import errno
import shutil
import socket
from pathlib import Path

from services.cli.errors import CommandError

FREE_BYTES_NEEDED = 64 << 20


def require_free_port(host: str, port: int, option: str) -> None:
    """Problem when nobody could listen there now; `option` is the flag that chooses another."""
    if port == 0:
        return
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CommandError(f"--host {host}: no such address") from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger after a stop do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError as error:
            raise CommandError(
                f"port {port} needs root: choose one above 1023 with {option}"
            ) from error
        except OSError as error:
            raise CommandError(_taken(host, port, option, error)) from error


def require_disk_space(data_dir: Path) -> None:
    """Problem when the disk is as good as full."""
    free = shutil.disk_usage(data_dir).free
    if free < FREE_BYTES_NEEDED:
        raise CommandError(
            f"the disk of {data_dir} is full ({free >> 20} MB free):"
            " free some space, or choose another place with --data"
        )


def _taken(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on {host} port {port}: {error.strerror}"
    return f"port {port} is taken{_listener(port)}: choose another with {option}"


def _listener(port: int) -> str:
    """Who listens there, where the system tells us."""
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
