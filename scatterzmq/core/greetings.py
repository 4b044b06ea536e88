"""Greetings: what peers say of themselves when they meet, and who is turned away.

Rules     1. Of another cluster, without a common version of the protocol, or one too many: refused, with the reason.
          2. Two processes that claim one id and one life are told apart by the nonce they drew at boot: the later one
             is refused. That happens when a data directory is copied.
"""

from hashlib import blake2b

from ..frozen import frozen
from ..settings import ClusterSettings
from .member import Member
from .peermessages import Contact, Hello, Welcome

PROTO_MIN = PROTO_MAX = 1


def cluster_tag(name: str) -> bytes:
    """What is told to strangers of a cluster's name: enough to see whether it is the same."""
    return blake2b(name.encode(), digest_size=8).digest()


def stranger(tag: bytes, cluster: ClusterSettings) -> str:
    """Why whoever means the cluster of this tag is turned away here; "" if it is the same."""
    return "" if tag == cluster_tag(cluster.name) else f"this is cluster {cluster.name!r}, another one than yours"


@frozen(kw_only=False)
class Refusal:
    """kind: one word, to count by. reason: for people."""

    kind: str
    reason: str


class Greetings:
    """What one peer says of itself, and whom it takes."""

    def __init__(self, me: Contact, nonce: bytes, cluster: ClusterSettings) -> None:
        self._me = me
        self._nonce = nonce
        self._settings = cluster
        self._cluster = cluster_tag(cluster.name)

    def hello(self) -> Hello:
        return Hello(me=self._me, nonce=self._nonce, cluster=self._cluster, proto_min=PROTO_MIN, proto_max=PROTO_MAX)

    def welcome(self, members: tuple[Contact, ...]) -> Welcome:
        return Welcome(
            me=self._me,
            nonce=self._nonce,
            cluster=self._cluster,
            proto_min=PROTO_MIN,
            proto_max=PROTO_MAX,
            members=members,
        )

    def is_own(self, message: Hello | Welcome) -> bool:
        """This peer has dialed itself, under a name that it does not know itself by."""
        return (message.me.id, message.nonce) == (self._me.id, self._nonce)

    def refusal(self, message: Hello | Welcome, known: Member | None, linked: int) -> Refusal | None:
        """Why the sender is turned away; None if it is welcome.

        known: what is known of its id. linked: how many others are members already.
        """
        contact = message.me
        foreign = stranger(message.cluster, self._settings)
        if foreign:
            return Refusal("cluster", foreign)
        if message.proto_max < PROTO_MIN or message.proto_min > PROTO_MAX:
            theirs = f"{message.proto_min} to {message.proto_max}"
            return Refusal(
                "protocol", f"this peer speaks versions {PROTO_MIN} to {PROTO_MAX} of the protocol, not {theirs}"
            )
        is_twin = (
            known is not None
            and known.contact.incarnation == contact.incarnation
            and known.nonce not in (None, message.nonce)
        )
        if contact.id == self._me.id or is_twin:
            return Refusal("id", f"there is another peer {contact.id}: was its data directory copied?")
        if 1 + linked >= self._settings.peers_max:
            return Refusal("full", f"there are {1 + linked} peers already, and cluster.peers_max allows no more")
        return None
