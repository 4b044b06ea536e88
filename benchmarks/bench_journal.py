"""What a journal costs on a disk: tasks per second, and what one write waits.

    python benchmarks/bench_journal.py [--dir FOLDER] [--tasks 20000] [--bytes 64]

FOLDER: on the disk that is meant; one below it is made and removed. Each task is written once, with one tensor.

one by one   each write waits for the answer to the one before: what a lone client sees
together     64 writes are under way: what many clients get, as the thread of the journal writes all that wait at once
"""

import argparse
import queue
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scatterzmq.core.actions import Persist
from scatterzmq.core.entries import Kept
from scatterzmq.core.events import Persisted, PersistFailed
from scatterzmq.core.values import Block
from scatterzmq.core.versions import Version
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, PeerId, TaskId
from scatterzmq.journal import open_journal
from scatterzmq.wire.columns import Column

ME = PeerId("P" + "1" * 32)
SIZES = (1, 10, 100)
"""Tasks per write."""
MODES: Sequence[Literal["batch", "sync"]] = ("batch", "sync")
TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Cost:
    mode: str
    tasks_per_write: int
    under_way: int
    tasks_per_s: float
    write_ms: float


def entry(number: int, block: Block) -> Kept:
    return Kept(
        id=TaskId(f"T{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"),
        ns="bench",
        digest=bytes(32),
        nonce=bytes(8),
        submit_digest=bytes(16),
        version=Version(1, 1, ME, 1, 0),
        rset=(ME, ME),
        caching=True,
        errors=0,
        restarts=0,
        crashes=0,
        solo=False,
        last_error=None,
        status=None,
        duration_ms=0,
        values={"value": (block, 0)},
    )


def measure(
    folder: Path, mode: Literal["batch", "sync"], tasks: int, per_write: int, under_way: int, nbytes: int
) -> Cost:
    answers: queue.SimpleQueue[Persisted | PersistFailed] = queue.SimpleQueue()
    journal = open_journal(folder, mode, answers.put)
    layout = Layout(DTYPES["uint8"], 1, (nbytes,))
    column = Column(layout, memoryview(bytearray(nbytes)))
    block = Block(BlockId(ME, 1), layout, nbytes)
    writes = tasks // per_write
    entries = [tuple([entry(write * per_write + at, block) for at in range(per_write)]) for write in range(writes)]
    beside = [{"value": column}] * per_write
    done = 0
    began_s = time.perf_counter()
    for number, some in enumerate(entries, 1):
        while number - done > under_way:
            done = taken(answers.get())
        journal.write(Persist(write=number, entries=some, sync=mode == "sync"), beside)
    while done < writes:
        done = taken(answers.get())
    took_s = time.perf_counter() - began_s
    journal.close()
    return Cost(mode, per_write, under_way, writes * per_write / took_s, took_s / writes * 1000)


def taken(answer: Persisted | PersistFailed) -> int:
    assert isinstance(answer, Persisted), answer
    return answer.write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=64)
    options = parser.parse_args()
    print(f"{'mode':6} {'tasks per write':>15}  {'':10} {'tasks/s':>9} {'ms per write':>13}")
    for mode in MODES:
        for per_write in SIZES:
            for under_way in (1, TOGETHER):
                tasks = min(options.tasks, per_write * (2_000 if under_way == 1 else 20_000))
                with tempfile.TemporaryDirectory(dir=options.dir) as folder:
                    cost = measure(Path(folder), mode, tasks, per_write, under_way, options.bytes)
                how = "one by one" if under_way == 1 else "together"
                print(f"{mode:6} {per_write:15d}  {how:10} {cost.tasks_per_s:9.0f} {cost.write_ms:13.3f}")


if __name__ == "__main__":
    main()
