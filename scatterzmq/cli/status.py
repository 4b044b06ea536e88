"""`scatterzmq status`: what the peers of a cluster have to do, and what became of a task."""

import argparse
import json
import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .args import UsageError, add_cluster, add_command

if TYPE_CHECKING:
    from ..ids import TaskId

_FIND_S = 10.0
_ANSWER_S = 5.0
_SUMMARY = "Show the peers of a cluster, their queues and tasks, or one task."
_EXAMPLE = """\
  scatterzmq status --join tcp://host-a:7411
  scatterzmq status --task T0123456789abcdef0123456789abcdef

exit:    0, 1 if nobody answers or nobody knows the task"""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "status", summary=_SUMMARY, usage="[options]", example=_EXAMPLE)
    add_cluster(parser)
    parser.add_argument("--task", metavar="ID", help="where this task is, and why")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.set_defaults(call=status)


def status(options: argparse.Namespace) -> int:
    """Ask all peers. Returns 1 for a task that nobody knows. Raises ScatterError if no peer answers."""
    from ..core.messages import AskStats, AskTasks, Stats, TaskReports
    from ..questions import Questions
    from .statusview import lines_of, lines_of_task, task_view, view_of

    task = None if options.task is None else _task(options.task)
    with Questions(options.join or (), options.cluster) as questions:
        members = questions.find(_FIND_S)
        ids = [member.id for member in members]
        stats = questions.ask(ids, AskStats, _ANSWER_S)
        told = {} if task is None else questions.ask(ids, partial(AskTasks, ids=(task,)), _ANSWER_S)
        members = questions.members
    view = view_of(members, {peer: said for peer, said in stats.items() if isinstance(said, Stats)})
    if task is None:
        _write(view, lines_of(view), as_json=options.json)
        return 0
    reports = {peer: said.reports[0] for peer, said in told.items() if isinstance(said, TaskReports) and said.reports}
    found = task_view(task, reports, view)
    _write(found, lines_of_task(found), as_json=options.json)
    return 0 if found["status"] != "unknown" else 1


def _task(text: str) -> "TaskId":
    from ..ids import TaskId

    try:
        return TaskId.parse(text)
    except ValueError as error:
        raise UsageError(f"--task: {error}") from error


def _write(view: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(view, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))
