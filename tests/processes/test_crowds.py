"""Many clients, clients that vanish or do not read, and strangers: what they cost, and that others do not notice."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

import scatterzmq
from scatterzmq.core.greetings import cluster_tag
from scatterzmq.core.messages import AskMembers, AskStats, Attach, Contact, MemberList, Stats
from scatterzmq.core.peermessages import Hello, Unwelcome
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.net.fragments import pieces
from scatterzmq.net.options import FRAME_BYTES_MAX
from scatterzmq.net.routing import of_client, of_peer
from scatterzmq.questions import Questions
from scatterzmq.wire.frames import Envelope, decode, encode
from scatterzmq.wire.refusal import Limits
from tests.processes.bare import bare
from tests.processes.cluster import NAP, TIMEOUT_S, RealCluster, RealPeer, chain, real_cluster
from tests.processes.conftest import Connect

MIB = 1 << 20
CLIENTS = 50
OUTBOX_BYTES = 4 * MIB
IDLE_S = 3.0


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two peers that keep little for those who do not read."""
    config = tmp_path_factory.mktemp("crowds") / "peer.toml"
    config.write_text(f"[network]\noutbox_bytes = {OUTBOX_BYTES}\n")
    with real_cluster(2, "--config", str(config)) as cluster:
        yield cluster


# ---- how a peer is


def counters(peer: RealPeer) -> Mapping[str, int]:
    with Questions([peer.address], "default") as questions:
        questions.find(TIMEOUT_S)
        said = questions.ask([PeerId(peer.id)], AskStats, TIMEOUT_S)[PeerId(peer.id)]
    assert isinstance(said, Stats)
    return said.counters


def rss_bytes(peer: RealPeer) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{peer.pid}/status").read_text())
    assert found
    return 1024 * int(found[1])


def cpu_s(peer: RealPeer) -> float:
    """What it has used of a processor."""
    fields = Path(f"/proc/{peer.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files(peer: RealPeer) -> int:
    return len(os.listdir(f"/proc/{peer.pid}/fd"))


def finished(cluster: RealCluster) -> int:
    return sum(counters(peer)["finished"] for peer in cluster.peers)


def until(holds: Callable[[], bool]) -> None:
    """Peers are asked, which takes its time."""
    until_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until_s, "waited too long"


def works(client: "scatterzmq.Client", *, first: int = 0, tasks: int = 20) -> None:
    """A job that is done as it should be."""
    ns = client.load_graph(chain(NAP, {"nap_ms": 0.1}))
    numbers = {client.enqueue_task(ns, {"value": first + number}): first + number for number in range(tasks)}
    ended = {}
    for task, response in client.wait_for(list(numbers), timeout=TIMEOUT_S):
        response.ok()
        assert response.result is not None
        ended[task] = int(response.result["value"])
    assert ended == {task: number + 1 for task, number in numbers.items()}


# ---- clients


@contextmanager
def other_clients(address: str, text: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the test's own that runs this text, with `connect` and `wait`; it has said "ready"."""
    before = (
        "import sys, scatterzmq\n"
        "from tests.processes.cluster import NAP, chain\n"
        "from tests.processes.test_crowds import swelling\n"
        f"connect = lambda: scatterzmq.connect({address!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", before + text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            process.wait()


def swelling() -> dict[str, Any]:
    """One number in, one MiB out."""
    one, many = {"value": ["float", []]}, {"value": ["float", [1 << 18]]}
    definition = chain("nodes.swell", ns="swell")
    definition["graphs"][0] |= {"input_format": one, "output_format": many}
    return definition


def test_fifty_clients_at_once(crowded: RealCluster, connect: Connect) -> None:
    before = [files(peer) for peer in crowded.peers]
    clients = [connect(crowded.addresses) for _ in range(CLIENTS)]
    wrong: list[BaseException] = []
    start = threading.Barrier(CLIENTS)

    def work(number: int) -> None:
        try:
            start.wait(TIMEOUT_S)
            works(clients[number], first=1000 * number)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    until(lambda: all(files(peer) > was + CLIENTS for peer, was in zip(crowded.peers, before, strict=True)))
    for client in clients:
        client.close()
    until(lambda: all(files(peer) < was + CLIENTS // 2 for peer, was in zip(crowded.peers, before, strict=True)))


def test_clients_that_vanish_are_let_go(crowded: RealCluster, connect: Connect) -> None:
    """Ten clients of one process, which is killed while each waits for something."""
    bystander = connect(crowded.addresses)
    home = crowded.peers[0]
    before = counters(home)
    text = (
        "clients = [connect() for _ in range(10)]\n"
        "ns = clients[0].load_graph(chain(NAP, {'nap_ms': 40.0}, ns='slow'))\n"
        "for client in clients:\n"
        "    for number in range(10): client.enqueue_task(ns, {'value': number})\n"
        "    client.flush()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with other_clients(home.address, text) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        works(bystander)

        def are_gone() -> bool:
            gone = "network_clients_gone"
            return counters(home).get(gone, 0) - before.get(gone, 0) >= 10

        until(are_gone)
    assert home.running


def test_a_client_that_does_not_read_gets_its_results_when_it_does(crowded: RealCluster, connect: Connect) -> None:
    bystander = connect(crowded.addresses)
    home = crowded.peers[0]
    before = finished(crowded)
    text = (
        "client = connect()\n"
        "ns = client.load_graph(swelling())\n"
        "tasks = {client.enqueue_task(ns, {'value': number}): number for number in range(48)}\n"
        "client.flush()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "ends = client.wait_for(list(tasks), timeout=60)\n"
        "ended = {tasks[task]: response.result['value'] for task, response in ends}\n"
        "assert sorted(ended) == list(range(48)), ended\n"
        "assert all((value == number).all() for number, value in ended.items())\n"
        "print('all of it', flush=True)\n"
    )
    with other_clients(home.address, text) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: finished(crowded) - before >= 48)
            works(bystander)
        finally:
            process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "all of it\n"


def test_who_asks_and_asks_and_does_not_read_costs_little_memory(crowded: RealCluster, connect: Connect) -> None:
    """What is wanted of the peer would be two gigabytes, had it to lie somewhere."""
    client = connect(crowded.addresses)
    ns = client.load_graph(swelling())
    tasks = [client.enqueue_task(ns, {"value": float(number)}) for number in range(20)]
    for _, response in client.wait_for(tasks, timeout=TIMEOUT_S):
        response.ok()
    for peer in crowded.peers:
        before, heard = rss_bytes(peer), counters(peer)["network_received"]
        with bare(peer.address, is_slow=True) as rude:
            for turn in range(100):
                rude.say(Attach(ids=(*tasks[turn % 20 :: 2], *tasks[: turn % 20 : 2])))  # nothing that lies together
            until(lambda heard=heard, peer=peer: counters(peer)["network_received"] >= heard + 100)  # type: ignore[misc]
            works(client)
            assert rss_bytes(peer) - before < 200 * MIB


# ---- strangers


STRANGER = ClientId("C" + "5" * 32)
AS_STRANGER = of_client(STRANGER) + b"c"
FOREIGNER = PeerId("P" + "6" * 32)


def refusals(peer: RealPeer) -> Counter[str]:
    """What this peer has refused, by reason."""
    said = counters(peer)
    return Counter({name: said[name] for name in said if name.startswith("rejected_") or name in WHO_IS_REFUSED})


def refused(peer: RealPeer, say: Callable[[], None], reason: str) -> None:
    """What is said is counted once, by this reason and no other one."""
    before = refusals(peer)
    say()
    until(lambda: refusals(peer) != before)
    assert refusals(peer) - before == {reason: 1}


WHO_IS_REFUSED = "peers_refused", "clients_refused"
WELL = tuple(map(bytes, encode(AskMembers(mid=1), {}, Envelope(src=STRANGER))))
OTHER_VERSION = WELL[0].replace(b"szmq\x01", b"szmq\x63")
LONG_PIECES = pieces([*WELL, bytes(256 * MIB)], 1)
"""Of one message. The first says how much there is to come."""


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((b"garbage",), "frame_count"),
        ((b"garbage", b"garbage"), "envelope"),
        ((OTHER_VERSION, *WELL[1:]), "version"),
        ((WELL[0].replace(b"szmq", b"szmx"), *WELL[1:]), "magic"),
        ((WELL[0], b"\xc1"), "body"),
        ((b"",) * 20_000, "frame_count"),
        ((WELL[0], bytes(MIB + 1)), "body_bytes"),
        ((*WELL[:2], *([bytes(MIB + 50_000)] * 250)), "total_bytes"),
        (tuple(map(bytes, LONG_PIECES[0])), "total_bytes"),
    ],
)
def test_bad_frames_are_counted_and_dropped(
    crowded: RealCluster, connect: Connect, frames: Sequence[bytes], reason: str
) -> None:
    """Whoever sent them is not answered, and is served like all others when it says something else."""
    peer = crowded.peers[0]
    with bare(peer.address, AS_STRANGER) as rude:
        refused(peer, lambda: rude.send(*frames), f"rejected_{reason}")
        rude.send(*WELL)
        assert isinstance(rude.hear(), MemberList)
        assert not rude.has_heard()
    works(connect(peer.address))


def test_who_sends_a_frame_that_is_too_long_is_hung_up_on(crowded: RealCluster, connect: Connect) -> None:
    """By ZeroMQ, as soon as it knows: nothing of it gets any further. It may come again."""
    peer = crowded.peers[0]
    before, held = counters(peer)["network_received_bytes"], rss_bytes(peer)
    with bare(peer.address, AS_STRANGER) as rude:
        rude.send(*WELL)
        assert isinstance(rude.hear(), MemberList)
        rude.send(*WELL, bytes(FRAME_BYTES_MAX + 1))
        rude.until_hung_up()
        rude.send(*WELL)
        assert isinstance(rude.hear(), MemberList)
    assert counters(peer)["network_received_bytes"] - before < MIB
    assert rss_bytes(peer) - held < 50 * MIB
    works(connect(peer.address))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"cluster": b"foreign!"}, "another one than yours"),
        ({"proto_min": 98, "proto_max": 99}, "of the protocol, not 98 to 99"),
    ],
)
def test_peers_of_another_cluster_or_protocol_are_refused_and_told_of(
    crowded: RealCluster, connect: Connect, what: Mapping[str, Any], reason: str
) -> None:
    """They are told why, at the address that they give."""
    peer = crowded.peers[0]
    with zmq.Context() as context, context.socket(zmq.ROUTER) as home:
        home.linger = 0
        address = f"tcp://127.0.0.1:{home.bind_to_random_port('tcp://127.0.0.1')}"
        me = Contact(id=FOREIGNER, incarnation=7, address=address, name="foreigner")
        hello = Hello(me=me, nonce=b"n" * 16, cluster=cluster_tag("default"), proto_min=1, proto_max=1)
        with bare(peer.address, of_peer(FOREIGNER, 7) + b"d1") as rude:
            refused(peer, lambda: rude.say(replace(hello, **what), FOREIGNER, 7), "peers_refused")
        assert home.poll(int(1000 * TIMEOUT_S)), "nobody tells them"
        told = decode(home.recv_multipart()[1:], Limits())[0]
    assert isinstance(told, Unwelcome)
    assert reason in told.reason
    peer.until(lambda: peer.has_said("warning.peer.refused"), "waited for a warning")
    assert FOREIGNER not in peer.met()
    works(connect(peer.address))


def test_clients_of_another_cluster_are_refused_and_told_why(crowded: RealCluster, connect: Connect) -> None:
    peer = crowded.peers[0]
    with bare(peer.address) as stranger:
        refused(peer, lambda: stranger.say(AskMembers(mid=1, cluster=b"foreign!")), "clients_refused")
        said = stranger.hear()
    assert isinstance(said, MemberList)
    assert (said.members, said.refusal) == ((), "this is cluster 'default', another one than yours")
    works(connect(peer.address))


def test_bytes_that_are_no_zeromq_cost_nothing(crowded: RealCluster, connect: Connect) -> None:
    """A browser, a scanner, somebody who says nothing, and one frame that claims to be endless."""
    peer = crowded.peers[0]
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    words = [b"GET / HTTP/1.1\r\n\r\n", os.urandom(65_536), b"", greeting, greeting + b"\x02" + b"\xff" * 8 + bytes(9)]
    before = rss_bytes(peer)
    lines = [socket.create_connection(("127.0.0.1", peer.port), TIMEOUT_S) for _ in range(10) for _ in words]
    try:
        for line, word in zip(lines, 10 * words, strict=True):
            with suppress(OSError):  # it may have hung up
                line.sendall(word)
        works(connect(peer.address))
        assert rss_bytes(peer) - before < 50 * MIB
    finally:
        for line in lines:
            line.close()
    assert peer.running


def test_idle_peers_rest(crowded: RealCluster) -> None:
    """Heartbeats, and nothing else."""
    before = [cpu_s(peer) for peer in crowded.peers]
    threading.Event().wait(IDLE_S)  # it is the time that counts
    used = [cpu_s(peer) - was for peer, was in zip(crowded.peers, before, strict=True)]
    assert max(used) < IDLE_S / 20
