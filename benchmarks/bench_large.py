"""W4, large tensors: 4 MiB through two nodes and back, beside raw ZeroMQ over the same hops, and what copies cost.

    python -m benchmarks.bench_large [--quick] [--rounds N] [--peers N] [--json FILE]

W4      tasks of float32[1048576] through x2 and +1 at peers that are processes of their own, copies=1. MB/s of input
        and output. Every result is checked, and the check is not timed
raw     the same arrays to as many processes that send them back as they came, without copies where ZeroMQ can; pieces
        of net/options.py PIECE_BYTES as peers send them, or one frame each
hops    the same in pieces over the hops that the tasks took: as many of them as went to another peer and back go by way
        of two processes. Nobody computes, checks or keeps anything, and no bytes go to a child
over    bytes that crossed a socket per byte of input and output: 1 when each task is run by the peer that owns it, and
        more for each one that goes to another peer and back
memory  of all processes together, the client's among them (Pss: what several share counts once): what is held more when
        all is over than after the first round, and at most in between
copies  messages of one frame from one process to another, with copies at both sides, at the reader only (sent where it
        lies), at the sender only (read where it lies), or none: CPU time of both together, per message
"""

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import zmq

from benchmarks.bench_embedded import Array, check
from benchmarks.bench_mesh import doubled, increased, large_graph, large_inputs, mesh
from scatterzmq.core.messages import Stats
from scatterzmq.net.options import COPIED_BYTES, PIECE_BYTES

if TYPE_CHECKING:
    from scatterzmq import Client

MB = 1e6
TASKS, TASKS_QUICK = 100, 8
WARM_UP = 8
SETTLE_S, SETTLE_QUICK_S = 20.0, 0.0
"""Until all peers have an executor in reserve."""
UNDER_WAY = 16
"""Arrays that are on their way to one of the processes that send them back."""
STRAIGHT, ONWARD = b"s", b"o"
"""How the head of an array begins that goes back at once, or by way of another process."""
SIZES = (1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20)
COPIED_MB, COPIED_QUICK_MB = 256, 8
"""Of each size, for each way."""
MESSAGES_MAX = 20_000
LOOK_EVERY_S = 0.05
IDLE_S, LOOKS = 30.0, 20
"""Until all that was cleared is gone, at most; and how often to look then."""
WAYS = {"both": (True, True), "reader": (False, True), "sender": (True, False), "none": (False, False)}
"""Who copies -> whether the sender does, whether the reader does."""


@dataclass(slots=True)
class Report:
    """Rates in MB/s, of each round. copies: size -> who copies -> us of CPU per message."""

    mesh: list[float] = field(default_factory=list)
    raw_pieces: list[float] = field(default_factory=list)
    raw_frames: list[float] = field(default_factory=list)
    raw_hops: list[float] = field(default_factory=list)
    over: list[float] = field(default_factory=list)
    grown_bytes: int = 0
    peak_bytes: int = 0
    copies: dict[int, dict[str, float]] = field(default_factory=dict)


# -- memory -----------------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and all that it has started, and so on."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def held_bytes() -> int:
    """By this process and all of its own."""
    total = 0
    for pid in family(os.getpid()):
        with suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


@contextmanager
def watched(report: Report) -> Iterator[None]:
    """Keep the peak of what is held meanwhile, above what is held now."""
    over = threading.Event()
    before = held_bytes()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            report.peak_bytes = max(report.peak_bytes, held_bytes() - before)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


# -- ours -------------------------------------------------------------------------------------------------------------


def rate(values: Sequence[Array], took_s: float) -> float:
    """MB/s of input and output."""
    return 2 * sum(value.nbytes for value in values) / took_s / MB


def by_mesh(client: "Client", ns: str, values: Sequence[Array]) -> float:
    began_s = time.perf_counter()
    tasks = [client.enqueue_task(ns, {"value": value}) for value in values]
    results = {}
    for task, response in client.wait_for(tasks, timeout=600.0):
        assert response.result is not None, response.error
        results[task] = response.result["value"]
    took_s = time.perf_counter() - began_s
    check([results[task] for task in tasks], [increased(doubled(value)) for value in values])
    for task in tasks:
        client.clear_task(task)
    return rate(values, took_s)


def stats(client: "Client") -> Stats:
    """Of all peers together."""
    return client._run(client._calls.stats())  # noqa: SLF001 -- users have no call for it


def sent_bytes(client: "Client") -> int:
    """By all peers, to each other and to clients."""
    return stats(client).counters["network_sent_bytes"]


def idle_bytes(client: "Client") -> int:
    """What is held when the peers have let go of all tasks, and a little later."""
    until_s = time.monotonic() + IDLE_S
    while stats(client).record_bytes:
        assert time.monotonic() < until_s, "tasks that were cleared are still there"
        time.sleep(LOOK_EVERY_S)
    held = []
    for _ in range(LOOKS):
        time.sleep(LOOK_EVERY_S)
        held.append(held_bytes())
    return min(held)


def measure_mesh(report: Report, values: Sequence[Array], peers: int, settle_s: float, rounds: int) -> None:
    with mesh(peers, 1) as client:
        ns = client.load_graph(large_graph())
        by_mesh(client, ns, values[:WARM_UP])
        time.sleep(settle_s)
        by_mesh(client, ns, values)
        settled = idle_bytes(client)
        nbytes = sum(value.nbytes for value in values)  # come in, and as many go out
        for _ in range(rounds):
            before = sent_bytes(client)
            with watched(report):
                report.mesh.append(by_mesh(client, ns, values))
            report.over.append((nbytes + sent_bytes(client) - before) / (2 * nbytes))
        report.grown_bytes = idle_bytes(client) - settled


# -- raw ZeroMQ -------------------------------------------------------------------------------------------------------


def send_back(told: Connection) -> None:
    """A process of its own: everything goes back as it came, by way of another such process where its head says so,
    until nothing is said any more.
    """
    with zmq.Context() as context, ExitStack() as stack:
        client, before, after = [stack.enter_context(context.socket(zmq.PAIR)) for _ in range(3)]
        poller = zmq.Poller()
        for socket in (client, before, after):
            socket.linger = 0
            poller.register(socket, zmq.POLLIN)
        told.send([one.bind_to_random_port("tcp://127.0.0.1") for one in (client, before)])
        after.connect(f"tcp://127.0.0.1:{told.recv()}")
        while True:
            for socket, _ in poller.poll():
                frames = socket.recv_multipart(copy=False)
                if not len(frames[0]):
                    return
                to = before if socket is before else client
                if socket is client and frames[0].bytes.startswith(ONWARD):
                    to = after
                to.send_multipart(frames, copy=False)


@contextmanager
def echoes(count: int) -> Iterator[list["zmq.Socket[bytes]"]]:
    """Sockets to so many processes that send back; each knows the next one."""
    spawn = get_context("spawn")
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        pipes = []
        for _ in range(count):
            ours, theirs = Pipe()
            process = spawn.Process(target=send_back, args=(theirs,))
            process.start()
            stack.callback(process.join)
            pipes.append(ours)
        ports = [pipe.recv() for pipe in pipes]
        sockets = []
        for index, pipe in enumerate(pipes):
            pipe.send(ports[(index + 1) % count][1])
            socket = stack.enter_context(context.socket(zmq.PAIR))
            socket.connect(f"tcp://127.0.0.1:{ports[index][0]}")
            stack.callback(socket.send, b"")
            sockets.append(socket)
        yield sockets


def by_echo(
    sockets: Sequence["zmq.Socket[bytes]"], values: Sequence[Array], piece_bytes: int, onward: float = 0.0
) -> float:
    """MB/s. Each array in frames of so many bytes, to one process after another; onward: the share of them that goes by
    way of two.
    """
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    waiting = list(enumerate(values))[::-1]
    under_way = [0] * len(sockets)
    results: dict[int, list[zmq.Frame]] = {}
    began_s = time.perf_counter()
    while len(results) < len(values):
        for index, socket in enumerate(sockets):
            while waiting and under_way[index] < UNDER_WAY:
                number, value = waiting.pop()
                goes_on = int((number + 1) * onward) > int(number * onward)
                data = value.data.cast("B")
                pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
                head = (ONWARD if goes_on else STRAIGHT) + str(number).encode()
                socket.send_multipart([head, *pieces], copy=False)
                under_way[index] += 1
        for socket, _ in poller.poll():
            head_back, *pieces_back = socket.recv_multipart(copy=False)
            results[int(head_back.bytes[1:])] = pieces_back
            under_way[sockets.index(socket)] -= 1
    took_s = time.perf_counter() - began_s
    for number, value in enumerate(values):
        assert b"".join(frame.buffer for frame in results[number]) == value.tobytes(), "it is not what was sent"
    return rate(values, took_s)


def measure_raw(report: Report, values: Sequence[Array], processes: int, rounds: int) -> None:
    """After the mesh: as much of it goes on to another process as there."""
    onward = max(0.0, median(report.over) - 1.0) if report.over else 0.0
    with echoes(processes) as sockets:
        by_echo(sockets, values[:WARM_UP], PIECE_BYTES)
        for _ in range(rounds):
            report.raw_pieces.append(by_echo(sockets, values, PIECE_BYTES))
            report.raw_frames.append(by_echo(sockets, values, values[0].nbytes))
            report.raw_hops.append(by_echo(sockets, values, PIECE_BYTES, onward))


# -- copies -----------------------------------------------------------------------------------------------------------


def read_all(told: Connection) -> None:
    """A process of its own: reads what it is told to, and says what that cost."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.linger = 0
        told.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        for copies, count in iter(told.recv, None):
            began_s = time.process_time()
            for _ in range(count):
                frame = socket.recv(copy=copies)
                touched = frame if copies else frame.buffer
                assert len(touched)
            told.send(time.process_time() - began_s)


def cost_us(socket: "zmq.Socket[bytes]", reader: Connection, size: int, count: int, way: tuple[bool, bool]) -> float:
    """CPU of both processes per message of so many bytes; their threads of ZeroMQ are part of it."""
    sender_copies, reader_copies = way
    socket.copy_threshold = 0  # no message is too small not to be copied
    data = np.ones(size, dtype=np.uint8).tobytes()
    reader.send((reader_copies, count))
    began_s = time.process_time()
    for _ in range(count):
        socket.send(data, 0, copy=sender_copies)
    theirs_s = reader.recv()
    return float(1e6 * (time.process_time() - began_s + theirs_s) / count)


def measure_copies(report: Report, total_mb: int, rounds: int) -> None:
    """Medians of some rounds, in which all ways take turns."""
    ours, theirs = Pipe()
    process = get_context("spawn").Process(target=read_all, args=(theirs,))
    process.start()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(f"tcp://127.0.0.1:{ours.recv()}")
        for size in SIZES:
            count = max(1, min(MESSAGES_MAX, total_mb * 10**6 // size))
            costs: dict[str, list[float]] = {who: [] for who in WAYS}
            for _ in range(rounds):
                for who, way in WAYS.items():
                    costs[who].append(cost_us(socket, ours, size, count, way))
            report.copies[size] = {who: median(each) for who, each in costs.items()}
        ours.send(None)
        process.join()


# -- the command ------------------------------------------------------------------------------------------------------


def table(report: Report) -> list[str]:
    rates = (report.mesh, report.raw_pieces, report.raw_frames, report.raw_hops)
    mesh_rate, pieces, frames, hops = map(median, rates)
    lines = [
        f"W4: {mesh_rate:,.0f} MB/s",
        f"raw: {pieces:,.0f} MB/s in pieces, {frames:,.0f} in one frame: W4 has {mesh_rate / max(pieces, frames):.0%}",
        f"hops: {hops:,.0f} MB/s raw over the same hops: W4 has {mesh_rate / hops:.0%}",
        f"over: {median(report.over):.2f} bytes crossed a socket per byte of input and output",
        f"memory: {report.grown_bytes / MB:+,.0f} MB after all rounds, {report.peak_bytes / MB:+,.0f} MB at most",
        "",
        "us of CPU per message, who copies:",
        f"{'bytes':>9}" + "".join(f"{who:>9}" for who in WAYS) + "   none / both",
    ]
    for size, costs in report.copies.items():
        mark = "  <- COPIED_BYTES" if size == COPIED_BYTES else ""
        figures = "".join(f"{costs[who]:9.1f}" for who in WAYS)
        lines.append(f"{size:9,}{figures}   {costs['none'] / costs['both']:11.2f}{mark}")
    return lines


def measure(peers: int, tasks: int, rounds: int, settle_s: float, copied_mb: int) -> Report:
    report = Report()
    values = large_inputs(tasks)
    measure_mesh(report, values, peers, settle_s, rounds)
    measure_raw(report, values, peers, rounds)
    measure_copies(report, copied_mb, rounds)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Large tensors through peers, beside raw ZeroMQ.")
    parser.add_argument("--quick", action="store_true", help="one small round: does it work at all")
    parser.add_argument("--rounds", type=int, default=5, help="medians are over this many (default: 5)")
    parser.add_argument("--peers", type=int, default=2, help="peers, with one executor each (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    options = parser.parse_args()
    if options.quick:
        report = measure(options.peers, TASKS_QUICK, 1, SETTLE_QUICK_S, COPIED_QUICK_MB)
    else:
        report = measure(options.peers, TASKS, options.rounds, SETTLE_S, COPIED_MB)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, ZeroMQ {zmq.zmq_version()}")
    print("\n".join(table(report)))
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=1))


if __name__ == "__main__":
    main()
