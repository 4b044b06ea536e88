"""`scatterzmq.connect()`: clients of peers with real sockets, which run in threads of this process."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
import torch

import scatterzmq
from scatterzmq import remote
from scatterzmq.core import clientpeers
from scatterzmq.core.messages import AskMembers, AskNamespaces, Attach, Namespaces
from scatterzmq.errors import ClusterError, ConfigError, GraphError, TaskError
from scatterzmq.runtime import GraphFile, PeerProcess
from scatterzmq.settings import Settings
from tests.forks import told_in_a_fork
from tests.net.scripted import ScriptedPeer

LONG_S = 30.0
"""Only matters when something is wrong."""
VALUE = {"value": ["float", [1]]}


def definition(const: float = 1.0) -> dict[str, Any]:
    node = {
        "name": "add",
        "kind": "constant_op",
        "args": {"op": "add", "const": const, "input": VALUE["value"]},
        "vmap": {"value": ":value"},
        "outs": {"out": None},
    }
    graph = {"name": "main", "input": "add", "input_format": VALUE, "output_format": VALUE, "nodes": [node]}
    return {"ns": "main", "entry": "main", "graphs": [graph | {"vmap": {"value": "add:value"}}]}


class Peer:
    """A real peer in a thread. stop: without a word, as if it was killed."""

    def __init__(self, *join: str, name: str = "", graphs: Sequence[GraphFile] = (), **sections: Any) -> None:
        network = {"port": 0, "zeroconf": False, "join": join} | sections.pop("network", {})
        settings = Settings.of(
            {"network": network, "timing": {"heartbeat_s": 0.1}, "executor": {"kind": "thread"}} | sections
        )
        self.events: list[str] = []
        self.peer = PeerProcess(settings, name=name, graphs=graphs, events=self)
        self._thread = threading.Thread(target=self.peer.run, name="test-peer")
        self._thread.start()

    @property
    def address(self) -> str:
        return self.peer.contact.address

    def emit(self, name: str, _context: Mapping[str, Any], /) -> None:
        self.events.append(name)

    def wants(self, name: str, /) -> bool:
        return True

    def dropped(self) -> int:
        return 0

    def stop(self) -> None:
        self.peer.reactor.stop()
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    """Starts a peer."""
    with ExitStack() as started:

        def start(*join: str, **sections: Any) -> Peer:
            peer = Peer(*join, **sections)
            started.callback(peer.stop)
            return peer

        yield start


@pytest.fixture
def peer(peers: Callable[..., Peer]) -> Peer:
    return peers()


class Served:
    """A scripted peer in a thread of its own."""

    def __init__(self, **options: Any) -> None:
        self.peer = ScriptedPeer("a", **options)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            self.peer.wait(0.02)
            self.peer.step()
        self.peer.close()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(LONG_S)


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    with ExitStack() as started:

        def start(**options: Any) -> Served:
            made = Served(**options)
            started.callback(made.close)
            return made

        yield start


def test_large_cached_values_travel_whole(peers: Callable[..., Peer]) -> None:
    """Eight MiB: to the owner of the key, or from there to whoever asks."""
    value = {"value": ["float", [1 << 21]]}
    graph = definition()
    graph["graphs"][0] |= {"cache": True, "input_format": value, "output_format": value}
    graph["graphs"][0]["nodes"][0]["args"]["input"] = value["value"]
    first = peers()
    second = peers(first.address)
    until(lambda: "peer.join" in first.events and "peer.join" in second.events)
    with scatterzmq.connect(first.address) as one, scatterzmq.connect(second.address) as other:
        ns = one.load_graph(graph)
        until(lambda: ns in other.namespaces())
        for client in (one, other):
            for number in range(4):
                column = torch.full((1 << 21,), float(number))
                ((_, response),) = client.wait_for([client.enqueue_task(ns, {"value": column})], timeout=LONG_S)
                response.ok()
                assert response.result is not None
                assert torch.equal(response.result["value"], column + 1)
        counters = one._run(one._calls.stats()).counters
        assert counters["cache_misses"] == 4
        assert counters.get("cache_hits", 0) + counters.get("cache_deferred", 0) == 4, "or it was still on its way"
        assert counters.get("cache_promoted", 0) == 0


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + LONG_S
    while not condition():
        assert monotonic() < deadline, "it never happens"
        threading.Event().wait(0.002)


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "scatterzmq-client"]


# ---- what it is for


def test_what_becomes_of_the_graphs_of_a_peer_is_told(peers: Callable[..., Peer]) -> None:
    """An executor has to be there, and to check them, before they are loaded: that takes seconds."""
    wrong = definition() | {"ns": "wrong", "entry": "nothing"}
    files = [GraphFile(source=name, definition=json.dumps(text)) for name, text in (("a", definition()), ("b", wrong))]
    peer = peers(graphs=files)
    until(lambda: {"tally.graph.load", "warning.graph.refused"} <= set(peer.events))
    told = [name for name in peer.events if ".graph." in name]
    assert told[:2] == ["tally.graph.check"] * 2
    assert sorted(told[2:]) == ["tally.graph.load", "warning.graph.refused"]


def test_tasks_run_on_a_peer_elsewhere(peer: Peer) -> None:
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(definition())
        assert client.namespaces() == {"main"}
        task = client.enqueue_task(ns, {"value": [1]})
        for found, response in client.wait_for([task], timeout=LONG_S):
            response.ok()
            assert found == task
            assert response.result is not None
            assert response.result["value"].tolist() == [2.0]
        assert client.submit(ns, value=[2]).result(LONG_S)["value"].tolist() == [3.0]
        results = client.map(ns, ({"value": [number]} for number in range(200)))
        assert [result["value"].item() for result in results] == [number + 1 for number in range(200)]
        (member,) = client.peers()
        assert (member.id, member.address, member.status) == (peer.peer.contact.id, peer.address, "alive")
        assert client.get_healthcheck() is None
        assert not client.has_any_tasks()
    assert not ours()


def test_large_tasks_come_through(peer: Peer) -> None:
    wide = {"value": ["float", [None]]}
    graph = definition()
    graph["graphs"][0] |= {"input_format": wide, "output_format": wide}
    graph["graphs"][0]["nodes"][0]["args"]["input"] = wide["value"]
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(graph)
        result = client.submit(ns, value=[1.0] * (1 << 20)).result(LONG_S)
        assert result["value"].shape == (1 << 20,)
        assert result["value"].eq(2.0).all()


def test_a_task_too_large_for_any_message_is_refused_and_its_neighbours_are_not(peers: Callable[..., Peer]) -> None:
    peer = peers(network={"message_bytes": "4MiB"})
    wide = {"value": ["float", [None]]}
    graph = definition()
    graph["graphs"][0] |= {"input_format": wide, "output_format": wide}
    graph["graphs"][0]["nodes"][0]["args"]["input"] = wide["value"]
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(graph)
        futures = [
            client.submit(ns, value=[1.0] * ((1 << 19) + (number == 3) if number > 2 else 1)) for number in range(5)
        ]
        with pytest.raises(TaskError) as caught:
            futures.pop(3).result(LONG_S)
        assert str(caught.value).endswith(
            "its inputs have 2097156 bytes, 2097156 of them in field 'value', and a task may have 2097152 that is sent "
            "over a network: send it in parts, or raise network.message_bytes at all peers"
        )
        assert futures.pop().result(LONG_S)["value"].shape == (1 << 19,)
        assert [future.result(LONG_S)["value"].tolist() for future in futures] == [[2.0]] * 3


def test_a_definition_too_long_for_any_message_is_refused(peer: Peer) -> None:
    with scatterzmq.connect(peer.address) as client:
        with pytest.raises(GraphError, match=r"the definition has 1[0-9]{6} bytes, and may have 1000000"):
            client.load_graph(definition() | {"description": "x" * 1_000_000})
        assert client.load_graph(definition()) == "main"


GROW = """
from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

class Grow(Node):
    pure = True

    def __init__(self, args: NodeArgs) -> None:
        pass

    def inputs(self):
        return {"value": FieldFormat("float", (1,))}

    def outputs(self):
        return {"out": {"value": FieldFormat("float", (None,))}}

    def execute(self, batch: Batch) -> None:
        batch.emit("out", value=[value.repeat(int(value)) for value in batch.rows("value")])
"""


def test_a_result_too_large_for_any_message_is_an_error_and_its_neighbours_are_not(
    peers: Callable[..., Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "growing").mkdir()
    (tmp_path / "growing" / "grow.py").write_text(GROW)
    monkeypatch.syspath_prepend(str(tmp_path))
    peer = peers(network={"message_bytes": "4MiB"}, plugins={"allow": ["growing"]})
    graph = definition()
    graph["graphs"][0]["output_format"] = {"value": ["float", [None]]}
    graph["graphs"][0]["nodes"][0] |= {"kind": "growing.grow", "args": {}}
    most = 1 << 19
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(graph)
        futures = [client.submit(ns, value=[size]) for size in (1, most, most + 1, 2 * most, 3)]
        for future in (futures.pop(3), futures.pop(2)):
            with pytest.raises(
                TaskError, match=r"node add returned \(\d+ bytes of it in field 'value'\) has \d+ bytes"
            ):
                future.result(LONG_S)
        assert [future.result(LONG_S)["value"].shape for future in futures] == [(1,), (most,), (3,)]


def test_asyncio_has_the_same(peer: Peer) -> None:
    async def run() -> list[float]:
        client = await asyncio.to_thread(scatterzmq.connect, peer.address)
        async with scatterzmq.AsyncClient(client) as aclient:
            ns = await aclient.load_graph(definition())
            results = await asyncio.gather(*(aclient.submit(ns, value=[number]) for number in range(5)))
            assert len(await aclient.peers()) == 1
            return [result["value"].item() for result in results]

    assert asyncio.run(run()) == [1, 2, 3, 4, 5]


def test_peers_are_found_on_the_local_network(peers: Callable[..., Peer]) -> None:
    name = f"test-{uuid4().hex}"
    peer = peers(cluster={"name": name}, network={"zeroconf": True})
    with scatterzmq.connect(cluster=name, timeout_s=LONG_S) as client:
        assert [member.id for member in client.peers()] == [peer.peer.contact.id]


def test_one_of_several_addresses_is_enough(peers: Callable[..., Peer]) -> None:
    gone = peers()
    gone.stop()
    peer = peers()
    with scatterzmq.connect([gone.address, peer.address]) as client:
        assert client.namespaces() == set()


def test_a_name_will_do(peer: Peer) -> None:
    with scatterzmq.connect(peer.address.replace("127.0.0.1", "localhost")) as client:
        assert client.namespaces() == set()


# ---- peers that go


def test_the_peer_it_talks_to_may_go(peers: Callable[..., Peer]) -> None:
    first = peers()
    second = peers(first.address)
    until(lambda: "peer.join" in first.events)
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(definition())
        until(lambda: {member.status for member in client.peers()} == {"alive"} and len(client.peers()) == 2)
        tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(100)]
        client.flush(LONG_S)
        first.stop()
        results = {task: response.result for task, response in client.wait_for(tasks, timeout=LONG_S)}
        values = [result["value"].item() if (result := results[task]) is not None else None for task in tasks]
        assert values == [number + 1 for number in range(100)]
        until(lambda: [member.id for member in client.peers()] == [second.peer.contact.id])


def test_a_peer_that_comes_back_is_found_by_its_address(peers: Callable[..., Peer]) -> None:
    before = peers()
    with scatterzmq.connect(before.address) as client:
        assert client.namespaces() == set()
        before.stop()
        port = int(before.address.rpartition(":")[2])
        peers(network={"port": port})
        assert client.load_graph(definition()) == "main"


def test_when_nobody_is_left_the_other_addresses_are_tried_again(peers: Callable[..., Peer]) -> None:
    first, gone = peers(), peers()
    gone.stop()
    with scatterzmq.connect([first.address, gone.address]) as client:
        assert client.namespaces() == set()
        first.stop()
        peers(network={"port": int(gone.address.rpartition(":")[2])})
        assert client.load_graph(definition()) == "main"


def test_when_nobody_is_left_whoever_waits_is_told(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clientpeers, "LOST_MS", 300)
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(definition())
        peer.stop()
        future = client.submit(ns, value=[1])
        with pytest.raises(ClusterError, match="no peer of the cluster can be reached"):
            future.result(LONG_S)
        with pytest.raises(ClusterError, match="no peer of the cluster can be reached"):
            client.namespaces()
        with pytest.raises(ClusterError, match="no peer of the cluster can be reached"):
            client.close()
    assert not ours()


def test_time_goes_on_while_nothing_happens(served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clientpeers, "MEMBERS_MS", 20)
    script = served()
    with scatterzmq.connect(script.peer.address):
        until(lambda: script.peer.asked >= 5)


# ---- which cluster


def test_the_cluster_that_is_meant_may_be_named(peers: Callable[..., Peer]) -> None:
    peer = peers(cluster={"name": "blue"})
    for cluster in ("blue", None):
        with scatterzmq.connect(peer.address, cluster=cluster) as client:
            assert client.namespaces() == set()


def test_a_client_of_another_cluster_is_turned_away_at_once(peers: Callable[..., Peer]) -> None:
    peer = peers(cluster={"name": "blue"})
    with pytest.raises(ClusterError) as caught:
        scatterzmq.connect(peer.address, cluster="red", timeout_s=LONG_S)
    assert str(caught.value) == (
        f"no peer of cluster 'red' was found: {peer.address} says: this is cluster 'blue', another one than yours; "
        "name the cluster that is meant, or another address"
    )
    assert not ours()


def test_of_several_addresses_one_may_be_of_another_cluster(peers: Callable[..., Peer]) -> None:
    blue, red = peers(cluster={"name": "blue"}), peers(cluster={"name": "red"})
    with scatterzmq.connect([blue.address, red.address], cluster="red", timeout_s=LONG_S) as client:
        assert [member.id for member in client.peers()] == [red.peer.contact.id]
    red.stop()
    with pytest.raises(ClusterError, match="another one than yours"):
        scatterzmq.connect([blue.address, red.address], cluster="red", timeout_s=0.3)


# ---- nobody there


def test_nobody_listens(peer: Peer) -> None:
    peer.stop()
    with pytest.raises(ClusterError) as caught:
        scatterzmq.connect(peer.address, timeout_s=0.3)
    line = str(caught.value)
    assert line.startswith(f"no peer has answered in 0.3 s: {peer.address} (nobody listens there); see that")
    assert "\n" not in line
    assert not ours()


def test_nobody_answers(served: Callable[..., Served]) -> None:
    silent = served(silent=True)
    with pytest.raises(ClusterError, match=r"\(it can be reached, but no peer answers there\)"):
        scatterzmq.connect([silent.peer.address], timeout_s=0.3)
    assert not ours()


def test_no_such_host() -> None:
    with pytest.raises(ClusterError, match=r"tcp://nowhere.invalid:7411 \(no such host\)"):
        scatterzmq.connect("tcp://nowhere.invalid:7411", timeout_s=0.2)


def test_nobody_is_found() -> None:
    name = f"test-{uuid4().hex}"
    with pytest.raises(ClusterError) as caught:
        scatterzmq.connect(cluster=name, timeout_s=0.2)
    assert f"nobody of cluster {name!r} was found on the local network" in str(caught.value)
    assert 'name a peer by its address, as "tcp://host:7411"' in str(caught.value)
    assert not ours()


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"address": "host:7411"}, "connect: expected tcp://host or tcp://host:port, got 'host:7411'; did you mean"),
        ({"address": ["tcp://a", "tcp://b:x"]}, "a port is a number"),
        ({"address": []}, "an address such as"),
        ({"key": "secret"}, "does not encrypt"),
        ({"window": 0}, "window: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scatterzmq.connect(**keys)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the end


def test_what_was_said_last_arrives(served: Callable[..., Served]) -> None:
    script = served(answer=lambda *_: Namespaces(mid=_[2].mid, infos=()) if isinstance(_[2], AskNamespaces) else None)
    client = scatterzmq.connect(script.peer.address)
    client.namespaces()
    link = client._session.link
    for number in range(50):
        link.send(Attach(ids=(scatterzmq.TaskId(f"T{number:032x}"),)), {})
    client.close()
    assert len([message for _, message in script.peer.heard if isinstance(message, Attach)]) == 50
    with pytest.raises(ClusterError, match="closed"):
        link.send(AskMembers(mid=1), {})


def test_calls_from_within_a_delivery(peer: Peer) -> None:
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(definition())
        results: list[float] = []
        done = threading.Event()

        def then(future: Any) -> None:
            results.append(future.result()["value"].item())
            if len(results) == 3:
                done.set()
            else:
                client.submit(ns, value=[results[-1]]).add_done_callback(then)

        client.submit(ns, value=[1]).add_done_callback(then)
        assert done.wait(LONG_S)
        assert results == [2, 3, 4]


def test_a_callback_that_hangs_does_not_keep_the_client_from_being_closed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STOP_S", 0.1)
    client = scatterzmq.connect(peer.address)
    ns = client.load_graph(definition())
    hangs, go_on = threading.Event(), threading.Event()

    def callback(_: object) -> None:
        hangs.set()
        go_on.wait(LONG_S)

    client.submit(ns, value=[1]).add_done_callback(callback)
    assert hangs.wait(LONG_S)
    began = monotonic()
    client.close()
    assert monotonic() - began < LONG_S / 3
    go_on.set()
    until(lambda: not ours())


def test_closing_from_within_a_delivery(peer: Peer) -> None:
    client = scatterzmq.connect(peer.address)
    ns = client.load_graph(definition())
    closed = threading.Event()

    def callback(_: object) -> None:
        client.close()
        closed.set()

    client.submit(ns, value=[1]).add_done_callback(callback)
    assert closed.wait(LONG_S)
    until(lambda: not ours())


def _nothing(_: object) -> None:
    pass


def test_a_callback_that_exits_ends_the_client(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    client = scatterzmq.connect(peer.address)
    ns = client.load_graph(definition())

    def callback(_: object) -> None:
        raise SystemExit(3)

    added = threading.Event()
    connection = client._session.link
    assert isinstance(connection, remote.Connection)
    # Else the task may end before anybody looks, and the callback run in here.
    connection._reactor.call(lambda: _nothing(added.wait(LONG_S)))
    client.submit(ns, value=[1]).add_done_callback(callback)
    added.set()
    until(lambda: not ours())
    with pytest.raises(ClusterError, match="the client's thread failed: SystemExit: 3"):
        client.namespaces()
    client.close()


def test_a_forgotten_client_leaves_nothing(peer: Peer) -> None:
    client = scatterzmq.connect(peer.address)
    client.load_graph(definition())
    del client
    gc.collect()
    until(lambda: not ours())


def test_a_forked_process_is_told_that_the_client_is_not_its_own(peer: Peer) -> None:
    with scatterzmq.connect(peer.address) as client:
        client.load_graph(definition())
        told = told_in_a_fork(client.namespaces, client.close)
        assert "this process was forked off and has no connection: call scatterzmq.connect() in here" in told
        assert client.namespaces() == {"main"}


@pytest.mark.parametrize("ending", ["", "raise SystemExit(5)", "del client"])
def test_a_process_that_does_not_close_its_client_ends(peer: Peer, ending: str) -> None:
    code = f"""
        import scatterzmq
        client = scatterzmq.connect({peer.address!r})
        client.load_graph({definition()!r})
        client.enqueue_task("main", {{"value": [1]}})
        {ending}
    """
    ended = subprocess.run([sys.executable, "-W", "error", "-c", dedent(code)], capture_output=True, timeout=LONG_S)
    assert (ended.returncode, ended.stdout, ended.stderr.decode()) == (5 if "5" in ending else 0, b"", "")
