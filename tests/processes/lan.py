"""Hosts on a network of their own: namespaces of the kernel, joined by a bridge that is in one of its own, too.

Each has a name that the others can look up: `ip netns exec` puts what lies in /etc/netns/NAMESPACE over /etc.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from string import ascii_lowercase
from typing import TypeVar

_NUMBERS = count()
_CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")
_ETC = Path("/etc/netns")


def available() -> str:
    """Why there are no namespaces here; "" if there are."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"szq{os.getpid()}"
    try:
        tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no `ip` (iproute2)"
    if tried.returncode:
        return tried.stderr.strip() or "`ip netns add` failed"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Lan:
    """hosts: names of their namespaces. names, addresses: of each, as the others know it."""

    def __init__(self, hosts: int) -> None:
        prefix = f"szq{os.getpid()}-{next(_NUMBERS)}"
        self._bridge = f"{prefix}-lan"
        self.hosts = [f"{prefix}-{number}" for number in range(hosts)]
        self.names = [f"host-{letter}" for letter in ascii_lowercase[:hosts]]
        self.addresses = [f"10.77.0.{number + 1}" for number in range(hosts)]
        self._pulled: set[int] = set()
        self._blocked: set[tuple[int, int]] = set()

    def build(self) -> None:
        for name in (self._bridge, *self.hosts):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        book = ["127.0.0.1 localhost", *[f"{ip} {name}" for ip, name in zip(self.addresses, self.names, strict=True)]]
        for host in self.hosts:
            (_ETC / host).mkdir(parents=True)
            (_ETC / host / "hosts").write_text("\n".join(book) + "\n")
        _ip("-n", self._bridge, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._bridge, "link", "set", "lan", "up")
        for number, host in enumerate(self.hosts):
            port = f"port{number}"
            _ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", port, "netns", self._bridge)
            _ip("-n", self._bridge, "link", "set", port, "master", "lan", "up")
            _ip("-n", host, "address", "add", f"{self.addresses[number]}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "route", "add", "224.0.0.0/4", "dev", "eth0")

    def at(self, number: int) -> list[str]:
        """What to put before a command to run it on a host, which knows its own name."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.names[number]]
        return ["ip", "netns", "exec", self.hosts[number], *named]

    def cut(self, number: int) -> None:
        """Pull the cable of a host."""
        self._pulled.add(number)
        _ip("-n", self._bridge, "link", "set", f"port{number}", "down")

    def block(self, source: int, target: int) -> None:
        """Whatever one host sends to the other gets lost; the other way is open."""
        self._blocked.add((source, target))
        _ip("-n", self.hosts[source], "route", "add", "blackhole", f"{self.addresses[target]}/32")

    def mend(self) -> None:
        """Everything is as it was built."""
        while self._pulled:
            _ip("-n", self._bridge, "link", "set", f"port{self._pulled.pop()}", "up")
        while self._blocked:
            source, target = self._blocked.pop()
            _ip("-n", self.hosts[source], "route", "delete", "blackhole", f"{self.addresses[target]}/32")

    def close(self) -> None:
        for name in (*self.hosts, self._bridge):
            shutil.rmtree(_ETC / name, ignore_errors=True)
            if Path("/run/netns", name).exists():
                _ip("netns", "delete", name)
        with suppress(OSError):  # there are others
            _ETC.rmdir()

    def inside(self, number: int, what: Callable[[], _T]) -> _T:
        """Run something on a host: in a thread of this process, as are all threads that it starts."""

        def run() -> _T:
            with open(f"/run/netns/{self.hosts[number]}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return what()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run).result()


@contextmanager
def lan(hosts: int) -> Iterator[Lan]:
    made = Lan(hosts)
    try:
        made.build()
        yield made
    finally:
        made.close()
