"""Commits: what another peer says came of a batch, checked and in the words of this core.

Rules   1. Whatever comes, each row of the batch is named at most once in what goes on; a wrong word fails the rows that
           it is about, and nothing else.
        2. What only an owner may say of a task (poison, cancelled, refused ...) is not taken from anybody else.
Why     Executors check what nodes answer where it is answered. So a mistake in here is one of another peer's software,
        and the task should not have to start over for ever because of it: it fails as if the node had raised.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import ErrorCode
from ..graph.formats import FieldFormat, Format, Layout
from ..graph.plan import GraphPlan, NodePlan
from .events import BatchFinished, Emitted, RowsFailed
from .leases import Lease
from .peermessages import Commit, FailedPart, Part
from .values import Block, Value

_NOT_FOR_OTHERS = frozenset((ErrorCode.POISON, ErrorCode.CANCELLED, ErrorCode.CONFLICT, ErrorCode.REFUSED))


@dataclass(slots=True)
class Checked:
    """A commit as a batch is settled with. wrong: parts of it that could not be used as they were."""

    emitted: list[Emitted] = field(default_factory=list)
    failed: list[RowsFailed] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    wrong: int = 0


def check(lease: Lease, message: Commit, blocks: Mapping[str, Block]) -> Checked:
    """Sort out what a commit says. blocks: the columns beside it."""
    checked = Checked()
    node = lease.queue.node
    graph = lease.queue.plan.graphs[node.graph]
    graphs = lease.queue.plan.graphs
    open_rows = dict.fromkeys(range(len(lease.tasks)))
    for place, part in enumerate(message.parts):
        columns = {name: blocks.get(f"{place}:{name}") for name in part.fields}
        called = None if part.call is None else graphs.get(part.call)
        problem = _problem(node, graph, part, called, columns)
        # A row named out of turn spoils the order of the columns, but not the rows that are there.
        places = _taken(part.rows, open_rows)
        rows = tuple([part.rows[at] for at in places])
        checked.wrong += len(places) < len(part.rows) or bool(problem)
        if problem:
            message_ = f"{lease.holder} answered what node {node.name} cannot have: {problem}"
            checked.failed.append(RowsFailed(rows=rows, code=ErrorCode.GENERAL_EXCEPTION, message=message_))
            continue
        fields: dict[str, tuple[Value, ...]] = {
            name: tuple([(block, at) for at in places]) for name, block in columns.items() if block is not None
        }
        checked.emitted.append(Emitted(output=part.output, rows=rows, fields=fields, call=part.call))
    for failed in message.failed:
        places = _taken(failed.rows, open_rows)
        code = ErrorCode.UNKNOWN if failed.code in _NOT_FOR_OTHERS else failed.code
        checked.wrong += len(places) < len(failed.rows) or code != failed.code
        checked.failed.append(
            RowsFailed(
                rows=tuple([failed.rows[at] for at in places]),
                code=code,
                message=failed.message,
                traceback=failed.traceback,
                final=failed.final,
                node=failed.node,
            )
        )
    places = _taken(message.missing, open_rows)
    checked.wrong += len(places) < len(message.missing)
    checked.missing = [message.missing[at] for at in places]
    return checked


def _taken(rows: tuple[int, ...], open_rows: dict[int, None]) -> list[int]:
    """The places in `rows` of those that are open; they are not any more."""
    places = []
    for at, row in enumerate(rows):
        if row in open_rows:
            del open_rows[row]
            places.append(at)
    return places


def _problem(
    node: NodePlan, graph: GraphPlan, part: Part, called: GraphPlan | None, columns: Mapping[str, Block | None]
) -> str:
    """What is wrong with a part; "" if nothing is."""
    for name, block in columns.items():
        if block is None or block.layout.rows != len(part.rows):
            return f"field {name!r} without a row for each"
    if graph.is_block:
        if part.output or part.call is not None:
            return f"output {part.output!r} of a block"
        return _misfit(graph.output_format, graph.outputs, columns)
    way = node.outputs.get(part.output)
    if way is None:
        return f"no output {part.output!r}"
    if part.call is None:
        return _misfit(way.format, way.format, columns)
    if called is None or called.id not in node.calls:
        return f"no call of {part.call}"
    # A call may pass more than the graph takes, and sizes that it leaves open: what reads them looks again.
    if not called.input_format.keys() <= columns.keys():
        return f"fields {sorted(columns)} for graph {called.name}"
    return _mismatch({name: _loose(form) for name, form in called.input_format.items()}, columns)


def _misfit(formats: Format, names: Iterable[str], columns: Mapping[str, Block | None]) -> str:
    if columns.keys() != set(names):
        return f"fields {sorted(columns)}, expected {sorted(names)}"
    return _mismatch(formats, columns)


def _mismatch(formats: Format, columns: Mapping[str, Block | None]) -> str:
    for name, block in columns.items():
        form = formats.get(name)
        if block is not None and form is not None and not fits(form, block.layout):
            return f"field {name!r} is no {form}"
    return ""


def fits(form: FieldFormat, layout: Layout) -> bool:
    """Whether all rows are of a format."""
    shapes = (layout.shape,) if layout.shape is not None else dict.fromkeys(layout.shapes)
    return all(form.accepts(layout.dtype, shape) for shape in shapes)


def _loose(form: FieldFormat) -> FieldFormat:
    """The same dtype and rank, of any size."""
    return replace(form, shape=(None,) * len(form.shape))


def commit_of(event: BatchFinished, order: int) -> tuple[Commit, dict[str, tuple[Value, ...]]]:
    """What the owner of a batch is told of it, with the columns beside it."""
    parts = tuple(
        [
            Part(
                output=part.output,
                rows=part.rows,
                fields=tuple(part.fields),
                call=part.call,
                digests={name: known for name, values in part.fields.items() if (known := digests_of(values))},
            )
            for part in event.emitted
        ]
    )
    failed = tuple(
        [
            FailedPart(
                rows=failed.rows,
                code=failed.code,
                message=failed.message,
                traceback=failed.traceback,
                final=failed.final,
                node=failed.node,
            )
            for failed in event.failed
        ]
    )
    message = Commit(executor=event.executor, order=order, parts=parts, failed=failed, missing=event.missing)
    return message, {
        f"{place}:{name}": values for place, part in enumerate(event.emitted) for name, values in part.fields.items()
    }


def digests_of(values: Iterable[Value]) -> tuple[bytes, ...]:
    """Content digest per value; () if one of them is not known."""
    digests = []
    for block, row in values:
        if not block.digests:
            return ()
        digests.append(block.digests[row])
    return tuple(digests)
