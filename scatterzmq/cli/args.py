"""What the commands share: types of arguments, the look of help and of complaints."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ScatterError

PROGRAM = "scatterzmq"

help_formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=26, width=80)
"""Keeps the examples as they are written, and every help within 80 columns."""


class UsageError(ScatterError):
    """Options that do not fit each other, or do not fit the graph."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def complain(message: str) -> None:
    """One line on stderr, whatever the message looks like."""
    sys.stderr.write(f"{PROGRAM}: {' '.join(message.split())}\n")


def number(low: int) -> Callable[[str], int]:
    """A type of argument: a whole number of at least `low`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text!r}")
        return value

    return convert


def size(text: str) -> int:
    """A type of argument: bytes, as "8GiB"."""
    from ..settings import size_of

    value = size_of(text)
    if not isinstance(value, int) or value < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 8GiB, got {text!r}")
    return value


def file_of(*suffixes: str) -> Callable[[str], str]:
    """A type of argument: "-" or a file name that ends in one of the suffixes."""

    def convert(text: str) -> str:
        if text != "-" and Path(text).suffix not in suffixes:
            raise argparse.ArgumentTypeError(f"expected - or a file name with {', '.join(suffixes)}, got {text!r}")
        return text

    return convert


def add_command(commands: Any, name: str, *, summary: str, usage: str, example: str) -> Parser:
    """A command with what all of them have."""
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        usage=f"%(prog)s {usage}",
        epilog=f"example:\n{example}",
        formatter_class=help_formatter,
    )
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def add_cluster(parser: Parser) -> None:
    """Options that say which cluster is meant."""
    add = parser.add_argument
    add("--join", metavar="ADDR", action="append", help="tcp://host:port of a peer (default: find one by zeroconf)")
    add("--cluster", metavar="NAME", help="which one is meant (default: whichever is at --join, else 'default')")
