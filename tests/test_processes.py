"""Peers as processes of this one: how they are started, what is asked of them, and that none is left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any

import pytest

import scatterzmq
from scatterzmq import processes
from scatterzmq.errors import ClusterError, ConfigError
from scatterzmq.eventstream import Event
from scatterzmq.processes import LocalPeers
from scatterzmq.remote import Connection
from scatterzmq.settings import NetworkSettings, Settings
from tests.processes.cluster import NAP, chain
from tests.test_remote import definition

LONG_S = 60.0
"""Only matters when something is wrong."""

FAKE = """
import json, os, signal, sys

def say(event, **context):
    sys.stdout.write(json.dumps({"clock_ms": 7, "event": event, "source": "", "context": context}) + "\\n")
    sys.stdout.flush()

args = sys.argv[1:]
name = args[args.index("--name") + 1]
me, other = [letter * 33 for letter in ("PQ" if name == "local-0" else "QP")]

def start():
    say("tally.peer.start", peer=me, address="tcp://127.0.0.1:" + ("1" if me[0] == "P" else "2"))
    say("peer.join", peer=other)
    say("peer.join", peer=other)

def until_asked(signals=1):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    start()
    for _ in range(signals):
        signal.sigwait([signal.SIGTERM])
"""
"""What is said and done of a peer by something that starts at once."""

Start = Callable[..., LocalPeers]


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + LONG_S
    while not condition():
        assert monotonic() < deadline, "it never happens"
        threading.Event().wait(0.002)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("scatterzmq")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Peers that run the given code in place of a peer, made and not started."""
    with ExitStack() as made:

        def make(code: str, count: int = 1, **options: Any) -> LocalPeers:
            script = tmp_path / "fake.py"
            script.write_text(FAKE + dedent(code))
            monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-I", str(script), "peer"])
            peers = LocalPeers(options.pop("settings", Settings()), count, **options)
            made.callback(peers.close)
            return peers

        yield make
    assert not threads()


def test_the_settings_are_for_nobody_elses_eyes_and_gone_afterwards(
    fake: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCATTERZMQ_STORE_BYTES", "1MiB")
    settings = Settings.of({"store": {"bytes": 12345}, "network": {"port": 7411}, "events": {"disable": ["tally"]}})
    peers = fake(
        f"""
        file = args[args.index("--config") + 1]
        seen = {{"args": args, "file": file, "mode": os.stat(file).st_mode, "text": open(file).read()}}
        seen["environment"] = dict(os.environ)
        open({str(tmp_path / "seen")!r}, "w").write(json.dumps(seen))
        until_asked()
        """,
        settings=settings,
    )
    peers.start()
    seen = json.loads((tmp_path / "seen").read_text())
    assert stat.S_IMODE(seen["mode"]) == 0o600
    assert not Path(seen["file"]).exists()
    assert seen["args"] == ["peer", "--json", "--end-with-parent", "--name", "local-0", "--config", seen["file"]]
    given = Settings.of(json.loads(seen["text"]))
    assert (given.store.bytes, given.network.port, given.network.zeroconf) == (12345, 0, False)
    assert given.events.disable == ("tally", "!tally.peer.start", "!peer.join")
    assert not [name for name in seen["environment"] if name.startswith("SCATTERZMQ_")]
    assert seen["environment"]["PYTHONPATH"].split(os.pathsep) == [path or os.getcwd() for path in sys.path]


def test_the_others_join_the_first(fake: Start, tmp_path: Path) -> None:
    peers = fake(f"open({str(tmp_path)!r} + '/' + name, 'w').write(' '.join(args))\nuntil_asked()", count=2)
    peers.start()
    assert peers.addresses == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
    assert "--join" not in (tmp_path / "local-0").read_text()
    assert (tmp_path / "local-1").read_text().endswith("--join tcp://127.0.0.1:1")


def test_all_have_met_all_when_it_has_started(fake: Start) -> None:
    peers = fake(
        """
        import time
        def say_later(event, **context):
            time.sleep(0.2 if event == "peer.join" else 0)
            say_now(event, **context)
        say_now, say = say, say_later
        until_asked()
        """,
        count=2,
    )
    peers.start()
    assert [peer.joined for peer in peers.peers] == [{"Q" * 33}, {"P" * 33}]


def test_starting_takes_no_longer_than_a_limit(fake: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_S", 0.05)
    silent = fake("sys.stdin.read()")
    with pytest.raises(ClusterError, match=r"local: peer 1 of 1 did not start in 0\.05 s; is the machine busy\?"):
        silent.start()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('scatterzmq: network.bind: no such address')", "network.bind: no such address"),
        ("sys.stderr.write('Traceback\\n  in this\\nOSError: no\\n')\nsys.exit(1)", "OSError: no"),
        ("sys.exit(5)", "it ended with exit code 5"),
        ("os.kill(os.getpid(), 9)", "it ended with exit code -9"),
        ("sys.stdout.write('no JSON, but words\\n')\nsys.exit(1)", "no JSON, but words"),
        ("sys.stdout.write('[]\\n{\"event\": 1}\\nthe end\\n')\nsys.exit(1)", "the end"),
        ("sys.exit('x' * 1_000_000)", "x" * 500),
    ],
)
def test_one_that_does_not_start_says_why_itself(fake: Start, code: str, said: str) -> None:
    peers = fake(code)
    with pytest.raises(ClusterError) as caught:
        peers.start()
    assert str(caught.value) == f"local: peer 1 of 1 did not start: {said}"


def test_one_that_does_not_start_takes_the_others_with_it(fake: Start) -> None:
    peers = fake("sys.exit('no') if me[0] == 'Q' else until_asked()", count=2)
    with pytest.raises(ClusterError, match="local: peer 2 of 2 did not start: no"):
        peers.start()
    assert [peer.is_running for peer in peers.peers] == [False, False]


def test_an_interrupt_while_they_start_leaves_none(fake: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = fake("until_asked()")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(peers, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        peers.start()
    assert [peer.is_running for peer in peers.peers] == [False]


@pytest.mark.parametrize("signals", [1, 2, 3])
def test_they_are_asked_to_leave_then_to_go_then_killed(
    fake: Start, monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    monkeypatch.setattr(processes, "LEAVE_S", LONG_S if signals == 1 else 0.05)
    monkeypatch.setattr(processes, "GO_S", LONG_S if signals == 2 else 0.05)
    peers = fake(f"until_asked({signals})")
    peers.start()
    (peer,) = peers.peers
    peers.close()
    assert peer._process.returncode == (0 if signals < 3 else -signal.SIGKILL)
    peers.close()


def test_what_they_print_never_stops_them(fake: Start) -> None:
    peers = fake("sys.stderr.write('x\\n' * 500_000)\nsys.stdout.write('y' * 1_000_000 + '\\n')\nuntil_asked()")
    peers.start()
    assert len(peers.peers[0]._complaints) <= processes.COMPLAINTS_MAX


def test_what_happens_in_them_is_told(fake: Start) -> None:
    told: list[Event] = []
    peers = fake("start()\nsay('tally.x', tasks=3)\nsys.exit('scatterzmq: out of memory')", told=told.append)
    peers.start()
    until(lambda: len(told) == 5)
    assert [event.name for event in told] == [
        "tally.peer.start",
        "peer.join",
        "peer.join",
        "tally.x",
        "error.peer.ended",
    ]
    assert {event.source for event in told} == {"local-0"}
    assert (told[3].clock_ms, told[3].context) == (7, {"tasks": 3})
    assert told[4].context == {"peer": "P" * 33, "message": "out of memory"}
    assert peers.addresses == []


def test_the_end_that_was_asked_for_is_no_news(fake: Start) -> None:
    told: list[Event] = []
    peers = fake("until_asked()", told=told.append)
    peers.start()
    peers.close()
    assert [event.name for event in told] == ["tally.peer.start", "peer.join", "peer.join"]


def test_a_forked_process_does_not_end_them(fake: Start) -> None:
    peers = fake("until_asked()")
    peers.start()
    child = os.fork()
    if not child:
        peers.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert peers.peers[0].is_running


# ---- local(processes=True)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"executor_kind": "inline"}, "local: executor.kind: expected process or thread with processes=True"),
        ({"journal_mode": "sync"}, "local: journal.mode: 'sync': an embedded cluster keeps nothing on disk"),
        ({"events_record": "f"}, "local: events.record: f: only `scatterzmq peer` is recorded"),
        ({"strategy": "random"}, "strategy.node"),
        ({"device": "abacus"}, "executor.device: expected cpu"),
        ({"events_listeners": ["nothing"]}, "events.listeners"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(config: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scatterzmq.local(processes=True, **config)
    assert line in str(caught.value)
    assert not threads()


def test_one_peer_with_its_executor_as_a_thread(tmp_path: Path) -> None:
    log = tmp_path / "log"
    config: dict[str, Any] = {"events_listeners": [f"file:{log}"], "network_outbox_bytes": "5MiB"}
    with scatterzmq.local(processes=True, executor_kind="thread", **config) as client:
        connection = client._session.link
        assert isinstance(connection, Connection)
        assert connection._links._outbox_bytes == 5 << 20, "the client's own, too"
        ns = client.load_graph(definition())
        assert client.submit(ns, value=[2]).result(LONG_S)["value"].tolist() == [3.0]
        (member,) = client.peers()
        assert (member.name, member.status) == ("local-0", "alive")
        with client.open_blob("piece") as blob:
            assert blob.write(b"abc") == "0:3:piece"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["source"] for event in events} == {member.name}
    assert [event["event"] for event in events if ".peer." in event["event"]] == ["tally.peer.start", "tally.peer.stop"]
    assert not threads()


@pytest.fixture(scope="module")
def trio() -> Iterator[scatterzmq.Client]:
    """The client of three peers with an executor each. Who kills one is the last to use it."""
    with scatterzmq.local(peers=3, processes=True, plugins=[NAP]) as client:
        yield client


def children(of: int | str = "self") -> list[int]:
    tasks = Path(f"/proc/{of}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@pytest.mark.processes
def test_three_peers_read_the_same_blobs(trio: scatterzmq.Client) -> None:
    import torch

    with trio.open_blob("constant") as blob:
        place = blob.write_tensor(torch.tensor([4.0]))
    value = {"value": ["float", [1]]}
    node = {"name": "n", "kind": "load_constant", "args": {"data": place, "ret": value["value"]}}
    node |= {"vmap": {}, "outs": {"out": None}}
    graph: dict[str, Any] = {"name": "main", "input": "n", "input_format": value, "output_format": value}
    graph |= {"vmap": {"value": "n:value"}, "nodes": [node]}
    ns = trio.load_graph({"ns": "blobs", "entry": "main", "graphs": [graph]})
    assert [result["value"].item() for result in trio.map(ns, [{"value": [0]}] * 5)] == [4.0] * 5


@pytest.mark.processes
def test_one_of_three_is_killed(trio: scatterzmq.Client) -> None:
    assert len(trio.peers()) == 3
    ns = trio.load_graph(chain(NAP, {"nap_ms": 2.0}))
    tasks = {trio.enqueue_task(ns, {"value": number}): number for number in range(600)}
    trio.flush(LONG_S)
    ended = {}
    for task, response in trio.wait_for(list(tasks), timeout=LONG_S):
        assert response.result is not None
        ended[task] = int(response.result["value"])
        if len(ended) == 200:
            os.kill(children()[0], signal.SIGKILL)
    assert ended == {task: number + 1 for task, number in tasks.items()}


@pytest.mark.processes
@pytest.mark.parametrize("ending", ["kill", "interrupt", "exit", "forget"])
def test_none_outlives_whoever_started_it(tmp_path: Path, ending: str) -> None:
    code = f"""
        import gc, signal, sys, time, scatterzmq
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
        client = scatterzmq.local(peers=2, processes=True)
        ns = client.load_graph({definition()!r})
        client.submit(ns, value=[1]).result(60)
        sys.stdout.write("up\\n")
        sys.stdout.flush()
        if {ending!r} == "exit":
            sys.exit(3)
        if {ending!r} == "forget":
            del client
            gc.collect()
        time.sleep(3600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", dedent(code)], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert parent.stdout is not None
    with parent, parent.stdout as said:
        assert said.readline() == b"up\n"
        peers = children(parent.pid) if ending != "exit" else []
        executors = [child for peer in peers for child in children(peer)]
        if ending == "kill":
            parent.kill()
        if ending == "interrupt":
            parent.send_signal(signal.SIGINT)
        if ending == "forget":
            until(lambda: all(map(is_gone, [*peers, *executors])))
            parent.kill()
        parent.wait(LONG_S)
        until(lambda: all(map(is_gone, [*peers, *executors])))
    if ending not in ("kill", "forget"):
        assert list(tmp_path.iterdir()) == []


def test_bounds_in_bytes_are_the_processes_too() -> None:
    bounds: dict[str, Any] = {
        "outbox_bytes": 1 << 29,
        "message_bytes": 1 << 28,
        "partial_bytes": 1 << 31,
        "batch_bytes": 1 << 20,
    }
    settings = Settings(network=NetworkSettings(**bounds))
    network = processes._for_processes(settings).network
    assert {name: getattr(network, name) for name in bounds} == bounds
    assert (network.port, network.zeroconf) == (0, False)
