"""What an executor does with a batch, from `Work` to `Done`: one node, or a whole block graph in one go."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from ..core.events import BatchExpected, RowsFailed
from ..graph.plan import NodePlan, Plan
from ..ids import ExecutorId, GraphId, NodeId, QueueId, Token
from ..wire.tensors import Column, row_digests
from .block import BlockRun
from .device import release_all_memory
from .failure import attempt
from .loaded import LoadedNodes, LoadFailed
from .noderun import CANCELLED, NodeRun, Outcome, Rows, Setting, rows_failed
from .output import Lines
from .work import Done, EmittedColumns, Work

_WAIT_SHARE = 0.5
"""Of the time a batch may take: how long it waits for its node, and looks for the guilty. Then its rows fail, which is
better than being given up with the executor: that would look as if they were to blame."""


class Worker:
    """Runs batches, one at a time, on behalf of one executor.

    lines: takes what nodes print; None: nobody does.
    announce: called with what a node expects to come of a batch, before the batch runs.
    interrupted: whether KeyboardInterrupt ended the last batch.
    """

    def __init__(
        self,
        executor: ExecutorId,
        nodes: LoadedNodes,
        lines: Lines | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        announce: Callable[[BatchExpected], None] | None = None,
    ) -> None:
        self.executor = executor
        self.interrupted = False
        self._nodes = nodes
        self._lines = lines
        self._clock_s = clock_s
        self._announce = announce
        self._told: tuple[tuple[bytes, QueueId], ...] = ()
        self._told_version = 0
        self._writers: set[tuple[bytes, NodeId]] = set()

    def run(self, work: Work) -> Done:
        """Run the batch to its end. Never raises: every position of the work comes back, emitted or failed."""
        self.interrupted = False
        emitted: list[EmittedColumns] = []
        failed: list[RowsFailed] = []
        failure = attempt(partial(self._run, work, emitted, failed))
        if failure is not None:
            answered = {row for part in emitted for row in part.rows} | {row for part in failed for row in part.rows}
            failed.append(rows_failed(tuple(row for row in work.rows if row not in answered), failure))
        return Done(
            executor=self.executor,
            order=work.order.order,
            emitted=tuple(emitted),
            failed=tuple(failed),
            loaded=None if self._nodes.version == self._told_version else self._loaded_if_changed(),
        )

    def abandon(self) -> None:
        """The thread of this worker hangs in a node: others shall not wait for it. From any thread."""
        self._nodes.abandon(self.executor)

    # ---- inside

    def _run(self, work: Work, emitted: list[EmittedColumns], failed: list[RowsFailed]) -> None:
        if not work.rows:
            return
        order, plan = work.order, work.order.plan
        until_s = self._clock_s() + order.max_exec_ms / 1000 * _WAIT_SHARE
        graph = plan.graphs[order.node.graph]
        run_node = self._run_node if self._lines is None else self._run_heard
        if graph.is_block:
            step = partial(run_node, work, until_s)
            block = BlockRun(plan, graph, step, work.dead)
            for rows, columns in block.run(work.rows, work.columns):
                emitted.append(_emitted(plan, "", rows, columns, None))
            failed.extend(block.failed)
            return
        outcome = run_node(work, until_s, order.node, "", work.rows, work.columns)
        failed.extend(outcome.failed)
        for output, rows, columns, call in outcome.answers:
            emitted.append(_emitted(plan, output, rows, columns, None if call is None else graph_id(plan, call)))

    def _run_heard(
        self,
        work: Work,
        until_s: float,
        node: NodePlan,
        name: str,
        positions: tuple[int, ...],
        columns: Mapping[str, Column],
    ) -> Outcome:
        """As `_run_node`; what the node prints while it is loaded or runs is told."""
        assert self._lines is not None, "somebody listens"
        with self._lines(work.order.plan.place(node)):
            return self._run_node(work, until_s, node, name, positions, columns)

    def _run_node(
        self,
        work: Work,
        until_s: float,
        node: NodePlan,
        name: str,
        positions: tuple[int, ...],
        columns: Mapping[str, Column],
    ) -> Outcome:
        """One node on some positions of the work. `name`: of a node inside of a block, for its failures."""
        order, plan = work.order, work.order.plan
        if work.dead and work.dead.issuperset(positions):
            return Outcome(failed=[rows_failed(positions, CANCELLED, name)])
        key = (plan.digest, node.id)
        try:
            with self._nodes.use(plan, node, self.executor, until_s - self._clock_s()) as loaded:
                run = NodeRun(
                    Setting(
                        loaded=loaded,
                        node=name,
                        token=fencing_text(order.token),
                        joined=tuple([(start, fencing_text(token)) for start, token in order.joined]),
                        dead=work.dead,
                        device=self._nodes.device,
                        in_time=lambda: self._clock_s() < until_s,
                        free_memory=self._free_memory,
                        distrust=key in self._writers,
                    ),
                    Rows(positions=positions, tasks=[*map(order.tasks.__getitem__, positions)], columns=columns),
                )
                if loaded.announces and self._announce is not None and not name:
                    outputs = run.expected()
                    self._announce(BatchExpected(executor=self.executor, order=order.order, outputs=outputs))
                outcome = run.run()
        except LoadFailed as error:
            return Outcome(failed=[rows_failed(positions, error.failure, name)])
        if run.writes:
            self._writers.add(key)
        self.interrupted = self.interrupted or run.interrupted
        return outcome

    def _free_memory(self, is_last: bool) -> bool:
        """After memory ran out. is_last: no smaller batch is possible, so the nodes that nobody uses go, too."""
        unloaded = is_last and self._nodes.unload_idle(self.executor)
        release_all_memory(self._nodes.device, thorough=is_last)
        return unloaded

    def _loaded_if_changed(self) -> tuple[tuple[bytes, QueueId], ...] | None:
        version = self._nodes.version
        loaded = self._nodes.loaded()
        self._told_version = version
        if loaded == self._told:
            return None
        self._told = loaded
        return loaded


def fencing_text(token: Token) -> str:
    """The token as a text; texts compare as tokens do."""
    return f"{token.n:016x}{token.owner[1:]}{token.seq:016x}"


def _emitted(
    plan: Plan, output: str, rows: tuple[int, ...], columns: Mapping[str, Column], call: GraphId | None
) -> EmittedColumns:
    digests = {name: row_digests(column) for name, column in columns.items()} if plan.digests else {}
    return EmittedColumns(output=output, rows=rows, columns=columns, digests=digests, call=call)


def graph_id(plan: Plan, name: str) -> GraphId:
    """Of a graph that a node names; the checker has seen that it exists."""
    return next(graph.id for graph in plan.graphs.values() if graph.name == name)
