"""Whose address is believed."""

from __future__ import annotations

import pytest

from services.api.access.client_address import ClientAddresses, find_network, parse_grpc_peer

PROXIES = "127.0.0.1, 10.0.0.0/8"


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("127.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["1.1.1.1", "203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        ("127.0.0.1", ["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
        ("127.0.0.1", ["203.0.113.9, " + ", ".join(["10.1.2.3"] * 99)], "10.1.2.3"),
        ("127.0.0.1", ["client=admin"], "127.0.0.1"),
        ("::ffff:127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("", ["203.0.113.9"], "-"),
        (None, [], "-"),
    ],
    ids=str,
)
def test_the_header_counts_as_far_as_trusted_proxies_wrote_it(
    peer: str | None, headers: list[str], client: str
) -> None:
    assert ClientAddresses(PROXIES).find(peer, headers) == client


def test_with_a_star_every_peer_is_a_proxy() -> None:
    assert ClientAddresses("*").find("192.0.2.1", ["1.1.1.1, 203.0.113.9"]) == "1.1.1.1"


def test_without_a_proxy_no_header_counts() -> None:
    assert ClientAddresses("").find("127.0.0.1", ["203.0.113.9"]) == "127.0.0.1"


def test_a_proxy_that_is_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="proxy"):
        ClientAddresses("proxy.example")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "2001:db8::1"),
        ("ipv6:[::1]:50000", "::1"),
        ("unix:/run/api.sock", ""),
    ],
)
def test_the_address_in_the_name_of_a_grpc_peer(peer: str, address: str) -> None:
    assert parse_grpc_peer(peer) == address


def test_one_client_controls_a_whole_ipv6_network() -> None:
    assert find_network("2001:db8:0:7::1") == find_network("2001:db8:0:7:ffff::2")
    assert find_network("192.0.2.1") != find_network("192.0.2.2")
    assert find_network("-") == "-"
