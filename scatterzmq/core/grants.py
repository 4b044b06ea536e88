"""Grants: the inputs of a batch on loan, as its owner names them and as the borrower finds them.

Rules   1. A row goes by name where the borrower has it already, or where neither has it; else with the message.
        2. Whatever comes, `read` returns rows for all tasks, or None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ids import BlockId, PeerId
from .blocks import Blocks
from .commits import block_of, payload_of
from .payloadmessages import Payload, Places
from .payloads import Payloads
from .peermessages import Grant
from .queues import Queue
from .values import Block, Value, known_digests


@dataclass(slots=True)
class Sent:
    """The inputs of a grant. beside: field -> rows that travel with it. named: how many do not."""

    payloads: list[Payload] = field(default_factory=list)
    places: list[Places] = field(default_factory=list)
    beside: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    digests: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    named: int = 0


def sent(blocks: Blocks, borrower: PeerId, inputs: Mapping[str, tuple[Value, ...]], *, digests: bool) -> Sent:
    """Say where the rows of a batch are."""
    made = Sent(beside=dict(inputs))
    if blocks.any_away:
        _name(made, blocks, borrower, inputs)
    if digests:
        made.digests = known_digests(made.beside)
    return made


def bytes_beside(blocks: Blocks, borrower: PeerId, inputs: Mapping[str, tuple[Value, ...]], tasks: int) -> list[int]:
    """How many bytes of each task's inputs would travel with a grant."""
    sizes = [0] * tasks
    for values in inputs.values():
        for at, value in enumerate(values):
            block, row = _source(blocks, borrower, value)
            if blocks.away(block.id) is None:
                sizes[at] += block.row_nbytes(row)
    return sizes


def _name(made: Sent, blocks: Blocks, borrower: PeerId, inputs: Mapping[str, tuple[Value, ...]]) -> None:
    found = {name: [_source(blocks, borrower, value) for value in values] for name, values in inputs.items()}
    numbers: dict[BlockId, int] = {}
    for values in found.values():
        for block, _ in values:
            if blocks.away(block.id) is not None and block.id not in numbers:
                numbers[block.id] = len(numbers)
                made.payloads.append(payload_of(block))
    for name, values in found.items():
        beside = [value for value in values if value[0].id not in numbers]
        if len(beside) < len(values):
            made.named += len(values) - len(beside)
            made.places.append(_places(name, values, numbers))
        made.beside[name] = tuple(beside)
        if not beside:
            del made.beside[name]


def _source(blocks: Blocks, borrower: PeerId, value: Value) -> Value:
    is_there = value[0].id.maker == borrower and blocks.away(value[0].id) is not None
    return value if is_there else blocks.here(value)


def _places(name: str, values: list[Value], numbers: Mapping[BlockId, int]) -> Places:
    rows = []
    beside = 0
    for block, row in values:
        rows.append(row if block.id in numbers else beside)
        beside += block.id not in numbers
    payloads = tuple([numbers.get(block.id, len(numbers)) for block, _ in values])
    return Places(field=name, payloads=payloads, rows=tuple(rows))


@dataclass(slots=True)
class Read:
    """The inputs of a batch. here: blocks that are here, each once. lacking: those that have to be fetched."""

    inputs: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    here: dict[Block, None] = field(default_factory=dict)
    lacking: dict[Block, None] = field(default_factory=dict)


def read(queue: Queue, message: Grant, beside: Mapping[str, Block], payloads: Payloads) -> Read | None:
    """Find the rows of a batch. None if there is not one of each input for each task, or more than that.

    Their formats are looked at where the batch runs.
    """
    names = queue.sources.keys()
    placed = {places.field: places for places in message.places}
    if beside.keys() | placed.keys() != names:
        return None
    made = Read(here=dict.fromkeys(beside.values()))
    known = []
    for payload in message.payloads:
        mine = payloads.mine(payload)
        block = mine or block_of(payload)
        (made.lacking if mine is None else made.here)[block] = None
        known.append(block)
    for name in names:
        values = _rows(len(message.ids), known, beside.get(name), placed.get(name))
        if values is None:
            return None
        made.inputs[name] = values
    return made


def _rows(tasks: int, known: list[Block], beside: Block | None, places: Places | None) -> tuple[Value, ...] | None:
    """One field's row of each task."""
    if places is None:
        assert beside is not None
        return tuple([(beside, row) for row in range(tasks)]) if beside.layout.rows == tasks else None
    sources = known if beside is None else [*known, beside]
    if not len(places.payloads) == len(places.rows) == tasks:
        return None
    values = []
    for source, row in zip(places.payloads, places.rows, strict=True):
        if source >= len(sources) or row >= sources[source].layout.rows:
            return None
        values.append((sources[source], row))
    return tuple(values)
