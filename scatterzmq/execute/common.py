"""What executors in threads and in children have in common: how they are named, and how a check is answered."""

import os

from ..core.events import GraphChecked
from ..graph.nodeinfo import Describe
from ..ids import ExecutorId


def new_executor_id() -> ExecutorId:
    return ExecutorId("E" + os.urandom(16).hex())


def graph_checked(request: int, definition: str, describe: Describe) -> GraphChecked:
    """The answer to a CheckGraph. Raises what `describe` raises, unless it is a ValueError."""
    from ..graph.check import check

    checked = check(definition, describe)
    return GraphChecked(request=request, plan=checked.plan, problems=checked.problems, warnings=checked.warnings)


def check_failed(request: int, reason: str) -> GraphChecked:
    """The answer to a CheckGraph that could not be carried out."""
    return GraphChecked(request=request, plan=None, problems=(f"the check of this definition failed: {reason}",))
