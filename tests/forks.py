"""What a forked child is told when it does what only its parent may."""

import os
from collections.abc import Callable

from scatterzmq.errors import ClusterError


def told_in_a_fork(attempt: Callable[[], object], close: Callable[[], object]) -> str:
    """The ClusterError of an attempt in a child of this process, which closes what it tried, too; "" without one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            try:
                attempt()
            except ClusterError as error:
                os.write(writing, str(error).encode())
            close()
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    told = os.read(reading, 10_000).decode()
    os.close(reading)
    return told
