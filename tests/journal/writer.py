"""A process that writes to a journal and says what is answered, to be killed or to run out of disk.

    python -m tests.journal.writer FOLDER MODE WRITES BYTES [TROUBLE]

Write n is task n, with BYTES bytes that follow from n. On stdout: "open", then "done N" or "failed N REASON".
TROUBLE: "limit" (no file may grow beyond 1 MiB), "sync" (no sync works), "odd" (the last write cannot be made).
"""

import errno
import os
import resource
import sys
import threading
from pathlib import Path
from typing import cast

from scatterzmq.core.events import Persisted, PersistFailed
from tests.journal.conftest import Mode, Writer, kept

UNDER_WAY = 8
"""Writes that wait for their answers."""
AFTERWARDS = 50
"""Writes that fail before it gives up."""


def data_of(number: int, nbytes: int) -> bytes:
    return (number.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]


def fails(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def main(folder: str, mode: str, writes: str, nbytes: str, trouble: str = "") -> None:
    free = threading.Semaphore(UNDER_WAY)
    done = [0]
    failed: list[int] = []

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def answered(answer: Persisted | PersistFailed) -> None:
        say(f"done {answer.write}" if isinstance(answer, Persisted) else f"failed {answer.write} {answer.reason}")
        for _ in range(answer.write - done[0]):
            free.release()
        done[0] = answer.write
        if isinstance(answer, PersistFailed):
            failed.append(answer.write)

    writer = Writer(Path(folder), cast(Mode, mode))
    writer.answers.post = answered  # type: ignore[method-assign]
    writer.journal._post = answered
    say("open")
    if trouble == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    if trouble == "sync":
        os.fsync = fails  # type: ignore[assignment]
    last = int(writes)
    for number in range(1, last + 1):
        free.acquire()
        if len(failed) >= AFTERWARDS:
            break
        is_odd = trouble == "odd" and number == last
        value = writer.rows.of(data_of(number, int(nbytes)))
        writer.send(kept(number, None if is_odd else {"value": value}))
    writer.journal.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
