"""Batches as words of childwire.py and back, with nothing lost: a child's answer means what a thread's would."""

from collections.abc import Mapping, Sequence

from ..core.actions import BatchOrder
from ..core.events import BatchExpected
from ..graph.formats import Format
from ..graph.plan import Plan
from ..ids import ExecutorId
from ..wire.columns import Apart, Column
from .childwire import Expected, Finished, Guess, LoadedNode, Part, Run
from .work import Done, EmittedColumns, Work

_DIGEST_NBYTES = 32


def run_of(work: Work) -> tuple[Run, list[tuple[str, Column | Apart]]]:
    """A batch for a child."""
    order = work.order
    run = Run(
        order=order.order,
        digest=order.plan.digest,
        queue=order.node.queue,
        tasks=order.tasks,
        token=order.token,
        joined=order.joined,
        solo=order.solo,
        max_exec_ms=order.max_exec_ms,
        rows=work.rows,
    )
    return run, [*work.columns.items(), *work.apart.items()]


def work_of(run: Run, columns: Sequence[tuple[str, Column]], plan: Plan, dead: set[int]) -> Work:
    """The batch in the child, whose plan this is."""
    order = BatchOrder(
        order=run.order,
        plan=plan,
        node=plan.queues[run.queue],
        tasks=run.tasks,
        token=run.token,
        joined=run.joined,
        inputs={},
        max_exec_ms=run.max_exec_ms,
        solo=run.solo,
    )
    return Work(order=order, rows=run.rows, columns=dict(columns), dead=dead)


def expected_of(event: BatchExpected) -> Expected:
    """What a node expects, for the control process."""
    guesses = {name: Guess(weight=weight, nbytes=nbytes) for name, (weight, nbytes) in event.outputs.items()}
    return Expected(order=event.order, outputs=guesses)


def event_of(word: Expected, executor: ExecutorId) -> BatchExpected:
    outputs = {name: (guess.weight, guess.nbytes) for name, guess in word.outputs.items()}
    return BatchExpected(executor=executor, order=word.order, outputs=outputs)


def finished_of(done: Done) -> tuple[Finished, list[tuple[str, Column | Apart]]]:
    """An answer for the control process."""
    columns: list[tuple[str, Column | Apart]] = []
    parts = []
    for place, part in enumerate(done.emitted):
        parts.append(Part(output=part.output, rows=part.rows, digests=part.digests, call=part.call))
        columns += [(f"{place}:{name}", column) for name, column in part.columns.items()]
    loaded = None
    if done.loaded is not None:
        loaded = tuple([LoadedNode(digest=digest, queue=queue) for digest, queue in done.loaded])
    return Finished(order=done.order, parts=tuple(parts), failed=done.failed, loaded=loaded), columns


def done_of(word: Finished, columns: Sequence[tuple[str, Column | Apart]], work: Work, executor: ExecutorId) -> Done:
    """The answer to a batch. Raises ValueError unless it is one: the core must be able to rely on it."""
    if word.order != work.order.order:
        raise ValueError(f"an answer to batch {word.order}, but it has batch {work.order.order}")
    beside: list[dict[str, Column | Apart]] = [{} for _ in word.parts]
    for name, column in columns:
        place, _, field = name.partition(":")
        if not (place.isascii() and place.isdigit() and len(place) < 9 and int(place) < len(beside)):
            raise ValueError(f"a column {name[:80]!r} that belongs to nothing")
        beside[int(place)][field] = column
    answered = [row for part in word.parts for row in part.rows]
    answered += [row for failed in word.failed for row in failed.rows]
    if len(answered) != len(work.rows) or set(answered) != set(work.rows):
        raise ValueError(f"{len(answered)} rows are answered, expected are {len(work.rows)}, each once")
    for part, fields in zip(word.parts, beside, strict=True):
        _check_part(part, fields, work)
    emitted = tuple(
        [
            EmittedColumns(output=part.output, rows=part.rows, columns=fields, digests=part.digests, call=part.call)
            for part, fields in zip(word.parts, beside, strict=True)
        ]
    )
    loaded = None if word.loaded is None else tuple([(node.digest, node.queue) for node in word.loaded])
    return Done(executor=executor, order=word.order, emitted=emitted, failed=word.failed, loaded=loaded)


def _check_part(part: Part, fields: Mapping[str, Column | Apart], work: Work) -> None:
    form, is_exact = _form(part, work)
    if not fields.keys() >= form.keys() or (is_exact and len(fields) > len(form)):
        raise ValueError(f"fields {sorted(fields)!r:.200} on output {part.output!r:.80}, expected {sorted(form)}")
    for name, column in fields.items():
        layout, wanted = column.layout, form[name] if is_exact else None
        if layout.rows != len(part.rows):
            raise ValueError(f"{layout.rows} rows of field {name!r:.80}, expected {len(part.rows)}")
        shapes = {layout.shape} if layout.shape is not None else set(layout.shapes)
        if wanted is not None and not all(wanted.accepts(layout.dtype, shape) for shape in shapes):
            raise ValueError(f"a {layout.dtype.name} of another shape in field {name!r:.80}, expected {wanted}")
    for name, digests in part.digests.items():
        if name not in fields or len(digests) != len(part.rows) or set(map(len, digests)) - {_DIGEST_NBYTES}:
            raise ValueError(f"digests of field {name!r:.80} that do not belong to its rows")


def _form(part: Part, work: Work) -> tuple[Format, bool]:
    """What an answer must have, and whether exactly that: what a call passes and a block gives may be more, and is
    only seen to fit when somebody reads it.
    """
    plan, node = work.order.plan, work.order.node
    if part.call is not None:
        called = plan.graphs.get(part.call)
        if called is None or part.output not in node.outputs:
            raise ValueError("a call of a graph that is not there")
        return called.input_format, False
    graph = plan.graphs[node.graph]
    if graph.is_block:
        if part.output:
            raise ValueError(f"output {part.output!r:.80} of a block")
        return graph.output_format, False
    output = node.outputs.get(part.output)
    if output is None:
        raise ValueError(f"unknown output {part.output!r:.80}")
    return output.format, True
