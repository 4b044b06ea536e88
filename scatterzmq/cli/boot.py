"""`--boot`: a peer that cannot start stays and says so, instead of ending and being started again and again."""

import signal
import threading

from .args import complain
from .signals import on_ending


def stay(error: Exception) -> signal.Signals:
    """Say what is wrong, once, and wait until somebody ends the process. Returns the signal.

    For the main thread only: no other gets signals.
    """
    over = threading.Event()
    came: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        came.append(number)
        over.set()

    with on_ending(end):
        complain(f"cannot start, and stays because of --boot: {error}")
        over.wait()
    return came[0]
