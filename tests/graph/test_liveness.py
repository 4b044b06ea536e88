"""Liveness: example graphs first, then random ones that are walked at random."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.graph.liveness import Flow, Way

X, Y, Z = 1, 2, 4


def way(source: int, target: int, names: int = 0) -> Way:
    return Way(source, target, names, names, names)


def test_a_chain_frees_each_field_after_its_last_reader() -> None:
    flow = Flow(start=X, reads=[X, Y, Z], ways=[way(0, 1, Y), way(1, 2, Z)])
    assert flow.live == [X, Y, Z]
    assert flow.drops == [X, Y]
    assert flow.may_have == flow.must_have == [X, X | Y, X | Y | Z]


def test_what_one_branch_reads_is_freed_on_the_other() -> None:
    #  0 -> 1 (reads X) -> 3,  0 -> 2 -> 3 (reads Y)
    flow = Flow(start=X | Y, reads=[0, X, 0, Y], ways=[way(0, 1), way(0, 2), way(1, 3), way(2, 3)])
    assert flow.drops == [0, X, X, 0]


def test_a_loop_keeps_what_its_next_round_reads() -> None:
    # 1 reads X and Y and makes Y anew; the loop is left to 2, which reads Y.
    flow = Flow(start=X, reads=[0, X | Y, Y], ways=[way(0, 1, Y), way(1, 1, Y), way(1, 2)])
    assert flow.live == [X, X | Y, Y]
    assert flow.drops == [0, 0, X]


def test_what_is_never_read_goes_at_once() -> None:
    flow = Flow(start=X, reads=[0, 0], ways=[way(0, 1, Y)])
    assert flow.drops == [X | Y]


def test_a_name_that_is_put_there_anew_is_not_kept_for_that() -> None:
    flow = Flow(start=X, reads=[0, 0, X], ways=[way(0, 1), way(1, 2, X)])
    assert flow.live == [0, 0, X]
    assert flow.drops == [X, 0]


def test_one_way_without_it_is_enough_to_lack_it() -> None:
    flow = Flow(start=0, reads=[0, 0, X], ways=[way(0, 1, X), way(0, 2), way(1, 2)])
    assert (flow.may_have[2], flow.must_have[2]) == (X, 0)
    both = Flow(start=0, reads=[0, 0, X], ways=[way(0, 1), way(0, 2, X), way(1, 2, X)])
    assert both.must_have[2] == X


def test_a_longer_way_round_does_not_add_names() -> None:
    """Going round a loop brings Y; a task that goes straight does not have it."""
    flow = Flow(start=0, reads=[0, Y], ways=[way(0, 0, Y), way(0, 1)])
    assert (flow.may_have[1], flow.must_have[1]) == (Y, 0)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    count = draw(st.integers(1, 6))
    masks = st.integers(0, 31)
    reads = [draw(masks) for _ in range(count)]
    numbers = st.integers(0, count - 1)
    pairs = [(number - 1, number) for number in range(1, count)] + draw(
        st.lists(st.tuples(numbers, numbers), max_size=5)
    )
    ways = []
    for source, target in pairs:
        may = draw(masks)
        must = may & draw(masks)
        ways.append(Way(source, target, may, must, must & draw(masks)))
    return Flow(start=draw(masks), reads=reads, ways=ways)


@settings(derandomize=True, deadline=None, database=None, max_examples=80)
@given(flow=flows(), seed=st.integers(0, 1000))
def test_a_walk_finds_all_that_it_would_find_if_nothing_was_freed(flow: Flow, seed: int) -> None:
    rng = random.Random(seed)
    node, step = 0, 0
    full = {name: 0 for name in range(5) if flow.start >> name & 1}
    kept = dict(full)
    while step < 30:
        step += 1
        held = sum(1 << name for name in full)
        assert held & ~flow.may_have[node] == 0
        assert flow.must_have[node] & ~held == 0
        for name in range(5):
            if flow.reads[node] >> name & 1:
                assert kept.get(name) == full.get(name)
        choices = [number for number, way in enumerate(flow.ways) if way.source == node]
        if not choices:
            return
        number = rng.choice(choices)
        taken = flow.ways[number]
        news = taken.must | (taken.may & rng.randrange(32))
        for name in range(5):
            if news >> name & 1:
                full[name] = kept[name] = step
            if flow.drops[number] >> name & 1:
                kept.pop(name, None)
        # Nothing is kept that nobody reads before it is made anew.
        assert sum(1 << name for name in kept) & ~flow.live[taken.target] == 0
        node = taken.target


@settings(derandomize=True, deadline=None, database=None, max_examples=80)
@given(flow=flows())
def test_a_name_is_live_only_if_some_walk_reads_it_before_it_is_made_anew(flow: Flow) -> None:
    for name in range(5):
        reached = {node for node, names in enumerate(flow.reads) if names >> name & 1}
        while True:
            more = {way.source for way in flow.ways if way.target in reached and not way.kills >> name & 1}
            if more <= reached:
                break
            reached |= more
        assert {node for node, names in enumerate(flow.live) if names >> name & 1} == reached


def test_a_long_chain_and_a_long_ladder_are_quick() -> None:
    count = 2000
    chain = Flow(
        start=1,
        reads=[1 << number for number in range(count)],
        ways=[way(number, number + 1, 1 << (number + 1)) for number in range(count - 1)],
    )
    assert chain.drops == [1 << number for number in range(count - 1)]
    ladder = []
    for rung in range(0, count - 3, 3):
        ladder += [
            way(rung, rung + 1),
            way(rung, rung + 2),
            way(rung + 1, rung + 3, 1 << rung),
            way(rung + 2, rung + 3),
        ]
    flow = Flow(start=0, reads=[0] * count, ways=ladder)
    assert flow.may_have[count - 2].bit_count() == len(ladder) // 4
    assert flow.must_have[count - 2] == 0
