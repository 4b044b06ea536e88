"""Words about blobs at the links of a peer: heard of linked peers and of clients, and answered; of nobody else."""

from collections.abc import Mapping
from typing import Any

from scatterzmq.blobs.outside import beside
from scatterzmq.core.blobmessages import AskBlob, BlobPiece, BlobWord, BlobWritten, WriteBlob
from scatterzmq.core.peermessages import AskQueues
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import Envelope, encode
from tests.net.conftest import ALICE, Caller, Station, Stranger, World, peer_id, peer_name

DIGEST = b"d" * 32
ASK = AskBlob(name="a", digest=DIGEST, offset=0, bytes_max=9)


def hearing(station: Station) -> list[tuple[PeerId | ClientId, BlobWord]]:
    """What it hears of blobs."""
    heard: list[tuple[PeerId | ClientId, BlobWord]] = []

    def hear(sender: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column]) -> None:
        heard.append((sender, word))
        if isinstance(word, WriteBlob):
            station.links.say_of_blob(sender, BlobWritten(writer=word.writer, blob_bytes=len(columns["data"].data)), {})

    station.links.hear_of_blobs(hear)
    return heard


def test_linked_peers_are_heard(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    here.meet(there)
    heard = hearing(there)
    here.links.say_of_blob(there.me.id, ASK, {})
    world.until(lambda: heard)
    assert heard == [(here.me.id, ASK)]
    assert here.links.peers() == (there.me.id,)


def test_peers_without_a_link_are_not_heard(world: World) -> None:
    """Such as those of other clusters."""
    station = Station(world, 1)
    heard = hearing(station)
    stranger = Stranger(world, station, peer_name(5) + b"c")
    envelope: dict[str, Any] = {"src": peer_id(5), "src_incarnation": 1}
    stranger.say(*encode(ASK, {}, Envelope(dst=station.me.id, **envelope)))
    world.until(lambda: station.links.rejected["receiver"])
    stranger.say(*encode(AskQueues(), {}, Envelope(dst=station.me.id, **envelope)))
    world.until(station.heard)
    assert not heard


def test_what_is_for_another_peer_is_not_heard(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    here.meet(there)
    heard = hearing(there)
    stranger = Stranger(world, there, peer_name(1) + b"x")
    stranger.say(*encode(ASK, {}, Envelope(src=peer_id(1), src_incarnation=1, dst=peer_id(9))))
    world.until(lambda: there.links.rejected["receiver"])
    assert not heard


def test_clients_are_heard_and_answered(world: World) -> None:
    station = Station(world, 1)
    heard = hearing(station)
    caller = Caller(world, ALICE, station)
    word = WriteBlob(writer=b"w" * 16, name="a", offset=0)
    caller.lanes.send(encode(word, beside(b"abc"), Envelope(src=ALICE, dst=station.me.id)))
    world.until(lambda: caller.heard)
    assert heard == [(ALICE, word)]
    assert caller.heard[0][0] == BlobWritten(writer=b"w" * 16, blob_bytes=3)
    piece = BlobPiece(name="a", digest=DIGEST, offset=0, blob_bytes=3)
    caller.lanes.send(encode(piece, beside(), Envelope(src=ALICE)))
    world.until(lambda: station.links.rejected["role"])
    assert len(heard) == 1


def test_without_anybody_who_hears_they_are_dropped(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    here.meet(there)
    here.links.say_of_blob(there.me.id, ASK, {})
    world.until(lambda: there.links.rejected["receiver"])


def test_links_are_told_of(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    told: list[tuple[PeerId, bool]] = []
    here.links.hear_of_links(lambda peer, up: told.append((peer, up)))
    here.meet(there)
    here.links.open(there.me)  # another life, or another address
    here.links.close(there.me.id)
    here.links.close(there.me.id)
    assert told == [(there.me.id, True), (there.me.id, False), (there.me.id, True), (there.me.id, False)]
