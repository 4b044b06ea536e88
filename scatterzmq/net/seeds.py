"""Seeds: addresses of peers that people name, and the addresses of machines that these stand for.

Why     A name may stand for several machines, for others tomorrow, or for one that is not there yet.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from ..errors import ConfigError
from .addresses import Address

PORT_DEFAULT = 7411
SEEDS_EVERY_S = 10.0
_SCHEME = "tcp://"
_HOST_CHARS_MAX = 253  # of a name of the DNS

Resolve: TypeAlias = Callable[[Address], tuple[Address, ...]]


def parse_seed(text: str, where: str) -> Address:
    """Read "tcp://host:port" or "tcp://host". Raises ConfigError, which begins with `where`."""
    problem = f"{where}: expected {_SCHEME}host or {_SCHEME}host:port, got {text!r}"
    in_brackets = f"{problem}: an IPv6 address goes in brackets, as in {_SCHEME}[::1]:{PORT_DEFAULT}"
    if not text.startswith(_SCHEME):
        hint = "" if "://" in text or not text else f"; did you mean {_SCHEME}{text}?"
        raise ConfigError(problem + hint)
    rest = text.removeprefix(_SCHEME)
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or not _is_v6(host):
            raise ConfigError(in_brackets)
        colon, digits = tail[:1], tail[1:]
    else:
        host, colon, digits = rest.partition(":")
        if ":" in digits:
            raise ConfigError(in_brackets)
    if colon not in ("", ":") or not _is_host(host):
        raise ConfigError(problem)
    if not colon:
        return Address(host, PORT_DEFAULT)
    if not (digits.isascii() and digits.isdecimal()) or not 1 <= int(digits[:6]) <= 65535:
        raise ConfigError(f"{problem}: a port is a number from 1 to 65535")
    return Address(host, int(digits))


def ip_of(address: Address) -> IPv4Address | IPv6Address | None:
    """None for a name."""
    try:
        return ip_address(address.host)
    except ValueError:
        return None


def resolved(address: Address) -> tuple[Address, ...]:
    """What a name stands for now, each once; nothing if it does not exist (yet). May take seconds."""
    if ip_of(address) is not None:
        return (address,)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return ()
    hosts = dict.fromkeys(str(place[0]) for *_, place in found)
    return tuple([Address(host, address.port) for host in hosts])


class Seeds:
    """Says where the seeds are, at once and then every ten seconds.

    Each name has a thread of its own, since asking for one that does not exist may take half a minute.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        seen: Callable[[str], None],
        *,
        resolve: Resolve = resolved,
        every_s: float = SEEDS_EVERY_S,
    ) -> None:
        self._seen = seen
        self._resolve = resolve
        self._every_s = every_s
        self._closed = threading.Event()
        plain = tuple([address for address in addresses if ip_of(address) is not None])
        names = [(address,) for address in addresses if ip_of(address) is None]
        self._threads = [
            threading.Thread(target=self._look_up, args=(group,), name="scatterzmq-seeds", daemon=True)
            for group in (plain, *names)
            if group
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Nothing is said any more. Returns at once; a question to the name service may go on in its thread."""
        self._closed.set()

    close = stop

    def _look_up(self, addresses: Sequence[Address]) -> None:
        while not self._closed.is_set():
            for address in addresses:
                for place in self._resolve(address):
                    if not self._closed.is_set():
                        self._seen(str(place))
            self._closed.wait(self._every_s)


def _is_v6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    plain = text.replace("-", "").replace("_", "").replace(".", "")
    return 0 < len(text) <= _HOST_CHARS_MAX and (_is_v6(text) or (plain.isascii() and plain.isalnum()))
