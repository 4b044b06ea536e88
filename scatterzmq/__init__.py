"""Run graphs of PyTorch sub-models on the machines you have.

Everything a user needs is here; it is loaded at its first use, so that `import scatterzmq` is quick and torch stays
out until a tensor is needed.
"""

import gc
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import (
    BlobError,
    ClusterError,
    ConfigError,
    ErrorCode,
    ErrorContext,
    ErrorInfo,
    FormatError,
    GraphError,
    MissingBlob,
    ScatterError,
    TaskError,
    Timeout,
)

if TYPE_CHECKING:
    from .client import AsyncClient, Client, Response, TaskStatus
    from .embedded import local
    from .ids import TaskId
    from .remote import connect

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BlobError",
    "Client",
    "ClusterError",
    "ConfigError",
    "ErrorCode",
    "ErrorContext",
    "ErrorInfo",
    "FormatError",
    "GraphError",
    "MissingBlob",
    "Response",
    "ScatterError",
    "TaskError",
    "TaskId",
    "TaskStatus",
    "Timeout",
    "connect",
    "errors",
    "local",
]

_HOMES = MappingProxyType(
    {
        "AsyncClient": ".client",
        "Client": ".client",
        "Response": ".client",
        "TaskId": ".ids",
        "TaskStatus": ".client",
        "connect": ".remote",
        "local": ".embedded",
    }
)
"""Name -> module that has it, for everything that is loaded at its first use."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Importing makes many objects that stay. A full collection meanwhile would find nothing, but walk through all of
    # torch's objects, which takes a good part of the time.
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        value = getattr(import_module(_HOMES[name], __name__), name)
    finally:
        if was_collecting:
            gc.enable()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
