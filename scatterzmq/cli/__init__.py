"""The command line: one file per command. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted, 141 the reader of the output is gone.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from .. import __version__
from ..errors import ScatterError
from . import cache, graph, healthcheck, peer, release, run, status, submit
from .args import PROGRAM, Parser, UsageError, complain, help_formatter

_EXAMPLE = """\
example:
  scatterzmq graph check pipeline.json
  scatterzmq run pipeline.json --input items.jsonl > results.jsonl

`scatterzmq COMMAND --help` says more, with an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never exits itself."""
    try:
        return _main(argv)
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        _forget_stdout()
        return 141


def _main(argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever the machine's language is
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # how argparse ends --help, --version and wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code: int = options.call(options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (ScatterError, OSError, ImportError) as error:
        if options.debug:
            raise
        complain(_said(error))
        return 2 if isinstance(error, UsageError) else 1
    return code


def _said(error: Exception) -> str:
    """What an error says. The system says it with a number and without what to do."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename!r}: {error.strerror}; check the path"
    return str(error) or type(error).__name__


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Run graphs of PyTorch sub-models.",
        epilog=_EXAMPLE,
        formatter_class=help_formatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run.add_to(commands)
    submit.add_to(commands)
    peer.add_to(commands)
    status.add_to(commands)
    release.add_to(commands)
    cache.add_to(commands)
    graph.add_to(commands)
    healthcheck.add_to(commands)
    return parser


def _forget_stdout() -> None:
    """The interpreter flushes stdout once more when it ends; without a reader that must go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
