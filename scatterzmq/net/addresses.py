"""Addresses: "tcp://host:port", as peers are reached."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Address:
    """host: without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for anything but tcp://host:port, with a host that ZeroMQ takes, too."""
        scheme, _, rest = text.partition("://")
        host, colon, digits = rest.rpartition(":")
        if scheme != "tcp" or not colon or not (digits.isascii() and digits.isdigit() and len(digits) <= 5):
            return None
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            return None
        if not 0 < int(digits) <= 65535 or not host or not set(host) <= _HOST_CHARACTERS:
            return None
        return cls(host, int(digits))

    def __str__(self) -> str:
        return endpoint(self.host, self.port)


_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-_%")


def endpoint(host: str, port: int | str) -> str:
    """As ZeroMQ has it; addresses of version 6 in brackets. port: may be "*"."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
