"""Events and actions of a client's core: all that can happen to it, and all that it may ask of its driver.

A parcel is a number that the driver gives to the columns beside a message; 0 where there are none.
"""

from typing import TypeAlias

from ..frozen import frozen
from ..ids import PeerId
from .events import TimerFired
from .messages import Contact, ToClient, ToPeer


@frozen()
class Said:
    """The user's side says something to the cluster. The columns of the parcel are kept until LetGo."""

    message: ToPeer
    parcel: int = 0


@frozen()
class Heard:
    """A peer said something. The parcel lasts until the event has been handled."""

    peer: PeerId
    message: ToClient
    parcel: int = 0


@frozen()
class PeerUp:
    """There is a new link to a peer; what was sent over an older one may be lost."""

    peer: PeerId


@frozen()
class PeerDown:
    """The link to a peer broke, or could not be made."""

    peer: PeerId


ClientEvent: TypeAlias = Said | Heard | PeerUp | PeerDown | TimerFired


@frozen()
class SayTo:
    """Send to a peer. It may get lost."""

    peer: PeerId
    message: ToPeer
    parcel: int = 0


@frozen()
class Deliver:
    """Hand to the user's side. rows: these rows of the parcel's columns; None: all."""

    message: ToClient
    parcel: int = 0
    rows: tuple[int, ...] | None = None


@frozen()
class LetGo:
    """These columns will not be sent any more."""

    parcel: int


@frozen()
class Connect:
    """Keep up a link to this peer, from now on under this address. PeerUp and PeerDown tell how it goes."""

    contact: Contact


@frozen()
class Disconnect:
    """This peer is gone: do not try to reach it any more."""

    peer: PeerId


@frozen()
class GiveUp:
    """The cluster is out of reach: tell the user's side that nothing will come any more. The last action of all."""

    reason: str


ClientAction: TypeAlias = SayTo | Deliver | LetGo | Connect | Disconnect | GiveUp
