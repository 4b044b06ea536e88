"""Large cached values stay where they were computed; whoever needs one fetches it, and one that is lost is a miss.

With `store.inline_bytes` of 0 every value is large.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from scatterzmq.core import cacheplaces
from scatterzmq.core.cachemessages import (
    CacheAnswer,
    CacheAsk,
    CacheFetch,
    CacheLost,
    CachePut,
    CacheRenew,
    CacheTell,
)
from scatterzmq.core.cacheplaces import HOT_HITS, CachePlaces
from scatterzmq.core.messages import ORIGIN_BYTES, AskStats, CacheCleared, ClearCache, Stats, TaskStatus
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import PeerId, TaskId
from tests.core.mesh import Mesh
from tests.core.test_cache_owners import (
    counted,
    key_of,
    make_mesh,
    moving,
    owned_by,
    owners_of,
    ran,
    settle,
    statuses,
    tell,
    winner,
)

LARGE: dict[str, Any] = {"store": {"inline_bytes": 0}}
NOBODY = TaskId("T" + "9" * 32)


def made(peers: int = 3, **how: Any) -> tuple[Mesh, Plan]:
    return make_mesh(peers, **(LARGE | how))


def computed(mesh: Mesh, plan: Plan, owner: int, at: int = 0) -> int:
    """An input whose result a peer has computed and holds, and another one owns."""
    value = owned_by(mesh, plan, owner)
    mesh.submit(at, value)
    mesh.run()
    return value


def carried(mesh: Mesh) -> list[tuple[int, int]]:
    """Between whom values went, in order."""
    return [
        (packet.src, packet.dst)
        for packet in mesh.log
        if (isinstance(packet.message, CachePut) and not packet.message.held)
        or (isinstance(packet.message, CacheTell) and packet.message.answer is CacheAnswer.HIT)
    ]


def holders(mesh: Mesh, at: int, key: bytes) -> set[PeerId]:
    """Whom the owner of a key takes for holders of its value."""
    place = owners_of(mesh, at)._places._places.get(key)
    return set() if place is None else set(place.holders)


def forget(mesh: Mesh, at: int) -> None:
    """A peer loses its values, as if others had taken their room."""
    owners_of(mesh, at)._cache.clear()


def fetches(mesh: Mesh, at: int) -> tuple[int, int]:
    """Values that came from holders, and that they did not have."""
    mesh.peers[at].say(AskStats(mid=1))
    counters = mesh.peers[at].last(Stats).counters
    return counters["cache_fetched"], counters["cache_lost"]


def check_ended(mesh: Mesh, tasks: Mapping[int, Iterable[TaskId]], result: int) -> None:
    """All tasks have their result, without any error, and nothing is under way."""
    for at, some in tasks.items():
        for task in some:
            outcome = mesh.outcome(at, task)
            assert outcome is not None
            assert (outcome.value, outcome.retries, outcome.error) == (result, 0, None)
    for peer in mesh.peers:
        if not peer.dead:
            assert owners_of(mesh, peer.number)._requests == {}
            assert owners_of(mesh, peer.number)._cache.leaders() == {}


# ---- where values go


def test_a_large_value_goes_from_who_computed_it_to_who_needs_it() -> None:
    """And not by way of the key's owner, who only knows where it is."""
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    assert carried(mesh) == []
    assert [len(owners_of(mesh, at)._cache) for at in range(3)] == [1, 0, 0]
    tasks = mesh.submit(1, value, value)
    mesh.deliver()
    check_ended(mesh, {1: tasks}, value + 1)
    assert (ran(mesh), carried(mesh)) == (1, [(0, 1)])
    assert counted(mesh, 1) == [1, 0, 1, 0]
    assert fetches(mesh, 1) == (1, 0)
    tasks = mesh.submit(1, value)
    assert mesh.results(1, tasks) == [value + 1], "it is here by now"


def test_what_fits_into_a_message_travels_with_it() -> None:
    """Nobody is asked for it."""
    mesh, plan = made(store={"inline_bytes": 8})
    value = computed(mesh, plan, owner=2)
    tasks = mesh.submit(1, value)
    mesh.deliver()
    check_ended(mesh, {1: tasks}, value + 1)
    assert carried(mesh) == [(0, 2), (2, 1)]
    assert mesh.said(CacheFetch) == []


def test_what_its_maker_cannot_keep_goes_to_the_owner() -> None:
    mesh, plan = made(cache={"bytes": 4})
    value = owned_by(mesh, plan, 2)
    tasks = {at: mesh.submit(at, value) for at in (0, 1)}
    mesh.run()
    check_ended(mesh, tasks, value + 1)
    assert (ran(mesh), carried(mesh)) == (1, [(0, 2), (2, 1)])


@pytest.mark.parametrize("first", [0, 1, 2])
def test_all_who_wait_get_it(first: int) -> None:
    """Whoever leads: another peer, or the owner of the key, whose own tasks wait as well."""
    mesh, plan = made()
    value = owned_by(mesh, plan, 2)
    tasks = {}
    for at in (first, *{0, 1, 2} - {first}):
        tasks[at] = mesh.submit(at, value, value)
        mesh.deliver()
    mesh.run()
    check_ended(mesh, tasks, value + 1)
    assert ran(mesh) == 1
    assert sorted(dst for _, dst in carried(mesh)) == sorted({0, 1, 2} - {first})
    assert {src for src, _ in carried(mesh)} == {first}


def test_the_owner_of_a_key_fetches_for_its_own_tasks() -> None:
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    tasks = mesh.submit(2, value, value)
    assert statuses(mesh, 2, tasks) == [TaskStatus.DEFERRED] * 2
    mesh.deliver()
    check_ended(mesh, {2: tasks}, value + 1)
    assert (ran(mesh), carried(mesh)) == (1, [(0, 2)])
    assert counted(mesh, 2) == [1, 0, 1, 0]


@pytest.mark.parametrize("how", ["clear", "cancel"])
@pytest.mark.parametrize("at", [1, 2])
def test_when_who_fetches_is_given_up_the_next_one_does(at: int, how: str) -> None:
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    mesh.hold(CacheFetch)
    tasks = mesh.submit(at, value, value)
    mesh.deliver()
    getattr(mesh.peers[at], how)(tasks[0])
    mesh.deliver()
    mesh.heal()
    mesh.deliver()
    check_ended(mesh, {at: tasks[1:]}, value + 1)
    assert ran(mesh) == 1


# ---- second copies


def test_a_key_that_is_asked_for_often_gets_a_second_holder() -> None:
    """Both are named in turns; without the first one nothing is computed again."""
    mesh, plan = made(7)
    value = computed(mesh, plan, owner=6)
    key, peers = key_of(plan, value), [peer.me for peer in mesh.peers]
    for at in range(1, HOT_HITS):
        mesh.submit(at, value)
        mesh.deliver()
        assert holders(mesh, 6, key) == {peers[0]}
    mesh.submit(HOT_HITS, value)
    mesh.deliver()
    assert holders(mesh, 6, key) == {peers[0], peers[HOT_HITS]}
    for at in (4, 5):
        mesh.submit(at, value)
        mesh.deliver()
    assert sorted(carried(mesh)[-2:]) == [(0, 5), (HOT_HITS, 4)]
    assert holders(mesh, 6, key) == {peers[0], peers[HOT_HITS]}, "two are enough"
    forget(mesh, 0)
    forget(mesh, 5)
    forget(mesh, 4)
    tasks = {at: mesh.submit(at, value) for at in (0, 4, 5)}
    mesh.deliver()
    check_ended(mesh, tasks, value + 1)
    assert ran(mesh) == 1


def test_what_the_owner_of_a_key_has_computed_gets_a_second_holder_too() -> None:
    mesh, plan = made(6)
    value = computed(mesh, plan, owner=5, at=5)
    key, peers = key_of(plan, value), [peer.me for peer in mesh.peers]
    for at in range(HOT_HITS):
        assert holders(mesh, 5, key) == set()
        mesh.submit(at, value)
        mesh.deliver()
    assert holders(mesh, 5, key) == {peers[HOT_HITS - 1]}
    forget(mesh, 5)
    tasks = {4: mesh.submit(4, value), 5: mesh.submit(5, value)}
    mesh.deliver()
    check_ended(mesh, tasks, value + 1)
    assert (ran(mesh), carried(mesh)[-2:]) == (1, [(HOT_HITS - 1, 5), (HOT_HITS - 1, 4)])


# ---- what is lost


def test_a_value_that_its_holder_has_lost_is_a_miss() -> None:
    """Not an error, and no retry. It is known then where the new one is."""
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    forget(mesh, 0)
    tasks = {1: mesh.submit(1, value)}
    mesh.deliver()
    assert statuses(mesh, 1, tasks[1]) == [TaskStatus.BUSY]
    key = key_of(plan, value)
    assert mesh.said(CacheLost) == [CacheLost(keys=(key,), holders=(mesh.peers[0].me,))] * 2, (
        "who had it, and who asked"
    )
    mesh.run()
    check_ended(mesh, tasks, value + 1)
    assert (ran(mesh), counted(mesh, 1), fetches(mesh, 1)) == (2, [0, 1, 0, 0], (0, 1))
    assert holders(mesh, 2, key) == {mesh.peers[1].me}


def test_many_that_find_it_lost_compute_it_once() -> None:
    mesh, plan = made(5)
    value = computed(mesh, plan, owner=4)
    forget(mesh, 0)
    tasks = {at: mesh.submit(at, value, value) for at in range(5)}
    mesh.run()
    check_ended(mesh, tasks, value + 1)
    assert ran(mesh) == 2


def test_a_value_that_the_owner_of_the_key_finds_lost_is_a_miss() -> None:
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    forget(mesh, 0)
    tasks = {2: mesh.submit(2, value)}
    mesh.run()
    check_ended(mesh, tasks, value + 1)
    assert (ran(mesh), counted(mesh, 2), holders(mesh, 2, key_of(plan, value))) == (2, [0, 1, 0, 0], set())


def test_whoever_asks_does_not_have_it() -> None:
    """So it is not told to ask itself."""
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    forget(mesh, 0)
    tasks = {0: mesh.submit(0, value)}
    mesh.run()
    check_ended(mesh, tasks, value + 1)
    assert (mesh.said(CacheFetch), mesh.said(CacheLost), fetches(mesh, 0)) == ([], [], (0, 0))


@pytest.mark.parametrize("at", [1, 2])
def test_a_holder_that_dies_is_a_miss(at: int) -> None:
    """Before it is asked, or while it is."""
    mesh, plan = made(3, static=False)
    mesh.wait(1000)
    peers = [peer.me for peer in mesh.peers]
    value, other = [
        value
        for value in range(1000)
        if winner(key_of(plan, value), peers) == winner(key_of(plan, value), peers[1:]) == peers[2]
    ][:2]
    first = mesh.submit(0, value, other)
    mesh.run()
    assert mesh.results(0, first) == [value + 1, other + 1]
    mesh.drop(CacheFetch)
    tasks = mesh.submit(at, value)
    mesh.deliver()
    assert statuses(mesh, at, tasks) == [TaskStatus.DEFERRED]
    mesh.kill(0)
    mesh.run()
    tasks += mesh.submit(at, other)
    mesh.run()
    assert mesh.results(at, tasks) == [value + 1, other + 1]
    assert len(mesh.peers[at].ran) == 2


def test_a_second_holder_is_asked_when_the_first_one_dies() -> None:
    mesh, plan = made(4, static=False)
    mesh.wait(1000)
    peers = [peer.me for peer in mesh.peers]
    value = next(
        value
        for value in range(1000)
        if winner(key_of(plan, value), peers) == winner(key_of(plan, value), peers[1:]) == peers[3]
    )
    mesh.submit(0, value)
    mesh.run()
    mesh.submit(1, value)
    mesh.deliver()
    tell(mesh, 1, 3, CachePut(key=key_of(plan, value), id=NOBODY, output="", held=True))
    owners_of(mesh, 3)._places.holders(key_of(plan, value))  # so that the first is the next to be named
    mesh.drop(CacheFetch, dst=0)
    tasks = {2: mesh.submit(2, value)}
    mesh.deliver()
    assert statuses(mesh, 2, tasks[2]) == [TaskStatus.DEFERRED]
    mesh.kill(0)
    mesh.deliver()
    check_ended(mesh, tasks, value + 1)
    assert ran(mesh) == 1


@pytest.mark.parametrize("at", [1, 2])
def test_a_holder_that_does_not_answer_is_a_miss(at: int) -> None:
    """It is asked four times, as the value may take long."""
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    mesh.drop(CacheFetch)
    tasks = {at: mesh.submit(at, value)}
    mesh.wait(14_999)
    assert statuses(mesh, at, tasks[at]) == [TaskStatus.DEFERRED]
    assert len(mesh.said(CacheFetch)) == 4
    mesh.wait(1)
    assert statuses(mesh, at, tasks[at]) == [TaskStatus.BUSY]
    mesh.run()
    check_ended(mesh, tasks, value + 1)


def test_who_finds_nothing_twice_computes() -> None:
    """Though the owner of the key goes on promising: the word that it is lost gets lost."""
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    forget(mesh, 0)
    mesh.drop(CacheLost, dst=2)
    tasks = {1: mesh.submit(1, value)}
    mesh.deliver()
    assert statuses(mesh, 1, tasks[1]) == [TaskStatus.BUSY]
    assert len(mesh.said(CacheFetch)) == 2
    mesh.run()
    check_ended(mesh, tasks, value + 1)


def test_holders_that_one_cannot_reach_are_a_miss() -> None:
    """Nor can anybody be asked where nobody is named."""
    mesh, plan = made()
    key, value = key_of(plan, owned_by(mesh, plan, 2)), owned_by(mesh, plan, 2)
    stranger = PeerId("P" + "e" * 32)
    mesh.drop(CacheTell)
    tasks = {1: mesh.submit(1, value)}
    mesh.deliver()
    mesh.heal()
    tell(mesh, 2, 1, CacheTell(key=key, id=tasks[1][0], answer=CacheAnswer.HELD, holders=(stranger,)))
    assert mesh.said(CacheLost) == [CacheLost(keys=(key,), holders=(stranger,))]
    mesh.run()
    check_ended(mesh, tasks, value + 1)


def test_late_words_change_nothing() -> None:
    """While a value is fetched, or after it has been computed."""
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    key, peers = key_of(plan, value), [peer.me for peer in mesh.peers]
    mesh.hold(CacheFetch)
    (task,) = mesh.submit(1, value)
    mesh.deliver()
    for answer in (CacheAnswer.WAIT, CacheAnswer.HELD):
        tell(mesh, 2, 1, CacheTell(key=key, id=task, answer=answer, ttl_ms=1, holders=(peers[2],)))
    for sender, holder in ((2, 0), (2, 2), (0, 2)):
        tell(mesh, sender, 1, CacheLost(keys=(key,), holders=(peers[holder],)))
    assert statuses(mesh, 1, [task]) == [TaskStatus.DEFERRED]
    assert owners_of(mesh, 1)._requests[key, task].holders == [peers[0]]
    tell(mesh, 2, 1, CacheTell(key=key, id=task, answer=CacheAnswer.LEAD, ttl_ms=15_000))
    assert statuses(mesh, 1, [task]) == [TaskStatus.BUSY], "it need not wait any more"
    tell(mesh, 0, 1, CacheLost(keys=(key,), holders=(peers[0],)))
    mesh.heal()
    mesh.run()
    check_ended(mesh, {1: [task]}, value + 1)
    tell(mesh, 2, 1, CacheTell(key=key, id=NOBODY, answer=CacheAnswer.HELD, holders=(peers[0],)))
    assert len(mesh.said(CacheFetch)) == 1


def test_who_leads_is_not_counted_on_where_a_value_is_held() -> None:
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    key = key_of(plan, value)
    tell(mesh, 1, 2, CacheRenew(keys=(key,), ids=(NOBODY,)))
    assert owners_of(mesh, 2)._cache.leaders() == {}


def test_a_task_that_computes_goes_on_when_another_has_the_value() -> None:
    """Two have computed it, as one of them was out of reach; whoever waits gets it from the first."""
    mesh, plan = made()
    value = owned_by(mesh, plan, 2)
    key = key_of(plan, value)
    own = mesh.submit(2, value)
    waiting = mesh.submit(1, value)
    mesh.deliver()
    mesh.drop(CacheAsk)
    first = mesh.submit(0, value)
    mesh.wait(2000)
    mesh.step(0)
    mesh.deliver()
    check = {0: first, 1: waiting}
    assert mesh.results(1, waiting) == [value + 1]
    assert statuses(mesh, 2, own) == [TaskStatus.BUSY]
    assert holders(mesh, 2, key) == {mesh.peers[0].me}
    mesh.run()
    check_ended(mesh, check | {2: own}, value + 1)


# ---- clearing, and other owners


def test_values_that_are_cleared_are_held_nowhere() -> None:
    mesh, plan = made()
    value = computed(mesh, plan, owner=2)
    key = key_of(plan, value)
    mesh.peers[2].say(ClearCache(mid=1, origins=(b"another.",)))
    assert holders(mesh, 2, key) == {mesh.peers[0].me}
    for at, values in ((0, 1), (1, 0), (2, 0)):
        mesh.peers[at].say(ClearCache(mid=1, origins=(key[:ORIGIN_BYTES],)))
        assert mesh.peers[at].last(CacheCleared).values == values
    assert holders(mesh, 2, key) == set()
    mesh.submit(1, value)
    mesh.run()
    mesh.peers[2].say(ClearCache(mid=1))
    assert holders(mesh, 2, key) == set()
    assert (ran(mesh), mesh.said(CacheFetch)) == (2, [])


@pytest.mark.parametrize("at", [0, 1])
def test_a_fetch_goes_on_when_the_key_gets_another_owner(at: int) -> None:
    """Who owned it, or asked; what is lost then is a miss at the new owner."""
    mesh, plan = made(3, static=False)
    mesh.kill(2)
    mesh.wait(1000)
    peers, comes = [peer.me for peer in mesh.peers[:2]], PeerId(f"P{2 << 32 | 3:032x}")
    values = [
        value
        for value in range(1000)
        if winner(key_of(plan, value), peers) == peers[0] and winner(key_of(plan, value), [*peers, comes]) == comes
    ][:2]
    first = mesh.submit(1 - at, *values)
    mesh.run()
    mesh.hold(CacheFetch, CacheTell)
    tasks = mesh.submit(at, *values)
    mesh.deliver()
    mesh.restart(2)
    mesh.heal()
    if at == 0:
        forget(mesh, 1)
    mesh.run()
    settle(mesh, 5)
    assert mesh.results(1 - at, first) == mesh.results(at, tasks) == [value + 1 for value in values]
    check_ended(mesh, {}, 0)


def test_who_owns_a_key_after_a_death_goes_on_fetching() -> None:
    mesh, plan = made(3, static=False)
    mesh.wait(1000)
    value = moving(mesh, plan, before=2, after=1)
    mesh.submit(0, value)
    mesh.run()
    mesh.hold(CacheFetch)
    tasks = {1: mesh.submit(1, value)}
    mesh.deliver()
    mesh.kill(2)
    mesh.deliver()
    mesh.heal()
    mesh.deliver()
    check_ended(mesh, tasks, value + 1)
    assert ran(mesh) == 1


# ---- trouble of all kinds


WORDS = (CacheAsk, CacheTell, CachePut, CacheFetch, CacheLost)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("trouble", ["drop", "duplicate", "hold"])
@pytest.mark.parametrize("lost", [False, True])
def test_nothing_that_gets_lost_stops_anybody(word: type[Any], trouble: str, lost: bool) -> None:
    mesh, plan = made(4)
    value = computed(mesh, plan, owner=3)
    if lost:
        forget(mesh, 0)
    getattr(mesh, trouble)(word)
    tasks = {at: mesh.submit(at, value, value) for at in range(4)}
    settle(mesh, 30)
    mesh.heal()
    settle(mesh, 5)
    check_ended(mesh, tasks, value + 1)
    if trouble == "duplicate":
        assert ran(mesh) == 1 + lost


# ---- the directory itself

ONE, TWO, THREE = (PeerId("P" + digit * 32) for digit in "123")


def places(is_heard: Callable[[PeerId], bool] = lambda _: True, entries_max: int = 64) -> CachePlaces:
    return CachePlaces(entries_max, is_heard)


def test_no_more_is_known_than_there_is_room_for() -> None:
    known = places(entries_max=2)
    for key in (b"a", b"b"):
        known.add(key, ONE)
    known.holders(b"a")
    known.hit(b"c", is_here=True)
    known.check_invariants()
    assert [known.holders(key) for key in (b"a", b"b")] == [(ONE,), ()]


def test_holders_take_turns_and_the_newest_come_first() -> None:
    known = places()
    for holder in (ONE, TWO, TWO):
        known.add(b"a", holder)
    assert known.is_held(b"a")
    assert [known.holders(b"a") for _ in range(3)] == [(TWO, ONE), (ONE, TWO), (TWO, ONE)]
    known.add(b"a", THREE)
    known.check_invariants()
    assert len(known.holders(b"a")) == cacheplaces.HOLDERS_MAX
    assert known.holders(b"a")[0] != known.holders(b"a")[0]


def test_holders_that_are_gone_are_none() -> None:
    alive = {ONE, TWO}
    known = places(alive.__contains__)
    known.add(b"a", ONE)
    known.add(b"a", TWO)
    alive.remove(ONE)
    assert known.is_held(b"a")
    assert known.holders(b"a") == (TWO,)
    known.lost(b"a", TWO)
    assert not known.is_held(b"a")
    assert not known.is_held(b"b")
    known.lost(b"b", TWO)
    assert known.holders(b"a") == ()
