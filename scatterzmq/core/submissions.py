"""Submissions: how one waits to be accepted, and what may be wrong with it."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from ..graph.formats import Format
from ..ids import ClientId, TaskId
from .messages import Submit
from .values import Block


@dataclass(slots=True, eq=False)
class Waiting:
    """A submission for which there is no room yet.

    columns: the blocks with their names in the frame of the graph.
    start: its first row that is neither accepted nor refused. nbytes: of the rows from there.
    lookup: of its definition, which was not here (core/lookups.py).
    """

    sender: ClientId
    message: Submit
    blocks: Mapping[str, Block]
    columns: list[tuple[str, Block]]
    nbytes: int
    until_ms: int
    start: int = 0
    lookup: int | None = None

    def row_nbytes(self, row: int) -> int:
        return sum([block.row_nbytes(row) for block in self.blocks.values()])

    def open_among(self, ids: Container[TaskId]) -> list[TaskId]:
        """Those of these tasks that are here, neither accepted nor refused yet."""
        return [task for task in self.message.ids[self.start :] if task in ids]

    def is_repeated(self, sender: ClientId, message: Submit) -> bool:
        """Whether the client just says it again: then it must not take room twice."""
        return self.sender == sender and self.message.nonce == message.nonce and self.message.ids == message.ids


def uneven(message: Submit, blocks: Mapping[str, Block]) -> str:
    """What is wrong with the numbers of a submission; "" if everything is there once per task."""
    tasks = len(message.ids)
    wrong = []
    if len(message.submit_digests) != tasks:
        wrong.append(f"{len(message.submit_digests)} submit_digests")
    for name, digests in message.digests.items():
        if len(digests) != tasks:
            wrong.append(f"{len(digests)} digests of {name!r}")
    for name, block in blocks.items():
        if block.layout.rows != tasks:
            wrong.append(f"{block.layout.rows} rows of {name!r}")
    return f"a submission of {tasks} tasks has {', '.join(wrong)}" if wrong else ""


def misfit(formats: Format, blocks: Mapping[str, Block]) -> str:
    """What is wrong with the inputs of a submission; "" if they fit. Clients check it too; not all need be ours."""
    if blocks.keys() != formats.keys():
        return f"expected the fields {sorted(formats)}, got {sorted(blocks)}"
    for name, wanted in formats.items():
        layout = blocks[name].layout
        for shape in set(layout.shapes) if layout.shape is None else (layout.shape,):
            if not wanted.accepts(layout.dtype, shape):
                return f"field {name!r}: expected {wanted}, got {layout.dtype.name}{list(shape)}"
    return ""


def full(nbytes: int, taken: int, bytes_max: int, tasks: int) -> str:
    """Why there is no room for so many bytes, in the words of a refusal."""
    return (
        f"no room for {nbytes} bytes of input: {taken} of {bytes_max} bytes (store.record_bytes) are taken by inputs "
        f"and results of {tasks} tasks, each with some memory of its own; clear finished tasks or raise the setting"
    )
