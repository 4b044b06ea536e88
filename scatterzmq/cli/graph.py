"""`scatterzmq graph check | show`: look at a graph file before any task runs."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from .args import add_command, help_formatter

if TYPE_CHECKING:
    from ..graph.check import Checked

_CHECK_EXAMPLE = """\
  scatterzmq graph check pipeline.json

exit:    0 if it can run (warnings or not), 1 if it cannot"""
_SHOW_EXAMPLE = """\
  scatterzmq graph show pipeline.json"""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "graph",
        help="Check or show a graph file.",
        description="Look at a graph file before any task runs.",
        epilog="example:\n  scatterzmq graph check pipeline.json",
        formatter_class=help_formatter,
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "List all problems of a graph file, one per line."
    check = add_command(actions, "check", summary=summary, usage="FILE [options]", example=_CHECK_EXAMPLE)
    show = add_command(
        actions, "show", summary="Show a graph file as a tree.", usage="FILE [options]", example=_SHOW_EXAMPLE
    )
    for command in (check, show):
        command.add_argument("file", metavar="FILE", help=argparse.SUPPRESS)
        command.add_argument(
            "--allow", metavar="MODULE", action="append", default=[], help="module of node kinds that may be imported"
        )
    check.add_argument("--json", action="store_true", help="print one JSON object instead")
    check.set_defaults(call=_check)
    show.set_defaults(call=_show)


def _check(options: argparse.Namespace) -> int:
    checked = _checked(options)
    problems, warnings = checked.problems, checked.warnings
    if options.json:
        report = {"ok": not problems, "problems": list(problems), "warnings": list(warnings)}
        sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    else:
        _write(options.file, [f"error: {line}" for line in problems] + [f"warning: {line}" for line in warnings])
        if checked.plan is not None and not problems:
            graphs, nodes = len(checked.plan.graphs), sum(len(graph.nodes) for graph in checked.plan.graphs.values())
            _write(options.file, [f"ok, graphs: {graphs}, nodes: {nodes}"])
    return 1 if problems else 0


def _write(file: str, lines: list[str]) -> None:
    sys.stdout.writelines(f"{file}: {line}\n" for line in lines)


def _checked(options: argparse.Namespace) -> "Checked":
    from ..graph.check import check
    from ..graph.definition import file_text
    from ..nodes.registry import Registry

    return check(file_text(options.file), Registry(tuple(options.allow)).describe)


def _show(options: argparse.Namespace) -> int:
    from ..graph.show import show

    checked = _checked(options)
    sys.stdout.write(show(checked))
    return 1 if checked.problems else 0
