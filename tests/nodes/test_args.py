"""Arguments: what is converted, what is refused, and how that is said."""

from typing import Any

import pytest

from scatterzmq.errors import GraphError
from scatterzmq.graph.formats import DTYPES, FieldFormat
from scatterzmq.nodes import NodeArgs
from scatterzmq.nodes.args import DataPlace

INF = float("inf")


def args(**given: object) -> NodeArgs:
    return NodeArgs(given, "ns", "ns:main:node")


def read(kind: str, value: object) -> Any:
    return getattr(args(x=value), kind)("x")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bool", True, True),
        ("bool", False, False),
        ("bool", "True", True),
        ("bool", "false", False),
        ("bool", 1, True),
        ("bool", "0", False),
        ("str", "a", "a"),
        ("str", "", ""),
        ("str", 5, "5"),
        ("str", 0.5, "0.5"),
        ("int", 5, 5),
        ("int", -5, -5),
        ("int", "5", 5),
        ("int", 5.0, 5),
        ("int", 10**30, 10**30),
        ("float", 2, 2.0),
        ("float", 2.5, 2.5),
        ("float", "2.5", 2.5),
        ("list_int", [1, "2", 3.0], [1, 2, 3]),
        ("list_int", (), []),
        ("list_str", ["a", 1], ["a", "1"]),
        ("set_str", ["a", "b", "a"], {"a", "b"}),
        ("shape", [2, None, 0], (2, None, 0)),
        ("ushape", [2, 3], (2, 3)),
        ("ushape", [], ()),
        ("format", {"a": ["float", [2, None]]}, {"a": FieldFormat("float", (2, None))}),
        ("format", {"a": ["int", []], "b": ("bool", ())}, {"a": FieldFormat("int", ()), "b": FieldFormat("bool", ())}),
        ("format", {}, {}),
        ("info", ["half", [1]], FieldFormat("half", (1,))),
        ("info", ("float", (None,)), FieldFormat("float", (None,))),
        ("graph", "other", "other"),
        ("dtype", "float", DTYPES["float32"]),
        ("dtype", "bfloat16", DTYPES["bfloat16"]),
        ("data", "0:12:a/b:c.bin", DataPlace(0, 12, "a/b:c.bin")),
        ("json_object", {"a": [1, {}]}, {"a": [1, {}]}),
    ],
)  # fmt: skip
def test_conversions(kind: str, value: object, expected: object) -> None:
    found = read(kind, value)
    assert found == expected
    assert type(found) is type(expected)


WRONG = [
    ("bool", "yes"),
    ("bool", 2),
    ("bool", 1.0),
    ("bool", []),
    ("str", True),
    ("str", ["a"]),
    ("str", {}),
    ("str", "\ud800"),
    ("int", True),
    ("int", 1.5),
    ("int", "1.5"),
    ("int", "one"),
    ("int", INF),
    ("int", float("nan")),
    ("int", [1]),
    ("int", "9" * 5000),
    ("float", False),
    ("float", "one"),
    ("float", [1.0]),
    ("float", 10**400),
    ("list_int", "123"),
    ("list_int", 1),
    ("list_int", [1, True]),
    ("list_int", [1, None]),
    ("list_int", {"1": 1}),
    ("list_str", "abc"),
    ("list_str", [["a"]]),
    ("set_str", "abc"),
    ("shape", [-1]),
    ("shape", "2"),
    ("shape", [True]),
    ("ushape", [None]),
    ("ushape", [-1]),
    ("format", ["float", [2]]),
    ("format", {"a": "float"}),
    ("format", {"a b": ["float", []]}),
    ("format", {"": ["float", []]}),
    ("format", {1: ["float", []]}),
    ("info", ["float"]),
    ("info", ["float", [1], 2]),
    ("info", "float"),
    ("info", ["floaty", [1]]),
    ("info", [1, [1]]),
    ("info", [["float"], [1]]),
    ("info", ["float", 1]),
    ("graph", ""),
    ("graph", "a:b"),
    ("graph", 5),
    ("dtype", "floaty"),
    ("dtype", ["float"]),
    ("dtype", 5),
    ("data", "0:12"),
    ("data", "0:12:"),
    ("data", "-1:12:a"),
    ("data", "x:12:a"),
    ("data", "٣:12:a"),
    ("data", 5),
    ("json_object", [1]),
    ("json_object", {1: 2}),
]


@pytest.mark.parametrize(("kind", "value"), WRONG, ids=[f"{kind}-{index}" for index, (kind, _) in enumerate(WRONG)])
def test_what_cannot_be_converted_without_loss(kind: str, value: object) -> None:
    with pytest.raises(GraphError, match=r"^ns:main:node: argument 'x': expected .*, got ") as caught:
        read(kind, value)
    assert len(str(caught.value)) < 600


def test_a_message_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(GraphError, match=r"^ns:main:node: argument 'x': expected a whole number, got 'many'$"):
        args(x="many").int("x")
    with pytest.raises(GraphError, match=r"got \['floaty', \[\]\] \(unknown dtype 'floaty'; known are bfloat16, "):
        args(x=["floaty", []]).info("x")
    with pytest.raises(GraphError, match=r"\(field name 'a b' must not contain ' '"):
        args(x={"a b": ["float", []]}).format("x")


KINDS = (
    "bool str int float list_int list_str set_str shape ushape format info graph dtype data json_object".split()  # noqa: SIM905
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [{}, {"x": None}])
def test_missing(kind: str, given: dict[str, object]) -> None:
    marker = object()
    assert getattr(args(**given), kind)("x", default=marker) is marker
    assert getattr(args(**given), kind)("x", None) is None
    with pytest.raises(GraphError, match=r"^ns:main:node: argument 'x' is missing: expected "):
        getattr(args(**given), kind)("x")


def test_zero_and_nothing_are_not_missing() -> None:
    given = args(a=0, b="", c=False, d=[])
    assert given.int("a", 1) == 0
    assert given.str("b", "x") == ""
    assert given.bool("c", True) is False
    assert given.list_int("d", [1]) == []


def test_unused() -> None:
    given = args(b=1, a=2, c=None)
    assert given.unused() == ("a", "b", "c")
    given.int("b")
    given.int("missing", 0)
    assert given.unused() == ("a", "c")
    assert given.asked() == ("b", "missing")


def test_a_place_in_a_blob_as_text() -> None:
    assert str(DataPlace(3, 4, "a:b")) == "3:4:a:b"


def test_an_error_for_what_only_the_node_can_tell() -> None:
    assert str(args(x="sub").error("x", "add or mul")) == "ns:main:node: argument 'x': expected add or mul, got 'sub'"
    assert len(str(args(x="y" * 10_000).error("x", "less"))) < 100
