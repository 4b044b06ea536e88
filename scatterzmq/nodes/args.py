"""The arguments of a node as the definition spells them, converted to what the node asks for.

A conversion never loses anything: the text "2" and the number 2.0 will do for the whole number 2, but 2.5 will not, and
true is no number. An argument that is null counts as missing.

What is wrong is told of all arguments at once: after the first one the node is made again with values in place of the
wrong ones, only to see what else it asks for (see `NodeArgs.survey`).
"""

import builtins
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar, cast

from ..errors import GraphError
from ..graph.formats import DTYPES, DType, FieldFormat, Format, OpenShape, Shape
from ..graph.names import check_name
from ..graph.nodeinfo import BlobUse

T = TypeVar("T")
D = TypeVar("D")


class _Required:
    """Stands for 'there is no default'."""


_REQUIRED: Final = _Required()


class WrongArgument(GraphError):  # noqa: N818 -- says what it is
    """An argument that is missing or cannot be converted."""


class DataPlace(NamedTuple):
    """Where in a blob a node's data lies; its text is what `resources.blobs` understands."""

    offset: int
    length: int
    name: str

    def __str__(self) -> str:
        return f"{self.offset}:{self.length}:{self.name}"


class NodeArgs:
    """Arguments of one node. Every method takes a name and, optionally, what to return if that is missing.

    ns: namespace of the node. place: "ns:graph:node", for messages.
    allow: prefixes of modules (plugins.allow) that a node may import because an argument says so.
    blobs: those that were asked for so far, with `data` and `blob`. Which bytes they have is settled when the graph is
    loaded; what a node opens besides is whatever has that name when it does.
    All methods raise GraphError for a missing argument without default and for one that cannot be converted.
    wrong: name -> what is wrong with the argument, as far as it is known; empty but for a survey.
    """

    def __init__(self, args: Mapping[str, object], ns: str, place: str, allow: Sequence[str] = ()) -> None:
        self.ns = ns
        self.place = place
        self.allow = tuple(allow)
        self._args = args
        self._asked: builtins.set[str] = set()
        self.blobs: tuple[BlobUse, ...] = ()
        self.wrong: dict[str, str] = {}
        self._is_survey = False

    def survey(self) -> "NodeArgs":
        """The same arguments, but what is wrong is noted in `wrong` instead of being raised."""
        survey = NodeArgs(self._args, self.ns, self.place, self.allow)
        survey._is_survey = True
        return survey

    def bool(self, name: str, default: "D | _Required" = _REQUIRED) -> "builtins.bool | D":
        """True or false, also as text or as 1 or 0."""
        return self._converted(name, default, "true or false", _bool, False)

    def str(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "builtins.str | D":
        """A text, or a number as it is written."""
        return self._converted(name, default, "a text", _str, "")

    def choice(self, name: "builtins.str", options: Sequence["builtins.str"]) -> "builtins.str":
        """One of these texts."""

        def convert(value: object) -> str:
            text = _str(value)
            if text not in options:
                raise ValueError
            return text

        return self._converted(name, _REQUIRED, f"one of {', '.join(options)}", convert, options[0])

    def int(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "builtins.int | D":
        return self._converted(name, default, "a whole number", _int, 1)

    def float(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "builtins.float | D":
        return self._converted(name, default, "a number", _float, 1.0)

    def list_int(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "list[builtins.int] | D":
        return self._converted(
            name, default, "a list of whole numbers", lambda value: [_int(one) for one in _list(value)], []
        )

    def list_str(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "list[builtins.str] | D":
        return self._converted(name, default, "a list of texts", lambda value: [_str(one) for one in _list(value)], [])

    def set_str(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "builtins.set[builtins.str] | D":
        return self._converted(
            name, default, "a list of texts", lambda value: {_str(one) for one in _list(value)}, set[str]()
        )

    def shape(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "OpenShape | D":
        """A shape that may have null for dimensions in which tasks differ."""
        return self._converted(name, default, "a shape, a list of sizes or nulls", _shape, ())

    def ushape(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "Shape | D":
        """A shape without null."""
        return self._converted(name, default, "a shape without null, a list of sizes", _ushape, ())

    def format(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "Format | D":
        return self._converted(name, default, 'a format such as {"value": ["float", [2, null]]}', _format, {})

    def info(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "FieldFormat | D":
        return self._converted(
            name, default, 'dtype and shape such as ["float", [2, null]]', _info, FieldFormat("float", ())
        )

    def graph(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "builtins.str | D":
        """The name of a graph of the same namespace."""
        return self._converted(name, default, "the name of a graph", lambda value: _name(value, "graph"), "graph")

    def dtype(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "DType | D":
        return self._converted(name, default, f"a dtype ({', '.join(sorted(DTYPES))})", _dtype, DTYPES["float"])

    def data(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "DataPlace | D":
        place = self._converted(
            name, default, "a place in a blob, 'offset:length:name'", _data, DataPlace(0, 0, "blob")
        )
        if isinstance(place, DataPlace):
            self._uses(BlobUse(name=place.name, end_bytes=place.offset + place.length))
        return place

    def blob(self, name: "builtins.str", default: "D | _Required" = _REQUIRED) -> "builtins.str | D":
        """The name of a blob."""
        blob = self._converted(name, default, "the name of a blob such as 'model/a.safetensors'", _str, "blob")
        if isinstance(blob, builtins.str) and blob:
            self._uses(BlobUse(name=blob))
        return blob

    def json_object(
        self, name: "builtins.str", default: "D | _Required" = _REQUIRED
    ) -> "Mapping[builtins.str, object] | D":
        """Any object, unchecked but for being one."""
        return self._converted(name, default, "an object", _object, {})

    def asked(self) -> "tuple[builtins.str, ...]":
        """Names of the arguments that were asked for so far, given or not."""
        return tuple(sorted(self._asked))

    def unused(self) -> "tuple[builtins.str, ...]":
        """Names of the arguments that were given and never asked for."""
        return tuple(sorted(set(self._args) - self._asked))

    def error(self, name: "builtins.str", expected: "builtins.str") -> GraphError:
        """To raise when an argument is of the right type and still cannot be used."""
        return GraphError(
            f"{self.place}: argument {name!r}: expected {expected}, got {reprlib.repr(self._args.get(name))}"
        )

    def _uses(self, blob: BlobUse) -> None:
        if blob not in self.blobs:
            self.blobs = (*self.blobs, blob)

    def _converted(
        self,
        name: "builtins.str",
        default: D | _Required,
        expected: "builtins.str",
        convert: Callable[[object], T],
        instead: object,
    ) -> T | D:
        """instead: a value of the right type, for a survey."""
        self._asked.add(name)
        value = self._args.get(name)
        if value is None:
            if not isinstance(default, _Required):
                return default
            problem = f"{self.place}: argument {name!r} is missing: expected {expected}"
        else:
            try:
                return convert(value)
            except (ValueError, TypeError, OverflowError) as error:
                reason = f" ({error})" if type(error) is _Misfit else ""
                problem = f"{self.error(name, expected)}{reason}"
        if not self._is_survey:
            raise WrongArgument(problem)
        self.wrong.setdefault(name, problem)
        return cast(T, instead)


class _Misfit(ValueError):  # noqa: N818
    """With a reason worth telling."""


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = _str(value).strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError
    return text in ("true", "1")


def _str(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Misfit("half of a surrogate pair is no character") from None
    return text


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError
    return number


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    return float(value)


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return value


def _shape(value: object) -> OpenShape:
    shape = tuple(None if size is None else _int(size) for size in _list(value))
    if any(size is not None and size < 0 for size in shape):
        raise ValueError
    return shape


def _ushape(value: object) -> Shape:
    shape = _shape(value)
    if None in shape:
        raise ValueError
    return cast(Shape, shape)


def _dtype(value: object) -> DType:
    if not isinstance(value, str) or value not in DTYPES:
        raise ValueError
    return DTYPES[value]


def _info(value: object) -> FieldFormat:
    dtype_name, shape = _list(value)
    if not isinstance(dtype_name, str):
        raise TypeError
    if dtype_name not in DTYPES:
        raise _Misfit(f"unknown dtype {reprlib.repr(dtype_name)}; known are {', '.join(sorted(DTYPES))}")
    return FieldFormat(dtype_name, _shape(shape))


def _format(value: object) -> Format:
    if not isinstance(value, Mapping):
        raise TypeError
    return {_name(name, "field"): _info(info) for name, info in value.items()}


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return value


def _name(value: object, what: str) -> str:
    try:
        return check_name(value, what)
    except ValueError as error:
        raise _Misfit(str(error)) from None


def _data(value: object) -> DataPlace:
    if not isinstance(value, str):
        raise TypeError
    offset, length, name = value.split(":", 2)
    if not name or not all(digits.isascii() and digits.isdigit() for digits in (offset, length)):
        raise ValueError
    return DataPlace(int(offset), int(length), name)
