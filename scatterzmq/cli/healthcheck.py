"""`scatterzmq healthcheck`: whether the peer of this machine has an executor, for supervisors and containers."""

import argparse
import json
import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Any

from ..config import load
from ..errors import ClusterError, ConfigError
from .args import add_command, number

_TIMEOUT_S = 5.0
_BYTES_MAX = 1 << 16
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what one binds to, and what one can ask
_SUMMARY = "Ask a peer's health endpoint whether it has an executor."
_EXAMPLE = """\
  scatterzmq healthcheck --port 7412 || echo in trouble

Without --port it is the one of the settings: health.port of --config FILE, or
SCATTERZMQ_HEALTH_PORT. Exit: 0 if the peer has an executor, else 1."""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "healthcheck", summary=_SUMMARY, usage="[options]", example=_EXAMPLE)
    add = parser.add_argument
    add("--port", metavar="N", type=number(1), help="port of the endpoint")
    add("--host", metavar="HOST", help="where it is (default: this machine)")
    add("--config", metavar="FILE", help="the peer's file of settings")
    parser.set_defaults(call=healthcheck)


def healthcheck(options: argparse.Namespace) -> int:
    """0 if the peer has an executor. Raises ConfigError and ClusterError."""
    host, port = _endpoint(options)
    executors = _executors(host, port)
    if executors < 1:
        raise ClusterError(f"{host}:{port}: the peer has no executor that is ready")
    sys.stdout.write(f"{host}:{port}: {executors} executor{'s' if executors > 1 else ''}\n")
    return 0


def _endpoint(options: argparse.Namespace) -> tuple[str, int]:
    host, port = options.host, options.port
    if port is None or host is None:
        health = load(options.config, os.environ, {}).health
        host, port = host or health.bind, port or health.port
    if not port:
        raise ConfigError("no port to ask at: give --port, or set health.port (SCATTERZMQ_HEALTH_PORT)")
    host = host.strip("[]")
    return _EVERYWHERE.get(host, host), port


def _executors(host: str, port: int) -> int:
    """What the peer says. Raises ClusterError."""
    connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/api/info")
        response = connection.getresponse()
        body = response.read(_BYTES_MAX)
    except (OSError, HTTPException) as error:
        raise ClusterError(f"{host}:{port}: no peer answers: {error or type(error).__name__}") from error
    finally:
        connection.close()
    try:
        said = json.loads(body)
        executors = said["executors"]
        if response.status != 200 or isinstance(executors, bool) or not isinstance(executors, int):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ClusterError(f"{host}:{port}: what answers is no peer (HTTP {response.status})") from error
    return executors
