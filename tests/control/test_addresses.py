"""What an address is, for the client, the server and the agent alike."""

from __future__ import annotations

import pytest

from atoll_control.api.addresses import split_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("a.example:1", "a.example", 1),
        ("[::1]:65535", "[::1]", 65535),
        ("[fe80::1%eth0]:0", "[fe80::1%eth0]", 0),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "wrong",
    ["", "a", ":1", "a:", "a:b", "a:65536", "a:-1", "::1:5", "[g]:1", "a:1,b:2", "http://a:1", "a b:1", "a:1\n"],
)
def test_what_is_no_address_is_told(wrong: str) -> None:
    assert split_address(wrong) is None
