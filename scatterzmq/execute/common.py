"""What executors in threads and in children have in common: how they are named, and how a check is answered."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..core.events import GraphChecked
from ..errors import BlobError, MissingBlob
from ..graph.blobs import BlobFound, open_names, settle
from ..graph.nodeinfo import Describe
from ..ids import ExecutorId

if TYPE_CHECKING:
    from ..graph.check import Checked
    from .blobs import BlobStore

LookUp: TypeAlias = Callable[[Sequence[str]], Iterable[BlobFound]]
"""Names of blobs -> what is there. Takes its time."""


def new_executor_id() -> ExecutorId:
    return ExecutorId("E" + os.urandom(16).hex())


def graph_checked(request: int, definition: str, describe: Describe, look_up: LookUp | None = None) -> GraphChecked:
    """The answer to a CheckGraph. look_up: where blobs are to be settled. Raises what `describe` raises, unless it is a
    ValueError.
    """
    from ..graph.check import check

    checked = check(definition, describe)
    names = () if look_up is None else open_names(checked)
    return graph_settled(request, checked, describe, look_up(names) if look_up is not None and names else ())


def graph_settled(request: int, checked: "Checked", describe: Describe, found: Iterable[BlobFound]) -> GraphChecked:
    """The answer to a CheckGraph, with what was found of the blobs."""
    from ..graph.check import check

    found = tuple(found)
    warnings = checked.warnings
    if found:
        settled = settle(checked, found)
        warnings = (*warnings, *settled.warnings)
        if settled.problems:
            return GraphChecked(request=request, plan=None, problems=settled.problems, warnings=warnings)
        checked = check(settled.definition, describe)
    return GraphChecked(
        request=request,
        plan=checked.plan,
        problems=checked.problems,
        warnings=warnings,
        lacking=checked.lacking,
        manifest=checked.manifest(),
    )


def found_here(blobs: "BlobStore", names: Sequence[str]) -> list[BlobFound]:
    """What is in this store under these names. Reads it."""
    found = []
    for name in names:
        try:
            blob_bytes, digest = blobs.found(name)
        except MissingBlob as error:
            found.append(BlobFound(name=name, problem=f"{error}"))
        except BlobError as error:
            found.append(BlobFound(name=name, problem=f"{error}", fatal=True))
        else:
            found.append(BlobFound(name=name, blob_bytes=blob_bytes, digest=digest))
    return found


def check_failed(request: int, reason: str) -> GraphChecked:
    """The answer to a CheckGraph that could not be carried out."""
    return GraphChecked(request=request, plan=None, problems=(f"the check of this definition failed: {reason}",))
