"""Payloads: blocks that stay with the peer that made them, and who is told when they may go.

What an executor of another peer makes for the next node need not travel to the task's owner and back. The *maker*
keeps the block and names it in its commit (`Payload`: number, layout, checksum, content digests): one per column of
the batch. The owner's frames hold rows of blocks that lie elsewhere (core/blocks.py rule 5). Where the next batch runs

* at the maker: its grant names the block, and nothing travels. A queue hands tasks whose inputs lie with the claimer
  out first (core/queues.py rule 6), without looking for them.
* at anybody else, or at home: whoever runs it fetches the block first (core/fetches.py), from its maker.

Rules     1. What stays: columns that have a checksum, that are larger than `store.inline_bytes` per row, and that their
             owner does not need itself (core/needed.py). Everything else travels with its message, as ever. So no end
             of a task and no cached value waits for a block from elsewhere. With `payload_copies` of 2 or more in its
             graph a column stays and travels.
          2. A maker keeps a block until its owner frees it (`FreePayloads`, together per event), or is gone. It is
             volatile like anything that is not part of a record: a store that is too small costs its task a retry.
          3. A maker never frees on its own account. Every `sync_s` it asks owners of what it has kept for so long
             (`HeldPayloads`), and they free again what they do not need: so no lost message keeps a block for ever. Of
             what an owner cannot know yet, as its commit is not confirmed, nothing is asked; of what its owner has
             refused, or may have, it asks at once.
          4. Ids are never used twice, not even by another life of the same peer: an old name finds nothing.
          5. Only the owner decides what a loss means (core/travel.py `lost`). Whoever is told `Gone` by the maker asks
             the owner; it may have a copy, or have the block fetched; if not, it knows of the loss before anybody tells
             it what has become of the batch. Evicted: a retry (`memory_purge`). The maker died: a restart, counted
             apart. It has left on purpose: a restart that is not counted (finished steps run again).
          6. The checksum is computed by the driver of the maker when the block is stored, and by the driver of whoever
             fetches it when it arrives; here they are compared. So damage in the store is found as well as damage on
             the way; either counts as `Gone`. It costs something only for batches of other peers, and large columns.
Why       The owner stays the only one who knows what a task needs: nobody is asked where something is, and nothing has
          to be repaired. A takeover starts from the input, and leaves nothing behind but blocks of who is gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ids import BlockId, PeerId
from .member import LINKED
from .payloadmessages import FreePayloads, HeldPayloads, Payload
from .state import State
from .values import Block

COUNTERS_PER_MESSAGE = 16_384


@dataclass(slots=True, eq=False)
class _Held:
    """A block that is kept for an owner. known: the owner has answered the commit that named it."""

    owner: PeerId
    block: Block
    known: bool = False


class Payloads:
    """What this peer keeps for others, and what it tells those that keep something for it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._blocks = state.blocks
        self._held: dict[int, _Held] = {}
        self._by_owner: dict[PeerId, dict[int, None]] = {}
        self._doubtful: dict[PeerId, list[int]] = {}
        self._ask_ms: int | None = None
        self._sync_ms = int(state.settings.timing.sync_s * 1000)
        self.counters = {"payloads_kept": 0, "payloads_freed": 0}

    # ---- as a maker

    def hold(self, owner: PeerId, blocks: Iterable[Block]) -> None:
        """Keep these blocks, which a commit to this owner names."""
        for block in blocks:
            self._held[block.id.counter] = _Held(owner, block)
            self._by_owner.setdefault(owner, {})[block.id.counter] = None
            self._blocks.hold((block, 0))
            self.counters["payloads_kept"] += 1

    def answered(self, blocks: Iterable[Block], *, fenced: bool) -> None:
        """Their owner knows of these blocks. fenced: or it does not, and never will."""
        for block in blocks:
            held = self._held.get(block.id.counter)
            if held is None:
                continue
            held.known = True
            if fenced:
                self._doubtful.setdefault(held.owner, []).append(block.id.counter)
            if self._ask_ms is None:
                self._ask_ms = self._state.now_ms + self._sync_ms

    def held(self, counter: int) -> Block | None:
        """A block of this peer that is kept for somebody, unless it has been evicted."""
        held = self._held.get(counter)
        return None if held is None or self._blocks.any_gone(((held.block, 0),)) else held.block

    def mine(self, payload: Payload) -> Block | None:
        """The block of this peer that somebody names; None if it is not one, or has gone."""
        block = self.held(payload.counter) if payload.maker == self._state.me else None
        return block if block is not None and block.layout == payload.layout else None

    def freed(self, owner: PeerId, message: FreePayloads) -> None:
        """An owner does not need blocks any more."""
        for counter in message.counters:
            held = self._held.get(counter)
            if held is not None and held.owner == owner:
                self._drop(counter)
                self.counters["payloads_freed"] += 1

    def _drop(self, counter: int) -> None:
        held = self._held.pop(counter)
        of_owner = self._by_owner[held.owner]
        del of_owner[counter]
        if not of_owner:
            del self._by_owner[held.owner]
        self._blocks.settle((held.block,))

    # ---- as an owner

    def still_held(self, maker: PeerId, message: HeldPayloads) -> None:
        """A maker still keeps these: say which of them are not needed."""
        for counter in message.counters:
            if self._blocks.away(BlockId(maker, counter)) is None:
                self._blocks.unneeded.setdefault(maker, []).append(counter)

    # ---- for both

    def gone(self, peer: PeerId) -> None:
        """A member is gone: nothing is kept for it any more."""
        for counter in list(self._by_owner.get(peer, ())):
            self._drop(counter)
        self._doubtful.pop(peer, None)

    def flush(self) -> None:
        """Send what one event has brought up, together."""
        if self._blocks.unneeded:
            unneeded, self._blocks.unneeded = self._blocks.unneeded, {}
            for maker, counters in unneeded.items():
                assert isinstance(maker, PeerId)
                for some in chunks(counters):
                    self._state.members.tell(maker, FreePayloads(counters=some))
        if self._doubtful:
            doubtful, self._doubtful = self._doubtful, {}
            for owner, counters in doubtful.items():
                self._ask(owner, counters)

    def _ask(self, owner: PeerId, counters: Iterable[int]) -> None:
        for some in chunks([counter for counter in counters if counter in self._held]):
            self._state.members.tell(owner, HeldPayloads(counters=some))

    def expire(self) -> None:
        """Ask owners whether they still need what is kept for them."""
        if self._ask_ms is None or self._ask_ms > self._state.now_ms:
            return
        self._ask_ms = None
        for owner, counters in self._by_owner.items():
            known = [counter for counter in counters if self._held[counter].known]
            self._ask(owner, known)
            if known:
                self._ask_ms = self._state.now_ms + self._sync_ms

    def deadline_ms(self) -> int | None:
        return self._ask_ms

    # ---- looking

    def blocks_held(self) -> Iterable[Block]:
        """Every use of a block that is kept for somebody, for checks."""
        return [held.block for held in self._held.values()]

    def kept_for(self, owner: PeerId) -> frozenset[int]:
        """What is kept for an owner, for checks."""
        return frozenset(self._by_owner.get(owner, ()))

    def check_invariants(self) -> None:
        assert not self._blocks.unneeded
        assert not self._doubtful
        listed = {counter: owner for owner, counters in self._by_owner.items() for counter in counters}
        assert listed == {counter: held.owner for counter, held in self._held.items()}
        assert self._ask_ms is not None or not any(held.known for held in self._held.values())
        for counter, held in self._held.items():
            assert held.block.id.counter == counter
            assert self._state.members.status(held.owner) in LINKED, "kept for an owner that is gone"


def chunks(counters: Sequence[int]) -> Iterable[tuple[int, ...]]:
    """As many as fit into one message each."""
    for start in range(0, len(counters), COUNTERS_PER_MESSAGE):
        yield tuple(counters[start : start + COUNTERS_PER_MESSAGE])
