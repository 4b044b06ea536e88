"""Discovery: seeds with a name service that is made up, multicast for real on the loopback interface."""

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from scatterzmq.core.greetings import cluster_tag
from scatterzmq.core.messages import Contact
from scatterzmq.errors import ConfigError
from scatterzmq.ids import PeerId
from scatterzmq.net import mdns
from scatterzmq.net.addresses import Address
from scatterzmq.net.discovery import Discovery
from scatterzmq.net.interfaces import hosts_of, machine_hosts, multicast_interfaces
from scatterzmq.net.mdns import SERVICE, Mdns, Notice, addresses_of
from scatterzmq.net.seeds import Seeds, ip_of, parse_seed
from scatterzmq.settings import NetworkSettings, is_loopback

LONG_S = 20.0
"""Nothing takes so long, unless it never happens."""


class Said(SimpleQueue[str]):
    """What somebody was told."""

    def next(self) -> str:
        return self.get(timeout=LONG_S)

    def all_of(self, count: int) -> set[str]:
        found: set[str] = set()
        while len(found) < count:
            found.add(self.next())
        return found


def contact(port: int, host: str = "127.0.0.1") -> Contact:
    return Contact(id=PeerId(f"P{uuid4().hex}"), incarnation=3, address=str(Address(host, port)))


@pytest.fixture
def cluster() -> str:
    """A name that nobody else on this machine has, whatever runs beside this test."""
    return f"test-{uuid4().hex}"


Begin = Callable[..., Said]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a discovery; returns what it says."""
    begun: list[Discovery] = []

    def start(who: Contact | None, cluster: str, **settings: Any) -> Said:
        said, warned = Said(), Said()
        begun.append(Discovery(NetworkSettings(**({"interfaces": ("127.0.0.1",)} | settings)), warned.put))
        begun[-1].start(who, cluster, said.put)
        return said

    yield start
    for discovery in begun:
        discovery.close()


# ---- seeds


class Names:
    """A name service. asked: how often."""

    def __init__(self, known: dict[str, tuple[str, ...]]) -> None:
        self.known = known
        self.asked = Said()

    def __call__(self, address: Address) -> tuple[Address, ...]:
        self.asked.put(address.host)
        hosts = (address.host,) if ip_of(address) is not None else self.known.get(address.host, ())
        return tuple([Address(host, address.port) for host in hosts])


@pytest.fixture
def seeds() -> Iterator[Callable[..., tuple[Said, Names]]]:
    begun: list[Seeds] = []

    def start(*texts: str, every_s: float = 0.001, **known: tuple[str, ...]) -> tuple[Said, Names]:
        said, names = Said(), Names(known)
        addresses = [parse_seed(text, "here") for text in texts]
        begun.append(Seeds(addresses, said.put, resolve=names, every_s=every_s))
        begun[-1].start()
        return said, names

    yield start
    for one in begun:
        one.close()
        for thread in one._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()


def test_each_address_of_a_name_is_said_again_and_again(seeds: Callable[..., tuple[Said, Names]]) -> None:
    said, _ = seeds("tcp://node:7500", "tcp://10.0.0.9", node=("10.0.0.1", "fd00::1"))
    expected = {"tcp://10.0.0.1:7500", "tcp://[fd00::1]:7500", "tcp://10.0.0.9:7411"}
    for _ in range(3):
        assert said.all_of(3) == expected


def test_a_name_may_come_to_exist(seeds: Callable[..., tuple[Said, Names]]) -> None:
    said, names = seeds("tcp://later:7500")
    for _ in range(3):
        assert names.asked.next() == "later"
    assert said.empty()
    names.known["later"] = ("10.0.0.7",)
    assert said.next() == "tcp://10.0.0.7:7500"


def test_a_name_that_takes_long_holds_up_nobody() -> None:
    said, hanging, go_on = Said(), threading.Event(), threading.Event()

    def resolve(address: Address) -> tuple[Address, ...]:
        if address.host == "slow":
            hanging.set()
            go_on.wait(LONG_S)
        return (Address("10.0.0.1", address.port),)

    seeds = Seeds([Address("slow", 1), Address("quick", 2)], said.put, resolve=resolve, every_s=0.001)
    seeds.start()
    assert hanging.wait(LONG_S)
    assert said.next() == "tcp://10.0.0.1:2"
    seeds.close()
    go_on.set()
    for thread in seeds._threads:
        thread.join(LONG_S)
    said_before = [said.get_nowait() for _ in range(said.qsize())]
    assert "tcp://10.0.0.1:1" not in said_before, "nothing is said after the end"


def test_the_interval_is_kept(seeds: Callable[..., tuple[Said, Names]]) -> None:
    said, names = seeds("tcp://10.0.0.1:1", every_s=3600.0)
    said.next()
    with pytest.raises(Empty):
        said.get(timeout=0.05)
    assert names.asked.qsize() == 1


def test_bad_seeds_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^network.join: expected tcp://host"):
        Discovery(NetworkSettings(join=("tcp://a:1", "b:2")), Said().put)


# ---- multicast


def test_peers_and_clients_of_a_cluster_find_each_other(cluster: str, begin: Begin) -> None:
    one = begin(contact(5001), cluster)
    two = begin(contact(5002), cluster)
    client = begin(None, cluster)
    assert client.all_of(2) == {"tcp://127.0.0.1:5001", "tcp://127.0.0.1:5002"}
    assert one.all_of(1) == {"tcp://127.0.0.1:5002"}
    assert two.all_of(1) == {"tcp://127.0.0.1:5001"}
    late = begin(contact(5003), cluster)
    assert late.all_of(2) == {"tcp://127.0.0.1:5001", "tcp://127.0.0.1:5002"}
    for before in (one, two, client):
        assert "tcp://127.0.0.1:5003" in before.all_of(1)


def test_nobody_is_told_of_himself_or_of_other_clusters(cluster: str, begin: Begin) -> None:
    stranger = begin(contact(5009), f"{cluster}-other")
    me = begin(contact(5001), cluster)
    begin(contact(5002), f"{cluster}-other")
    assert stranger.next() == "tcp://127.0.0.1:5002"  # so both have been announced
    begin(contact(5003), cluster)
    assert me.next() == "tcp://127.0.0.1:5003", "the first that it hears of"
    assert stranger.empty()


def test_nobody_is_told_of_himself_under_another_address_either(cluster: str, begin: Begin) -> None:
    found, tag = Said(), cluster_tag(cluster)
    notice = Notice(peer=contact(1).id, incarnation=1, hosts=("127.0.0.1", "127.0.0.2"), port=5001, tag=tag)
    me = Mdns(notice=lambda: notice, tag=tag, found=found.put, warn=found.put, interfaces=lambda: ("127.0.0.1",))
    me.start()
    try:
        stranger = begin(None, cluster)
        assert stranger.all_of(2) == {"tcp://127.0.0.1:5001", "tcp://127.0.0.2:5001"}
        begin(contact(5002), cluster)
        assert found.next() == "tcp://127.0.0.1:5002"
    finally:
        me.close()


def test_seeds_and_multicast_together(cluster: str, begin: Begin) -> None:
    begin(contact(5001), cluster)
    joined = begin(contact(5002), cluster, join=("tcp://10.0.0.1:1", "tcp://127.0.0.1:5002"))
    assert joined.all_of(2) == {"tcp://10.0.0.1:1", "tcp://127.0.0.1:5001"}, "and not itself"


def test_without_zeroconf_only_seeds(cluster: str, begin: Begin) -> None:
    alone = begin(contact(5001), cluster, zeroconf=False)
    listener = begin(None, cluster)
    begin(contact(5002), cluster)
    assert listener.next() == "tcp://127.0.0.1:5002"
    assert alone.empty()
    assert listener.empty()


def test_the_end_is_quick_and_leaves_nothing_behind(cluster: str) -> None:
    threads = set(threading.enumerate())
    said = Said()
    peer = Discovery(NetworkSettings(interfaces=("127.0.0.1",), join=("tcp://10.0.0.1:1",)), said.put)
    seen = Said()
    peer.start(contact(5001), cluster, seen.put)
    seen.next()
    began = monotonic()
    peer.close()
    peer.close()
    assert monotonic() - began < 2 * mdns.CLOSE_S
    for thread in set(threading.enumerate()) - threads:
        thread.join(LONG_S)
    assert set(threading.enumerate()) <= threads
    assert said.empty()


def test_goodbye_is_said(cluster: str, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeroconf import ServiceBrowser, ServiceStateChange, Zeroconf

    who = contact(5001)
    changes: SimpleQueue[ServiceStateChange] = SimpleQueue()

    def changed(*, name: str, state_change: ServiceStateChange, **_: object) -> None:
        if name == f"{who.id[1:]}.{SERVICE}":
            changes.put(state_change)

    zeroconf = Zeroconf(interfaces=["127.0.0.1"])
    try:
        ServiceBrowser(zeroconf, SERVICE, handlers=[changed])
        peer = Discovery(NetworkSettings(interfaces=("127.0.0.1",)), Said().put)
        peer.start(who, cluster, Said().put)
        assert changes.get(timeout=LONG_S) is ServiceStateChange.Added
        info = zeroconf.get_service_info(SERVICE, f"{who.id[1:]}.{SERVICE}")
        assert info is not None
        expected = {"cluster": cluster_tag(cluster).hex(), "protocol": "1", "port": "5001", "incarnation": "3"}
        assert info.decoded_properties == expected
        peer.close()
        while changes.get(timeout=LONG_S) is not ServiceStateChange.Removed:
            pass
    finally:
        zeroconf.close()


def test_without_an_interface_there_is_one_warning_and_another_try(
    cluster: str, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "LOOK_EVERY_S", 0.01)
    begin(contact(5001), cluster)
    found, warned, asked = Said(), Said(), Said()
    interfaces: list[str] = []

    def there_now() -> tuple[str, ...]:
        asked.put("")
        return tuple(interfaces)

    client = Mdns(notice=lambda: None, tag=cluster_tag(cluster), found=found.put, warn=warned.put, interfaces=there_now)
    client.start()
    try:
        line = warned.next()
        assert line.startswith("peers cannot be found by multicast here (OSError: no such interface")
        assert "--join tcp://host:port" in line
        for _ in range(3):
            asked.next()
        interfaces.append("127.0.0.1")
        assert found.next() == "tcp://127.0.0.1:5001"
        interfaces.clear()  # the cable is pulled
        while asked.qsize():
            asked.next()
        for _ in range(3):
            asked.next()
        assert warned.empty()
    finally:
        client.close()
    assert not client._thread.is_alive()


def test_an_interface_that_does_not_exist_is_a_warning(cluster: str) -> None:
    warned = Said()
    discovery = Discovery(NetworkSettings(interfaces=("203.0.113.77", "fd00:dead::77")), warned.put)
    discovery.start(None, cluster, Said().put)
    try:
        assert "cannot be found by multicast" in warned.next()
    finally:
        discovery.close()


# ---- what comes in


class Told:
    """A service as it may come from anybody."""

    def __init__(self, tag: bytes | None, port: int | None, *hosts: str) -> None:
        self.properties: dict[bytes, bytes | None] = {b"cluster": tag}
        self.port = port
        self._hosts = list(hosts)

    def parsed_scoped_addresses(self) -> list[str]:
        return self._hosts


TAG = cluster_tag("mine")
TOLD = TAG.hex().encode()


def test_all_addresses_of_a_service_are_said() -> None:
    told = Told(TOLD, 7500, "10.0.0.1", "fd00::1", "fe80::1%3", "10.0.0.1")
    found = [str(address) for address in addresses_of(told, TAG)]
    assert found == ["tcp://10.0.0.1:7500", "tcp://[fd00::1]:7500", "tcp://[fe80::1%3]:7500"]


@pytest.mark.parametrize(
    "told",
    [
        Told(None, 7500, "10.0.0.1"),
        Told(cluster_tag("other").hex().encode(), 7500, "10.0.0.1"),
        Told(TOLD, None, "10.0.0.1"),
        Told(TOLD, 0, "10.0.0.1"),
        Told(TOLD, 65536, "10.0.0.1"),
        Told(TOLD, 7500, "0.0.0.0", "::", "224.0.0.251", "ff02::fb", "fe80::1", "nonsense", ""),
        Told(TOLD, 7500),
    ],
)
def test_strangers_and_nonsense_are_ignored(told: Told) -> None:
    assert addresses_of(told, TAG) == ()


def test_of_too_many_addresses_some_are_taken() -> None:
    told = Told(TOLD, 1, *[f"10.0.{number // 256}.{number % 256}" for number in range(1000)])
    assert len(addresses_of(told, TAG)) == mdns.ADDRESSES_MAX


# ---- of this machine


def test_where_a_peer_can_be_reached() -> None:
    assert hosts_of("127.0.0.1", Address("127.0.0.1", 1)) == ("127.0.0.1",)
    assert hosts_of("10.0.0.5", Address("203.0.113.1", 1)) == ("203.0.113.1",)
    everywhere = hosts_of("0.0.0.0", Address("203.0.113.1", 1))
    assert everywhere[0] == "203.0.113.1"
    assert set(everywhere[1:]) == {host for host in machine_hosts() if ":" not in host}
    assert hosts_of("::", Address("::", 1)) == machine_hosts()
    assert not any(is_loopback(host) for host in machine_hosts())


def test_a_peer_for_this_machine_only_uses_loopback_only() -> None:
    assert multicast_interfaces((), loopback_only=True)() == ("127.0.0.1",)
    assert multicast_interfaces(("127.0.0.1", "203.0.113.77", "eth?"), loopback_only=False)() == ("127.0.0.1",)
    everywhere = multicast_interfaces((), loopback_only=False)()
    assert everywhere[0] == "127.0.0.1"
    assert {host for host in machine_hosts() if ":" not in host} <= set(everywhere)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "10.0.0.1", "node", "0.0.0.0", "")] == (
        [True] * 3 + [False] * 4
    )


def test_a_notice_says_what_others_need() -> None:
    who = PeerId("P" + "a" * 32)
    notice = Notice(peer=who, incarnation=3, hosts=("10.0.0.1", "fd00::1"), port=7500, tag=TAG)
    info = notice.info()
    assert info.name == f"{'a' * 32}.{SERVICE}"
    assert [str(address) for address in addresses_of(info, TAG)] == ["tcp://10.0.0.1:7500", "tcp://[fd00::1]:7500"]
