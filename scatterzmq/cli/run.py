"""`scatterzmq run`: a whole job in one command, on peers inside this process, or on a cluster that loads the graph."""

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import job
from .args import UsageError, add_command, number

if TYPE_CHECKING:
    from .. import Client

_SUMMARY = "Run a graph on every item of a file; results come in input order."
_EXAMPLE = f"""\
  scatterzmq run pipeline.json --input items.jsonl --output results.jsonl

{job.FILES}"""

_LOCAL: Mapping[str, str] = MappingProxyType(
    {
        "peers": "--peers",
        "executors": "--executors",
        "batch_size": "--batch-size",
        "max_retries": "--max-retries",
        "device": "--device",
        "allow": "--allow",
    }
)
"""Options for peers of this process, by their names among the parsed ones."""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "run", summary=_SUMMARY, usage="GRAPH --input FILE [options]", example=_EXAMPLE)
    add = parser.add_argument
    add("graph", metavar="GRAPH", help=argparse.SUPPRESS)
    job.add_files(parser)
    add("--join", metavar="ADDR", action="append", help="run it on the peers there: tcp://host:port")
    add("--peers", metavar="N", type=number(1), help="peers in this process (default: 1)")
    add("--executors", metavar="N", type=number(1), help="executors per peer")
    add("--batch-size", metavar="N", type=number(1), help="most items per batch")
    add("--max-retries", metavar="N", type=number(0), help="restarts before an item fails")
    add("--device", metavar="NAME", help="torch device: cpu, cuda, cuda:1, mps")
    add("--allow", metavar="MODULE", action="append", help="module of node kinds that may be imported")
    job.add_flow(parser)
    parser.set_defaults(call=run)


def run(options: argparse.Namespace) -> int:
    """Run the job. Returns 1 if any item failed. Raises ScatterError and OSError if it cannot be run at all."""
    if options.join:
        for name, option in _LOCAL.items():
            if getattr(options, name) is not None:
                raise UsageError(
                    f"{option} is for peers in this process; with --join the peers have it in their settings"
                )

    def connect() -> "AbstractContextManager[Client]":
        import scatterzmq

        if options.join:
            return scatterzmq.connect(options.join, cache=not options.no_cache)
        return scatterzmq.local(**_cluster(options))

    return job.do(options, connect, lambda client: client.load_graph(options.graph))


def _cluster(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as arguments of `local`; everything else keeps its default there.

    Whoever runs a job on the own machine may read the data of all installed packages.
    """
    given = {
        "peers": options.peers,
        "executors": options.executors,
        "batch_size": options.batch_size,
        "max_retries": options.max_retries,
        "device": options.device,
        "cache": False if options.no_cache else None,
        "plugins": options.allow,
    }
    return {name: value for name, value in given.items() if value is not None} | {"blobs": {"packages": ["*"]}}
