"""Fetches: blocks that are on their way here, and batches that wait for them.

Purpose   Gets the inputs of a batch from where they lie, and has the batch run when they are there.
Rules     1. A block is asked for once, however many batches wait for it, and again until it comes, or is lost for good:
             ever more rarely, as it may be large and its way slow.
          2. For tasks of this peer its maker is asked, and says so if it has lost it; one that is silent is asked until
             it is dead.
          3. For tasks of another peer the maker is asked first. Where it is not heard, does not answer or has lost the
             block, the owner is asked, which fetches it for us: so a maker that only some can reach stops nobody, and
             whatever is lost its owner knows first-hand.
          4. Of one member no more than `store.fetch_bytes` are asked for at a time (core/credits.py).
          5. A batch whose inputs are lost runs without the rows that miss something; the executor's answer names them.
          6. Its time begins when it runs. The executor waits meanwhile: for a batch at a time, and no longer than its
             holder is alive. (A batch of another queue that could run meanwhile would need its place afterwards.)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..ids import BlockId, ExecutorId, PeerId
from .actions import BatchOrder, RunBatch
from .blocks import Loss
from .credits import Credits
from .payloadmessages import Fetch, Fetched, Gone
from .payloads import Payloads, chunks
from .state import State
from .values import Block, Value, maker_of

DOUBLINGS_MAX = 4
"""A block is asked for again after `ask_s`, twice that, and so on so many times."""


@dataclass(slots=True, eq=False)
class _Fetch:
    """A block on its way. block: as its owner knows it. owner: of the tasks that need it; None: we are.

    asked: who was last, or will be next. due_ms: when to ask again; None while it waits for its turn.
    orders, peers: batches and members that wait for it.
    """

    block: Block
    owner: PeerId | None
    asked: PeerId
    tries: int = 0
    due_ms: int | None = None
    orders: dict[int, None] = field(default_factory=dict)
    peers: dict[PeerId, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch that waits. lacking: blocks that are not here yet; found: those that have come, each counted as used.

    begins: told the blocks that the batch needs while it runs.
    """

    executor: ExecutorId
    order: BatchOrder
    begins: Callable[[Iterable[Block]], None]
    since_ms: int
    lacking: dict[BlockId, None]
    found: dict[BlockId, Block] = field(default_factory=dict)


class Fetches:
    """What one peer fetches, for itself and for others, and what it sends to those that fetch."""

    def __init__(self, state: State, payloads: Payloads) -> None:
        self._state = state
        self._blocks = state.blocks
        self._members = state.members
        self._payloads = payloads
        self._fetches: dict[BlockId, _Fetch] = {}
        self._batches: dict[int, _Batch] = {}
        self._credits = Credits(state.settings.store.fetch_bytes)
        self._asks: dict[tuple[PeerId, PeerId], list[int]] = {}
        self._answer_ms = int(state.settings.timing.ask_s * 1000)
        self.counters = {
            "payloads_fetched": 0,
            "payload_bytes_fetched": 0,
            "payloads_wrong": 0,
            "payloads_lost": 0,
            "inputs_waited_ms": 0,
        }

    # ---- batches

    def run(
        self,
        executor: ExecutorId,
        order: BatchOrder,
        lacking: Mapping[Block, PeerId | None],
        begins: Callable[[Iterable[Block]], None],
    ) -> None:
        """Have a batch run when these blocks are here. lacking: with the owner of the tasks; None for ours."""
        batch = _Batch(executor, order, begins, self._state.now_ms, {block.id: None for block in lacking})
        self._batches[order.order] = batch
        for block, owner in lacking.items():
            self._fetch(block, owner).orders[order.order] = None

    def forget(self, order: int) -> bool:
        """A batch will not run. False if it does not wait here."""
        batch = self._batches.pop(order, None)
        if batch is None:
            return False
        self._blocks.settle(batch.found.values())
        for block in batch.lacking:
            del self._fetches[block].orders[order]
            self._drop_if_unwanted(block)
        return True

    def _begin(self, order: int) -> None:
        batch = self._batches.pop(order)
        self.counters["inputs_waited_ms"] += self._state.now_ms - batch.since_ms
        batch.begins(batch.found.values())
        inputs = {
            name: tuple([self._found(batch, value) for value in values]) for name, values in batch.order.inputs.items()
        }
        self._state.out.work(RunBatch(executor=batch.executor, order=replace(batch.order, inputs=inputs)))
        self._blocks.settle(batch.found.values())

    def _found(self, batch: _Batch, value: Value) -> Value:
        found = batch.found.get(value[0].id)
        return value if found is None else (found, value[1])

    # ---- asking

    def _fetch(self, block: Block, owner: PeerId | None) -> _Fetch:
        """The fetch of a block, which begins now if there is none yet."""
        fetch = self._fetches.get(block.id)
        if fetch is None:
            fetch = self._fetches[block.id] = _Fetch(block, owner, maker_of(block))
            self._ask(fetch, self._whom(fetch))
        return fetch

    def _whom(self, fetch: _Fetch) -> PeerId:
        """Rules 2 and 3."""
        maker, owner = maker_of(fetch.block), fetch.owner
        is_first = not fetch.tries or fetch.asked == owner
        return maker if owner is None or (is_first and self._members.is_heard(maker)) else owner

    def _ask(self, fetch: _Fetch, peer: PeerId) -> None:
        """Ask a member, when it is the turn of this block."""
        fetch.asked = peer
        fetch.due_ms = None
        if self._credits.take(peer, fetch.block):
            self._say(fetch)

    def _ask_other(self, fetch: _Fetch, peer: PeerId) -> None:
        """Ask somebody else from now on."""
        self._free(fetch)
        self._ask(fetch, peer)

    def _free(self, fetch: _Fetch) -> None:
        """What it was asked of has nothing to do with a block any more."""
        for id_ in self._credits.end(fetch.block.id):
            self._say(self._fetches[id_])

    def _say(self, fetch: _Fetch) -> None:
        fetch.due_ms = self._state.now_ms + (self._answer_ms << min(fetch.tries, DOUBLINGS_MAX))
        fetch.tries += 1
        self._asks.setdefault((fetch.asked, maker_of(fetch.block)), []).append(fetch.block.id.counter)

    def flush(self) -> None:
        """Send what one event has brought up, together."""
        if not self._asks:
            return
        asks, self._asks = self._asks, {}
        for (peer, maker), counters in asks.items():
            for some in chunks(counters):
                self._members.tell(peer, Fetch(maker=maker, counters=some))

    def expire(self) -> None:
        """Ask again."""
        now_ms = self._state.now_ms
        for fetch in self._fetches.values():
            if fetch.due_ms is not None and fetch.due_ms <= now_ms:
                peer = self._whom(fetch)
                if peer == fetch.asked:
                    self._say(fetch)
                else:
                    self._ask_other(fetch, peer)

    def deadline_ms(self) -> int | None:
        if not self._fetches:
            return None  # most of the time, and this is asked after every event
        return min([fetch.due_ms for fetch in self._fetches.values() if fetch.due_ms is not None])

    # ---- answers

    def fetched(self, sender: PeerId, message: Fetched, block: Block | None) -> None:
        """A block has come."""
        fetch = self._fetches.get(BlockId(message.maker, message.counter))
        if fetch is None or block is None:
            return
        if (block.layout, block.checksum) == (fetch.block.layout, fetch.block.checksum):
            self.counters["payloads_fetched"] += 1
            self.counters["payload_bytes_fetched"] += block.nbytes
            self._end(fetch, block)
        else:
            self.counters["payloads_wrong"] += 1
            self._state.out.report("warning.payload.wrong", peer=sender)
            self._refused(fetch, sender)

    def not_there(self, sender: PeerId, message: Gone) -> None:
        """Somebody has not got blocks."""
        for counter in message.counters:
            fetch = self._fetches.get(BlockId(message.maker, counter))
            if fetch is not None:
                self._refused(fetch, sender)

    def _refused(self, fetch: _Fetch, sender: PeerId) -> None:
        """Whoever decides says that it is lost; anybody else only that we have to ask further."""
        if fetch.owner is None:
            if sender == maker_of(fetch.block):
                self._lost(fetch, Loss.EVICTED)
        elif sender == fetch.owner:
            self._end(fetch, None)
        elif sender == fetch.asked:
            self._ask_other(fetch, fetch.owner)

    def _lost(self, fetch: _Fetch, loss: Loss) -> None:
        self.counters["payloads_lost"] += 1
        self._blocks.lost(fetch.block.id, loss)
        self._end(fetch, None)

    def _end(self, fetch: _Fetch, block: Block | None) -> None:
        """A block is here, or is lost for good: whoever has waited for it goes on."""
        id_ = fetch.block.id
        self._free(fetch)
        del self._fetches[id_]
        if block is not None and fetch.owner is None:
            self._blocks.came(id_, block)
        for peer in fetch.peers:
            self._answer(peer, fetch.block, () if block is None else _rows(block))
        for order in fetch.orders:
            batch = self._batches[order]
            del batch.lacking[id_]
            if block is not None:
                batch.found[id_] = block
                self._blocks.hold((block, 0))
            if not batch.lacking:
                self._begin(order)

    def _drop_if_unwanted(self, id_: BlockId) -> None:
        fetch = self._fetches[id_]
        if not fetch.orders and not fetch.peers:
            self._free(fetch)
            del self._fetches[id_]

    # ---- for others

    def asked(self, sender: PeerId, message: Fetch) -> None:
        """A member needs blocks of this peer, or those that others keep for this peer."""
        gone = []
        for counter in message.counters:
            id_ = BlockId(message.maker, counter)
            if message.maker == self._state.me:
                block = self._payloads.held(counter)
                rows = () if block is None else _rows(block)
            else:
                block = self._blocks.away(id_)
                rows = self._blocks.copy(id_)
            if rows:
                self._send(sender, id_, rows)
            elif block is None or message.maker == self._state.me:
                gone.append(counter)
            elif message.maker == sender:
                self._blocks.lost(id_, Loss.EVICTED)
                gone.append(counter)
            else:
                self._fetch(block, None).peers[sender] = None
        if gone:
            self._members.tell(sender, Gone(maker=message.maker, counters=tuple(gone)))

    def _answer(self, peer: PeerId, block: Block, rows: tuple[Value, ...]) -> None:
        if rows:
            self._send(peer, block.id, rows)
        else:
            self._members.tell(peer, Gone(maker=maker_of(block), counters=(block.id.counter,)))

    def _send(self, peer: PeerId, id_: BlockId, rows: tuple[Value, ...]) -> None:
        maker = id_.maker
        assert isinstance(maker, PeerId)
        message = Fetched(maker=maker, counter=id_.counter, rows=len(rows))
        self._members.tell(peer, message, {"rows": rows})

    def gone(self, peer: PeerId, *, on_purpose: bool) -> None:
        """A member is gone, with what it kept."""
        loss = Loss.LEFT if on_purpose else Loss.DIED
        self._blocks.maker_gone(peer, loss)
        for id_, fetch in list(self._fetches.items()):
            fetch.peers.pop(peer, None)
            if maker_of(fetch.block) == peer and fetch.owner is None:
                self._lost(fetch, loss)
            elif maker_of(fetch.block) == peer and fetch.owner is not None and fetch.asked == peer:
                self._ask_other(fetch, fetch.owner)
            else:
                self._drop_if_unwanted(id_)

    # ---- looking

    def blocks_held(self) -> Iterable[Block]:
        """Every use of a block by a batch that waits, for checks."""
        for batch in self._batches.values():
            yield from batch.found.values()

    def check_invariants(self) -> None:
        assert not self._asks
        self._credits.check_invariants({id_: fetch.asked for id_, fetch in self._fetches.items()})
        for id_, fetch in self._fetches.items():
            assert fetch.block.id == id_
            assert fetch.orders or fetch.peers, "a block that nobody waits for"
            assert all(id_ in self._batches[order].lacking for order in fetch.orders)
        for order, batch in self._batches.items():
            assert batch.order.order == order
            assert batch.lacking, "a batch that waits for nothing"
            assert all(order in self._fetches[id_].orders for id_ in batch.lacking)


def _rows(block: Block) -> tuple[Value, ...]:
    return tuple([(block, row) for row in range(block.layout.rows)])
