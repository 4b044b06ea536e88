"""Discovery: where somebody of the cluster may be. It only ever says `seen`, and greetings tell who is there.

Rules     1. Seeds (seeds.py) are the base, and looked up for ever: a name may come to exist, or mean others.
          2. Multicast (mdns.py) comes on top, where there is any.
          3. Nothing here blocks whoever starts it. `seen` and `warn` are called from other threads.
"""

from collections.abc import Callable

from ..core.greetings import cluster_tag
from ..core.messages import Contact
from ..settings import NetworkSettings, is_loopback
from .addresses import Address
from .interfaces import hosts_of, multicast_interfaces
from .mdns import Mdns, Notice
from .seeds import Seeds, parse_seed


class Discovery:
    """Finds peers, and lets others find this one.

    warn: gets a line where multicast does not work. where: who named the seeds. Raises ConfigError for a seed that is
    no address.
    """

    def __init__(self, settings: NetworkSettings, warn: Callable[[str], None], *, where: str = "network.join") -> None:
        self._settings = settings
        self._warn = warn
        self._seeds = tuple([parse_seed(text, where) for text in settings.join])
        self._parts: list[Seeds | Mdns] = []

    def start(self, contact: Contact | None, cluster: str, seen: Callable[[str], None]) -> None:
        """Begin to look for others, and tell them of this peer (None: a client, of whom nobody is told).

        seen: gets addresses of peers of the cluster of this name, other than this one.
        """
        own = "" if contact is None else contact.address

        def seen_other(address: str) -> None:
            if address != own:
                seen(address)

        if self._seeds:
            self._parts.append(Seeds(self._seeds, seen_other))
        if self._settings.zeroconf:
            self._parts.append(self._mdns(contact, cluster, seen_other))
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Begin to end: nothing is said any more. Returns at once."""
        for part in self._parts:
            part.stop()

    def close(self) -> None:
        """Stop, and wait until goodbye has been said. Takes half a second at most."""
        self.stop()
        for part in self._parts:
            part.close()

    def _mdns(self, contact: Contact | None, cluster: str, seen: Callable[[str], None]) -> Mdns:
        settings = self._settings
        is_local = contact is not None and is_loopback(settings.bind)

        def notice() -> Notice | None:
            if contact is None:
                return None
            advertised = Address.parse(contact.address)
            assert advertised is not None, f"this peer was given {contact.address!r} as its own address"
            return Notice(
                peer=contact.id,
                incarnation=contact.incarnation,
                hosts=hosts_of(settings.bind, advertised),
                port=advertised.port,
                tag=cluster_tag(cluster),
            )

        return Mdns(
            notice=notice,
            tag=cluster_tag(cluster),
            found=seen,
            warn=self._warn,
            interfaces=multicast_interfaces(settings.interfaces, loopback_only=is_local),
        )
