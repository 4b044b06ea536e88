"""`scatterzmq submit`: a whole job on a running cluster, through a namespace that is loaded there."""

import argparse
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from . import job
from .args import add_cluster, add_command

if TYPE_CHECKING:
    from .. import Client

_SUMMARY = "Run every item of a file on a running cluster; results come in input order."
_EXAMPLE = f"""\
  scatterzmq submit main --input items.jsonl --join tcp://host-a:7411

{job.FILES}"""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "submit", summary=_SUMMARY, usage="NS --input FILE [options]", example=_EXAMPLE)
    parser.add_argument("ns", metavar="NS", help="namespace that is loaded there (see peer --graph)")
    job.add_files(parser)
    add_cluster(parser)
    job.add_flow(parser)
    parser.set_defaults(call=submit)


def submit(options: argparse.Namespace) -> int:
    """Run the job. Returns 1 if any item failed. Raises ScatterError and OSError if it cannot be run at all."""

    def connect() -> "AbstractContextManager[Client]":
        import scatterzmq

        return scatterzmq.connect(options.join, cluster=options.cluster, cache=not options.no_cache)

    return job.do(options, connect, lambda _: str(options.ns))
