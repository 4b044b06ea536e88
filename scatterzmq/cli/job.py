"""A whole job: the items of a file go in, results come out in the same order; for the commands that do that."""

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, ScatterError
from .args import Parser, UsageError, file_of, number
from .io import (
    INPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    Answer,
    ArrayWriter,
    Failure,
    Item,
    JsonWriter,
    Place,
    Read,
    Writer,
    count_items,
    opened,
    read_items,
)
from .nearest import NearestWriter
from .progress import progress

if TYPE_CHECKING:
    from .. import Client

_BAD_ITEMS_HELD = 1000

FILES = """\
input:   .jsonl one object of fields per line, also for - (stdin); .txt one text
         per line; .npy one field, a row per item
output:  JSON lines; a failed item as {"error": ...}; .npy for one field
exit:    0 if all went well, 1 if any item failed"""
"""For the help of these commands."""


def add_files(parser: Parser) -> None:
    """Options of all these commands."""
    add = parser.add_argument
    add("--input", metavar="FILE", required=True, type=file_of(*INPUT_SUFFIXES), help="items, - for stdin")
    add("--output", metavar="FILE", default="-", type=file_of(*OUTPUT_SUFFIXES), help="results (default: stdout)")
    add("--nearest", metavar="K", type=number(1), help="show each text's K nearest texts instead")


def add_flow(parser: Parser) -> None:
    """More of them."""
    add = parser.add_argument
    add("--window", metavar="N", type=number(1), default=4096, help="items under way at once (default: 4096)")
    add("--no-cache", action="store_true", help="compute everything")
    add("--no-progress", action="store_true", help="no progress bar")


def do(
    options: argparse.Namespace,
    connect: Callable[[], "AbstractContextManager[Client]"],
    namespace: Callable[["Client"], str],
) -> int:
    """Run the job. Returns 1 if any item failed. Raises ScatterError and OSError if it cannot be run at all.

    connect: makes the client, once the input is there. namespace: what the tasks are for.
    """
    _check(options)
    with ExitStack() as stack:
        source = stack.enter_context(opened(options.input, sys.stdin.buffer, "rb"))
        client = stack.enter_context(connect())
        ns = namespace(client)
        suffix = Path(options.input).suffix
        items = read_items(source, suffix, frozenset(client.main_inputs(ns)))
        texts = _text_outputs(client, ns)
        if options.nearest:
            _check_nearest(client, ns)
        is_array = options.output.endswith(".npy")
        if is_array:
            _check_array(client, ns)
        target = stack.enter_context(opened(options.output, sys.stdout, "wb" if is_array else "w"))
        writer: Writer
        if options.nearest:
            writer = NearestWriter(target, options.nearest, lines=options.output != "-")
            items = writer.listen(items)
        elif is_array:
            writer = ArrayWriter(target, sys.stderr)
        else:
            writer = JsonWriter(target, texts, flush=options.input == "-")
        wanted = not options.no_progress and not (options.output == "-" and sys.stdout.isatty())
        bar = stack.enter_context(progress(count_items(options.input, suffix) if wanted else None, wanted=wanted))
        failed = 0
        for answer in answers(client, ns, items, options.window):
            writer.write(answer)
            failed += isinstance(answer, Failure)
            bar.step()
        writer.finish()
    return 1 if failed else 0


def answers(client: "Client", ns: str, items: Iterator[Read], window: int) -> Iterator[Answer]:
    """One answer per item, in order, with at most `window` tasks under way.

    Bad items take their place between the results. A great many of them in a row wait until all before them are
    done, instead of piling up.
    """
    waiting: deque[tuple[Place, FormatError | None]] = deque()  # what has been read and not yet answered; None: a task
    exhausted = False

    def tasks() -> Iterator[Item]:
        nonlocal exhausted
        bad = 0
        for place, item in items:
            if isinstance(item, FormatError):
                waiting.append((place, item))
                bad += 1
                if bad >= _BAD_ITEMS_HELD:
                    return
            else:
                waiting.append((place, None))
                bad = 0
                yield item
        exhausted = True

    def failures() -> Iterator[Failure]:
        """Those that come before the next task."""
        while waiting and (error := waiting[0][1]) is not None:
            yield Failure(waiting.popleft()[0], error)

    while not exhausted:
        for result in client.map(ns, tasks(), window=window, ordered=True, return_exceptions=True):
            yield from failures()
            place, _ = waiting.popleft()
            if isinstance(result, ScatterError):
                yield Failure(place, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result
        yield from failures()


def _check(options: argparse.Namespace) -> None:
    if options.output != "-" and options.input != "-" and _same_file(options.input, options.output):
        raise UsageError(f"--output {options.output} is the input itself")
    if options.nearest and options.output.endswith(".npy"):
        raise UsageError("--nearest writes texts: use --output with .jsonl, or none")


def _same_file(left: str, right: str) -> bool:
    return os.path.exists(right) and os.path.samefile(left, right)


def _text_outputs(client: "Client", ns: str) -> frozenset[str]:
    """The outputs that are shown as strings: uint8[null]."""
    return frozenset(
        field for field in client.main_outputs(ns) if tuple(client.output_format(ns, field)) == ("uint8", (None,))
    )


def _check_array(client: "Client", ns: str) -> None:
    outputs = sorted(client.main_outputs(ns))
    if len(outputs) != 1:
        raise UsageError(f"a .npy file holds one field, this graph gives {', '.join(outputs) or 'none'}: use .jsonl")


def _check_nearest(client: "Client", ns: str) -> None:
    inputs, outputs = sorted(client.main_inputs(ns)), sorted(client.main_outputs(ns))
    formats = [client.output_format(ns, field) for field in outputs]
    floats = ("float", "double", "half", "bfloat")
    if len(inputs) != 1 or len(formats) != 1 or len(formats[0][1]) != 1 or not formats[0][0].startswith(floats):
        raise UsageError(
            f"--nearest needs a graph with one text in and one vector out; "
            f"{ns!r} has {', '.join(inputs)} -> {', '.join(outputs)}"
        )
