"""What users hold in their hands: clients, responses, futures. Talks to peers in the words of core/messages.py."""

from ..core.messages import QueueStats, TaskStatus
from .aio import AsyncClient
from .client import Client
from .futures import TaskFuture
from .link import BlobWriter, Connect, Inbox, Link, Member, Pumped
from .response import Response, Result

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
