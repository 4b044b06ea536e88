"""Interfaces of this machine: where to look for peers, and under which addresses others can reach one."""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TypeAlias

from ..errors import ConfigError
from ..settings import NetworkSettings
from .addresses import Address
from .seeds import ip_of, resolved

LOOPBACK_V4 = "127.0.0.1"

Interfaces: TypeAlias = tuple[str | int, ...]
"""As zeroconf takes them: IPv4 addresses, and numbers of interfaces for IPv6."""


def multicast_interfaces(chosen: Sequence[str], *, loopback_only: bool) -> Callable[[], Interfaces]:
    """Tells which interfaces to use, of those that there are at the moment: the ones with the chosen addresses; without
    a choice loopback only, or all.
    """
    if chosen:
        return lambda: _interfaces(lambda text: text in chosen)
    if loopback_only:
        return lambda: (LOOPBACK_V4,)
    return lambda: (LOOPBACK_V4, *_interfaces(lambda text: not ip_address(text).is_loopback))


def machine_hosts() -> tuple[str, ...]:
    """The IP addresses of this machine that others can use as they are, IPv4 first."""
    ips = [ip_address(text) for _, text in _addresses()]
    usable = [ip for ip in ips if not ip.is_loopback and not (ip.version == 6 and ip.is_link_local)]
    return tuple([str(ip) for ip in sorted(usable, key=lambda ip: ip.version)])


def advertised(settings: NetworkSettings, port: int) -> Address:
    """Under which address others reach a peer: what the settings say, else what it is bound to, else the first address
    of this machine that others can use. Raises ConfigError for what is no host.
    """
    host = settings.advertise or settings.bind
    if is_wildcard(host):
        host = next(iter(machine_hosts()), LOOPBACK_V4)
    address = Address(host.strip("[]"), port)
    if Address.parse(str(address)) != address or (":" in address.host and ip_of(address) is None):
        raise ConfigError(f"network.advertise: expected a name or an IP address, without a port, got {host!r}")
    return address


def hosts_of(bind: str, advertised: Address) -> tuple[str, ...]:
    """The IP addresses under which somebody who listens at `bind` can be reached, the advertised ones first."""
    hosts = [address.host for address in resolved(advertised) if not is_wildcard(address.host)]
    if is_wildcard(bind):
        is_v4_only = bind == "0.0.0.0"  # noqa: S104 -- compared, not bound
        hosts += [host for host in machine_hosts() if not (is_v4_only and ":" in host)]
    return tuple(dict.fromkeys(hosts))


def is_wildcard(bind: str) -> bool:
    """Whether this stands for all interfaces."""
    return bind.strip("[]") in ("", "*", "0.0.0.0", "::")  # noqa: S104 -- compared, not bound


def _interfaces(is_wanted: Callable[[str], bool]) -> Interfaces:
    found: dict[str | int, None] = {}
    for index, text in _addresses():
        if is_wanted(text):
            found[text if ip_address(text).version == 4 else index] = None
    return tuple(found)


def _addresses() -> list[tuple[int, str]]:
    """(number of the interface, IP address) of all that have one."""
    from ifaddr import get_adapters

    found = []
    for adapter in get_adapters():
        for one in adapter.ips:
            text = one.ip if isinstance(one.ip, str) else one.ip[0]
            found.append((adapter.index or 0, text))
    return sorted(found)
