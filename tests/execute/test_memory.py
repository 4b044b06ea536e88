"""Freed memory is kept while there is work, and given back after that."""

import subprocess
import sys
from textwrap import dedent

import pytest

from scatterzmq.execute import memory
from scatterzmq.execute.linux import new_memory
from scatterzmq.execute.memory import QUIET_BYTES, FreedMemory

KEEPS = """
    from pathlib import Path
    from scatterzmq.execute.linux import give_back_freed_memory, keep_freed_memory

    MIB = 1 << 20

    def held():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // MIB

    def used():
        made = [bytearray(b"x") * (8 * MIB) for _ in range(4)]
        del made
        return held()

    before = held()
    gone = used() - before
    keep_freed_memory(64 * MIB)
    kept = used() - before
    give_back_freed_memory()
    print(gone, kept, held() - before)
"""


def test_the_system_gets_freed_memory_back_only_when_it_is_told_to() -> None:
    ran = subprocess.run([sys.executable, "-c", dedent(KEEPS)], capture_output=True, text=True, check=True)
    gone, kept, given_back = [int(word) for word in ran.stdout.split()]
    assert gone < 16
    assert kept >= 30
    assert given_back < 16


def test_it_is_given_back_once_when_nothing_large_moves_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda nbytes: done.append(f"keep {nbytes}"))
    monkeypatch.setattr(memory, "give_back_freed_memory", lambda: done.append("give back"))
    freed = FreedMemory(7)
    told = []
    for moved in (QUIET_BYTES, 2 * QUIET_BYTES, 3 * QUIET_BYTES - 1, 3 * QUIET_BYTES, 5 * QUIET_BYTES, 5 * QUIET_BYTES):
        freed.look(moved)
        told.append(done.count("give back"))
    assert done[0] == "keep 7"
    assert told == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("nbytes", [0, 1, 5 << 20])
def test_new_memory_is_as_large_as_it_should_be_and_can_be_written_to(nbytes: int) -> None:
    made = new_memory(nbytes)
    assert len(made) == nbytes
    made[:] = b"x" * nbytes
    assert made.count(b"x") == nbytes


def test_memory_that_is_not_there_is_an_error() -> None:
    with pytest.raises(MemoryError):
        new_memory(1 << 62)
