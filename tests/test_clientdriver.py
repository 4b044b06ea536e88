"""The driver of a client's core: what it holds of columns and for how long, and to whom it hands what."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import pytest

from scatterzmq.clientdriver import ClientDriver
from scatterzmq.core.client import ClientCore
from scatterzmq.core.messages import (
    Accepted,
    AskMembers,
    AskNamespaces,
    Contact,
    Final,
    MemberList,
    Namespaces,
    Submit,
    TaskStatus,
    ToClient,
    ToPeer,
)
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.settings import TimingSettings
from scatterzmq.wire.columns import Column

A, B = (PeerId("P" + letter * 32) for letter in "ab")
TASKS = tuple([TaskId(f"T{number:032x}") for number in range(3)])
SUBMIT = Submit(mid=1, ns="n", digest=b"d" * 32, nonce=b"nonce...", ids=TASKS, submit_digests=(b"s" * 16,) * len(TASKS))


def column(*rows: int) -> Column:
    return Column(Layout(DTYPES["uint8"], len(rows), ()), memoryview(bytearray(rows)))


def final(*ends: tuple[TaskId, TaskStatus]) -> Final:
    count = len(ends)
    return Final(
        ids=tuple([task for task, _ in ends]),
        ns="n",
        statuses=tuple([status for _, status in ends]),
        errors=(None,) * count,
        retries=(0,) * count,
        durations_ms=(0,) * count,
    )


class Surroundings:
    """Links and inbox. sent: to peers; told: to the user's side, with the rows of each column."""

    def __init__(self, *, static: bool = True) -> None:
        self.now_s = 1.0
        self.sent: list[tuple[PeerId, ToPeer, Mapping[str, Column]]] = []
        self.told: list[tuple[ToClient, dict[str, list[int]]]] = []
        self.links: list[Any] = []
        self.reasons: list[str] = []
        core = ClientCore(TimingSettings(), static=static)
        self.driver = ClientDriver(core, self.deliver, self.reasons.append, self, clock=lambda: self.now_s)

    def deliver(self, message: ToClient, columns: Mapping[str, Column], /) -> None:
        self.told.append((message, {name: list(one.data) for name, one in columns.items()}))

    def send(self, peer: PeerId, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        self.sent.append((peer, message, columns))

    def connect(self, contact: Contact, /) -> None:
        self.links.append(contact)

    def disconnect(self, peer: PeerId, /) -> None:
        self.links.append(peer)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.driver.tick()

    @property
    def held(self) -> int:
        """Columns that the driver still has."""
        return len(self.driver._parcels) - 1


@pytest.fixture
def make() -> Callable[..., Surroundings]:
    return Surroundings


@pytest.fixture
def around(make: Callable[..., Surroundings]) -> Surroundings:
    made = make()
    made.driver.link(A, up=True)
    return made


def test_columns_are_held_until_all_tasks_are_accepted(around: Surroundings) -> None:
    columns = {"x": column(1, 2, 3)}
    around.driver.said(SUBMIT, columns)
    ((peer, message, sent),) = around.sent
    assert (peer, sent) == (A, columns)
    assert isinstance(message, Submit)
    around.driver.heard(A, Accepted(mid=message.mid, ids=TASKS[:1], copies=1, durable=False), {})
    around.wait(1.0)
    assert around.sent[1] == (A, message, columns), "sent again with its columns"
    assert around.held == 1
    around.driver.heard(A, Accepted(mid=message.mid, ids=TASKS[1:], copies=1, durable=False), {})
    assert around.held == 0
    assert [told for told, _ in around.told] == [
        Accepted(mid=1, ids=ids, copies=1, durable=False) for ids in (TASKS[:1], TASKS[1:])
    ]


def test_results_are_handed_on_with_their_rows_and_not_held(around: Surroundings) -> None:
    around.driver.said(SUBMIT, {"x": column(1, 2, 3)})
    ready = TaskStatus.READY
    around.driver.heard(A, final((TASKS[1], ready)), {"y": column(22)})
    around.driver.heard(A, final((TASKS[0], ready), (TASKS[1], ready), (TASKS[2], ready)), {"y": column(11, 22, 33)})
    assert [rows for _, rows in around.told] == [{"y": [22]}, {"y": [11, 33]}]
    assert around.held == 0


def test_an_end_without_a_result_has_no_rows(around: Surroundings) -> None:
    around.driver.said(SUBMIT, {"x": column(1, 2, 3)})
    around.driver.heard(A, final((TASKS[0], TaskStatus.READY)), {"y": column(11)})
    around.driver.heard(A, final((TASKS[0], TaskStatus.READY), (TASKS[1], TaskStatus.ERROR)), {"y": column(11)})
    assert around.told[1][1] == {}


def test_what_has_no_columns_is_just_handed_on(around: Surroundings) -> None:
    around.driver.said(AskNamespaces(mid=7), {})
    ((_, message, columns),) = around.sent
    assert isinstance(message, AskNamespaces)
    assert not columns
    around.driver.heard(A, Namespaces(mid=message.mid, infos=()), {})
    assert around.told == [(Namespaces(mid=7, infos=()), {})]


def test_time_is_that_of_the_clock(around: Surroundings) -> None:
    assert around.driver.due_s() == inf
    around.driver.said(AskNamespaces(mid=7), {})
    assert around.driver.due_s() == 2.0
    around.wait(0.999)
    assert len(around.sent) == 1
    around.wait(0.001)
    assert len(around.sent) == 2


def test_links_are_made_as_the_cluster_changes(make: Callable[..., Surroundings]) -> None:
    around = make(static=False)
    around.driver.link(A, up=True)
    around.wait(0.0)
    ((peer, asked, _),) = around.sent
    assert (peer, type(asked)) == (A, AskMembers)
    here, there = (Contact(id=id_, incarnation=1, address=id_[:2]) for id_ in (A, B))
    around.driver.heard(A, MemberList(mid=1, members=(here, there)), {})
    around.driver.heard(A, MemberList(mid=2, members=(here,)), {})
    assert around.links == [there, B]


def test_the_end_of_everything_is_told(around: Surroundings) -> None:
    around.driver.said(SUBMIT, {"x": column(1, 2, 3)})
    around.driver.link(A, up=False)
    around.wait(30.0)
    (reason,) = around.reasons
    assert "no peer of the cluster can be reached" in reason
    assert around.held == 0
