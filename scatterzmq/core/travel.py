"""Travel: how a task moves through its plan, from accepted to ended.

Purpose   Queue, call, return, cache, retry, end: each a small step on one record.
Rules     1. A step on the agenda touches one record; steps that follow from it go to the end of the agenda.
             So a chain of cache hits of any length needs no stack, and a value that resolves a thousand waiters
             is handed to one after another.
          2. Uses of blocks: a frame, the record's input, its result and the cache count one each; whoever drops
             a value releases it.
          3. A task that ends gives up every key it still leads.
          4. A task starts over only from its input; what it had computed is dropped.
          5. Whatever others have failed rests before it is tried again (core/backoff.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from ..errors import ErrorCode, ErrorContext, ErrorInfo
from ..graph.plan import GraphPlan, NodePlan
from ..ids import ExecutorId, GraphId, PeerId, TaskId
from .backoff import LACKING_MS, Resting, span_ms
from .blocks import Loss
from .cache import Ask, Cached, cache_key
from .cacheowners import CacheOwners
from .ledger import CacheKey, Cause, Frame, Lead, Phase, Record
from .sizes import too_large
from .state import State
from .strategy import QueueStrategy, SimpleQueueStrategy, StrategyFailed, priority_of
from .values import Value

Step: TypeAlias = Callable[[], None]

HITS_IN_A_ROW_MAX = 10_000
"""A task that got this many values from the cache without running anything is in an endless loop."""

RESTARTS_MAX = 100
"""Restarts for which the task is not to blame are limited apart, so that churn does not kill good tasks."""

_FINAL_CODES = frozenset(
    (ErrorCode.POISON, ErrorCode.CANCELLED, ErrorCode.CONFLICT, ErrorCode.REFUSED, ErrorCode.MISSING_BLOB)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a step failed. node, executor: where, as far as the record does not say it. final: not to be tried again."""

    code: ErrorCode
    message: str
    traceback: str = ""
    final: bool = False
    node: str = ""
    executor: ExecutorId | None = None


PURGED = Failure(
    code=ErrorCode.MEMORY_PURGE,
    message="an intermediate tensor was evicted before it was used: the store is too small for what is under way",
)
KEEPER_GONE = Failure(
    code=ErrorCode.MEMORY_PURGE, message="the peer that kept an intermediate tensor is gone, and the tensor with it"
)


class Travel:
    """Moves records; `run` works the agenda off. ended: records that have ended since the last call of it."""

    def __init__(self, state: State, strategy: QueueStrategy) -> None:
        self._state = state
        self._ledger = state.ledger
        self._plans = state.plans
        self._blocks = state.blocks
        self.owners = None if state.cache is None else CacheOwners(state, state.cache, self)
        self._out = state.out
        self._strategy = strategy
        self.agenda: deque[Step] = deque()
        self.resting = Resting()
        self.ended: list[Record] = []
        self.counters = {"finished": 0, "failed": 0, "restarts": 0, "hops": 0}

    # ---- the agenda

    def run(self) -> list[Record]:
        """Take all steps that are due. Returns the records that have ended since the last call."""
        agenda = self.agenda
        while agenda:
            agenda.popleft()()
        ended, self.ended = self.ended, []
        return ended

    def all_counters(self) -> dict[str, int]:
        """Its own, and the cache's if there is one."""
        return self.counters if self.owners is None else self.counters | self.owners.counters

    def flush(self) -> None:
        """Send what other peers are to be asked."""
        if self.owners is not None:
            self.owners.flush()

    def expire(self) -> None:
        """Try again what has rested, and do what is due about keys that other peers own."""
        for record in self.resting.take_due(self._state.now_ms):
            self._ledger.move(record, Cause.WAKE, self._state.now_ms)
            if record.node is None:
                self.begin(record)
            else:
                self._queue(record, record.node)
        if self.owners is not None:
            self.owners.expire()

    # ---- beginning

    def begin(self, record: Record) -> None:
        """Start (or start over) from the input."""
        entry = record.plan.graphs[record.plan.entry]
        for value in record.input.values():
            self._blocks.hold(value)
        record.weight = 1.0
        record.nbytes = record.kept_nbytes
        self._open(record, Frame(entry, record.input), hits=0)

    def _open(self, record: Record, frame: Frame, hits: int) -> None:
        """Begin a graph whose input lies in `frame`."""
        record.stack.append(frame)
        record.node = None
        graph = frame.graph
        if graph.cache and self.owners is not None and record.caching:
            key = cache_key(graph.closure, frame.values.items())
            if key is not None:
                answer = self._ask(record, key, graph, None, hits)
                if isinstance(answer, Cached):
                    outputs = dict(answer.fields)
                    self._hold(outputs)
                    self.agenda.append(partial(self._close, record, outputs, hits + 1))
                    return
                if answer is Ask.WAIT:
                    return
                frame.graph_key = key
        self._enter(record, graph.nodes[graph.first], hits)

    def _enter(self, record: Record, node: NodePlan, hits: int) -> None:
        """Bring a task to a node: into its queue, or past it if its result is known."""
        record.node = node
        if node.cache and self.owners is not None and record.caching:
            values = record.stack[-1].values
            inputs = [(name, values[source]) for name, source in node.inputs.items() if source in values]
            key = cache_key(node.closure, inputs)
            if key is not None:
                answer = self._ask(record, key, record.stack[-1].graph, node, hits)
                if isinstance(answer, Cached):
                    fields = dict(answer.fields)
                    self._hold(fields)
                    self.agenda.append(partial(self._leave, record, node, answer.output, fields, hits + 1))
                    return
                if answer is Ask.WAIT:
                    return
                record.node_key = key
        self._queue(record, node)

    def _queue(self, record: Record, node: NodePlan) -> None:
        self._ledger.move(record, Cause.QUEUE, self._state.now_ms, node.name)
        self._push(record, node)

    def _push(self, record: Record, node: NodePlan) -> None:
        queue = self._plans.queue(record.plan, node)
        try:
            priority = priority_of(self._strategy, record.weight, record.errors + record.restarts)
        except StrategyFailed as failed:
            priority = self._replaced(failed).priority(record.weight, record.retries)
        length = 0
        if node.padded_field is not None:
            value = record.stack[-1].values.get(node.inputs[node.padded_field])
            if value is not None:
                shape = value[0].layout.row_shape(value[1])
                # What a called graph gave back may be of another rank; the executor will say so.
                length = shape[node.padded_dim] if node.padded_dim < len(shape) else 0
        queue.push(
            record.id,
            priority=priority,
            weight=record.weight,
            nbytes=record.nbytes,
            padded_length=length,
            solo=record.solo,
            seq=record.seq,
            lies_at=self._lies_at(record, node) if self._blocks.any_away else None,
        )

    def _lies_at(self, record: Record, node: NodePlan) -> PeerId | None:
        values = record.stack[-1].values
        return self._blocks.lies_at([values[source] for source in node.inputs.values() if source in values])

    def _replaced(self, failed: StrategyFailed) -> QueueStrategy:
        self._out.report("warning.strategy.queue", message=str(failed))
        self._strategy = SimpleQueueStrategy()
        return self._strategy

    # ---- the cache

    def _ask(self, record: Record, key: CacheKey, graph: GraphPlan, node: NodePlan | None, hits: int) -> Ask | Cached:
        assert self.owners is not None
        if hits > HITS_IN_A_ROW_MAX:
            return Ask.COMPUTE
        answer = self.owners.ask(key, record.id, may_wait=_may_wait(record, graph, node))
        if answer is Ask.LEAD or answer is Ask.ASKED:
            self._lead(record, key, graph, node)
        if answer is Ask.WAIT or answer is Ask.ASKED:
            record.waits_for = key
            self._ledger.move(record, Cause.DEFER, self._state.now_ms, node.name if node else graph.name)
            return Ask.WAIT
        if isinstance(answer, Cached) and not self._accepts(node, answer.output):
            return Ask.COMPUTE
        return answer

    def _accepts(self, node: NodePlan | None, output: str) -> bool:
        """Whether a cached value could have come from this node (or graph): other peers may have brought it."""
        if output in (node.outputs if node is not None else ("",)):
            return True
        self._out.report("warning.cache.value", output=output)
        return False

    def _lead(self, record: Record, key: CacheKey, graph: GraphPlan, node: NodePlan | None) -> None:
        if record.leads is None:
            record.leads = {}
        record.leads[key] = Lead(graph, node)

    def _put(self, record: Record, key: CacheKey, output: str, fields: Mapping[str, Value]) -> None:
        assert self.owners is not None
        if record.leads:
            record.leads.pop(key, None)
        bytes_max = self._state.row_bytes_max
        if bytes_max is not None and _nbytes(fields.values()) > bytes_max:
            self.owners.abort(key, record.id)  # no message could bring it to whoever waits
        else:
            self.owners.put(key, record.id, output, fields)

    def resolve(self, task: TaskId, key: CacheKey, output: str, fields: Mapping[str, Value]) -> None:
        """Hand a waiter (or a leader that asked) the value it waits for."""
        record = self._known(task)
        if record.leads:
            record.leads.pop(key, None)
        if not self._accepts(record.node, output):
            self.compute(task, key)
            return
        values = dict(fields)
        self._hold(values)
        self.agenda.append(partial(self._resolve, record, key, output, values))

    def _resolve(self, record: Record, key: CacheKey, output: str, fields: dict[str, Value]) -> None:
        assert record.waits_for == key
        record.waits_for = None
        if record.node is None:
            self._close(record, fields, hits=1)
        else:
            self._leave(record, record.node, output, fields, hits=1)

    def _abort_leads(self, record: Record, leads: Iterable[CacheKey]) -> None:
        record.leads = None
        for key in leads:
            assert self.owners is not None
            self.owners.abort(key, record.id)

    def lead(self, task: TaskId, key: CacheKey) -> None:
        """A waiter leads what it waited for."""
        record = self._known(task)
        # Equal keys may come from different plans: what the waiter leads lies in its own.
        self._lead(record, key, record.stack[-1].graph, record.node)

    def compute(self, task: TaskId, key: CacheKey) -> None:
        """A waiter (or a leader that asked) is to compute what it waited for."""
        self.agenda.append(partial(self._compute, self._known(task), key))

    def _compute(self, record: Record, key: CacheKey) -> None:
        if record.waits_for != key:
            return  # it was cleared or cancelled together with the leader
        record.waits_for = None
        if record.node is not None:
            record.node_key = key
            self._queue(record, record.node)
        else:
            frame = record.stack[-1]
            frame.graph_key = key
            self._enter(record, frame.graph.nodes[frame.graph.first], hits=0)

    def _known(self, task: TaskId) -> Record:
        record = self._ledger.record(task)
        assert record is not None, f"{task} waits for a key but is not in the ledger"
        return record

    # ---- moving on

    def emitted(self, record: Record, node: NodePlan, output: str, fields: dict[str, Value]) -> None:
        """A node answered for a task: the fields go on top of its frame, and it moves on."""
        for value in fields.values():
            self._blocks.hold(value)
        record.solo = False
        record.crashes = 0
        key, record.node_key = record.node_key, None
        if key is not None:
            self._put(record, key, output, fields)
        record.weight += node.weight
        self._leave(record, node, output, fields, hits=0)

    def block_finished(self, record: Record, graph: GraphPlan, outputs: dict[str, Value]) -> None:
        """A whole block graph answered for a task."""
        for value in outputs.values():
            self._blocks.hold(value)
        record.solo = False
        record.crashes = 0
        record.weight += sum(node.weight for node in graph.nodes.values())
        self._close(record, outputs, hits=0)

    def called(self, record: Record, node: NodePlan, output: str, graph: GraphPlan, fields: dict[str, Value]) -> None:
        """A node called a graph for a task: push a frame; its result comes back on `output`."""
        values = {f":{name}": value for name, value in fields.items()}
        self._hold(values)
        key, record.node_key = record.node_key, None
        record.solo = False
        record.crashes = 0
        record.weight += node.weight
        record.nbytes = _nbytes(fields.values())
        self._open(record, Frame(graph, values, caller=node, output=output, node_key=key), hits=0)

    def _leave(self, record: Record, node: NodePlan, output: str, fields: dict[str, Value], hits: int) -> None:
        """Put fields (held already) on the frame and go where `output` leads."""
        record.node = node
        frame = record.stack[-1]
        values = dict(frame.values)
        way = node.outputs[output]
        for name, value in fields.items():
            qualified = f"{node.name}:{name}"
            before = values.get(qualified)
            if before is not None:
                self._blocks.release((before,))
            values[qualified] = value
        for name in way.drop:
            dropped = values.pop(name, None)
            if dropped is not None:
                self._blocks.release((dropped,))
        frame.values = values
        self.counters["hops"] += 1
        if way.next is not None:
            if fields:
                record.nbytes = _nbytes(fields.values())
            self._enter(record, record.plan.queues[way.next], hits)
            return
        outputs: dict[str, Value] = {}
        for name, source in frame.graph.outputs.items():
            if source not in values:
                self.failed(record, self._incomplete(record, frame))
                return
            outputs[name] = values[source]
        self._hold(outputs)
        self._close(record, outputs, hits)

    def _close(self, record: Record, outputs: dict[str, Value], hits: int) -> None:
        """End the innermost graph with its outputs (held already)."""
        frame = record.stack[-1]
        wrong = _mismatch(frame.graph, outputs)
        if wrong:
            self._blocks.release(outputs.values())
            self.failed(record, Failure(code=ErrorCode.GENERAL_EXCEPTION, message=wrong))
            return
        loss = self._blocks.loss(outputs.values())
        if loss is not None:
            self._blocks.release(outputs.values())
            self.lost(record, loss)
            return
        record.stack.pop()
        if frame.graph_key is not None:
            self._put(record, frame.graph_key, "", outputs)
        if frame.node_key is not None:
            self._put(record, frame.node_key, frame.output, outputs)
        self._blocks.release(frame.values.values())
        if frame.caller is None:
            self._finish(record, outputs)
        else:
            # By way of the agenda: a deep recursion returns through all its frames at once.
            self.agenda.append(partial(self._leave, record, frame.caller, frame.output, outputs, hits))

    def _incomplete(self, record: Record, frame: Frame) -> Failure:
        graph = frame.graph
        missing = [(name, source) for name, source in graph.outputs.items() if source not in frame.values]
        sources = ", ".join(f"{name!r} (from {source!r})" for name, source in missing)
        place = record.plan.qualified(graph.id)
        return Failure(
            code=ErrorCode.GENERAL_EXCEPTION,
            message=f"graph {place} ended without {sources}: the node that makes it was not on this task's way",
        )

    # ---- ending

    def _finish(self, record: Record, outputs: dict[str, Value]) -> None:
        nbytes = _nbytes(outputs.values())
        bytes_max = self._state.row_bytes_max
        if bytes_max is not None and nbytes > bytes_max:
            self._blocks.release(outputs.values())
            message = too_large("the result of the graph", nbytes, bytes_max)
            self.failed(record, Failure(code=ErrorCode.GENERAL_EXCEPTION, message=message, final=True))
            return
        for value in outputs.values():
            self._blocks.keep(value)
        record.result = outputs
        self._end(record, Cause.FINISH, nbytes)
        self.counters["finished"] += 1

    def failed(self, record: Record, failure: Failure) -> None:
        """A step failed: start over, or give up. The record must not be in a queue, nor hold a token."""
        record.error = _error_info(record, failure)
        limit = record.plan.graphs[record.plan.entry].max_retries
        if limit is None:
            limit = self._state.settings.tasks.max_retries
        if failure.final or failure.code in _FINAL_CODES or record.errors >= limit:
            self.give_up(record, Cause.FAIL)
            return
        record.errors += 1
        self.counters["restarts"] += 1
        rests = failure.code is ErrorCode.MEMORY_PURGE or record.phase is Phase.WAIT
        self._start_over(record, failure, LACKING_MS if rests else None)

    def put_back(self, record: Record) -> None:
        """It was drawn from its queue, and is not lent after all."""
        assert record.node is not None
        assert record.phase is Phase.WAIT
        self._push(record, record.node)

    def reclaimed(self, record: Record, failure: Failure | None) -> None:
        """Its executor is gone: back into the queue of the step it was lent for, the first time at once.

        None: not worth counting.
        """
        assert record.node is not None
        if failure is not None:
            record.error = _error_info(record, failure)
            if not self._may_restart(record):
                return
            self._tell_error("error.task.retry", record)
            if record.restarts > 1:
                self._rest(record, span_ms(record.restarts - 1))
                return
        self._queue(record, record.node)

    def taken_over(self, record: Record, failure: Failure) -> None:
        """Its owner is gone, and this peer owns it now: from its input."""
        record.error = _error_info(record, failure)
        if self._may_restart(record):
            self._rest(record, span_ms(record.restarts))

    def lost(self, record: Record, loss: Loss) -> None:
        """An input of its step is gone. The record must not be in a queue, nor hold a token."""
        if loss is Loss.EVICTED:
            self.failed(record, PURGED)
            return
        record.error = _error_info(record, KEEPER_GONE)
        if loss is not Loss.DIED:
            self._start_over(record, KEEPER_GONE, LACKING_MS)
        elif self._may_restart(record):
            self._start_over(record, KEEPER_GONE, span_ms(record.restarts))

    def _may_restart(self, record: Record) -> bool:
        """Count that others have failed a task. False: once too often, and it has been given up."""
        if record.restarts >= RESTARTS_MAX:
            self.give_up(record, Cause.FAIL)
            return False
        record.restarts += 1
        self.counters["restarts"] += 1
        return True

    def _start_over(self, record: Record, failure: Failure, within_ms: int | None) -> None:
        """From its input; None: now."""
        self._tell_error("error.task.retry", record)
        self._drop_frames(record)
        record.tell(self._state.now_ms, "restart", failure.code)
        if within_ms is None:
            self.begin(record)
        else:
            self._rest(record, within_ms)

    def _rest(self, record: Record, within_ms: int) -> None:
        self._ledger.move(record, Cause.REST, self._state.now_ms, f"for up to {within_ms} ms")
        self.resting.add(record, self._state.now_ms, within_ms)

    def give_up(self, record: Record, cause: Cause) -> None:
        """End a task without a result; `record.error` says why."""
        assert record.error is not None
        self._end(record, cause)
        self.counters["failed"] += 1
        self._tell_error("error.task.final", record)

    def _tell_error(self, name: str, record: Record) -> None:
        """What happened to it, and where."""
        error = record.error
        assert error is not None
        at = error.context
        about = {"node": ":".join(filter(None, (at.graph, at.node))), "executor": at.executor or ""}
        known = {key: value for key, value in about.items() if value}
        self._out.report(name, task=record.id, code=error.code, message=error.message, **known)

    def cancel(self, record: Record) -> None:
        """End a task that nobody wants any more. It must not be in a queue, nor rest, nor hold a token."""
        self._leave_cache(record)
        message = "cancelled" + (f" at {record.place}" if record.place else "")
        record.error = _error_info(record, Failure(code=ErrorCode.CANCELLED, message=message))
        self.give_up(record, Cause.CANCEL)

    def forget(self, record: Record) -> None:
        """Remove a record and all it holds. It must not be in a queue, nor rest, nor hold a token."""
        if not record.phase.ended:
            self._leave_cache(record)
            self._let_go(record)
        if record.result:
            self._blocks.release(record.result.values())
        self._plans.release(record.plan.digest)
        self._ledger.remove(record)

    def _leave_cache(self, record: Record) -> None:
        """Stop waiting for a key."""
        if record.waits_for is not None:
            assert self.owners is not None
            self.owners.leave(record.waits_for, record.id)
            record.waits_for = None

    def _end(self, record: Record, cause: Cause, kept_nbytes: int = 0) -> None:
        self._ledger.keeps(record, kept_nbytes)
        self._ledger.move(record, cause, self._state.now_ms)
        record.ended_ms = self._state.now_ms
        self._let_go(record)
        self.ended.append(record)

    def _let_go(self, record: Record) -> None:
        """Release what only a running task needs."""
        self._drop_frames(record)
        self._blocks.release(record.input.values())
        record.input = {}
        if record.leads is not None:
            self._abort_leads(record, record.leads)

    def _drop_frames(self, record: Record) -> None:
        for frame in record.stack:
            self._blocks.release(frame.values.values())
        record.stack = []
        record.node = None
        record.node_key = None

    def _hold(self, values: Mapping[str, Value]) -> None:
        for value in values.values():
            self._blocks.hold(value)


def _nbytes(values: Iterable[Value]) -> int:
    nbytes = 0
    for block, row in values:
        nbytes += block.row_nbytes(row)
    return nbytes


def _may_wait(record: Record, graph: GraphPlan, node: NodePlan | None) -> bool:
    """Whether this key lies strictly below every key that the task leads: theirs reach it by calls, and not the
    other way round.

    So a leader waits only for leaders further down, and there is no circle. It does not suffice that nobody computing
    this key needs one of the task's: a leader that starts over meets keys that others have come to lead meanwhile.
    """
    if not record.leads:
        return True
    asked = Lead(graph, node)
    graphs = record.plan.graphs
    return all(_reaches(graphs, lead, asked) and not _reaches(graphs, asked, lead) for lead in record.leads.values())


def _reaches(graphs: Mapping[GraphId, GraphPlan], outer: Lead, inner: Lead) -> bool:
    """Whether computing the outer graph (or node) can come to the inner one by calls."""
    if outer.node is not None:
        return any(inner.graph.id == called or inner.graph.id in graphs[called].below for called in outer.node.calls)
    return inner.graph.id in outer.graph.below or (inner.node is not None and inner.graph is outer.graph)


def _mismatch(graph: GraphPlan, outputs: Mapping[str, Value]) -> str:
    """What is wrong with a graph's outputs; "" if they fit its output format."""
    for name, (block, row) in outputs.items():
        wanted = graph.output_format.get(name)
        layout = block.layout
        if wanted is None or (layout.shape == wanted.shape and layout.dtype == wanted.dtype):
            continue
        shape = layout.row_shape(row)
        if not wanted.accepts(layout.dtype, shape):
            return f"output {name!r} of graph {graph.name}: expected {wanted}, got {layout.dtype.name}{list(shape)}"
    return ""


def _error_info(record: Record, failure: Failure) -> ErrorInfo:
    graph = record.plan.qualified(record.stack[-1].graph.id) if record.stack else None
    node = failure.node or (record.node.name if record.node is not None else None)
    context = ErrorContext(executor=failure.executor, task=record.id, graph=graph, node=node)
    return ErrorInfo(code=failure.code, message=failure.message, traceback=failure.traceback, context=context)
