"""What has to end with a client that nobody closed."""

import weakref
from typing import Protocol

from .client import Client


class Ending(Protocol):
    """What a client stands on: a cluster of its own, or its connection to one."""

    def close(self) -> None:
        """End it, and wait for that."""
        ...

    def release(self) -> None:
        """End it without waiting."""
        ...


def end_with(client: Client, ending: Ending) -> None:
    """It must not outlive the client, nor leave anything when the process ends."""
    weakref.finalize(client, _end, weakref.ref(client), ending)


def _end(client: "weakref.ref[Client]", ending: Ending) -> None:
    if client() is not None:
        ending.close()  # the process ends
    else:
        ending.release()  # the garbage collector calls, from whichever thread, and must not be held up
