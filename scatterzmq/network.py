"""The way of one peer to the others, as its driver sees it: what it must offer, and what goes over it.

Rules   1. Nothing here waits, and whatever is sent may get lost.
        2. Columns that come beside a message are stored before the core hears of it: for good where they are part of a
           record or a cached value, else only as long as there is room. What was fetched gets a checksum.
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, assert_never

from .core.actions import CloseLink, Dial, Left, OpenLink, Publish, Tell
from .core.events import PeerReceived
from .core.messages import Contact
from .core.payloadmessages import Fetched
from .core.peermessages import KEPT_BESIDE, BetweenPeers, Commit, Hello, Unwelcome
from .core.values import Block
from .execute.store import PayloadStore
from .frozen import frozen
from .ids import PeerId
from .wire.columns import Apart, Column

Outward: TypeAlias = Tell | Publish | Dial | OpenLink | CloseLink | Left


@frozen(eq=False)
class FromPeer:
    """A message of another peer with its columns; the rest as in core/events.py PeerReceived."""

    sender: PeerId
    incarnation: int
    to_incarnation: int
    message: BetweenPeers
    columns: Mapping[str, Column]


class Network(Protocol):
    """Links to other peers. What comes back is posted as FromPeer."""

    def send(
        self, peer: PeerId, incarnation: int, message: BetweenPeers, columns: Mapping[str, Column | Apart], /
    ) -> None: ...

    def publish(self, message: BetweenPeers, /) -> None:
        """To all peers with an open link."""
        ...

    def dial(self, address: str, greeting: Hello | Unwelcome, /) -> None:
        """To whoever is at an address."""
        ...

    def open(self, contact: Contact, /) -> None:
        """A link to a peer; another one than before, if there was one."""
        ...

    def close(self, peer: PeerId, /) -> None: ...

    def left(self, lost: int, /) -> None:
        """This peer is done; `lost` tasks were left without anybody who could take them."""
        ...


def perform(network: Network, action: Outward, store: PayloadStore) -> None:
    """Carry out an action of the core that is about other peers."""
    match action:
        case Tell(to=to, incarnation=incarnation, message=message):
            columns = {name: store.collect_apart(values) for name, values in action.values.items() if values}
            network.send(to, incarnation, message, columns)
        case Publish(message=message):
            network.publish(message)
        case Dial(address=address, message=greeting):
            network.dial(address, greeting)
        case OpenLink(contact=contact):
            network.open(contact)
        case CloseLink(peer=peer):
            network.close(peer)
        case Left(lost=lost):
            network.left(lost)
        case _:
            assert_never(action)


def stored(posted: FromPeer, store: PayloadStore, now_ms: int) -> PeerReceived:
    """Store the columns of a message; the event for the core."""
    kept = isinstance(posted.message, KEPT_BESIDE)
    blocks: dict[str, Block] = {}
    for name, column in posted.columns.items():
        digests = _digests(posted.message, name)
        shared = isinstance(posted.message, Fetched)
        for block, _ in store.put(column, now_ms, kept=kept, whole=True, digests=digests, shared=shared)[:1]:
            blocks[name] = block
    return PeerReceived(
        sender=posted.sender,
        incarnation=posted.incarnation,
        to_incarnation=posted.to_incarnation,
        message=posted.message,
        blocks=blocks,
    )


def _digests(message: BetweenPeers, name: str) -> tuple[bytes, ...]:
    """The content digests of a column's rows; none if nothing caches by content."""
    if isinstance(message, Commit):
        place, _, name = name.partition(":")
        return message.parts[int(place)].digests.get(name, ())
    digests: Mapping[str, tuple[bytes, ...]] = getattr(message, "digests", {})
    return digests.get(name, ())
