"""Running other people's code: whatever it raises becomes a `Failure`, a plain record without frames or tensors.

The one place that catches everything. A node may raise SystemExit or its own BaseException just as well as a
ValueError, and an executor has to outlive all of them.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..errors import ErrorCode, MissingBlob
from ..frozen import frozen

_OURS = str(Path(__file__).parent)
_MESSAGE_CHARS_MAX = 2_000
_TRACEBACK_CHARS_MAX = 16_000  # a traceback travels with every row that failed
_MEMORY_WORDS = ("not enough memory", "DefaultCPUAllocator", "out of memory")


@frozen()
class Failure:
    """Why something did not work.

    whole: it has nothing to do with single rows, so running them again in halves would be in vain.
    interrupt: it was a KeyboardInterrupt.
    """

    code: ErrorCode
    message: str
    traceback: str = ""
    whole: bool = False
    interrupt: bool = False


def attempt(call: Callable[[], None]) -> Failure | None:
    """Call it; None if it returned. Nothing that it raised is referred to afterwards, so its memory is free again."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 -- this is what the module is for
        return _failure(error)
    return None


def printable(text: str, chars_max: int) -> str:
    """The text as it can be sent: no halves of surrogate pairs, and not endless (the end is what says most)."""
    if len(text) > chars_max:
        text = "..." + text[-chars_max:]
    return text.encode("utf-8", "backslashreplace").decode()


def _failure(error: BaseException) -> Failure:
    text = _text(error)
    if isinstance(error, MissingBlob):
        code = ErrorCode.MISSING_BLOB
    elif _is_out_of_memory(error, text):
        code = ErrorCode.OUT_OF_MEMORY
    else:
        code = ErrorCode.GENERAL_EXCEPTION
    interrupt = isinstance(error, KeyboardInterrupt)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failure(
        code=code,
        message=printable(message, _MESSAGE_CHARS_MAX),
        traceback=printable(_traceback(error), _TRACEBACK_CHARS_MAX),
        whole=interrupt,
        interrupt=interrupt,
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 -- the error is the node's, and so is its __str__
        return "(and describing the error failed too)"


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    """Whether host or device memory ran out; torch says so in several ways."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)


def _traceback(error: BaseException) -> str:
    """The stack as text, from the first frame that is not ours; "" if there is none."""
    stack: TracebackType | None = error.__traceback__
    while stack is not None and stack.tb_frame.f_code.co_filename.startswith(_OURS):
        stack = stack.tb_next
    if stack is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, stack))
