"""Where a peer listens, and the one line that says why it cannot."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.net.addresses import Address
from scatterzmq.net.interfaces import advertised
from scatterzmq.net.listening import Listening, listen
from scatterzmq.net.reactor import Reactor
from scatterzmq.settings import NetworkSettings


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor()
    yield made
    made.close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@contextmanager
def at(reactor: Reactor, **network: Any) -> Iterator[Listening]:
    made = listen(reactor, NetworkSettings(**{"port": 0, **network}))
    with made.router, made.publisher:
        yield made


def refusal(reactor: Reactor, **network: Any) -> str:
    with pytest.raises(ConfigError) as caught, at(reactor, **network):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def answers(port: int, family: int = socket.AF_INET, host: str = "127.0.0.1") -> bool:
    with socket.socket(family) as trying:
        trying.settimeout(5)
        return trying.connect_ex((host, port)) == 0


def test_any_free_ports(reactor: Reactor) -> None:
    with at(reactor) as made:
        assert made.host == "127.0.0.1"
        assert made.port != made.gossip_port
        assert answers(made.port)
        assert answers(made.gossip_port)


@pytest.mark.parametrize(
    ("bind", "host", "family", "reached"),
    [
        ("localhost", "127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::1", "::1", socket.AF_INET6, "::1"),
        ("[::1]", "::1", socket.AF_INET6, "::1"),
        ("0.0.0.0", "0.0.0.0", socket.AF_INET, "127.0.0.1"),
        ("*", "0.0.0.0", socket.AF_INET, "127.0.0.1"),
        ("::", "::", socket.AF_INET6, "::1"),
    ],
)
def test_addresses(reactor: Reactor, bind: str, host: str, family: int, reached: str) -> None:
    with at(reactor, bind=bind, insecure_lan=True) as made:
        assert made.host == host
        assert answers(made.port, family, reached)
        assert answers(made.gossip_port, family, reached)


def test_one_port_after_another_from_a_range(reactor: Reactor) -> None:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        low = first.getsockname()[1]
        first.listen()
        second.bind(("127.0.0.1", 0))
        with at(reactor, port_range=f"{low}-{min(low + 60, 65535)}") as made:
            assert low < made.port < made.gossip_port <= low + 60


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "*", "192.0.2.1"])
def test_more_than_this_machine_needs_to_be_allowed(reactor: Reactor, bind: str) -> None:
    assert re.match(r"network.bind: .*insecure_lan .*127.0.0.1", refusal(reactor, bind=bind))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"bind": "192.0.2.1", "insecure_lan": True}, "network.bind: 192.0.2.1 is no address of this machine"),
        ({"bind": "example.org"}, "network.bind: expected an address of this machine"),
        ({"bind": "", "insecure_lan": True}, "network.bind: expected an address of this machine"),
    ],
)
def test_what_is_wrong_is_one_line(reactor: Reactor, network: dict[str, Any], expected: str) -> None:
    assert refusal(reactor, **network).startswith(expected)


def test_a_taken_port_says_so(reactor: Reactor, taken: int) -> None:
    assert f"network.port: port {taken} of 127.0.0.1 is taken by another process" in refusal(reactor, port=taken)
    said = refusal(reactor, port_range=f"{taken}-{taken}")
    assert f"network.port_range: port {taken} of 127.0.0.1 is taken" in said


def test_a_range_must_have_room_for_both(reactor: Reactor) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "no port left" in refusal(reactor, port_range=f"{port}-{port}")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://127.0.0.1:7411", "127.0.0.1", 7411),
        ("tcp://[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("tcp://gpu-1.lab:65535", "gpu-1.lab", 65535),
    ],
)
def test_addresses_are_read_and_written(text: str, host: str, port: int) -> None:
    read = Address.parse(text)
    assert read == Address(host, port)
    assert str(read) == text


NOT_ADDRESSES = """
tcp:// tcp://a tcp://a: tcp://:1 tcp://a:0 tcp://a:65536 tcp://a:000001 tcp://a:+1 tcp://a:\u0661 tcp://\xe9:1
udp://a:1 inproc://a:1 a:1 tcp://fe80::1:80 tcp://*:1 tcp://a;b:1
"""


@pytest.mark.parametrize("text", ["", "tcp://a b:1", *NOT_ADDRESSES.split()])
def test_other_addresses_are_none(text: str) -> None:
    assert Address.parse(text) is None


@pytest.mark.parametrize("host", ["gpu-1.lab", "10.0.0.1", "fe80::1%eth0", "[::1]"])
def test_any_host_can_be_advertised(host: str) -> None:
    address = advertised(NetworkSettings(advertise=host), 7411)
    assert Address.parse(str(address)) == address == Address(host.strip("[]"), 7411)


@pytest.mark.parametrize("text", ["a b", "tcp://host", "host:7411", "a;b"])
def test_what_is_no_host_cannot_be_advertised(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"network\.advertise: expected a name or an IP address, without a port, got "
    ):
        advertised(NetworkSettings(advertise=text), 7411)
