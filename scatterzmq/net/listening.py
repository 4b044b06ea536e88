"""Listening: the two sockets at which a peer is reached."""

import errno
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import zmq

from ..errors import ConfigError
from ..settings import NetworkSettings, is_loopback
from .addresses import endpoint
from .options import Socket, publisher, router
from .reactor import Reactor

_TAKEN = errno.EADDRINUSE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listening:
    """router: whatever is said to this peer. publisher: what it tells all. host: what they are bound to."""

    router: Socket
    publisher: Socket
    host: str
    port: int
    gossip_port: int


def listen(reactor: Reactor, network: NetworkSettings) -> Listening:
    """Bind both. Raises ConfigError, one line that says which setting to change."""
    host = _host(network)
    low, high = _range(network.port_range)
    ports = [network.port]
    if network.port == 0 and network.port_range:
        ports = list(range(low, high + 1))
    with ExitStack() as failing:
        receiving = failing.enter_context(router(reactor.context))
        port = _bind(receiving, host, ports, "network.port" if network.port else "network.port_range")
        publishing = failing.enter_context(publisher(reactor.context))
        others = [number for number in range(low, high + 1) if number != port] if network.port_range else [0]
        gossip_port = _bind(publishing, host, others, "network.port_range")
        failing.pop_all()
        return Listening(router=receiving, publisher=publishing, host=host, port=port, gossip_port=gossip_port)


def _host(network: NetworkSettings) -> str:
    host = network.bind.strip("[]")
    host = {"localhost": "127.0.0.1", "*": "0.0.0.0"}.get(host, host)  # noqa: S104 - asked for, and refused below
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        raise ConfigError(
            f"network.bind: expected an address of this machine, as 127.0.0.1 or 0.0.0.0 (all), got {network.bind!r}"
        ) from None
    if not is_loopback(host) and not network.insecure_lan:
        raise ConfigError(
            f"network.bind: {network.bind} can be reached from other machines, and nothing is encrypted or asks who is "
            "there: allow it with insecure_lan (--insecure-lan) in a network you trust, or bind to 127.0.0.1"
        )
    return host


def _range(text: str) -> tuple[int, int]:
    """Settings.of has looked whether it is one."""
    low, _, high = text.partition("-")
    return (int(low), int(high)) if text else (0, 0)


def _bind(socket: Socket, host: str, ports: list[int], setting: str) -> int:
    for port in ports:
        try:
            socket.bind(endpoint(host, port or "*"))
        except zmq.ZMQError as error:
            if error.errno == _TAKEN and port != ports[-1]:
                continue
            raise ConfigError(_why(error, host, ports, setting)) from None
        bound = socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return int(bound.rstrip(b"\0").rpartition(b":")[2])
    raise ConfigError(f"{setting}: there is no port left for everything in this range: make it wider")


def _why(error: zmq.ZMQError, host: str, ports: list[int], setting: str) -> str:
    if error.errno == _TAKEN and len(ports) > 1:
        return f"{setting}: all ports from {ports[0]} to {ports[-1]} of {host} are taken: make the range wider"
    if error.errno == _TAKEN:
        return f"{setting}: port {ports[0]} of {host} is taken by another process: choose another one, or 0 for any"
    if error.errno == errno.EACCES:
        return f"{setting}: this user may not listen at port {ports[0]}: choose one above 1023"
    return f"network.bind: {host} is no address of this machine ({error.strerror})"
