"""The HTTP endpoint of a peer: whether it lives, whether it works, what it is."""

from .board import Health, HealthBoard
from .info import Info, info_of
from .server import HealthServer, serve

__all__ = ["Health", "HealthBoard", "HealthServer", "Info", "info_of", "serve"]
