"""Node kinds by name: the built-in ones, and plug-ins whose modules the configuration allows.

Rules:
* A kind comes from a graph file, so it is not trusted. Without a dot it is a key of a fixed table. With a dot it is the
  name of a module, imported only if it is a plain ASCII name below one of the allowed prefixes, compared part by part.
* Whatever a plug-in raises while it is imported, made or asked becomes a GraphError that names the kind.
"""

import importlib
import re
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from sys import float_info
from types import ModuleType, TracebackType
from typing import Final

from ..errors import GraphError
from ..graph.formats import FieldFormat, Format
from ..graph.names import check_name
from ..graph.nodeinfo import CallInfo, LackingHere, NodeInfo, UnknownKind
from .args import NodeArgs, WrongArgument
from .base import CallSite, Node

BUILT_IN: Final = {
    "assertion_error": "flow:AssertionError",
    "bin_op": "arith:BinOp",
    "call": "flow:Call",
    "constant_op": "arith:ConstantOp",
    "for_loop": "flow:ForLoop",
    "if_op": "flow:IfOp",
    "load_constant": "constant:LoadConstant",
    "mat_square": "arith:MatSquare",
    "str_concat": "text:StrConcat",
    "test_cache": "testing:TestCache",
    "tokenize": "tokenize",
    "torch_class": "torch_class",
}
"""kind -> module beside this one, and the class if the module has several"""

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_NAME_LENGTH_MAX = 255
_REASON_LENGTH_MAX = 500


class Registry:
    """Finds and makes nodes. May be used from any thread.

    allow: prefixes of modules that may be imported ("my_package" covers all below it).
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self.allow = tuple(allow)
        self._prefixes = tuple(tuple(prefix.split(".")) for prefix in allow)
        self._found: dict[str, type[Node]] = {}

    def resolve(self, kind: str) -> type[Node]:
        """The class of a kind. Raises UnknownKind if there is none, it is not allowed, or it cannot be imported."""
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = self._plug_in(kind) if "." in kind else _built_in(kind)
        return found

    def create(self, kind: str, args: Mapping[str, object], *, ns: str, place: str) -> Node:
        """A node, not loaded yet. place: "ns:graph:node", for messages. Raises GraphError for wrong arguments too."""
        return self._created(kind, NodeArgs(args, ns, place, self.allow))

    def describe(self, kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
        """What the checker needs to know of a node. Raises GraphError."""
        given = NodeArgs(args, ns, place, self.allow)
        node = self._created(kind, given)
        with _Blame(f"{place}: node kind {_shown(kind)} cannot say what it is"):
            inputs, outputs, calls = node.inputs(), node.outputs(), node.calls()
            pure, weight, load_cost = node.pure, node.weight, node.load_cost()
            doc = (type(node).__doc__ or "").strip().partition("\n")[0]
        blame = f"{place}: node kind {_shown(kind)}"
        if not isinstance(pure, bool):
            raise GraphError(f"{blame}: pure must be True or False, got {_shown(pure)}")
        if not isinstance(outputs, Mapping):
            raise GraphError(f"{blame}: outputs() must return output names with formats, got {_shown(outputs)}")
        checked = {
            _name(output, "output", f"{blame}: outputs()"): _format(fields, f"{blame}: outputs(), {output!r}")
            for output, fields in outputs.items()
        }
        return NodeInfo(
            input_format=_format(inputs, f"{blame}: inputs()"),
            outputs=checked,
            pure=pure,
            weight=_cost(weight, f"{blame}: weight"),
            load_cost=_cost(load_cost, f"{blame}: load_cost()"),
            calls=_call_infos(calls, checked, f"{blame}: calls()"),
            thread_safe=type(node).thread_safe,
            doc=doc,
            blobs=given.blobs,
            arguments=given.asked(),
            unused=given.unused(),
        )

    def _created(self, kind: str, args: NodeArgs) -> Node:
        try:
            found = self.resolve(kind)
        except UnknownKind as error:
            raise UnknownKind(f"{args.place}: {error}") from error.__cause__
        with _Blame(f"{args.place}: node kind {_shown(kind)} cannot be made"):
            try:
                return found(args)
            except WrongArgument as error:
                problems = _all_wrong(found, args) or (str(error),)
            raise GraphError("\n".join(problems))

    def _plug_in(self, kind: str) -> type[Node]:
        if len(kind) > _NAME_LENGTH_MAX or not _MODULE.fullmatch(kind):
            raise UnknownKind(f"node kind {_shown(kind)} is not the name of a Python module")
        parts = tuple(kind.split("."))
        if not any(parts[: len(prefix)] == prefix for prefix in self._prefixes):
            raise UnknownKind(
                f"node kind {_shown(kind)} is a module that may not be imported here; the settings of the peer allow "
                "plug-ins by their module in plugins.allow"
            )
        return _only_node(_imported(kind, kind), kind)


def _all_wrong(kind: type[Node], args: NodeArgs) -> Sequence[str]:
    """What is wrong with the arguments that are missing or cannot be converted. Each text begins with the place."""
    survey = args.survey()
    # With other values than were given it may fail in any way, and says nothing of them.
    with suppress(Exception, SystemExit):
        kind(survey)
    return tuple(survey.wrong.values())


def _built_in(kind: str) -> type[Node]:
    path = BUILT_IN.get(kind)
    if path is None:
        raise UnknownKind(
            f"unknown node kind {_shown(kind)}; known are {', '.join(BUILT_IN)}, and modules such as "
            "'my_package.my_node' that the settings of the peer allow"
        )
    name, _, cls = path.partition(":")
    module = _imported(f"{__package__}.{name}", kind)
    if not cls:
        return _only_node(module, kind)
    found = vars(module)[cls]
    assert isinstance(found, type), path
    assert issubclass(found, Node), path
    return found


def _imported(module: str, kind: str) -> ModuleType:
    with _Blame(f"node kind {_shown(kind)} cannot be imported", UnknownKind):
        return importlib.import_module(module)


def _only_node(module: ModuleType, kind: str) -> type[Node]:
    found = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Node) and thing.__module__ == module.__name__
    ]
    unique = list(dict.fromkeys(found))
    if len(unique) != 1:
        names = ", ".join(cls.__name__ for cls in unique) or "none"
        raise UnknownKind(f"node kind {_shown(kind)}: its module must hold exactly one subclass of Node, found {names}")
    return unique[0]


# ---- what a node says of itself


def _format(form: object, where: str) -> Format:
    if not isinstance(form, Mapping):
        raise GraphError(f"{where} must be field names with formats, got {_shown(form)}")
    for name, field in form.items():
        _name(name, "field", where)
        if not isinstance(field, FieldFormat):
            raise GraphError(f"{where}: field {name!r} must be a FieldFormat, got {_shown(field)}")
    return dict(form)


def _name(name: object, what: str, where: str) -> str:
    try:
        return check_name(name, what)
    except ValueError as error:
        raise GraphError(f"{where}: {error}") from None


def _cost(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= float_info.max:
        raise GraphError(f"{where} must be a number of at least 0, got {_shown(value)}")
    return float(value)


def _call_infos(calls: object, outputs: Mapping[str, Format], where: str) -> tuple[CallInfo, ...]:
    if not isinstance(calls, Sequence) or not all(isinstance(call, CallSite) for call in calls):
        raise GraphError(f"{where} must return CallSites, got {_shown(calls)}")
    for call in calls:
        if call.output not in outputs:
            raise GraphError(f"{where}: the node has no output {_shown(call.output)} to come back on")
    return tuple(
        CallInfo(
            graph=_name(call.graph, "graph", where),
            args=_format(call.args, f"{where}, {call.graph!r}"),
            output=call.output,
        )
        for call in calls
    )


class _Blame:
    """Turns whatever other people's code raises into a GraphError; ours go through as they are."""

    def __init__(self, what: str, kind: type[GraphError] = GraphError) -> None:
        self._what = what
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # SystemExit is what a module raises that believes to be a program.
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, GraphError):
            kind_of_error = LackingHere if isinstance(error, ImportError) and self._kind is GraphError else self._kind
            raise kind_of_error(f"{self._what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, ImportError) and error.path:
        # Whoever sent the graph need not know where packages lie on this machine.
        text = text.replace(f" ({error.path})", "")
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _REASON_LENGTH_MAX else f"{text[:_REASON_LENGTH_MAX]}..."


def _shown(value: object) -> str:
    return reprlib.repr(value)
