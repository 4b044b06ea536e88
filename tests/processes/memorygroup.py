"""A control group with little memory: of the processes in it the kernel kills one when together they want more."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_NUMBERS = count()
_ENDED_S = 30.0


class MemoryGroup:
    """folder: where the kernel shows it. Both versions of control groups are known."""

    def __init__(self, limit_bytes: int) -> None:
        parent, is_first_version = _parent()
        self.folder = parent / f"szq{os.getpid()}-{next(_NUMBERS)}"
        self._limit_bytes = limit_bytes
        if is_first_version:
            self._limit, self._events = "memory.limit_in_bytes", "memory.oom_control"
            self._swap, self._swap_bytes = "memory.memsw.limit_in_bytes", limit_bytes  # together with memory
        else:
            self._limit, self._events = "memory.max", "memory.events"
            self._swap, self._swap_bytes = "memory.swap.max", 0

    def build(self) -> None:
        self.folder.mkdir()
        (self.folder / self._limit).write_text(str(self._limit_bytes))
        swap = self.folder / self._swap
        if swap.exists():  # need not be accounted for
            swap.write_text(str(self._swap_bytes))

    def inside(self) -> list[str]:
        """What to put before a command so that it and all that it starts are in the group."""
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self.folder)]

    def kills(self) -> int:
        """How many processes of the group the kernel has killed."""
        lines = [line.split() for line in (self.folder / self._events).read_text().splitlines()]
        return next(int(number) for name, number in lines if name == "oom_kill")

    def close(self) -> None:
        """Nothing runs in it any more, but it may take the kernel a moment to see that."""
        until_s = time.monotonic() + _ENDED_S
        while self.folder.exists():
            try:
                self.folder.rmdir()
            except OSError:
                assert time.monotonic() < until_s, f"{self.folder} is still in use"
                time.sleep(0.01)


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    made = MemoryGroup(limit_bytes)
    try:
        made.build()
        yield made
    finally:
        made.close()


def available() -> str:
    """Why there can be none here; "" if there can."""
    try:
        with memory_group(1 << 30) as group:
            group.kills()
    except (OSError, StopIteration) as error:
        return f"no control group with a limit of memory can be made ({error})"
    return ""


def _parent() -> tuple[Path, bool]:
    """Below what a group can be made, and whether it is of the first version: there below our own, so that whatever
    holds for us holds there, too; in the second one where no processes are.
    """
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            return _MOUNT / "memory" / path.lstrip("/"), True
    for _, controllers, path in groups:
        own = _MOUNT / path.lstrip("/")
        for folder in (own, *own.parents) if not controllers else ():
            with suppress(OSError):
                if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                    return folder, False
    raise OSError("nobody keeps account of memory")
