"""The address of the client of a request, also behind a reverse proxy. Pure.

A proxy appends the address that it saw to `X-Forwarded-For`. The header counts only on a connection
from a trusted proxy, and there only up to the last address that is not a trusted proxy itself:
everything before it was written by the client.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import unquote

UNKNOWN = "-"  # a unix socket, or a header that is not an address
_EVERYBODY = "*"
_MAX_HOPS = 32  # that are looked at: each takes some microseconds, and strangers write them


class ClientAddresses:
    """Finds the address of a client. `trusted`: the proxies, separated by commas; `*`: all peers.

    Raises ValueError for a proxy that is neither an address nor a network.
    """

    def __init__(self, trusted: str) -> None:
        parts = [part.strip() for part in trusted.split(",") if part.strip()]
        self._trusts_all = _EVERYBODY in parts
        self._trusted: list[IPv4Network | IPv6Network] = [
            ip_network(part, strict=False) for part in parts if part != _EVERYBODY
        ]

    def find(self, peer: str | None, forwarded_for: Iterable[str] = ()) -> str:
        """The client's address as text: of the peer, or the one that trusted proxies name."""
        address = _parse(peer or "")
        hops = [hop for header in forwarded_for for hop in header.split(",")]
        for hop in reversed(hops[-_MAX_HOPS:]):
            if address is None or not self._is_trusted(address):
                break
            forwarded = _parse(hop)
            if forwarded is None:
                break
            address = forwarded
        return UNKNOWN if address is None else str(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return self._trusts_all or any(address in network for network in self._trusted)


def parse_grpc_peer(peer: str) -> str:
    """The address in gRPC's name of a peer: `ipv4:192.0.2.1:50000`, `ipv6:%5B::1%5D:50000`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def find_network(address: str) -> str:
    """What one client controls: an IPv4 address, or the /64 network of an IPv6 address."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False))
    return address


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """The address in a text, which may have a port; None when there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
