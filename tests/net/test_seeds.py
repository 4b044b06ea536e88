"""Addresses as people write them, and what is wrong with others."""

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.net.addresses import Address
from scatterzmq.net.seeds import ip_of, parse_seed, resolved


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://10.0.0.1:7500", "10.0.0.1", 7500),
        ("tcp://10.0.0.1", "10.0.0.1", 7411),
        ("tcp://node-1.lab_2.example:1", "node-1.lab_2.example", 1),
        ("tcp://localhost:65535", "localhost", 65535),
        ("tcp://[::1]:7500", "::1", 7500),
        ("tcp://[fe80::1%eth0]", "fe80::1%eth0", 7411),
    ],
)
def test_what_is_read(text: str, host: str, port: int) -> None:
    address = parse_seed(text, "here")
    assert address == Address(host, port)
    assert Address.parse(str(address)) == address, "as peers write it"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("node:7411", "did you mean tcp://node:7411?"),
        ("", "expected tcp://host"),
        ("udp://node:7411", "got 'udp://node:7411'"),
        ("tcp://", "got 'tcp://'"),
        ("tcp://:7411", "got 'tcp://:7411'"),
        ("tcp://node:", "a port is a number from 1 to 65535"),
        ("tcp://node:0", "a port is a number from 1 to 65535"),
        ("tcp://node:65536", "a port is a number from 1 to 65535"),
        ("tcp://node:" + "9" * 5000, "a port is a number from 1 to 65535"),
        ("tcp://node:७", "a port is a number from 1 to 65535"),
        ("tcp://node:74x", "a port is a number from 1 to 65535"),
        ("tcp://::1:7411", "an IPv6 address goes in brackets"),
        ("tcp://[::1:7411", "an IPv6 address goes in brackets"),
        ("tcp://[node]:7411", "an IPv6 address goes in brackets"),
        ("tcp://[::1]7411", "got 'tcp://[::1]7411'"),
        ("tcp://no de:7411", "got 'tcp://no de:7411'"),
        ("tcp://node/path", "got 'tcp://node/path'"),
        ("tcp://*:7411", "got 'tcp://*:7411'"),
        ("tcp://" + "n" * 254, "got 'tcp://nnn"),
    ],
)
def test_what_is_refused_is_said_in_one_line(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_seed(text, "network.join")
    line = str(caught.value)
    assert line.startswith("network.join: expected tcp://host")
    assert hint in line
    assert "\n" not in line


def test_names_stand_for_addresses() -> None:
    found = resolved(Address("localhost", 7411))
    assert found
    ips = [ip_of(address) for address in found]
    assert all(ip is not None and ip.is_loopback for ip in ips)
    assert {address.port for address in found} == {7411}
    assert len(set(found)) == len(found)


def test_what_has_no_address_stands_for_nothing() -> None:
    assert resolved(Address("does-not-exist.invalid", 7411)) == ()
    assert resolved(Address("a" * 100, 7411)) == (), "no name of the DNS has so long a part"


def test_digits_stand_for_themselves() -> None:
    assert resolved(Address("::1", 5)) == (Address("::1", 5),)
