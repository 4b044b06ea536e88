"""`scatterzmq release`: a peer hands over what it has, and leaves; what does not is exit 1 and one line."""

from collections.abc import Callable
from typing import Any

import pytest

import scatterzmq
from scatterzmq.cli import release
from scatterzmq.client.link import Member
from scatterzmq.core.messages import Released
from scatterzmq.errors import ClusterError
from scatterzmq.ids import PeerId
from tests.test_remote import LONG_S, Peer, Served, definition

MEMBERS = [
    Member(id=PeerId("P" + "ab" * 16), name="host", status="alive"),
    Member(id=PeerId("P" + "ac" * 16), name="other", status="alive"),
    Member(id=PeerId("P" + "bc" * 16), name="host", status="alive"),
    Member(id=PeerId("P" + "dc" * 16), name="Pab", status="alive"),
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", [0, 1, 2, 3]),
        ("other", [1]),
        ("P" + "ab" * 16, [0]),
        ("Pabab", [0]),
        ("Pb", [2]),
        ("Pab", [3]),  # a whole name is meant before the beginning of an id
    ],
)
def test_who_is_meant(text: str, found: list[int]) -> None:
    assert list(release.chosen(text, MEMBERS)) == [MEMBERS[index] for index in found]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("host", f"'host': more than one fits; there are: host (P{'ab' * 16}), host (P{'bc' * 16})"),
        ("Pa", f"'Pa': more than one fits; there are: host (P{'ab' * 16}), other (P{'ac' * 16})"),
        ("nobody", "'nobody': there is no such peer; there are: host (P"),
        ("", "'': more than one fits"),
    ],
)
def test_who_is_not_clear(text: str, line: str) -> None:
    with pytest.raises(ClusterError) as caught:
        release.chosen(text, MEMBERS)
    assert str(caught.value).startswith(line)


def test_a_peer_leaves_and_its_tasks_stay(cli: Any, pair: list[Peer]) -> None:
    first, second = pair
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(definition())
        tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(20)]
        for _, response in client.wait_for(tasks, timeout=LONG_S):
            response.ok()
        ran = cli("release", "first", "--join", second.address)
        assert ran == (0, f"first ({first.peer.contact.id}) has left\n", "")
        first._thread.join(LONG_S)
        assert not first._thread.is_alive()
        results = [client.get_result(task) for task in tasks]
        assert [result["value"].item() for result in results if result] == [number + 1 for number in range(20)]


def test_all_leave(cli: Any, pair: list[Peer]) -> None:
    ran = cli("release", "all", "--join", pair[0].address)
    assert (ran.code, ran.err) == (0, "")
    assert sorted(line.split()[0] for line in ran.out.splitlines()) == ["first", "second"]
    for peer in pair:
        peer._thread.join(LONG_S)
        assert not peer._thread.is_alive()


def test_nobody_fits(cli: Any, pair: list[Peer]) -> None:
    ran = cli("release", "third", "--join", pair[0].address)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("scatterzmq: 'third': there is no such peer; there are: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("answers", "line"),
    [(True, "will leave, but is still at work after 1 s"), (False, "has not answered")],
)
def test_one_does_not_go(
    cli: Any, served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, answers: bool, line: str
) -> None:
    monkeypatch.setattr(release, "_ANSWER_S", 0.2)
    script = served(answer=lambda _peer, _envelope, message: Released(mid=message.mid) if answers else None)
    ran = cli("release", script.peer.id, "--join", script.peer.address, "--timeout", 1)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"scatterzmq: peer-a ({script.peer.id}): {line}\n"


def test_one_cannot_be_reached(
    cli: Any, served: Callable[..., Served], running: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scatterzmq import questions

    monkeypatch.setattr(questions, "REACH_S", 0.1)
    gone = running(name="gone")
    gone.stop()
    script = served(answer=lambda _peer, _envelope, message: Released(mid=message.mid))
    script.peer.others = (gone.peer.contact,)
    ran = cli("release", "gone", "--join", script.peer.address)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("cannot be reached from here, though it belongs to the cluster\n")
