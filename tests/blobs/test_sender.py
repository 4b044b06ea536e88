"""The client's end: repeated until it is answered, bounded, and never sealed by mistake."""

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from scatterzmq.blobs import sender
from scatterzmq.blobs.outside import bytes_beside
from scatterzmq.blobs.sender import ROOM_BYTES, BlobSender
from scatterzmq.core.blobmessages import PIECE_BYTES, BlobWritten, WriteBlob
from scatterzmq.errors import BlobError, ClusterError
from scatterzmq.wire.columns import Column

DATA = random.Random(4).randbytes(20 * PIECE_BYTES + 77)


class Listener:
    """A peer in a thread of its own, that takes in what comes in order. loses: whether a word is lost."""

    def __init__(self, loses: Callable[[], bool] = lambda: False) -> None:
        self.taken = bytearray()
        self.words: list[WriteBlob] = []
        self.most_bytes = 0
        self.is_sealed = False
        self._loses = loses
        self._lock = threading.Lock()

    def say(self, word: WriteBlob, columns: Mapping[str, Column], /) -> None:
        with self._lock:
            self.words.append(word)
            if self._loses():
                return
            data = bytes_beside(columns)
            self.most_bytes = max(self.most_bytes, word.offset + len(data) - len(self.taken))
            if word.offset == len(self.taken):
                self.taken += data
                self.is_sealed = self.is_sealed or word.last
            answer = BlobWritten(writer=word.writer, blob_bytes=len(self.taken), is_sealed=self.is_sealed)
        if not self._loses():
            threading.Thread(target=self.blob.heard, args=(answer,)).start()

    def open(self) -> BlobSender:
        self.blob = BlobSender("a", self.say, self._done)
        return self.blob.begin()

    def _done(self, _: Any) -> None:
        self.words.append(WriteBlob(writer=b"", name="done", offset=0))


@pytest.mark.parametrize("step", [1000, PIECE_BYTES, 3 * PIECE_BYTES + 1, len(DATA)])
def test_all_of_it_comes_in_order(step: int) -> None:
    peer = Listener()
    with peer.open() as blob:
        places = [blob.write(DATA[at : at + step]) for at in range(0, len(DATA), step)]
    assert places[:2] == [f"0:{step}:a", f"{step}:{step}:a"][: len(places)]
    assert peer.is_sealed
    assert bytes(peer.taken) == DATA
    assert peer.words[-1].name == "done"
    blob.close()


def test_what_is_lost_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "AGAIN_S", 0.01)
    chance = random.Random(6)
    peer = Listener(lambda: chance.random() < 0.2)
    with peer.open() as blob:
        blob.write(DATA)
    assert bytes(peer.taken) == DATA


def test_who_is_not_answered_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SILENT_S", 0.05)
    silent = False
    peer = Listener(lambda: silent)
    blob = peer.open()
    silent = True
    with pytest.raises(ClusterError, match="has not answered"):
        blob.write(DATA)
    assert max([word.offset for word in peer.words]) == ROOM_BYTES - PIECE_BYTES


def test_what_is_on_its_way_is_bounded() -> None:
    peer = Listener()
    with peer.open() as blob:
        blob.write(DATA)
        assert len(blob._open) <= ROOM_BYTES // PIECE_BYTES
    assert peer.most_bytes <= ROOM_BYTES
    assert not blob._data


def test_a_peer_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SILENT_S", 0.05)
    peer = Listener(lambda: True)
    with pytest.raises(ClusterError, match=r"the peer has not answered for 0.05 s"):
        peer.open()
    assert peer.words[-1].name == "done"


def test_a_problem_ends_it() -> None:
    peer = Listener()
    blob = peer.open()
    blob.heard(BlobWritten(writer=blob.writer, blob_bytes=0, problem="blob 'a' cannot be stored: full"))
    with pytest.raises(ClusterError, match="cannot be stored: full"):
        blob.close()
    with pytest.raises(BlobError, match="is sealed"):
        blob.write(b"more")


def test_a_hostile_name_is_refused_at_once() -> None:
    with pytest.raises(BlobError, match="plain relative name"):
        BlobSender("../a", Listener().say, lambda _: None)
