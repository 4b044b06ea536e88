"""Copies of blobs: enough of them whoever dies, made by whom all agree on, and nothing said while there are enough."""

from hashlib import blake2b
from itertools import pairwise

import pytest

from scatterzmq.core import blobkeepers
from scatterzmq.core.blobkeepers import AGAIN_MS, BATCH, PASS_MS, SETTLE_MS, SILENT_MS, BlobKeepers
from scatterzmq.core.blobmessages import BlobId, BlobsKept, KeepBlobs
from scatterzmq.ids import PeerId


def peer_id(number: int) -> PeerId:
    return PeerId(f"P{number:032x}")


def blob(number: int) -> BlobId:
    return BlobId(name=f"b{number}", digest=blake2b(b"%d" % number, digest_size=32).digest())


def kept(*numbers: int) -> BlobsKept:
    return BlobsKept(kept=tuple([blob(number).digest for number in numbers]))


class Cluster:
    """Peers that hear each other at once, and fetch at once. said: how many words were."""

    def __init__(self, count: int, copies: int = 2) -> None:
        self.now_ms = 1_000_000
        self.said = 0
        self.fetched: list[tuple[PeerId, str]] = []
        self.copies = copies
        self.peers: dict[PeerId, BlobKeepers] = {}
        for number in range(count):
            self.join(number)

    def join(self, number: int) -> BlobKeepers:
        me = peer_id(number)
        made = BlobKeepers(me, self.copies)
        for other, keepers in self.peers.items():
            keepers.joined(me, self.now_ms)
            made.joined(other, self.now_ms)
        self.peers[me] = made
        return made

    def kill(self, peer: PeerId) -> None:
        del self.peers[peer]
        for keepers in self.peers.values():
            keepers.gone(peer, self.now_ms)

    def run(self, for_ms: int = 200_000) -> None:
        end_ms = self.now_ms + for_ms
        while self.now_ms <= end_ms:
            for me, keepers in self.peers.items():
                self._step(me, keepers)
                keepers.check_invariants()
            times = [keepers.deadline_ms() for keepers in self.peers.values()]
            self.now_ms = max(self.now_ms + 1, min([time for time in times if time is not None], default=end_ms + 1))

    def _step(self, me: PeerId, keepers: BlobKeepers) -> None:
        for peer, word in keepers.asks(self.now_ms):
            self.said += 1
            assert 0 < len(word.blobs) <= BATCH
            other = self.peers[peer]
            keepers.told(peer, other.asked(me, word), self.now_ms)
            while (wanted := other.next_fetch()) is not None:
                assert other.next_fetch() is None, "one at a time"
                self.fetched.append((peer, wanted.name))
                for asker, answer in other.fetched(wanted, is_here=True, now_ms=self.now_ms):
                    self.said += 1
                    self.peers[asker].told(peer, answer, self.now_ms)

    def holders(self, number: int) -> list[PeerId]:
        return [peer for peer, keepers in self.peers.items() if blob(number).digest in keepers._held]


def test_a_new_blob_gets_its_copies() -> None:
    cluster = Cluster(5)
    first = cluster.peers[peer_id(0)]
    first.holds(blob(1), cluster.now_ms)
    assert not first.is_settled(blob(1).digest)
    cluster.run()
    assert first.is_settled(blob(1).digest)
    assert first.copies_of(blob(1).digest) == len(cluster.holders(1)) == 2


def test_nothing_is_said_while_there_are_enough() -> None:
    cluster = Cluster(5)
    for number in range(300):
        cluster.peers[peer_id(number % 5)].holds(blob(number), cluster.now_ms)
    cluster.run()
    # A question and its answers: 60 blobs of each peer, in as many messages as there are others to ask.
    assert cluster.said <= 5 * 4 + 300
    before = cluster.said
    cluster.join(5)
    cluster.run()
    assert cluster.said == before
    assert {keepers.deadline_ms() for keepers in cluster.peers.values()} == {None}
    assert {len(cluster.holders(number)) for number in range(300)} == {2}


@pytest.mark.parametrize("copies", [2, 3])
def test_copies_are_made_again_when_holders_die(copies: int) -> None:
    cluster = Cluster(6, copies)
    for number in range(200):
        cluster.peers[peer_id(0)].holds(blob(number), cluster.now_ms)
    cluster.run()
    for victim in (1, 0, 4):
        cluster.kill(peer_id(victim))
        cluster.run()
        assert min(len(cluster.holders(number)) for number in range(200)) >= copies


def test_those_who_find_a_copy_missing_ask_the_same_one() -> None:
    cluster = Cluster(8, 3)
    for number in range(50):
        cluster.peers[peer_id(0)].holds(blob(number), cluster.now_ms)
    cluster.run()
    fetched = len(cluster.fetched)
    lost = sum(peer_id(0) in cluster.holders(number) for number in range(50))
    cluster.kill(peer_id(0))
    cluster.run()
    assert len(cluster.fetched) == fetched + lost  # each once
    assert {len(cluster.holders(number)) for number in range(50)} == {3}


def test_with_fewer_peers_than_copies_all_have_it_and_who_comes_gets_it() -> None:
    cluster = Cluster(2, 4)
    cluster.peers[peer_id(0)].holds(blob(1), cluster.now_ms)
    cluster.run()
    assert len(cluster.holders(1)) == 2
    for keepers in cluster.peers.values():
        assert keepers.is_settled(blob(1).digest)
    said = cluster.said
    cluster.run()
    assert cluster.said == said  # and it is not said again and again
    cluster.join(2)
    cluster.run()
    assert len(cluster.holders(1)) == 3


def test_a_repair_waits_until_nobody_comes_or_goes() -> None:
    one = BlobKeepers(peer_id(0), 2)
    one.holds(blob(1), 0)
    one.joined(peer_id(1), 5)
    one.joined(peer_id(2), 1000)
    assert one.asks(1000 + SETTLE_MS - 1) == []
    assert one.deadline_ms() == 1000 + SETTLE_MS
    assert len(one.asks(1000 + SETTLE_MS)) == 1


def two_others(copies: int = 2) -> tuple[BlobKeepers, PeerId, PeerId]:
    """One that has blob 1, with the other members in the order in which they are asked."""
    one = BlobKeepers(peer_id(0), copies)
    for number in (1, 2):
        one.joined(peer_id(number), 0)
    one.holds(blob(1), 0)
    one.check_invariants()
    first, second = one._order(blob(1).digest)
    return one, first, second


def test_it_is_asked_again_until_there_is_an_answer() -> None:
    one, first, second = two_others()
    word = KeepBlobs(blobs=(blob(1),))
    assert one.asks(0) == [(first, word)]
    assert one.asks(1) == []
    assert one.asks(AGAIN_MS) == [(first, word)]
    one.told(first, BlobsKept(kept=(), coming=(blob(1).digest,)), 5_000)
    assert not one.is_settled(blob(1).digest)
    # It is on its way, so that is no silence.
    assert one.asks(SILENT_MS) == [(first, word)]
    assert one.asks(5_000 + SILENT_MS) == [(second, word)]  # but now it is
    one.told(second, kept(1), 5_000 + SILENT_MS)
    assert one.is_settled(blob(1).digest)
    assert one.deadline_ms() is None
    one.check_invariants()


def test_who_refuses_is_passed_over_for_a_while() -> None:
    one, first, second = two_others()
    no = BlobsKept(kept=(), refused=(blob(1).digest,))
    one.asks(0)
    one.told(first, no, 10)
    assert [peer for peer, _ in one.asks(10)] == [second]
    one.told(second, no, 20)
    assert one.asks(20) == []
    assert one.is_settled(blob(1).digest)  # nobody is left
    assert one.copies_of(blob(1).digest) == 1
    one.told(second, no, 21)  # once more
    assert one.asks(21) == []
    one.check_invariants()
    assert [peer for peer, _ in one.asks(20 + PASS_MS)] == [first]
    assert not one.is_settled(blob(1).digest)


def test_a_member_has_one_question_at_a_time() -> None:
    one = BlobKeepers(peer_id(0), 2)
    one.joined(peer_id(1), 0)
    one.holds(blob(0), 0)
    assert one.asks(0) == [(peer_id(1), KeepBlobs(blobs=(blob(0),)))]
    for number in range(1, BATCH + 3):
        one.holds(blob(number), 1)
    assert one.asks(1) == []
    assert not one.is_settled(blob(1).digest)
    one.told(peer_id(1), kept(0), 2)
    ((_, word),) = one.asks(2)
    assert len(word.blobs) == BATCH
    one.told(peer_id(1), BlobsKept(kept=tuple([each.digest for each in word.blobs])), 3)
    ((_, word),) = one.asks(3)
    assert len(word.blobs) == 2
    one.check_invariants()


def test_a_question_that_is_repeated_takes_more_with_it() -> None:
    one = BlobKeepers(peer_id(0), 2)
    one.joined(peer_id(1), 0)
    one.holds(blob(0), 0)
    one.asks(0)
    one.holds(blob(1), 1)
    assert one.asks(AGAIN_MS) == [(peer_id(1), KeepBlobs(blobs=(blob(0), blob(1))))]


def test_many_are_looked_at_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobkeepers, "SCAN_MAX", 3)
    one = BlobKeepers(peer_id(0), 2)
    one.joined(peer_id(1), 0)
    for number in range(7):
        one.holds(blob(number), 0)
    ((_, word),) = one.asks(0)
    assert len(word.blobs) == 3
    assert one.deadline_ms() == 0
    one.asks(0), one.asks(0)
    assert (one.deadline_ms() or 0) > 0


def test_other_answers_change_nothing() -> None:
    one, first, _ = two_others()
    one.told(peer_id(9), kept(1), 0)  # no member
    one.told(first, kept(2), 0)  # not here
    assert one.copies_of(blob(1).digest) == 1
    one.told(first, BlobsKept(kept=(), refused=(blob(1).digest,)), 0)  # never asked
    assert [peer for peer, _ in one.asks(0)] == [first]
    one.told(first, BlobsKept(kept=(), refused=(blob(2).digest,)), 0)
    one.check_invariants()


def test_who_asks_has_it_too() -> None:
    one, first, second = two_others()
    assert one.asked(second, KeepBlobs(blobs=(blob(1),))) == kept(1)
    assert one.asks(0) == []
    assert one.asked(peer_id(9), KeepBlobs(blobs=(blob(1), blob(2)))) == BlobsKept(kept=())
    assert one.next_fetch() is None
    three, first, _ = two_others(3)
    assert three.asked(first, KeepBlobs(blobs=(blob(1),))) == kept(1)
    assert not three.is_settled(blob(1).digest)


def test_what_is_asked_for_is_fetched_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobkeepers, "WANTED_MAX", 3)
    one, first, second = two_others()
    word = KeepBlobs(blobs=(blob(2), blob(3), blob(4), blob(5)))
    coming = BlobsKept(kept=(), coming=tuple([blob(number).digest for number in (2, 3, 4)]))
    assert one.asked(first, word) == coming  # and for the last there is no room
    assert one.asked(second, KeepBlobs(blobs=(blob(2),))).coming == (blob(2).digest,)
    assert one.next_fetch() == blob(2)
    told = one.fetched(blob(2), is_here=True, now_ms=0)
    assert told == [(peer, kept(2)) for peer in sorted([first, second])]
    assert one.copies_of(blob(2).digest) == 3
    assert one.is_settled(blob(2).digest)
    assert one.next_fetch() == blob(3)
    assert one.fetched(blob(3), is_here=False, now_ms=0) == [(first, BlobsKept(kept=(), refused=(blob(3).digest,)))]
    # It has come in another way.
    assert one.next_fetch() == blob(4)
    one.holds(blob(4), 0)
    one.check_invariants()
    assert one.fetched(blob(4), is_here=True, now_ms=0) == []
    assert one.next_fetch() is None


def test_what_nobody_wants_any_more_is_not_fetched() -> None:
    one, first, second = two_others()
    one.asked(first, KeepBlobs(blobs=(blob(2), blob(3))))
    one.asked(second, KeepBlobs(blobs=(blob(3), blob(4))))
    assert one.next_fetch() == blob(2)
    one.gone(first, 0)
    one.check_invariants()
    assert one.fetched(blob(2), is_here=True, now_ms=0) == []
    assert one.next_fetch() == blob(3)
    one.fetched(blob(3), is_here=False, now_ms=0)
    one.joined(second, 0)  # in another life it knows nothing of that
    assert one.next_fetch() is None


def test_nothing_is_known_of_a_new_life() -> None:
    one = BlobKeepers(peer_id(0), 2)
    one.joined(peer_id(1), 0)
    one.holds(blob(1), 0)
    one.told(peer_id(1), kept(1), 0)
    assert one.is_settled(blob(1).digest)
    one.joined(peer_id(1), 0)
    assert not one.is_settled(blob(1).digest)
    one.gone(peer_id(7), 0)


def test_one_that_has_enough_by_now_is_left_alone() -> None:
    """It was refused after somebody else had taken it."""
    one, first, second = two_others()
    one.asks(0)
    one.told(second, kept(1), 0)
    assert one.is_settled(blob(1).digest)
    one.told(first, BlobsKept(kept=(), refused=(blob(1).digest,)), 1)
    assert one.asks(1) == []
    assert one.is_settled(blob(1).digest)
    assert one.deadline_ms() is None
    one.check_invariants()


def test_the_order_differs_from_blob_to_blob() -> None:
    one = BlobKeepers(peer_id(0), 2)
    for number in range(1, 6):
        one.joined(peer_id(number), 0)
    orders = [tuple(one._order(blob(number).digest)) for number in range(100)]
    firsts = [order[0] for order in orders]
    assert min(firsts.count(peer) for peer in set(firsts)) >= 10
    assert len(set(firsts)) == 5
    assert any(one != other for one, other in pairwise(orders))


def test_who_leaves_gives_what_only_it_has_to_another() -> None:
    cluster = Cluster(3, copies=1)
    one = cluster.peers[peer_id(0)]
    for number in (1, 2):
        one.holds(blob(number), cluster.now_ms)
    one.asked(peer_id(1), KeepBlobs(blobs=(blob(2),)))
    cluster.run()
    assert len(cluster.holders(1)) == 1
    assert one.short_count == 0
    one.leave(cluster.now_ms)
    assert one.short_count == 1
    one.leave(cluster.now_ms)
    cluster.run()
    assert one.short_count == 0
    assert len(cluster.holders(1)) == 2
    alone = BlobKeepers(peer_id(0), 1)
    alone.holds(blob(1), 0)
    alone.leave(0)
    assert alone.short_count == 1
    assert alone.asks(0) == []
    assert alone.short_count == 0  # there is nobody to be asked
