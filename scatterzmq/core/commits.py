"""Commits: what another peer says came of a batch, checked and in the words of this core.

Rules   1. Whatever comes, each row of the batch is named at most once in what goes on; a wrong word fails the rows that
           it is about, and nothing else.
        2. What only an owner may say of a task (poison, cancelled, refused ...) is not taken from anybody else.
Why     Executors check what nodes answer where it is answered. So a mistake in here is one of another peer's software,
        and the task should not have to start over for ever because of it: it fails as if the node had raised.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import ErrorCode
from ..graph.formats import FieldFormat, Format, Layout
from ..graph.plan import GraphPlan, NodePlan, Plan
from ..ids import BlockId, GraphId
from .blocks import Blocks
from .events import BatchFinished, Emitted, RowsFailed
from .leases import Lease
from .needed import ALL
from .payloadmessages import Payload
from .peermessages import Commit, FailedPart, Part
from .values import Block, Value, known_digests, maker_of

Needed = Collection[tuple[GraphId, str]]
"""As core/needed.py finds it."""

_NOT_FOR_OTHERS = frozenset((ErrorCode.POISON, ErrorCode.CANCELLED, ErrorCode.CONFLICT, ErrorCode.REFUSED))


@dataclass(slots=True)
class Checked:
    """A commit as a batch is settled with. wrong: parts of it that could not be used as they were.

    away: blocks that stay with whoever made them -> the copy that came with the commit, and where its rows begin.
    """

    emitted: list[Emitted] = field(default_factory=list)
    failed: list[RowsFailed] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    wrong: int = 0
    away: dict[Block, tuple[Block | None, int]] = field(default_factory=dict)


def check(
    lease: Lease,
    message: Commit,
    blocks: Mapping[str, Block],
    *,
    needed: Needed,
    uses: Blocks,
) -> Checked:
    """Sort out what a commit says. blocks: the columns beside it. needed: what must be beside it.

    uses: knows of which blocks somebody has told already.
    """
    checked = Checked()
    node = lease.queue.node
    graph = lease.queue.plan.graphs[node.graph]
    graphs = lease.queue.plan.graphs
    open_rows = dict.fromkeys(range(len(lease.tasks)))
    for place, part in enumerate(message.parts):
        beside = {name: blocks.get(f"{place}:{name}") for name in part.fields}
        stays = {name: [block_of(payload) for payload in payloads] for name, payloads in part.stays.items()}
        columns = {name: [] if block is None else [block] for name, block in beside.items()} | stays
        called = None if part.call is None else graphs.get(part.call)
        problem = _problem(node, graph, part, called, columns)
        if stays and not problem:
            problem = _misnamed(lease, part, beside, stays, needed, checked.away, uses)
        # A row named out of turn spoils the order of the columns, but not the rows that are there.
        places = _taken(part.rows, open_rows)
        rows = tuple([part.rows[at] for at in places])
        checked.wrong += len(places) < len(part.rows) or bool(problem)
        if problem:
            message_ = f"{lease.holder} answered what node {node.name} cannot have: {problem}"
            checked.failed.append(RowsFailed(rows=rows, code=ErrorCode.GENERAL_EXCEPTION, message=message_))
            continue
        fields: dict[str, tuple[Value, ...]] = {}
        for name, column in columns.items():
            if len(column) == 1:
                fields[name] = tuple([(column[0], at) for at in places])
            else:
                rows_of = [(block, row) for block in column for row in range(block.layout.rows)]
                fields[name] = tuple([rows_of[at] for at in places])
        for name, column in stays.items():
            start = 0
            for block in column:
                checked.away[block] = (beside.get(name), start)
                start += block.layout.rows
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
    node: NodePlan, graph: GraphPlan, part: Part, called: GraphPlan | None, columns: Mapping[str, list[Block]]
) -> str:
    """What is wrong with a part; "" if nothing is."""
    for name, column in columns.items():
        if not column or sum([block.layout.rows for block in column]) != len(part.rows):
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


def _misnamed(
    lease: Lease,
    part: Part,
    beside: Mapping[str, Block | None],
    stays: Mapping[str, list[Block]],
    needed: Needed,
    others: Collection[Block],
    uses: Blocks,
) -> str:
    """What is wrong with the blocks of a part that its maker keeps; "" if nothing is."""
    named = [block.id for block in others] + [block.id for column in stays.values() for block in column]
    for name, column in stays.items():
        copy = beside.get(name)
        if copy is None and frame_name(lease.queue.plan, lease.queue.node, part, name) in needed:
            return f"field {name!r} only by name"
        if copy is not None and copy.layout.rows != len(part.rows):
            return f"field {name!r} without a row for each"
        for block in column:
            if block.id.maker != lease.holder or uses.is_used(block.id) or named.count(block.id) > 1:
                return f"field {name!r} in a block that is not new"
    return ""


def _misfit(formats: Format, names: Iterable[str], columns: Mapping[str, list[Block]]) -> str:
    if columns.keys() != set(names):
        return f"fields {sorted(columns)}, expected {sorted(names)}"
    return _mismatch(formats, columns)


def _mismatch(formats: Format, columns: Mapping[str, list[Block]]) -> str:
    for name, column in columns.items():
        form = formats.get(name)
        if form is not None and not all(fits(form, block.layout) for block in column):
            return f"field {name!r} is no {form}"
    return ""


def fits(form: FieldFormat, layout: Layout) -> bool:
    """Whether all rows are of a format."""
    shapes = (layout.shape,) if layout.shape is not None else dict.fromkeys(layout.shapes)
    return all(form.accepts(layout.dtype, shape) for shape in shapes)


def _loose(form: FieldFormat) -> FieldFormat:
    """The same dtype and rank, of any size."""
    return replace(form, shape=(None,) * len(form.shape))


@dataclass(slots=True)
class Told:
    """A commit as its owner is told. values: columns beside it. stays: blocks that it names and does not carry."""

    message: Commit
    values: dict[str, tuple[Value, ...]]
    stays: list[Block]


def commit_of(
    event: BatchFinished, order: int, plan: Plan, node: NodePlan, needed: Needed, inline_bytes: int | None = None
) -> Told:
    """What the owner of a batch is told of it.

    needed: what it needs itself. inline_bytes: rows that are larger than that stay here, if they can; None: none do.
    """
    twice = (plan.graphs[node.graph].payload_copies or 1) > 1
    parts = []
    beside: dict[str, tuple[Value, ...]] = {}
    stay: list[Block] = []
    for place, part in enumerate(event.emitted):
        stays: dict[str, tuple[Payload, ...]] = {}
        for name, values in part.fields.items():
            if inline_bytes is not None and frame_name(plan, node, part, name) not in needed:
                blocks = _large(values, inline_bytes)
                if blocks and not set(blocks) & set(stay):
                    stays[name] = tuple([payload_of(block) for block in blocks])
                    stay += blocks
        fields = tuple([name for name in part.fields if twice or name not in stays])
        digests = known_digests({name: part.fields[name] for name in fields})
        parts.append(
            Part(output=part.output, rows=part.rows, fields=fields, call=part.call, digests=digests, stays=stays)
        )
        beside |= {f"{place}:{name}": part.fields[name] for name in fields}
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
    message = Commit(executor=event.executor, order=order, parts=tuple(parts), failed=failed, missing=event.missing)
    return Told(message, beside, stay)


def part_of(event: BatchFinished, start: int, tasks: int) -> BatchFinished:
    """What came of some tasks of a batch, as if they had been one of their own."""
    own = range(start, start + tasks)
    emitted = []
    for part in event.emitted:
        places = [at for at, row in enumerate(part.rows) if row in own]
        if places:
            rows = tuple([part.rows[at] - start for at in places])
            fields = {name: tuple([values[at] for at in places]) for name, values in part.fields.items()}
            emitted.append(replace(part, rows=rows, fields=fields))
    failed = []
    for rows_failed in event.failed:
        rows = tuple([row - start for row in rows_failed.rows if row in own])
        if rows:
            failed.append(replace(rows_failed, rows=rows))
    missing = tuple([row - start for row in event.missing if row in own])
    return replace(event, emitted=tuple(emitted), failed=tuple(failed), missing=missing)


def frame_name(plan: Plan, node: NodePlan, part: Part | Emitted, field: str) -> tuple[GraphId, str]:
    """What a field of an answer becomes: a graph, and the field's name in its frame, as core/needed.py has them."""
    if part.call is not None:
        return part.call, f":{field}"
    return node.graph, ALL if plan.graphs[node.graph].is_block else f"{node.name}:{field}"


def any_stays(event: BatchFinished, plan: Plan, node: NodePlan, needed: Needed, inline_bytes: int) -> bool:
    """Whether something of an answer is large enough to stay where it was made."""
    return any(
        frame_name(plan, node, part, name) not in needed and _large(values, inline_bytes)
        for part in event.emitted
        for name, values in part.fields.items()
    )


def _large(values: tuple[Value, ...], inline_bytes: int) -> list[Block]:
    """The blocks of a column that is large enough to stay; [] if it is not, or not just these, or they cannot be
    fetched."""
    if not values or not values[0][0].checksum:
        return []  # nearly always: whoever stores a column gives a checksum only to what is large
    blocks = list(dict.fromkeys([block for block, _ in values]))
    if sum([block.nbytes for block in blocks]) <= inline_bytes * len(values):
        return []
    if not all(block.checksum for block in blocks):
        return []
    whole = [(block, row) for block in blocks for row in range(block.layout.rows)]
    return blocks if whole == list(values) else []


def payload_of(block: Block) -> Payload:
    """How others are told of a block."""
    return Payload(
        maker=maker_of(block),
        counter=block.id.counter,
        layout=block.layout,
        checksum=block.checksum,
        digests=block.digests,
    )


def block_of(payload: Payload) -> Block:
    """A block that somebody has told us of."""
    layout = payload.layout
    return Block(BlockId(payload.maker, payload.counter), layout, layout.nbytes, payload.digests, payload.checksum)
