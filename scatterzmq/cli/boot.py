"""`--boot`: a peer that cannot start stays and says so, instead of ending and being started again and again."""

import signal
import threading
from types import FrameType

from .args import complain


def stay(error: Exception) -> signal.Signals:
    """Say what is wrong, once, and wait until somebody ends the process. Returns the signal.

    For the main thread only: no other gets signals.
    """
    over = threading.Event()
    came: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        came.append(number)
        over.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        complain(f"cannot start, and stays because of --boot: {error}")
        over.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return signal.Signals(came[0])
