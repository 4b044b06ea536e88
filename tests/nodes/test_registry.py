"""Which kinds there are, what may be imported, and what becomes of broken plug-ins."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from scatterzmq.errors import GraphError
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.graph.nodeinfo import CallInfo, LackingHere, UnknownKind
from scatterzmq.nodes.registry import Registry

PLACE = "ns:main:node"
GOOD = """
from scatterzmq.nodes import Batch, Format, Node, NodeArgs, Resources

class Scale(Node):
    \"\"\"Multiply by a factor.

    More of it.\"\"\"
    pure = True
    weight = 2

    def __init__(self, args: NodeArgs) -> None:
        self.info = args.info("input")
        self.factor = args.float("factor", default=2.0)

    def inputs(self) -> Format:
        return {"value": self.info}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": self.info}}

    def load_cost(self) -> float:
        return 12.5

    def execute(self, batch: Batch) -> None:
        batch.emit("out", value=batch.uniform("value") * self.factor)
"""
BASE = """
from scatterzmq.nodes import CallSite, FieldFormat, Node

class Plain(Node):
    def inputs(self):
        return {}
    def outputs(self):
        return {"out": {}}
    def execute(self, batch):
        batch.emit("out")
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """plug_in("name", source): puts a module where Python finds it. Nothing of it stays behind."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name: str, source: str) -> None:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("szq_", "tmp_")):
            del sys.modules[name]


INFO = {"input": ["float", [2]]}


def describe(registry: Registry, kind: str, args: dict[str, object] | None = None) -> object:
    return registry.describe(kind, args or {}, "ns", PLACE)


# ---- built-in kinds


def test_a_built_in_kind_is_described() -> None:
    info = Registry().describe("constant_op", {"op": "add", "const": 1, "input": ["float", [2, None]]}, "ns", PLACE)
    assert info.input_format == {"value": FieldFormat("float", (2, None))}
    assert info.outputs == {"out": {"value": FieldFormat("float", (2, None))}}
    assert (info.pure, info.weight, info.load_cost, info.calls) == (True, 1.0, 1.0, ())
    assert info.doc == "Add a constant to every number, or multiply every number by it."


def test_arguments_that_nobody_asks_for_are_told() -> None:
    args = {"op": "add", "const": 1, "input": ["float", [2]], "konst": 9}
    info = Registry().describe("constant_op", args, "ns", PLACE)
    assert (info.arguments, info.unused) == (("const", "input", "op"), ("konst",))


def test_calls_are_described() -> None:
    args = {"graph": "g", "args": {"a": ["bool", []]}, "ret": {"b": ["float", [1]]}}
    info = Registry().describe("call", args, "ns", PLACE)
    assert info.calls == (CallInfo(graph="g", args={"a": FieldFormat("bool", ())}, output="out"),)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(
        UnknownKind, match=r"^ns:main:node: unknown node kind 'nope'; known are assertion_error, bin_op"
    ):
        describe(Registry(), "nope")
    with pytest.raises(UnknownKind, match=r"^unknown node kind 'nope'"):
        Registry().resolve("nope")


def test_wrong_arguments_name_the_place() -> None:
    with pytest.raises(
        GraphError, match=r"^ns:main:node: argument 'size' is missing: expected a whole number$"
    ) as caught:
        Registry().create("mat_square", {}, ns="ns", place=PLACE)
    assert not isinstance(caught.value, UnknownKind)


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(GraphError) as caught:
        describe(Registry(), "constant_op", {"op": "sub", "const": True})
    assert str(caught.value).splitlines() == [
        "ns:main:node: argument 'input' is missing: expected dtype and shape such as [\"float\", [2, null]]",
        "ns:main:node: argument 'op': expected one of add, mul, got 'sub'",
        "ns:main:node: argument 'const': expected a number, got True",
    ]


# ---- what may be imported

MARKER = "import builtins\nbuiltins.szq_was_imported = True\n" + GOOD
HOSTILE = [
    "os",
    "os.path",
    "antigravity",
    "..",
    ".",
    "",
    ".szq_marker",
    "szq_marker",
    "szq_marker.",
    "szq_marker..sub",
    "szq_package.marker",
    "szq_package/marker",
    "szq_packag\u0435.marker",
    "szq_package.m\u0430rker",
    "szq_package.marker\n",
    " szq_package.marker",
    "szq_package.marker\x00",
    "szq_package.marker;x",
    "szq_packageX.marker",
    "szq_package2.marker",
    "constant_op.",
    "scatterzmq.nodes.arith",
    "scatterzmq.nodes.tokenize",
    "__main__",
    "__builtins__.exec",
    "arith:ConstantOp",
    "a" * 10**6,
    "a." * 10**6 + "a",
    "szq_package.marker" + ".a" * 200,
]


@pytest.mark.parametrize("kind", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("allow", [(), ("szq_other", "szq_package.mark", "szq_package.marker.deep", "", ".", "*")])
def test_a_kind_never_imports_what_is_not_allowed(
    plug_in: Callable[..., None], kind: str, allow: tuple[str, ...]
) -> None:
    for name in ("szq_marker", "szq_package.marker", "szq_package2.marker", "szq_package.__init__"):
        plug_in(name, "raise BaseException('was imported')")
    before = set(sys.modules)
    with pytest.raises(UnknownKind) as caught:
        describe(Registry(allow), kind)
    assert set(sys.modules) == before
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["szq_p\u0430ckage.scale", "szq_package.scale\n", "szq_package..scale", "szq_package.1"]
)
def test_even_an_allowed_prefix_covers_plain_names_only(plug_in: Callable[..., None], name: str) -> None:
    plug_in("szq_package.scale", "raise BaseException('was imported')")
    with pytest.raises(UnknownKind, match="is not the name of a Python module"):
        describe(Registry([name.partition(".")[0], "szq_package"]), name)


def test_a_refused_plug_in_says_what_to_do() -> None:
    with pytest.raises(UnknownKind, match=r"'szq_a.b' is a module that may not be imported here; .* plugins.allow"):
        describe(Registry(["szq_b"]), "szq_a.b")


@pytest.mark.parametrize("allow", ["szq_package", "szq_package.scale", "szq_package.deep"])
def test_an_allowed_plug_in(plug_in: Callable[..., None], allow: str) -> None:
    plug_in("szq_package.scale", GOOD)
    plug_in("szq_package.deep.scale", GOOD)
    kind = "szq_package.deep.scale" if allow.endswith("deep") else "szq_package.scale"
    registry = Registry(["szq_other", allow])
    info = registry.describe(kind, dict(INFO), "ns", PLACE)
    assert info.input_format == {"value": FieldFormat("float", (2,))}
    assert (info.pure, info.weight, info.load_cost) == (True, 2.0, 12.5)
    assert info.doc == "Multiply by a factor."
    assert registry.resolve(kind) is type(registry.create(kind, INFO, ns="ns", place=PLACE))


def test_nodes_can_see_what_may_be_imported(plug_in: Callable[..., None]) -> None:
    source = BASE + "    def __init__(self, args):\n        self.allow = args.allow\n"
    plug_in("szq_a.b", source)
    node = Registry(["szq_a"]).create("szq_a.b", {}, ns="ns", place=PLACE)
    assert vars(node)["allow"] == ("szq_a",)


def test_names_that_were_imported_do_not_count(plug_in: Callable[..., None]) -> None:
    plug_in("szq_a.base", BASE)
    plug_in(
        "szq_a.b",
        "from szq_a.base import Plain\nfrom scatterzmq.nodes import Node\nclass Mine(Plain):\n    pass\nAlso = Mine",
    )
    assert Registry(["szq_a"]).resolve("szq_a.b").__name__ == "Mine"


@pytest.mark.parametrize(
    ("source", "found"),
    [("x = 1", "none"), (BASE + "\nclass Second(Plain):\n    pass\n", "Plain, Second")],
)
def test_a_module_needs_exactly_one_node(plug_in: Callable[..., None], source: str, found: str) -> None:
    plug_in("szq_a.b", source)
    with pytest.raises(
        UnknownKind, match=f"'szq_a.b': its module must hold exactly one subclass of Node, found {found}$"
    ):
        describe(Registry(["szq_a"]), "szq_a.b")


# ---- broken plug-ins


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import szq_gone", "cannot be imported: ModuleNotFoundError: No module named 'szq_gone'"),
        ("1 +", "cannot be imported: SyntaxError: "),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("from scatterzmq.errors import Gone", "ImportError: cannot import name 'Gone' from 'scatterzmq.errors'$"),
        ("raise ValueError('x' * 10_000)", r"ValueError: x{400,500}\.\.\.$"),
    ],
)  # fmt: skip
def test_a_plug_in_that_cannot_be_imported(plug_in: Callable[..., None], source: str, reason: str) -> None:
    plug_in("szq_a.b", source)
    with pytest.raises(UnknownKind, match=rf"^ns:main:node: node kind 'szq_a.b' .*{reason}") as caught:
        describe(Registry(["szq_a"]), "szq_a.b")
    assert isinstance(caught.value.__cause__, (Exception, SystemExit))


def test_a_plug_in_that_is_not_there() -> None:
    with pytest.raises(
        UnknownKind, match=r"'szq_gone\.b' cannot be imported: ModuleNotFoundError: No module named 'szq_gone'"
    ):
        describe(Registry(["szq_gone"]), "szq_gone.b")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("def __init__(self, args): raise KeyError('gone')", "cannot be made: KeyError: 'gone'"),
        ("def __init__(self): pass", "cannot be made: TypeError: "),
        ("def inputs(self): return 1 / 0", "cannot say what it is: ZeroDivisionError: division by zero"),
        ("def outputs(self): raise RuntimeError('no')", "cannot say what it is: RuntimeError: no"),
        ("def load_cost(self): raise RuntimeError('no')", "cannot say what it is: RuntimeError: no"),
        ("@property\n    def pure(self): raise RuntimeError('no')", "cannot say what it is: RuntimeError: no"),
        ("def inputs(self): return None", r"inputs\(\) must be field names with formats, got None"),
        ("def inputs(self): return {'a': ('float', [2])}", r"inputs\(\): field 'a' must be a FieldFormat, got \("),
        ("def inputs(self): return {'a b': None}", r"inputs\(\): field name 'a b' must not contain ' '"),
        ("def outputs(self): return ['out']", r"outputs\(\) must return output names with formats, got \['out'\]"),
        ("def outputs(self): return {'out': None}", r"outputs\(\), 'out' must be field names with formats, got None"),
        ("def outputs(self): return {'': {}}", r"outputs\(\): output name is empty"),
        ("def outputs(self): return {1: {}}", r"outputs\(\): output name must be text, got 1"),
        ("pure = 1", "pure must be True or False, got 1"),
        ("weight = 'heavy'", "weight must be a number of at least 0, got 'heavy'"),
        ("weight = -1", "weight must be a number of at least 0, got -1"),
        ("weight = float('nan')", "weight must be a number of at least 0, got nan"),
        ("weight = True", "weight must be a number of at least 0, got True"),
        ("def load_cost(self): return float('inf')", r"load_cost\(\) must be a number of at least 0, got inf"),
        ("def load_cost(self): return 10**400", r"load_cost\(\) must be a number of at least 0, got 1"),
        ("def calls(self): return 'graph'", r"calls\(\) must return CallSites, got 'graph'"),
        ("def calls(self): return None", r"calls\(\) must return CallSites, got None"),
        ("def calls(self): return [CallSite(graph='g', args={}, output='x')]", r"calls\(\): the node has no output"),
        ("def calls(self): return [CallSite(graph=':', args={}, output='out')]", r"calls\(\): graph name ':' must not"),
        ("def calls(self): return [CallSite(graph='g', args=0, output='out')]", r"calls\(\), 'g' must be field names"),
    ],
)  # fmt: skip
def test_a_plug_in_that_misbehaves(plug_in: Callable[..., None], method: str, reason: str) -> None:
    plug_in("szq_a.b", f"{BASE}\n    {method}\n")
    with pytest.raises(GraphError, match=rf"^ns:main:node: node kind 'szq_a.b'(:)? {reason}") as caught:
        describe(Registry(["szq_a"]), "szq_a.b")
    assert not isinstance(caught.value, UnknownKind)


def test_a_plug_in_that_needs_what_is_not_installed_is_lacking_here_and_no_unknown_kind(
    plug_in: Callable[..., None],
) -> None:
    plug_in("szq_a.b", f"{BASE}\n    def __init__(self, args): import szq_gone\n")
    with pytest.raises(LackingHere, match="cannot be made: ModuleNotFoundError: No module named 'szq_gone'") as caught:
        describe(Registry(["szq_a"]), "szq_a.b")
    assert not isinstance(caught.value, UnknownKind)


@pytest.mark.parametrize("missing", ["inputs", "outputs", "execute"])
def test_a_plug_in_without_a_method_it_needs(plug_in: Callable[..., None], missing: str) -> None:
    plug_in("szq_a.b", BASE.replace(f"def {missing}", "def other"))
    with pytest.raises(GraphError, match=f"'szq_a.b' cannot be made: TypeError: .*abstract method .?{missing}"):
        describe(Registry(["szq_a"]), "szq_a.b")


def test_an_interrupt_is_no_error_of_the_plug_in(plug_in: Callable[..., None]) -> None:
    plug_in("szq_a.b", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        describe(Registry(["szq_a"]), "szq_a.b")


def test_a_node_of_its_own_by_default(plug_in: Callable[..., None]) -> None:
    plug_in("szq_a.b", BASE)
    info = Registry(["szq_a"]).describe("szq_a.b", {}, "ns", PLACE)
    assert (info.pure, info.weight, info.load_cost, info.calls, info.doc) == (False, 1.0, 1.0, (), "")
