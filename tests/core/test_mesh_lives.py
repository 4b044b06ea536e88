"""Random lives of three peers that work for each other while messages get lost, doubled and late: every task ends as a
direct evaluation says, once, and nothing is left behind.
"""

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scatterzmq.core.events import ExecutorStarted
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.peermessages import (
    Claim,
    Commit,
    Committed,
    Grant,
    Nudge,
    QueueStates,
    Renew,
    Renewed,
    RowsRevoked,
    Surrender,
)
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import ExecutorId, TaskId
from tests.core.conftest import ALICE, Outcome, chain, graph, node
from tests.core.mesh import Mesh, Peer

PEERS = st.integers(0, 2)
WORDS = (Claim, Grant, Commit, Committed, Renew, Renewed, RowsRevoked, Surrender, Nudge, QueueStates)
NOT_ITS_FAULT = (ErrorCode.MEMORY_PURGE, ErrorCode.POISON)
"""A good task fails only for evictions or executors that die, more often than the settings allow."""


def result_of(value: int) -> int:
    """What the graphs of the machine make of a value that is not 5."""
    return value + 1 + 10 + 2 + 3


class MeshMachine(RuleBasedStateMachine):
    """`entry` calls `main` (5 always fails; else +1, by a branch), then `tail` (+10, `inner` +2, a block +3)."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[TaskId, tuple[int, int]] = {}
        self.gone: set[TaskId] = set()
        self.stopped: set[TaskId] = set()
        self.started = 100

    @initialize(
        executors=st.lists(st.integers(0, 2), min_size=3, max_size=3).filter(any),
        batch=st.integers(1, 4),
        safe=st.booleans(),
        cache=st.booleans(),
    )
    def begin(self, executors: list[int], batch: int, safe: bool, cache: bool) -> None:
        self.mesh = Mesh(
            3,
            executors=executors,
            gossiping=True,
            executor={"batch_size": batch, "max_exec_s": 20.0},
            cluster={"replicas": 1},
            timing={"lease_s": 3.0},
            tasks={"max_retries": 200},
        )
        entry = graph(
            "entry",
            "second:value",
            [
                node("first", "call", ":value", "second", graph="main"),
                node("second", "call", "first:value", None, graph="tail"),
            ],
            max_retries=1,
        )
        main = graph(
            "main",
            "fork:value",
            [
                node("gate", "fail", ":value", "plus", wrong=[5]),
                node("plus", "add", "gate:value", "fork", by=1),
                node("fork", "branch", "plus:value", {"even": None, "odd": None}),
            ],
        )
        tail = graph(
            "tail",
            "three:value",
            [
                node("ten", "add" if safe else "alone", ":value", "two", by=10),
                node("two", "call", "ten:value", "three", graph="inner"),
                node("three", "call", "two:value", None, graph="block"),
            ],
        )
        inner = graph("inner", "n:value", [node("n", "add", ":value", None, by=2)], cache=cache)
        self.ns = self.mesh.load(entry, main, tail, inner, chain(3, name="block", is_block=True)).ns

    # ---- work

    @rule(to=PEERS, values=st.lists(st.integers(0, 6), min_size=1, max_size=6))
    def submit(self, to: int, values: list[int]) -> None:
        for task, value in zip(self.mesh.submit(to, *values, ns=self.ns), values, strict=True):
            self.inputs[task] = (to, value)

    @rule(data=st.data())
    def run_batch(self, data: st.DataObject) -> None:
        busy = [(peer, executor) for peer in self.mesh.peers for executor in peer.running]
        if busy:
            peer, executor = data.draw(st.sampled_from(busy))
            peer.step(executor)

    @rule(most=st.integers(1, 20))
    def deliver(self, most: int) -> None:
        self.mesh.deliver(most)

    @rule(ms=st.integers(0, 8000))
    def wait(self, ms: int) -> None:
        before = [len(peer.abandoned) for peer in self.mesh.peers]
        self.mesh.wait(ms)
        for number, count in enumerate(before):
            for _ in self.mesh.peers[number].abandoned[count:]:
                self.start_executor(number)

    def start_executor(self, number: int) -> None:
        self.started += 1
        self.mesh.peers[number].tell(ExecutorStarted(executor=ExecutorId(f"E{self.started:032x}")))

    # ---- trouble

    @rule(
        what=st.sampled_from(["drop", "duplicate", "hold"]),
        kind=st.sampled_from(WORDS),
        src=st.one_of(st.none(), PEERS),
    )
    def trouble(self, what: str, kind: type, src: int | None) -> None:
        getattr(self.mesh, what)(kind, src=src)

    @rule()
    def heal(self) -> None:
        self.mesh.heal()

    @rule(data=st.data(), crashed=st.booleans())
    def lose_executor(self, data: st.DataObject, crashed: bool) -> None:
        busy = [(peer, executor) for peer in self.mesh.peers for executor in peer.running]
        if busy:
            peer, executor = data.draw(st.sampled_from(busy))
            peer.lose(executor, crashed=crashed)
            self.start_executor(peer.number)

    @rule(number=PEERS)
    def evict(self, number: int) -> None:
        self.mesh.peers[number].evict()

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.inputs)))
        self.mesh.peers[self.inputs[task][0]].clear(task)
        self.gone.add(task)

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.inputs)))
        peer = self.mesh.peers[self.inputs[task][0]]
        if task not in self.gone and not peer.status(task).complete:
            self.stopped.add(task)
        peer.cancel(task)

    # ---- the end

    def teardown(self) -> None:
        if not hasattr(self, "mesh"):
            return
        mesh = self.mesh
        mesh.heal()
        for _ in range(200):
            mesh.run()
            if all(peer.outcomes.get((ALICE, task)) for task, peer in self.owned()):
                break
            self.wait(1_000)
        for task, peer in self.owned():
            self.check(peer.outcomes[ALICE, task], self.inputs[task][1], task)
        for task, peer in self.owned():
            peer.clear(task)
        mesh.wait(60_000)
        assert not any(peer.running for peer in mesh.peers)
        for peer in mesh.peers:
            cache = peer.core._state.cache
            cached = {block.id for block, _ in cache.values_held()} if cache is not None else set()
            assert peer.stored.keys() == cached, f"peer {peer.number} keeps something"
            assert not list(peer.core._state.leases)

    def owned(self) -> list[tuple[TaskId, Peer]]:
        return [(task, self.mesh.peers[to]) for task, (to, _) in self.inputs.items()]

    def check(self, told: list[Outcome], value: int, task: TaskId) -> None:
        first = told[0]
        code = None if first.error is None else first.error.code
        if task in self.stopped and first.status is TaskStatus.ERROR:
            assert code is ErrorCode.CANCELLED
        elif task in self.gone and first.status is TaskStatus.UNKNOWN:
            assert len(told) == 1
        elif value == 5:
            assert code in (ErrorCode.GENERAL_EXCEPTION, *NOT_ITS_FAULT)
        elif first.status is TaskStatus.ERROR:
            assert code in NOT_ITS_FAULT
        else:
            assert first.value == result_of(value)


def test_random_lives() -> None:
    run_state_machine_as_test(
        MeshMachine,
        settings=settings(
            max_examples=60, phases=(Phase.generate,), stateful_step_count=40, deadline=None, derandomize=True
        ),
    )
