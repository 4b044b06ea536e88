"""Forged frames: messages in which one thing is wrong, so that every reason to refuse one has its turn.

Rules   1. Nothing forged is a message: what would still be read is not used. A forged message that is read might say
           anything, and nothing protects from a member that lies.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

import msgpack

from ..graph.formats import DTYPES
from ..wire.frames import Frame, decode
from ..wire.refusal import Limits, WireError

_TRIES_MAX = 4
_DEEP = 40
_WRONG: tuple[object, ...] = (True, 1.5, "x", b"x", None, [], [[]], -1, 1 << 63)
_Change: TypeAlias = Callable[[Random, list[Any], list[Any], list[bytes], Limits], None]


def forge(chance: Random, frames: Sequence[Frame], limits: Limits) -> list[bytes] | None:
    """Frames that are refused, for a reason inside them; None if that did not work out."""
    for _ in range(_TRIES_MAX):
        made = [bytes(frame) for frame in frames]
        envelope, body = (msgpack.unpackb(frame, use_list=True) for frame in made[:2])
        changes = (*_ANY, *_WITH_COLUMNS) if body[1] else _ANY
        before = made[:2]
        chance.choice(changes)(chance, envelope, body, made, limits)
        if made[:2] == before:
            made[:2] = [msgpack.packb(part) for part in (envelope, body)]
        try:
            decode(made, limits)
        except WireError:
            return made
    return None


def _envelope(chance: Random, envelope: list[Any], _: list[Any], __: list[bytes], ___: Limits) -> None:
    place = chance.randrange(len(envelope))
    envelope[place] = chance.choice((b"smzq", 0, 2, -1, 255, "x", None))


def _shape(chance: Random, _: list[Any], body: list[Any], __: list[bytes], ___: Limits) -> None:
    """Of the body."""
    match chance.randrange(4):
        case 0:
            nested: list[Any] = []
            for _level in range(_DEEP):
                nested = [nested]
            chance.choice((body, body[0])).append(nested)
        case 1:
            del body[0][chance.randrange(len(body[0]) + 1) :]
        case 2:
            body[1] = chance.choice((1, "x", None))
        case _:
            body[1].append(["x", DTYPES["int64"].code, 0, len(body[1]), []])


def _field(chance: Random, _: list[Any], body: list[Any], __: list[bytes], ___: Limits) -> None:
    """One field is of another type, or a list is shorter than the others."""
    fields = body[0]
    if not fields:
        return
    place = chance.randrange(len(fields))
    lists = [at for at, value in enumerate(fields) if isinstance(value, list | bytes) and value]
    if lists and chance.random() < 0.5:
        place = chance.choice(lists)
        fields[place] = fields[place][:-1] if isinstance(fields[place], list) else fields[place][:-16]
    else:
        fields[place] = chance.choice(_WRONG)


def _size(chance: Random, _: list[Any], __: list[Any], frames: list[bytes], limits: Limits) -> None:
    match chance.randrange(3):
        case 0:
            frames[-1] = bytes(limits.total_bytes)
        case 1:
            frames[1] = bytes(limits.body_bytes + 1)
        case _:
            frames[1] = b"\xc1"


def _head(chance: Random, _: list[Any], body: list[Any], frames: list[bytes], __: Limits) -> None:
    """Of a column."""
    at = chance.randrange(len(body[1]))
    head = body[1][at]
    match chance.randrange(9):
        case 0:
            head.pop()
        case 1:
            head[0] = chance.choice(("", "x" * 300, 7))
        case 2:
            head[1] = chance.choice((0, 99, "int64"))
        case 3:
            head[2] = chance.choice((-2, 1 << 20, 1.0))
        case 4:
            head[3] = chance.choice((-1, at + 1))
        case 5:
            head[4] = chance.choice(([-2], [1.0], [1 << 62, 1 << 62]))
        case 6:
            head[4] = [1] * 9
        case 7:
            head[2] += 1
        case _:
            head[1:5] = [DTYPES["bool"].code, 1, at, [len(frames[2 + at])]]


_ANY: tuple[_Change, ...] = (_envelope, _shape, _field, _field, _size)
_WITH_COLUMNS: tuple[_Change, ...] = (_head,) * 4
