"""Whatever bytes come: a message or a WireError, and what is accepted means the same when it is sent again."""

import random
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.core.peermessages import AnyMessage
from scatterzmq.graph.formats import DTYPE_BY_CODE, Layout
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import MAGIC, MAJOR, decode, encode, open_envelope
from scatterzmq.wire.refusal import Limits, WireError
from scatterzmq.wire.schema import NUMBERS
from scatterzmq.wire.tensors import from_tensors, to_tensors

LIMITS = Limits(total_bytes=1 << 20, body_bytes=1 << 16)
FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=40),
    st.sampled_from([0, 1, 2, 16, "ready", "float", b"", bytes(16), bytes(32)]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=25,
)
kinds = st.sampled_from(sorted(NUMBERS.values()))


def attempt(frames: list[Any]) -> tuple[AnyMessage, dict[str, Column]] | None:
    """Decode; what comes out must survive another trip unchanged, and its tensors must be usable."""
    try:
        message, columns = decode(frames, LIMITS)
    except WireError:
        return None
    again, beside = decode(encode(message, columns), LIMITS)
    assert again == message
    for name, column in columns.items():
        assert beside[name].layout == column.layout
        assert len(column.data) == column.layout.nbytes
        assert len(to_tensors(column)) == column.layout.rows
    return message, columns


@FEW
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_random_bytes(frames: list[bytes]) -> None:
    assert attempt(frames) is None


@FEW
@given(kinds, anything, anything, st.lists(st.binary(max_size=20), max_size=3))
def test_random_structures(kind: int, values: object, heads: object, frames: list[bytes]) -> None:
    envelope = msgpack.packb([MAGIC, MAJOR, 0, kind, 2 + len(frames), None, 0, None, 0, 0])
    attempt([envelope, msgpack.packb([values, heads]), *frames])


@FEW
@given(st.lists(anything, max_size=14), st.booleans())
def test_random_envelopes(parts: list[object], ours: bool) -> None:
    start = [MAGIC, MAJOR] if ours else []
    try:
        open_envelope([msgpack.packb(start + parts), b"\x90"], LIMITS)
    except WireError:
        return


def replaced(value: Any, path: list[int], new: object) -> Any:
    """A copy with the value at a place of nested lists replaced, the place chosen by numbers of any size."""
    if not isinstance(value, list) or not value or not path:
        return new
    index = path[0] % len(value)
    return [*value[:index], replaced(value[index], path[1:], new), *value[index + 1 :]]


def test_mutated_structures(label: str, examples: Any) -> None:
    frames = [bytes(frame) for frame in encode(*examples[label])]

    @settings(FEW, max_examples=25)
    @given(st.integers(0, 1), st.lists(st.integers(0, 50), max_size=6), anything)
    def mutate(index: int, path: list[int], new: object) -> None:
        changed = list(frames)
        changed[index] = msgpack.packb(replaced(msgpack.unpackb(frames[index]), path, new))
        attempt(changed)

    mutate()


def test_mutated_bytes(label: str, examples: Any) -> None:
    frames = [bytes(frame) for frame in encode(*examples[label])]
    rng = random.Random(label)
    for _ in range(60):
        changed = [bytearray(frame) for frame in frames]
        for _ in range(rng.randint(1, 3)):
            frame = rng.choice(changed)
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        attempt(changed)


@pytest.mark.parametrize(
    "kind", ["Submit", "Final", "Stats", "GraphLoaded", "Replicate", "Replicate final", "Grant", "Commit", "CacheTell"]
)
def test_truncated_frames(kind: str, examples: Any) -> None:
    frames = [bytes(frame) for frame in encode(*examples[kind])]
    for index, frame in enumerate(frames):
        for size in range(len(frame)):
            assert attempt([*frames[:index], frame[:size], *frames[index + 1 :]]) is None
    for count in range(len(frames)):
        assert attempt(frames[:count]) is None


@FEW
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(DTYPE_BY_CODE)), st.integers(0, 5))
def test_random_heads(rng: random.Random, code: int, rows: int) -> None:
    """Heads that are nearly right get past the first checks."""
    sizes = [rng.choice([0, 1, 2, 3, 1 << 31, 1 << 62, -1]) for _ in range(rng.randint(0, 9))]
    head = ["x", code, rows, 0, rng.choice([sizes, None]), rng.choice([0, 1, 2, [1] * rows, [0, 2]]), sizes]
    data = bytes(rng.choice([0, 1, 2, 4, 8, 12, 24, 48, 96]))
    values = [1, "n", bytes(32), bytes(8), bytes(16 * rows), [bytes(16)] * rows, [[], []], True]
    submit = next(number for kind, number in NUMBERS.items() if kind.__name__ == "Submit")
    envelope = msgpack.packb([MAGIC, MAJOR, 0, submit, 3, None, 0, None, 0, 0])
    attempt([envelope, msgpack.packb([values, [head]]), data])


@FEW
@given(st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=6), st.data())
def test_tensors_travel_bit_for_bit(shapes: list[tuple[int, ...]], data: Any) -> None:
    dtype = DTYPE_BY_CODE[data.draw(st.sampled_from(sorted(DTYPE_BY_CODE)))]
    layout = Layout(dtype, len(shapes), None, tuple(shapes))
    top = 1 if dtype.name == "bool" else 255
    raw = data.draw(st.lists(st.integers(0, top), min_size=layout.nbytes, max_size=layout.nbytes))
    tensors = to_tensors(Column(layout, memoryview(bytearray(raw))))
    column = from_tensors(tensors)
    values = [1, "n", bytes(32), bytes(8), bytes(16 * len(shapes)), [bytes(16)] * len(shapes)]
    frames = encode(decode(_submit(values), LIMITS)[0], {"x": column})
    received = decode([bytes(frame) for frame in frames], LIMITS)[1]["x"]
    assert bytes(received.data) == bytes(raw)
    back = to_tensors(received)
    assert [tensor.shape for tensor in back] == [torch.Size(shape) for shape in shapes]
    assert bytes(from_tensors(back).data) == bytes(raw)


def _submit(values: list[Any]) -> list[bytes]:
    return [msgpack.packb([MAGIC, MAJOR, 0, 2, 2, None, 0, None, 0, 0]), msgpack.packb([values, []])]
