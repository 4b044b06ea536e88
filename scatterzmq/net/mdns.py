"""Multicast DNS: being found on the local network, and finding others, with the zeroconf library.

Purpose   One thread with an event loop of its own, so that nobody waits: not for the library to be imported, not for
          answers, not for a network that is not there.
Rules     1. All that is ever said is `found`: an address where somebody of the same cluster may be. That a service has
             gone means nothing, since records of the dead live for an hour, and those of the living may expire.
          2. What comes in is untrusted. It is bounded, and only tells whom to greet; greetings tell who it is.
          3. Without an interface or multicast there is one warning, and another try every few seconds.
Why       Names are ids of peers, 128 random bits, so that asking whether a name is free would only cost time.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Protocol

from ..core.greetings import PROTO_MAX
from ..ids import PeerId
from .addresses import Address
from .interfaces import Interfaces
from .seeds import ip_of

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

SERVICE = "_scatterzmq._tcp.local."
LOOK_EVERY_S = 5.0
"""How often the interfaces are looked at: they come and go with cables, sleep and containers."""
RESOLVE_S = 3.0
"""How long a service may take to say where it is; it announces itself again when it has something new to say."""
RESOLVERS = 16
"""Services that are asked at once; ghosts do not answer, and must not keep the living waiting."""
CLOSE_S = 0.5
"""How long saying goodbye may take."""
NAMES_MAX = 1024
ADDRESSES_MAX = 16
"""Services that wait to be looked up, and addresses of one service; more is no cluster but a fault, or an attack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a peer tells the network about itself. hosts: IP addresses where it can be reached."""

    peer: PeerId
    incarnation: int
    hosts: tuple[str, ...]
    port: int
    tag: bytes

    @property
    def name(self) -> str:
        return f"{self.peer[1:]}.{SERVICE}"

    def info(self) -> "ServiceInfo":
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE,
            self.name,
            port=self.port,
            properties={  # the port once more, for people who look with other tools
                "cluster": self.tag.hex(),
                "protocol": str(PROTO_MAX),
                "port": str(self.port),
                "incarnation": str(self.incarnation),
            },
            server=f"{self.peer[1:]}.local.",
            parsed_addresses=list(self.hosts),
        )


class Service(Protocol):
    """What is used of zeroconf's ServiceInfo."""

    port: int | None

    @property
    def properties(self) -> dict[bytes, bytes | None]: ...

    def parsed_scoped_addresses(self) -> list[str]: ...


def addresses_of(service: Service, tag: bytes) -> tuple[Address, ...]:
    """Where a service says it is; nothing for one of another cluster, or for nonsense."""
    if service.properties.get(b"cluster") != tag.hex().encode():
        return ()
    port = service.port
    if port is None or not 1 <= port <= 65535:
        return ()
    addresses = [Address(host, port) for host in service.parsed_scoped_addresses()[:ADDRESSES_MAX]]
    return tuple([address for address in dict.fromkeys(addresses) if is_reachable(address)])


def is_reachable(address: Address) -> bool:
    """Whether this is the address of one machine, with all that it takes to reach it."""
    ip = ip_of(address)
    if ip is None or ip.is_multicast or ip.is_unspecified:
        return False
    return not (isinstance(ip, IPv6Address) and ip.is_link_local and ip.scope_id is None)


class Mdns:
    """See the module.

    notice: what to tell of this peer; None only looks for others. interfaces: which to use now. Both are asked
    whenever it begins anew. tag: of the cluster to look for. found, warn: called from the thread in here.
    """

    def __init__(
        self,
        *,
        notice: Callable[[], Notice | None],
        tag: bytes,
        found: Callable[[str], None],
        warn: Callable[[str], None],
        interfaces: Callable[[], Interfaces],
    ) -> None:
        self._notice = notice
        self._tag = tag
        self._found = found
        self._warn = warn
        self._interfaces = interfaces
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="scatterzmq-mdns", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Begin to end: nothing is said any more. Returns at once."""
        with self._lock:
            self._closed = True
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)

    def close(self) -> None:
        """Say goodbye to the network. Returns within half a second or so."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._closed:
                stop.set()
        try:
            while not stop.is_set():
                await self._take_part(stop)
        finally:
            with self._lock:
                self._loop = None

    async def _take_part(self, stop: asyncio.Event) -> None:
        """Take part until it is over, or the interfaces are others."""
        from zeroconf import Error

        interfaces, notice = self._interfaces(), self._notice()
        try:
            zeroconf = self._opened(interfaces)
        except (OSError, RuntimeError, Error) as error:
            self._complain(f"{type(error).__name__}: {error}")
            await _pause(stop)
            return
        try:
            await self._listen(zeroconf, notice, interfaces, stop)
        except (OSError, Error) as error:
            self._complain(f"{type(error).__name__}: {error}")
            await _pause(stop)
        finally:
            with suppress(OSError, Error):
                await zeroconf.async_close()  # with goodbyes

    def _opened(self, interfaces: Interfaces) -> "AsyncZeroconf":
        from zeroconf.asyncio import AsyncZeroconf

        if not interfaces:
            raise OSError("no such interface, or none with an address")
        try:
            return AsyncZeroconf(interfaces=list(interfaces))
        except OSError:
            only_v4 = [one for one in interfaces if isinstance(one, str) and ":" not in one]
            if not only_v4 or len(only_v4) == len(interfaces):
                raise
            return AsyncZeroconf(interfaces=only_v4)  # IPv6 may be there and switched off

    async def _listen(
        self, zeroconf: "AsyncZeroconf", notice: Notice | None, interfaces: Interfaces, stop: asyncio.Event
    ) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceBrowser

        names: asyncio.Queue[str] = asyncio.Queue(NAMES_MAX)

        def changed(*, name: str, state_change: Any, **_: Any) -> None:
            if state_change is not ServiceStateChange.Removed and not names.full():
                names.put_nowait(name)

        await zeroconf.zeroconf.async_wait_for_start()
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[changed])
        own = "" if notice is None else notice.name
        tasks = [asyncio.create_task(self._resolve(zeroconf, names, own)) for _ in range(RESOLVERS)]
        if notice is not None and notice.hosts:
            tasks.append(asyncio.create_task(_announce(zeroconf, notice)))
        elif notice is not None:
            self._complain("this peer has no address that others could use")
        try:
            while not stop.is_set() and self._interfaces() == interfaces:
                await _pause(stop)
                for task in tasks:
                    if task.done():
                        task.result()  # raises what it has met
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await browser.async_cancel()

    async def _resolve(self, zeroconf: "AsyncZeroconf", names: "asyncio.Queue[str]", own: str) -> None:
        """Ask where the services are whose names have come up."""
        while True:
            name = await names.get()
            if name != own:
                info = await zeroconf.async_get_service_info(SERVICE, name, int(RESOLVE_S * 1000))
                if info is not None:
                    for address in addresses_of(info, self._tag):
                        if not self._closed:
                            self._found(str(address))

    def _complain(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"peers cannot be found by multicast here ({reason}); name one with --join tcp://host:port")


async def _announce(zeroconf: "AsyncZeroconf", notice: Notice) -> None:
    await (await zeroconf.async_register_service(notice.info(), cooperating_responders=True))


async def _pause(stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
