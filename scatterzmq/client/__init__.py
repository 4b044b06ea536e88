"""What users hold in their hands: clients, responses, futures. Talks to peers in the words of core/messages.py."""

from typing import TYPE_CHECKING, Any

from ..core.messages import QueueStats, TaskStatus
from .client import Client
from .futures import TaskFuture
from .link import BlobWriter, Connect, Inbox, Link, Member, Pumped
from .response import Response, Result

if TYPE_CHECKING:
    from .aio import AsyncClient

__all__ = [
    "AsyncClient",
    "BlobWriter",
    "Client",
    "Connect",
    "Inbox",
    "Link",
    "Member",
    "Pumped",
    "QueueStats",
    "Response",
    "Result",
    "TaskFuture",
    "TaskStatus",
]


def __getattr__(name: str) -> Any:
    """AsyncClient is loaded at its first use: it needs asyncio, and most programs do not."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .aio import AsyncClient

    return AsyncClient
