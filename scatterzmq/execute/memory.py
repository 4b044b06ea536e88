"""Memory that was freed: kept by this process while there is work, and given back to the system after that.

Why     The C library gives large memory back when it is freed, and to copy into new memory takes five times as long as
        into some that is there.
"""

from .linux import give_back_freed_memory, keep_freed_memory

QUIET_BYTES = 1 << 20
"""Whoever has moved so little between two looks has no use for it."""


class FreedMemory:
    """Of a process, which keeps up to so much of it from now on."""

    def __init__(self, bytes_max: int) -> None:
        self._moved_bytes = 0
        self._may_be_kept = True
        keep_freed_memory(bytes_max)

    def look(self, moved_bytes: int) -> None:
        """From time to time: give it back, once, when little has moved since. moved_bytes: since the process began."""
        is_quiet = moved_bytes - self._moved_bytes < QUIET_BYTES
        if is_quiet and self._may_be_kept:
            give_back_freed_memory()
        self._may_be_kept = not is_quiet
        self._moved_bytes = moved_bytes
