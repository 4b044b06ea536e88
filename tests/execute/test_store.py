"""The store: scripts, then a machine against a naive model. The fixture checks the invariants after every test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from xxhash import xxh3_128_digest

from scatterzmq.core.values import Block, Value
from scatterzmq.execute.store import PayloadStore
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, PeerId
from scatterzmq.settings import StoreSettings
from scatterzmq.wire.columns import Apart, Column

UINT8 = DTYPES["uint8"]
PEER = PeerId("P" + "1" * 32)

Make = Callable[..., PayloadStore]


def column(*rows: bytes) -> Column:
    """Rows of bytes, uniform if they are equally long."""
    data = memoryview(bytearray().join(rows))
    lengths = {len(row) for row in rows}
    if len(lengths) == 1:
        return Column(Layout(UINT8, len(rows), (lengths.pop(),)), data)
    return Column(Layout(UINT8, len(rows), None, tuple((len(row),) for row in rows)), data)


def one(nbytes: int) -> Column:
    """One row of so many bytes."""
    return column(b"x" * nbytes)


def ids(*batches: tuple[Value, ...]) -> list[BlockId]:
    """The blocks behind some values, each once, in order."""
    return list(dict.fromkeys(block.id for values in batches for block, _ in values))


def apart(*rows: bytes) -> Apart:
    """The same with memory for each row."""
    return Apart(column(*rows).layout, [memoryview(bytearray(row)) for row in rows])


def rows_of(found: Column) -> list[bytes]:
    return [bytes(found.row(row)) for row in range(found.layout.rows)]


class TrimmedStore(PayloadStore):
    """Trims after each `put`, as if nothing of it were to be kept."""

    def put(
        self,
        column: Column | Apart,
        now_ms: int,
        *,
        kept: bool = False,
        whole: bool = False,
        digests: tuple[bytes, ...] = (),
        shared: bool = False,
    ) -> tuple[Value, ...]:
        values = super().put(column, now_ms, kept=kept, whole=whole, digests=digests, shared=shared)
        self.trim()
        return values


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes stores that are trimmed after each `put`."""
    stores: list[PayloadStore] = []

    def make_store(mode: str = "size", *, nbytes: int = 100, ttl_s: float = 1.0) -> PayloadStore:
        stores.append(TrimmedStore(StoreSettings(mode=mode, bytes=nbytes, ttl_s=ttl_s), PEER))
        return stores[-1]

    yield make_store
    for store in stores:
        store.check_invariants()


@pytest.fixture
def store(make: Make) -> PayloadStore:
    """For 100 bytes."""
    return make()


def held(store: PayloadStore, *batches: tuple[Value, ...]) -> list[bool]:
    return [store.holds(block) for block in ids(*batches)]


# ---- put and collect


def test_every_row_comes_back_as_a_value_in_order(make: Make) -> None:
    store = make(nbytes=1000)
    values = store.put(column(b"ab", b"cd", b"ef"), 0)
    assert [row for _, row in values] == [0, 1, 2]
    block = values[0][0]
    assert all(other is block for other, _ in values)
    assert (block.id, block.nbytes, block.digests) == (BlockId(PEER, 1), 6, ())
    assert rows_of(store.collect(values)) == [b"ab", b"cd", b"ef"]
    assert (len(store), store.volatile_bytes, store.kept_bytes) == (1, 6, 0)


def test_ids_are_counted(store: PayloadStore) -> None:
    first, second = store.put(one(1), 0), store.put(one(1), 0)
    store.free(ids(first, second))
    third = store.put(one(1), 0)
    assert [block.counter for block in ids(first, second, third)] == [1, 2, 3]


def test_no_rows_no_blocks(store: PayloadStore) -> None:
    assert store.put(Column(Layout(UINT8, 0, (5,)), memoryview(bytearray())), 0) == ()
    assert len(store) == 0


def test_what_lies_apart_is_stored_row_by_row_where_it_lies(store: PayloadStore) -> None:
    given = apart(b"ab", b"cd", b"e")
    values = store.put(given, 0, digests=(b"1", b"2", b"3"), shared=True)
    assert [(row, block.digests, block.checksum) for block, row in values] == [
        (0, (digest,), xxh3_128_digest(data)) for digest, data in ((b"1", b"ab"), (b"2", b"cd"), (b"3", b"e"))
    ]
    assert len(ids(values)) == 3
    assert store.collect(values[1:2]).data.obj is given.datas[1].obj
    store.free(ids(values)[:1])
    assert rows_of(store.collect(values[1:])) == [b"cd", b"e"]


def test_what_lies_apart_is_joined_to_be_kept_as_one(store: PayloadStore) -> None:
    values = store.put(apart(b"ab", b"cd"), 0, kept=True)
    assert len(ids(values)) == 1
    assert rows_of(store.collect(values)) == [b"ab", b"cd"]


def test_digests_stay_with_their_rows_also_in_pieces(make: Make) -> None:
    digests = (b"1", b"2", b"3")
    whole = make(nbytes=1000).put(column(b"a", b"b", b"c"), 0, digests=digests)
    assert whole[0][0].digests == digests
    pieces = make(nbytes=16).put(column(b"a", b"b", b"c"), 0, digests=digests)
    assert [block.digests[row] for block, row in pieces] == list(digests)


def test_digests_for_other_rows_are_a_bug(store: PayloadStore) -> None:
    with pytest.raises(AssertionError, match="2 digests for 1 rows"):
        store.put(one(1), 0, digests=(b"1", b"2"))


def test_rows_of_several_blocks_are_collected_in_the_order_asked_for(make: Make) -> None:
    store = make(nbytes=1000)
    left, right = store.put(column(b"ab", b"cd"), 0), store.put(column(b"e", b"fgh"), 0)
    assert rows_of(store.collect([right[1], left[0], right[0], left[1], left[0]])) == [
        b"fgh",
        b"ab",
        b"e",
        b"cd",
        b"ab",
    ]


def test_collecting_what_is_there_already_copies_nothing(make: Make) -> None:
    store = make(nbytes=1000)
    given = column(b"ab", b"cd", b"ef")
    values = store.put(given, 0)
    assert store.collect(values) is given
    assert store.collect(values[1:]).data.obj is given.data.obj


@pytest.mark.parametrize("start", [0, 1])
def test_a_node_may_write_to_what_it_gets_of_a_kept_block(make: Make, start: int) -> None:
    store = make(nbytes=1000)
    values = store.put(column(b"ab", b"cd", b"ef"), 0, kept=True)
    private = store.collect_private(values[start:])
    private.data[:] = b"?" * len(private.data)
    assert rows_of(store.collect(values)) == [b"ab", b"cd", b"ef"]


def test_private_rows_are_copied_at_most_once(make: Make) -> None:
    store = make(nbytes=1000)
    volatile = store.put(column(b"ab", b"cd", b"ef"), 0)
    kept = store.put(column(b"gh"), 0, kept=True)
    assert store.collect_private(volatile) is store.collect(volatile)
    assert rows_of(store.collect_private([kept[0], volatile[0]])) == [b"gh", b"ab"]
    assert rows_of(store.collect_private(kept)) == [b"gh"]


def test_a_block_that_has_gone_is_a_key_error_with_its_id(store: PayloadStore) -> None:
    (first,), (second,) = store.put(one(1), 0), store.put(one(1), 0)
    store.free([second[0].id])
    for collect in (store.collect, store.collect_private):
        with pytest.raises(KeyError) as gone:
            collect([first, second])
        assert gone.value.args == (second[0].id,)


# ---- the bound in bytes


def test_the_oldest_goes_first(store: PayloadStore) -> None:
    values = [store.put(one(40), 0) for _ in range(3)]
    assert held(store, *values) == [False, True, True]
    assert store.volatile_bytes == 80


def test_a_full_store_is_not_too_full(store: PayloadStore) -> None:
    values = [store.put(one(50), 0) for _ in range(2)]
    assert held(store, *values) == [True, True]


def test_a_block_larger_than_the_store_goes_at_once_and_alone(store: PayloadStore) -> None:
    small = store.put(one(10), 0)
    large = store.put(one(101), 0)
    assert held(store, small, large) == [True, False]


def test_a_row_larger_than_the_store_goes_alone(store: PayloadStore) -> None:
    assert held(store, store.put(column(b"a", b"x" * 101, b"b"), 0)) == [True, False, True]


def test_a_store_without_room_keeps_nothing_volatile(make: Make) -> None:
    store = make(nbytes=0)
    values = store.put(column(b"ab", b"cd"), 0)
    kept = store.put(column(b"ab", b"cd"), 0, kept=True)
    assert held(store, values, kept) == [False, False, True]


def test_a_large_column_loses_some_rows_and_not_all(store: PayloadStore) -> None:
    """Pieces of at most 100 // 16 = 6 bytes: 30 rows of 4 bytes are 30 blocks, of which 25 fit."""
    values = store.put(column(*[b"%4d" % row for row in range(30)]), 0)
    assert len(values) == len(ids(values)) == 30
    assert held(store, values) == [False] * 5 + [True] * 25
    assert rows_of(store.collect(values[5:])) == [b"%4d" % row for row in range(5, 30)]


def test_a_column_within_a_sixteenth_of_the_store_stays_whole(make: Make) -> None:
    store = make(nbytes=16 * 6)
    given = column(b"abc", b"def")
    assert store.collect(store.put(given, 0)) is given
    assert len(ids(store.put(column(b"abc", b"def", b"g"), 0))) == 2


def test_evicting_a_piece_frees_its_memory(store: PayloadStore) -> None:
    """Pieces that were views of one buffer would keep all of it."""
    values = store.put(column(b"abc", b"def", b"ghi"), 0)
    assert [memoryview(store.collect([value]).data.obj).nbytes for value in values] == [6, 6, 3]


def test_kept_columns_are_neither_split_nor_evicted_nor_counted(store: PayloadStore) -> None:
    kept = store.put(column(b"x" * 300, b"y" * 300), 0, kept=True)
    volatile = store.put(one(90), 0)
    assert held(store, kept, volatile) == [True, True]
    assert (len(store), store.volatile_bytes, store.kept_bytes) == (2, 90, 600)


def test_what_is_kept_later_is_not_evicted_any_more(store: PayloadStore) -> None:
    first, second = store.put(one(60), 0), store.put(one(40), 0)
    store.keep(ids(first, first))
    assert (store.volatile_bytes, store.kept_bytes) == (40, 60)
    third = store.put(one(61), 0)
    assert held(store, first, second, third) == [True, False, True]
    store.keep(ids(second))
    assert not store.holds(second[0][0].id)


def test_what_is_kept_before_the_store_is_trimmed_stays_however_large() -> None:
    store = PayloadStore(StoreSettings(mode="size", bytes=100), PEER)
    large, small = store.put(one(200), 0), store.put(one(30), 0)
    store.keep(ids(large))
    assert store.trim() == ()
    assert held(store, large, small) == [True, True]


def test_trimming_tells_what_has_gone() -> None:
    store = PayloadStore(StoreSettings(mode="size", bytes=100), PEER)
    first, second, large = store.put(one(60), 0), store.put(one(60), 0), store.put(one(101), 0)
    assert store.trim() == (*ids(large), *ids(first))
    assert held(store, second) == [True]
    assert store.trim() == ()


def test_a_large_block_that_is_pinned_or_freed_before_trimming() -> None:
    store = PayloadStore(StoreSettings(mode="size", bytes=100), PEER)
    pinned, freed = store.put(one(101), 0), store.put(one(101), 0)
    store.pin(ids(pinned))
    store.free(ids(freed))
    assert store.trim() == ()
    store.unpin(ids(pinned))
    assert store.trim() == tuple(ids(pinned))


def test_freed_blocks_are_gone(store: PayloadStore) -> None:
    volatile, kept = store.put(one(60), 0), store.put(one(70), 0, kept=True)
    store.free(ids(volatile, kept))
    store.free(ids(volatile, kept))
    assert (len(store), store.volatile_bytes, store.kept_bytes) == (0, 0, 0)


# ---- pins


def test_a_pinned_block_is_passed_over(store: PayloadStore) -> None:
    first, second = store.put(one(40), 0), store.put(one(40), 0)
    store.pin(ids(first))
    third = store.put(one(40), 0)
    assert held(store, first, second, third) == [True, False, True]


def test_pins_nest_and_the_last_one_lets_go(store: PayloadStore) -> None:
    first = store.put(one(60), 0)
    store.pin(ids(first))
    store.pin(ids(first))
    store.unpin(ids(first))
    assert held(store, first, store.put(one(50), 0)) == [True, False]
    store.unpin(ids(first))
    assert held(store, first, store.put(one(50), 0)) == [False, True]


def test_new_blocks_find_no_room_beside_pinned_ones(store: PayloadStore) -> None:
    first, second = store.put(one(60), 0), store.put(one(40), 0)
    store.pin(ids(first, second))
    assert held(store, first, second, store.put(one(30), 0)) == [True, True, False]


def test_a_freed_block_can_be_read_until_its_last_pin_goes(store: PayloadStore) -> None:
    values = store.put(one(5), 0)
    store.pin(ids(values))
    store.pin(ids(values))
    store.free(ids(values))
    store.unpin(ids(values))
    assert rows_of(store.collect(values)) == [b"xxxxx"]
    store.unpin(ids(values))
    assert held(store, values) == [False]
    assert store.volatile_bytes == 0


def test_pins_on_blocks_that_have_gone_are_passed_over(store: PayloadStore) -> None:
    values = store.put(one(5), 0)
    store.free(ids(values))
    store.pin(ids(values))
    store.unpin(ids(values))
    assert len(store) == 0


def test_one_pin_too_few_is_a_bug(store: PayloadStore) -> None:
    values = store.put(one(5), 0)
    with pytest.raises(AssertionError, match="block 1 is not pinned"):
        store.unpin(ids(values))


# ---- the bound in time


def test_blocks_go_at_their_age(make: Make) -> None:
    store = make("time")
    first, second = store.put(one(5), 100), store.put(one(5), 300)
    kept = store.put(one(5), 0, kept=True)
    assert store.deadline_ms() == 1100
    assert store.expire(1099) == ()
    assert held(store, first, second) == [True, True]
    assert store.expire(1100) == tuple(ids(first))
    assert held(store, first, second, kept) == [False, True, True]
    assert store.deadline_ms() == 1300
    store.expire(9999)
    assert held(store, second, kept) == [False, True]
    assert store.deadline_ms() is None


def test_a_pinned_block_sets_no_deadline_and_goes_when_it_is_unpinned(make: Make) -> None:
    """A deadline in the past that nothing can meet would make the loop spin."""
    store = make("time")
    first, second = store.put(one(5), 0), store.put(one(5), 500)
    store.pin(ids(first))
    assert store.deadline_ms() == 1500
    store.expire(1200)
    assert held(store, first, second) == [True, True]
    store.unpin(ids(first))
    assert store.deadline_ms() == 1000
    store.expire(1200)
    assert held(store, first, second) == [False, True]


def test_time_alone_does_not_bound_bytes(make: Make) -> None:
    store = make("time", nbytes=0)
    values = store.put(column(b"ab", b"cd"), 0)
    assert held(store, values) == [True]


def test_size_alone_sets_no_deadline(store: PayloadStore) -> None:
    values = store.put(one(5), 0)
    assert store.deadline_ms() is None
    store.expire(10**9)
    assert held(store, values) == [True]


def test_both_bounds_hold(make: Make) -> None:
    store = make("both")
    first, second = store.put(one(60), 0), store.put(one(60), 500)
    assert held(store, first, second) == [False, True]
    assert store.deadline_ms() == 1500
    store.expire(1500)
    assert held(store, second) == [False]


# ---- any order of all of it


@dataclass
class Known:
    """A block as the model knows it. A block that has gone is no longer in the model's list."""

    block: Block
    rows: list[bytes]
    kept: bool
    stored_ms: int
    pins: int = 0
    freed: bool = False

    @property
    def evictable(self) -> bool:
        return not self.kept and not self.pins


BYTES_MAX, TTL_MS = 64, 50


class StoreMachine(RuleBasedStateMachine):
    """The model keeps a list by age and evicts one by one from its start."""

    store: PayloadStore

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Known] = []
        self.gone: list[Block] = []
        self.now_ms = 0

    @initialize(mode=st.sampled_from(["size", "time", "both"]))
    def make(self, mode: str) -> None:
        self.by_size, self.by_time = mode != "time", mode != "size"
        self.store = TrimmedStore(StoreSettings(mode=mode, bytes=BYTES_MAX, ttl_s=TTL_MS / 1000), PEER)

    @rule(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), kept=st.sampled_from([False, False, True]))
    def put(self, lengths: list[int], kept: bool) -> None:
        rows = [bytes([65 + row]) * length for row, length in enumerate(lengths)]
        values = self.store.put(column(*rows), self.now_ms, kept=kept)
        assert len(values) == len(rows)
        for (block, row), content in zip(values, rows, strict=True):
            if row == 0:
                self.blocks.append(Known(block, [], kept, self.now_ms))
            assert self.blocks[-1].block is block
            self.blocks[-1].rows.append(content)
        self.evict()

    @rule(nbytes=st.integers(BYTES_MAX - 20, BYTES_MAX + 20))
    def put_large(self, nbytes: int) -> None:
        ((block, _),) = self.store.put(one(nbytes), self.now_ms)
        if self.by_size and nbytes > BYTES_MAX:
            self.gone.append(block)
        else:
            self.blocks.append(Known(block, [b"x" * nbytes], False, self.now_ms))
            self.evict()

    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        for known in self.pick(data, self.store.keep):
            known.kept = True

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        for known in self.pick(data, self.store.free):
            known.freed = True
            self.let_go(known)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        for known in self.pick(data, self.store.pin):
            known.pins += 1

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        pinned = [known for known in self.blocks if known.pins]
        if pinned:
            known = data.draw(st.sampled_from(pinned))
            self.store.unpin([known.block.id])
            known.pins -= 1
            self.let_go(known)

    @rule(passed_ms=st.integers(0, 30))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.store.expire(self.now_ms)
        if self.by_time:
            for known in list(self.blocks):
                if known.evictable and known.stored_ms + TTL_MS <= self.now_ms:
                    self.remove(known)

    @rule(data=st.data(), private=st.booleans())
    def collect(self, data: st.DataObject, private: bool) -> None:
        filled = [(known, row) for known in self.blocks for row in range(len(known.rows))]
        if not filled:
            return
        chosen = data.draw(st.lists(st.sampled_from(filled), min_size=1, max_size=5))
        collect = self.store.collect_private if private else self.store.collect
        found = collect([(known.block, row) for known, row in chosen])
        assert rows_of(found) == [known.rows[row] for known, row in chosen]
        if private and len(found.data):
            for known in self.blocks:
                if known.kept:
                    assert found.data.obj is not self.store.collect([(known.block, 0)]).data.obj

    @invariant()
    def the_store_agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.check_invariants()
        assert len(self.store) == len(self.blocks)
        assert all(self.store.holds(known.block.id) for known in self.blocks)
        assert not any(self.store.holds(block.id) for block in self.gone)
        assert self.store.volatile_bytes == sum(known.block.nbytes for known in self.blocks if not known.kept)
        assert self.store.kept_bytes == sum(known.block.nbytes for known in self.blocks if known.kept)
        due = [known.stored_ms + TTL_MS for known in self.blocks if known.evictable]
        assert self.store.deadline_ms() == (min(due) if due and self.by_time else None)

    def pick(self, data: st.DataObject, apply: Callable[[list[BlockId]], object]) -> list[Known]:
        """Apply something to some blocks, known and gone."""
        everything = [*(known.block for known in self.blocks), *self.gone[-5:]]
        if not everything:
            return []
        chosen = data.draw(st.lists(st.sampled_from(everything), max_size=4, unique_by=lambda block: block.id))
        apply([block.id for block in chosen])
        return [known for known in self.blocks if known.block in chosen]

    def evict(self) -> None:
        while self.by_size and sum(known.block.nbytes for known in self.blocks if not known.kept) > BYTES_MAX:
            oldest = next((known for known in self.blocks if known.evictable), None)
            if oldest is None:
                return
            self.remove(oldest)

    def let_go(self, known: Known) -> None:
        if known.freed and not known.pins:
            self.remove(known)

    def remove(self, known: Known) -> None:
        self.blocks.remove(known)
        self.gone.append(known.block)


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=30, stateful_step_count=30, derandomize=True, deadline=None)


# ---- what others may fetch


def test_what_is_shared_has_a_checksum_and_fits_into_one_message() -> None:
    store = PayloadStore(StoreSettings(mode="time", ttl_s=5.0), PEER)
    rows = [bytes([at]) * (3 << 20) for at in range(3)]
    values = store.put(column(*rows), 0, shared=True)
    assert [block.layout.rows for block, _ in values] == [1, 1, 1], "no two rows are within 4 MiB"
    assert [block.checksum for block, _ in values] == [xxh3_128_digest(row) for row in rows]
    (value, _) = store.put(column(b"ab", b"cd"), 0, shared=True)
    assert value[0].checksum == xxh3_128_digest(b"abcd")
    assert store.put(column(b"ab"), 0)[0][0].checksum == b""
    store.check_invariants()


def test_what_is_shared_is_also_small_for_the_store() -> None:
    store = PayloadStore(StoreSettings(mode="size", bytes=64), PEER)
    assert len(ids(store.put(column(*[b"abcd"] * 4), 0, shared=True))) == 4
    assert len(ids(store.put(column(*[b"abcd"] * 4), 0, shared=True, whole=True))) == 1


def test_another_life_uses_other_ids() -> None:
    first, second = (PayloadStore(StoreSettings(), PEER, life) for life in (1, 2))
    counters = [store.put(one(1), 0)[0][0].id.counter for store in (first, second, second)]
    assert counters == [(1 << 40) + 1, (2 << 40) + 1, (2 << 40) + 2]
