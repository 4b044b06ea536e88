"""Routing ids: by what the ROUTER of a peer knows each connection to it.

    b"P" + id (16) + incarnation (8) + lane      a peer
    b"C" + id (16) + lane                        a client

Why     Whoever comes back after a lost connection takes the place of the old one; another life of a peer does not. And
        no message can claim another sender than its connection has: the envelope must say the same.
"""

from dataclasses import dataclass

from ..ids import ClientId, PeerId

DIAL = b"d"
"""Lane of greetings to whoever is at an address; a number follows, as there may be several at a time."""
CONTROL, BULK = b"c", b"b"
"""Lanes of small messages and of large ones."""
LANE_BYTES_MAX = 8


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose connection it is. incarnation: 0 for clients."""

    id: PeerId | ClientId
    incarnation: int


def of_peer(peer: PeerId, incarnation: int) -> bytes:
    """Without the lane."""
    return b"P" + peer.to_bytes() + incarnation.to_bytes(8, "big")


def of_client(client: ClientId) -> bytes:
    """Without the lane."""
    return b"C" + client.to_bytes()


def is_bulk(raw: bytes) -> bool:
    """Whether large messages come this way, or may."""
    return raw[-1:] == BULK


def read(raw: bytes) -> Origin | None:
    """None for a connection that is not one of ours."""
    if raw[:1] == b"P" and 26 <= len(raw) <= 25 + LANE_BYTES_MAX:
        return Origin(PeerId.from_bytes(raw[1:17]), int.from_bytes(raw[17:25], "big"))
    if raw[:1] == b"C" and 18 <= len(raw) <= 17 + LANE_BYTES_MAX:
        return Origin(ClientId.from_bytes(raw[1:17]), 0)
    return None
