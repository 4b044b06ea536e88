"""What a driver does with words of other peers, and for them: what is stored how, and what goes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from xxhash import xxh3_128_digest

from scatterzmq.core.actions import CloseLink, Dial, Left, OpenLink, Publish, Tell
from scatterzmq.core.cachemessages import CACHE_KEY_BYTES, CacheAnswer, CachePut, CacheTell
from scatterzmq.core.events import LinkDown, PeerSeen
from scatterzmq.core.messages import AskStats, Contact
from scatterzmq.core.payloadmessages import Fetched
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.peermessages import (
    AskQueues,
    Commit,
    CopyKind,
    Grant,
    Hello,
    Part,
    Replicate,
    Welcome,
)
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.driver import ClientJoined, Driver, Incoming
from scatterzmq.execute.store import PayloadStore
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import ClientId, ExecutorId, PeerId, QueueId, TaskId
from scatterzmq.network import FromPeer, perform, stored
from scatterzmq.settings import Settings, StoreSettings
from scatterzmq.wire.columns import Apart, Column

ME, OTHER = (PeerId("P" + letter * 32) for letter in "ab")
CONTACT = Contact(id=OTHER, incarnation=3, address="there", gossip_port=7)
CLIENT = ClientId("C" + "c" * 32)
TASKS = tuple([TaskId(f"T{number:032x}") for number in range(3)])
EXECUTOR, QUEUE = ExecutorId("E" + "0" * 32), QueueId("Q" + "0" * 32)
DIGESTS = (b"1" * 32, b"2" * 32, b"3" * 32)


def column(rows: int = 3, width: int = 1) -> Column:
    return Column(Layout(DTYPES["uint8"], rows, (width,)), memoryview(bytearray(rows * width)))


def came(message: Any, columns: Mapping[str, Column]) -> FromPeer:
    return FromPeer(sender=OTHER, incarnation=3, to_incarnation=4, message=message, columns=columns)


def replicate() -> Replicate:
    return Replicate(
        mid=1,
        kind=CopyKind.ACCEPT,
        ns="n",
        digest=b"d" * 32,
        n=1,
        rset=(OTHER, ME),
        ids=TASKS,
        nonces=(b"n" * 8,) * 3,
        submit_digests=(b"s" * 16,) * 3,
        seqs=(0, 0, 0),
        caching=(True,) * 3,
        errors=(0,) * 3,
        restarts=(0,) * 3,
        crashes=(0,) * 3,
        solo=(False,) * 3,
        last_errors=(None,) * 3,
        digests={"value": DIGESTS},
    )


def _pieces(column: Column | Apart) -> Sequence[memoryview]:
    return column.datas if isinstance(column, Apart) else (column.data,)


@dataclass
class Notes:
    """A network that only takes notes."""

    seen: list[tuple[Any, ...]] = field(default_factory=list)

    def send(self, peer: PeerId, incarnation: int, message: Any, columns: Mapping[str, Column | Apart], /) -> None:
        sent = {name: b"".join(_pieces(column)) for name, column in columns.items()}
        self.seen.append(("send", peer, incarnation, message, sent))

    def publish(self, message: Any, /) -> None:
        self.seen.append(("publish", message))

    def dial(self, address: str, greeting: Any, /) -> None:
        self.seen.append(("dial", address, greeting))

    def open(self, contact: Contact, /) -> None:
        self.seen.append(("open", contact))

    def close(self, peer: PeerId, /) -> None:
        self.seen.append(("close", peer))

    def left(self, lost: int, /) -> None:
        self.seen.append(("left", lost))


@pytest.fixture
def store() -> PayloadStore:
    return PayloadStore(StoreSettings(bytes=64), ME)


# ---- in


KEPT: list[Any] = [
    replicate(),
    CachePut(key=b"k" * CACHE_KEY_BYTES, id=TASKS[0], output="out", digests={"value": DIGESTS}),
    CacheTell(key=b"k" * CACHE_KEY_BYTES, id=TASKS[0], answer=CacheAnswer.HIT, digests={"value": DIGESTS}),
]
VOLATILE: list[Any] = [
    Grant(claim=1, executor=EXECUTOR, digest=b"d" * 32, queue=QUEUE, ids=TASKS, digests={"value": DIGESTS}),
]


@pytest.mark.parametrize("message", [*KEPT, *VOLATILE], ids=lambda message: type(message).__name__)
def test_columns_are_stored_for_good_only_where_they_are_part_of_a_record(store: PayloadStore, message: Any) -> None:
    event = stored(came(message, {"value": column(), "other": column(width=40)}), store, 5)
    assert (event.sender, event.incarnation, event.to_incarnation, event.message) == (OTHER, 3, 4, message)
    assert event.blocks["value"].digests == DIGESTS
    assert event.blocks["other"].digests == ()
    assert event.blocks["other"].layout.rows == 3, "one block, though it is large for the store"
    assert (store.kept_bytes, store.volatile_bytes) == ((123, 0) if message in KEPT else (0, 123))


def test_the_parts_of_a_commit_have_digests_of_their_own(store: PayloadStore) -> None:
    parts = (
        Part(output="out", rows=(0,), fields=("value",), digests={"value": DIGESTS[:1]}),
        Part(output="out", rows=(1, 2), fields=("value", "a:b"), digests={"value": DIGESTS[1:]}),
    )
    commit = Commit(executor=EXECUTOR, order=1, parts=parts)
    columns = {"0:value": column(1), "1:value": column(2), "1:a:b": column(2)}
    blocks = stored(came(commit, columns), store, 5).blocks
    assert {name: block.digests for name, block in blocks.items()} == {
        "0:value": DIGESTS[:1],
        "1:value": DIGESTS[1:],
        "1:a:b": (),
    }
    assert store.kept_bytes == 0


def test_a_column_without_rows_is_no_block(store: PayloadStore) -> None:
    assert stored(came(AskQueues(), {"value": column(0)}), store, 5).blocks == {}


def test_what_was_fetched_gets_a_checksum(store: PayloadStore) -> None:
    (block,) = stored(came(Fetched(maker=OTHER, counter=9, rows=3), {"rows": column()}), store, 5).blocks.values()
    assert block.checksum == xxh3_128_digest(column().data)
    (block,) = stored(came(VOLATILE[0], {"value": column()}), store, 5).blocks.values()
    assert block.checksum == b""


# ---- out


def test_what_is_asked_for_goes_to_the_network(store: PayloadStore) -> None:
    network = Notes()
    values = store.put(column(), 0)
    greeting = Hello(
        me=Contact(id=ME, incarnation=1, address="x"), nonce=bytes(16), cluster=bytes(8), proto_min=1, proto_max=1
    )
    for action in (
        Tell(to=OTHER, incarnation=7, message=AskQueues(), values={"value": values[:2], "nothing": ()}),
        Publish(message=AskQueues()),
        Dial(address="there", message=greeting),
        OpenLink(contact=CONTACT),
        CloseLink(peer=OTHER),
        Left(lost=2),
    ):
        perform(network, action, store)
    assert network.seen == [
        ("send", OTHER, 7, AskQueues(), {"value": bytes(2)}),
        ("publish", AskQueues()),
        ("dial", "there", greeting),
        ("open", CONTACT),
        ("close", OTHER),
        ("left", 2),
    ]


class NoExecutors:
    def start(self) -> tuple[ExecutorId, ...]:
        return ()


@pytest.mark.parametrize("alone", [False, True])
def test_a_driver_between_a_core_and_its_network(alone: bool) -> None:
    """Somebody is seen, and greets back; a driver without a network drops what would go there."""
    network = Notes()
    settings = Settings.of({"store": {"bytes": 10}})
    me = Contact(id=ME, incarnation=4, address="here")
    core = PeerCore(me, settings, node_strategy=SimpleNodeStrategy(), queue_strategy=SimpleQueueStrategy(), static=True)
    store = PayloadStore(settings.store, ME)
    executors: Any = NoExecutors()
    driver = Driver(
        core, store, executors, network=None if alone else network, counted=lambda: {"others": 3}, clock=lambda: 1.0
    )
    driver.start()
    driver.take(PeerSeen(address="there"))
    other = Contact(id=OTHER, incarnation=3, address="there")
    (cluster,) = {greeting.cluster for what, _, greeting in network.seen if what == "dial"} or {bytes(8)}
    welcome = Welcome(me=other, nonce=b"n" * 16, cluster=cluster, proto_min=1, proto_max=1)
    driver.take(came(welcome, {}))
    assert [what[0] for what in network.seen if what[0] in ("dial", "open")] == ([] if alone else ["dial", "open"])
    driver.take(came(VOLATILE[0], {"value": column(width=100)}))
    driver.take(LinkDown(peer=OTHER, refused=False))
    told: list[Any] = []
    driver.take(ClientJoined(client=CLIENT, deliver=lambda message, _: told.append(message)))
    driver.take(Incoming(sender=CLIENT, message=AskStats(mid=1), columns={}))
    assert told[0].counters["others"] == 3
    assert told[0].counters["peers_dropped"] == alone
    core.check_invariants()
    store.check_invariants()
    assert len(store) == 0, "a batch that nobody asked for"
