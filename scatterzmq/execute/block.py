"""A whole graph in one go: the interpreter of block graphs.

Rules   1. Rows stay columnar: rows that took the same way through a frame form a segment, whose columns are cut only
           where rows part and joined only where they meet.
        2. Rows wait at a node until nobody else could still join them there, so that those who come by different ways
           run as one batch. In a cycle, where everybody could still join, the order of the nodes decides.
        3. A call pushes a frame. The innermost calls run first: whoever waits outside may be joined by those inside.
        4. A row that fails, fails alone; a row that nobody waits for any more goes no further.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..core.events import RowsFailed
from ..errors import ErrorCode
from ..frozen import frozen
from ..graph.plan import GraphPlan, NodePlan, Plan
from ..ids import GraphId, NodeId, QueueId
from ..wire.tensors import Column, gather, join
from .failure import Failure
from .noderun import CANCELLED, Outcome, misfits, rows_failed

DEPTH_MAX = 10_000
"""Calls within calls; a recursion that does not end must not fill the memory."""

_NOT_PASSED = "the node that makes it was not on this task's way"

Columns: TypeAlias = Mapping[str, Column]
RunNode: TypeAlias = Callable[[NodePlan, str, tuple[int, ...], Columns], Outcome]
"""(node, its name for failures, positions, field -> column with a row per position) -> what became of the positions"""


@frozen(eq=False, kw_only=False)
class _Segment:
    """Rows that have the same names in their frame. columns: name in the frame -> one row per position."""

    positions: tuple[int, ...]
    columns: Columns

    def select(self, indices: Sequence[int], drop: Sequence[str]) -> "_Segment":
        if not indices:
            return _Segment((), {})
        columns = {name: column for name, column in self.columns.items() if name not in drop}
        if len(indices) == len(self.positions) and list(indices) == list(range(len(indices))):
            return _Segment(self.positions, columns)
        return _Segment(
            tuple(self.positions[index] for index in indices),
            {name: gather([(column, index) for index in indices]) for name, column in columns.items()},
        )


@frozen(eq=False, kw_only=False)
class _Frame:
    """A graph that runs, on behalf of a caller's `output` (None, None, "" for the block itself).

    All rows that came by the same calls share one. number: counts the frames, for a fixed order.
    """

    graph: GraphPlan
    depth: int
    number: int
    outer: "_Frame | None" = None
    caller: NodePlan | None = None
    output: str = ""


class BlockRun:
    """Runs rows through one block graph. Used once."""

    def __init__(self, plan: Plan, graph: GraphPlan, run_node: RunNode, dead: set[int]) -> None:
        self.failed: list[RowsFailed] = []
        self._plan = plan
        self._run_node = run_node
        self._dead = dead
        self._base = _Frame(graph, 0, 0)
        self._frames: dict[tuple[int, NodeId, str, GraphId], _Frame] = {}
        self._ranks: dict[GraphId, dict[NodeId, int]] = {}
        self._waiting: dict[tuple[_Frame, NodeId], list[_Segment]] = {}
        # Per position, what the frames outside of the current one hold: (segment, index in it), innermost last.
        self._outside: dict[int, list[tuple[_Segment, int]]] = {}
        self._finished: list[_Segment] = []

    def run(self, positions: tuple[int, ...], columns: Columns) -> list[tuple[tuple[int, ...], Columns]]:
        """The graph's result as (positions, field -> column), at most one entry; the rest is in `failed`.

        columns: field of the graph's input -> one row per position.
        """
        segment = _Segment(positions, {f":{field}": column for field, column in columns.items()})
        self._arrive(self._base, self._base.graph.first, segment)
        while self._waiting:
            frame, node_id = min(self._waiting, key=self._turn)
            node = frame.graph.nodes[node_id]
            for segments in self._batches(node, _merged(self._waiting.pop((frame, node_id)))):
                self._step(frame, node, segments)
        if not self._finished:
            return []
        done = _join(self._finished)
        return [(done.positions, done.columns)]

    # ---- whose turn it is

    def _turn(self, place: tuple[_Frame, NodeId]) -> tuple[int, int, int]:
        frame, node_id = place
        ranks = self._ranks.get(frame.graph.id)
        if ranks is None:
            ranks = self._ranks[frame.graph.id] = _ranks(frame.graph)
        return -frame.depth, ranks[node_id], frame.number

    def _batches(self, node: NodePlan, segments: list[_Segment]) -> Iterator[list[_Segment]]:
        """What runs at once: all of it, unless the node wants smaller batches."""
        count = sum(len(segment.positions) for segment in segments)
        lengths = _padded_lengths(node, segments) if node.batch_tokens is not None else [0] * count
        pieces = cut(lengths, node.batch_size or count, node.batch_tokens)
        if len(pieces) == 1:
            yield segments
            return
        places = [(segment, index) for segment in segments for index in range(len(segment.positions))]
        for piece in pieces:
            yield _regroup([places[number] for number in piece])

    # ---- one node

    def _step(self, frame: _Frame, node: NodePlan, segments: list[_Segment]) -> None:
        """Run a node on these segments as one batch, and send the rows on their ways."""
        segments = [ready for segment in segments if (ready := self._ready(frame, node, segment)) is not None]
        if not segments:
            return
        columns = {field: join([segment.columns[name] for segment in segments]) for field, name in node.inputs.items()}
        positions = segments[0].positions
        if len(segments) > 1:
            positions = tuple(position for segment in segments for position in segment.positions)
        outcome = self._run_node(node, self._name(frame, node), positions, columns)
        self.failed.extend(outcome.failed)
        for output, rows, fields, call in outcome.answers:
            drop = node.outputs[output].drop
            if rows == positions and len(segments) == 1:
                parts = [(segments[0].select(range(len(rows)), drop), fields)]
            else:
                parts = _parts(segments, rows, drop, fields)
            for segment, news in parts:
                if call is None:
                    self._leave(frame, node, output, segment, news)
                else:
                    self._call(frame, node, output, segment, news, call)

    def _ready(self, frame: _Frame, node: NodePlan, segment: _Segment) -> _Segment | None:
        """The rows of a segment that can go into the node; all others fail here."""
        if self._dead:
            alive = [index for index, position in enumerate(segment.positions) if position not in self._dead]
            if len(alive) < len(segment.positions):
                gone = tuple(position for position in segment.positions if position in self._dead)
                self.failed.append(rows_failed(gone, CANCELLED, self._name(frame, node)))
                segment = segment.select(alive, ())
        if not segment.positions:
            return None
        missing = [f"{field!r} (from {name!r})" for field, name in node.inputs.items() if name not in segment.columns]
        if not missing:
            return segment
        message = f"{self._plan.place(node)} lacks {', '.join(missing)}: {_NOT_PASSED}"
        self._fail(segment, message, self._name(frame, node))
        return None

    def _name(self, frame: _Frame, node: NodePlan) -> str:
        """As failures name it: a graph other than the block's own is named, too."""
        return node.name if frame.graph is self._base.graph else f"{frame.graph.name}:{node.name}"

    def _fail(self, segment: _Segment, message: str, name: str, *, final: bool = False) -> None:
        failure = Failure(code=ErrorCode.GENERAL_EXCEPTION, message=message)
        self.failed.append(replace(rows_failed(segment.positions, failure, name), final=final))

    # ---- from node to node

    def _arrive(self, frame: _Frame, node_id: NodeId, segment: _Segment) -> None:
        self._waiting.setdefault((frame, node_id), []).append(segment)

    def _leave(self, frame: _Frame, node: NodePlan, output: str, segment: _Segment, fields: Columns) -> None:
        """Rows leave a node with these fields, and every graph that ends there."""
        leaving = [(frame, node, output, segment, fields)]
        while leaving:
            frame, node, output, segment, fields = leaving.pop()
            way = node.outputs[output]
            columns = dict(segment.columns)
            columns.update((f"{node.name}:{field}", column) for field, column in fields.items())
            for name in way.drop:
                columns.pop(name, None)
            segment = _Segment(segment.positions, columns)
            if way.next is not None:
                self._arrive(frame, _node_of(frame.graph, way.next), segment)
                continue
            result = self._result(frame, segment, self._name(frame, node))
            if result is None:
                continue
            if frame.outer is None or frame.caller is None:
                self._finished.append(result)
                continue
            # The frames of the callers may be cut differently from each other and from the result.
            outside = [self._outside[position].pop() for position in result.positions]
            drop = frame.caller.outputs[frame.output].drop
            numbers: dict[int, list[int]] = {}
            for number, (saved, _) in enumerate(outside):
                numbers.setdefault(id(saved), []).append(number)
            for rows in numbers.values():
                saved = outside[rows[0]][0]
                part = saved.select([outside[number][1] for number in rows], drop)
                news = result.select(rows, ()).columns
                leaving.append((frame.outer, frame.caller, frame.output, part, news))

    def _result(self, frame: _Frame, segment: _Segment, name: str) -> _Segment | None:
        """The outputs of a graph that ends; None if they are not all there. Rows that do not fit its format fail."""
        graph = frame.graph
        missing = [
            f"{field!r} (from {source!r})" for field, source in graph.outputs.items() if source not in segment.columns
        ]
        if missing:
            place = self._plan.qualified(graph.id)
            message = f"graph {place} ended without {', '.join(missing)}: {_NOT_PASSED}"
            self._fail(segment, message, name)
            return None
        result = _Segment(
            segment.positions, {field: segment.columns[source] for field, source in graph.outputs.items()}
        )
        wrong = misfits(result.columns, graph.output_format, len(result.positions))
        for index, problem in wrong.items():
            message = f"output of graph {self._plan.qualified(graph.id)}: {problem}"
            self._fail(result.select([index], ()), message, name)
        if not wrong:
            return result
        rest = result.select([index for index in range(len(result.positions)) if index not in wrong], ())
        return rest if rest.positions else None

    def _call(self, frame: _Frame, node: NodePlan, output: str, segment: _Segment, fields: Columns, call: str) -> None:
        """Rows go into another graph, to come back on `output`."""
        graph = next(graph for graph in self._plan.graphs.values() if graph.name == call)
        if frame.depth >= DEPTH_MAX:
            message = f"{self._plan.place(node)}: {DEPTH_MAX} calls within each other; does the recursion end?"
            self._fail(segment, message, self._name(frame, node), final=True)
            return
        key = (frame.number, node.id, output, graph.id)
        inner = self._frames.get(key)
        if inner is None:
            inner = _Frame(graph, frame.depth + 1, len(self._frames) + 1, frame, node, output)
            self._frames[key] = inner
        for index, position in enumerate(segment.positions):
            self._outside.setdefault(position, []).append((segment, index))
        self._arrive(inner, graph.first, _Segment(segment.positions, {f":{name}": fields[name] for name in fields}))


# ---- segments


def _parts(
    segments: Sequence[_Segment], positions: Sequence[int], drop: Sequence[str], fields: Columns
) -> list[tuple[_Segment, Columns]]:
    """The segments cut down to some positions, each with its part of the fields answered for those."""
    home = {
        position: (number, index)
        for number, segment in enumerate(segments)
        for index, position in enumerate(segment.positions)
    }
    rows: dict[int, list[tuple[int, int]]] = {}
    for row, position in enumerate(positions):
        number, index = home[position]
        rows.setdefault(number, []).append((index, row))
    parts: list[tuple[_Segment, Columns]] = []
    for number, pairs in rows.items():
        news = {name: gather([(column, row) for _, row in pairs]) for name, column in fields.items()}
        parts.append((segments[number].select([index for index, _ in pairs], drop), news))
    return parts


def _regroup(places: Sequence[tuple[_Segment, int]]) -> list[_Segment]:
    """Rows (segment, index) as segments of their own."""
    indices: dict[int, tuple[_Segment, list[int]]] = {}
    for segment, index in places:
        indices.setdefault(id(segment), (segment, []))[1].append(index)
    return [segment.select(rows, ()) for segment, rows in indices.values()]


def _merged(segments: list[_Segment]) -> list[_Segment]:
    """Segments with the same names become one."""
    if len(segments) == 1:
        return segments
    alike: dict[frozenset[str], list[_Segment]] = {}
    for segment in segments:
        alike.setdefault(frozenset(segment.columns), []).append(segment)
    return [_join(group) for group in alike.values()]


def _join(segments: Sequence[_Segment]) -> _Segment:
    if len(segments) == 1:
        return segments[0]
    return _Segment(
        tuple(position for segment in segments for position in segment.positions),
        {name: join([segment.columns[name] for segment in segments]) for name in segments[0].columns},
    )


# ---- order and size


def _node_of(graph: GraphPlan, queue: QueueId) -> NodeId:
    return next(node.id for node in graph.nodes.values() if node.queue == queue)


def _ranks(graph: GraphPlan) -> dict[NodeId, int]:
    """Nodes in an order in which, cycles apart, everybody who can come to a node has come when it is its turn.

    A node from which more nodes can be reached comes earlier: it can then not be reached from a later one.
    """
    nodes = list(graph.nodes.values())
    after = {
        node.id: [_node_of(graph, way.next) for way in node.outputs.values() if way.next is not None] for node in nodes
    }
    reach = {node.id: len(_reachable(node.id, after)) for node in nodes}
    order = sorted(nodes, key=lambda node: -reach[node.id])  # stable: else as in the definition
    return {node.id: rank for rank, node in enumerate(order)}


def _reachable(start: NodeId, after: Mapping[NodeId, Sequence[NodeId]]) -> set[NodeId]:
    found, todo = {start}, [start]
    while todo:
        new = [node for node in after[todo.pop()] if node not in found]
        found.update(new)
        todo.extend(new)
    return found


def _padded_lengths(node: NodePlan, segments: Sequence[_Segment]) -> list[int]:
    """Per row the size of the dimension by which batches are measured; 0 where there is none."""
    if node.padded_field is None:
        return [0] * sum(len(segment.positions) for segment in segments)
    name = node.inputs[node.padded_field]
    lengths = []
    for segment in segments:
        column = segment.columns.get(name)
        rows = range(len(segment.positions))
        lengths += (
            [column.layout.row_shape(row)[node.padded_dim] for row in rows] if column is not None else [0 for _ in rows]
        )
    return lengths


def cut(lengths: Sequence[int], rows_max: int, tokens_max: int | None) -> list[list[int]]:
    """Rows in batches of at most `rows_max` rows and `tokens_max` elements padded to the longest (or one row);
    rows of similar length together.
    """
    if len(lengths) <= rows_max and (tokens_max is None or len(lengths) * max(lengths, default=0) <= tokens_max):
        return [list(range(len(lengths)))]
    order = range(len(lengths)) if tokens_max is None else sorted(range(len(lengths)), key=lambda row: lengths[row])
    pieces: list[list[int]] = []
    for row in order:
        # In ascending order, so this row is the longest of its batch.
        full = not pieces or len(pieces[-1]) >= rows_max
        if full or (tokens_max is not None and (len(pieces[-1]) + 1) * lengths[row] > tokens_max):
            pieces.append([])
        pieces[-1].append(row)
    return pieces
