"""What Linux offers and Python 3.11 does not: maps without a descriptor, a timer to wait for, a shared end, a say in
what becomes of freed memory.

Why     `mmap.mmap` keeps a descriptor of its own per map, and a store of small results would run out of them.
"""

import ctypes
import os
from functools import cache
from time import monotonic

import numpy as np

_READ_WRITE = 1 | 2
_PRIVATE = 2
_FAILED = ctypes.c_void_p(-1).value
_DEATH_SIGNAL = 1
_MONOTONIC = 1
_ABSOLUTE = 1
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAPPED_NBYTES_MIN = 32 << 20
"""What is larger always goes back at once: the C library takes no higher number."""


class _TimerSpec(ctypes.Structure):
    """struct itimerspec"""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, number, pointer = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
    libc.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
    libc.mmap.restype = pointer
    libc.munmap.argtypes = (pointer, size)
    libc.prctl.argtypes = (number, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
    libc.timerfd_settime.argtypes = (number, number, ctypes.POINTER(_TimerSpec), pointer)
    return libc


def _checked(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class _Map:
    """Mapped memory, there for as long as somebody looks at it (through numpy, which asks for the attribute)."""

    def __init__(self, handle: int, nbytes: int) -> None:
        address = _libc().mmap(None, nbytes, _READ_WRITE, _PRIVATE, handle, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._place = (address, nbytes)
        self._unmap = _libc().munmap  # bound, as modules go before the last maps when the process ends
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        place = getattr(self, "_place", None)
        if place is not None:
            self._unmap(*place)


def map_private(handle: int, nbytes: int) -> memoryview:
    """The first bytes (at least one) of a file, to be read and written; what is written stays in this process.

    They live as long as any view of them. The handle may be closed. Raises OSError.
    """
    return np.asarray(_Map(handle, nbytes)).data


def new_memory(nbytes: int) -> bytearray:
    """Memory that is not cleared, and of small pages: numpy asks for large ones from 4 MiB on, and where they are short
    the system takes milliseconds to make one. Raises MemoryError.
    """
    made = bytearray()
    ctypes.pythonapi.PyByteArray_Resize(ctypes.py_object(made), ctypes.c_ssize_t(nbytes))
    return made


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends, however that happens."""
    from signal import SIGKILL

    _checked(_libc().prctl(_DEATH_SIGNAL, SIGKILL, 0, 0, 0))


def keep_freed_memory(nbytes: int) -> None:
    """Let this process keep so much of what it frees, to be used again. Nothing happens with another C library."""
    if hasattr(_libc(), "mallopt"):
        _libc().mallopt(_TRIM_THRESHOLD, nbytes)
        _libc().mallopt(_MMAP_THRESHOLD, _MAPPED_NBYTES_MIN)


def give_back_freed_memory() -> None:
    """To the system, all that is kept. Takes milliseconds."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


class Alarm:
    """A descriptor that can be read from a moment on (by the monotonic clock)."""

    def __init__(self) -> None:
        self.due_s: float | None = None
        self._handle = _checked(_libc().timerfd_create(_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        return self._handle

    def plan(self, due_s: float | None) -> None:
        """Ring then, or never; instead of what was planned before."""
        if due_s == self.due_s:
            return
        self.due_s = due_s
        # Nothing but zero means never, so what is overdue is due now.
        due_ns = 0 if due_s is None else max(1, int(max(due_s, monotonic()) * 1e9))
        spec = _TimerSpec(0, 0, due_ns // 1_000_000_000, due_ns % 1_000_000_000)
        _checked(_libc().timerfd_settime(self._handle, _ABSOLUTE, ctypes.byref(spec), None))

    def heard(self) -> None:
        """It has rung: be silent until something else is planned."""
        try:
            os.read(self._handle, 8)
        except BlockingIOError:
            return  # something else has been planned meanwhile
        self.due_s = None

    def close(self) -> None:
        os.close(self._handle)
