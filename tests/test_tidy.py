"""Rules about the source text itself: who may import whom, how long things may get, what may not be written.

Each rule is a function from one source file to its complaints; the second half shows each of them fail.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "scatterzmq"
LINES_MAX = 600
FUNCTION_LINES_MAX = 70


@dataclass(frozen=True)
class Source:
    """One file; `path` is relative to the repository: "scatterzmq/core/ledger.py"."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def module(self) -> str:
        """ "core.ledger" in the package ("" for its __init__), else ""."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(part for part in parts[1:] if part != "__init__") if parts[0] == PACKAGE else ""

    @property
    def is_ours(self) -> bool:
        return self.path.startswith(f"{PACKAGE}/")

    @property
    def part(self) -> str:
        """The first folder or module below the package."""
        return self.module.partition(".")[0]

    @cached_property
    def inside_functions(self) -> frozenset[int]:
        """ids of all syntax nodes that run only when a function is called."""
        functions = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        return frozenset(id(inner) for function in functions for inner in ast.walk(function) if inner is not function)


Rule = Callable[[Source], Iterator[str]]


# -- who may import whom ----------------------------------------------------------------------------------------------

BASE = ("errors", "frozen", "ids")
COLUMNS = ("wire.columns", "wire.tensors")
WORDS = ("core.messages", "core.peermessages", "core.payloadmessages", "core.cachemessages", "core.blobmessages")
RECORDS = ("wire.frames", "wire.refusal", "wire.schema")
DRIVEN = ("settings", "core", "wire", "execute")
PROCESS = ("config", "eventstream", "runtime", "remote")
BLOB_GRAPHS = ("graph.formats", "graph.blobs")
BLOB_RULES = ("core.blobmessages", "core.blobkeepers")
BLOB_FILES = ("execute.blobfiles", "execute.blobplaces")
PASSED = ("core.actions", "core.events", "core.values")
PARTS = ("blobs", "driver", "network", "net", "journal", "recording", "eventstream", "health", "plugins")
SHOWN = ("settings", "core.messages")
OWN: Mapping[str, tuple[str, ...]] = {
    "": (*BASE, "client", "embedded", "remote"),
    "__main__": ("cli",),
    "errors": (),
    "frozen": (),
    "ids": ("errors",),
    "settings": BASE,
    "graph": (*BASE, "graph"),
    "core": (*BASE, "settings", "graph", "core"),
    "wire": (*BASE, "settings", "graph.formats", *WORDS, "core.values", "wire"),
    "nodes": (*BASE, "graph", *COLUMNS, "execute.blobfiles", "nodes"),
    "models": (),
    "execute": (*BASE, "settings", "graph", *PASSED, *COLUMNS, *RECORDS, "nodes", "execute"),
    "blobs": (*BASE, *BLOB_GRAPHS, *BLOB_RULES, "wire.columns", *BLOB_FILES, "blobs"),
    "client": (*BASE, "settings", "graph", "core.messages", "core.values", "wire", "client"),
    "embedded": (*BASE, *DRIVEN, "client", "driver", "eventstream", "neighbours", "plugins", "processes", "remote"),
    "neighbours": (*BASE, *DRIVEN, "client.link", "clientdriver", "driver", "measures", "network", "plugins"),
    "clientdriver": (*BASE, "core", "wire", "driver"),
    "plugins": (*BASE, "settings", "core.strategy", "plugins"),
    "recording": (*BASE, "settings", "graph", "core", "wire", "recording"),
    "sim": (*BASE, "settings", "graph", "core", "wire", "plugins", "recording", "sim", PACKAGE),
    "net": (*BASE, "settings", "core", "wire", "client.link", "clientdriver", "driver", "network", "net"),
    "journal": (*BASE, "settings", "graph.formats", "core", "wire", "journal"),
    "eventstream": (*BASE, "settings", "plugins", "eventstream"),
    "health": (*BASE, "settings", "health", PACKAGE),
    "runtime": (*BASE, *DRIVEN, *PARTS, PACKAGE),
    "remote": (*BASE, "settings", "core", "wire", "blobs.sender", "client", "clientdriver", "net"),
    "processes": (*BASE, "settings", "config", "eventstream"),
    "questions": (*BASE, "settings", "core.messages", "wire.columns", "client.link", "net", "remote"),
    "config": (*BASE, "settings"),
    "driver": (*BASE, *DRIVEN, "measures", "network"),
    "measures": ("core",),
    "network": (*BASE, "core", "wire", "execute"),
    "cli": (*BASE, *SHOWN, "graph", "nodes", "client", "cli", *PROCESS, "questions", PACKAGE),
}
"""Part of the package -> what of the package it may import, at any place in a file."""

FOREIGN: Mapping[str, tuple[str, ...]] = {
    "wire": ("msgpack", "xxhash"),
    "wire.tensors": ("numpy", "xxhash"),
    "execute": ("torch", "numpy", "safetensors", "xxhash"),
    "models": ("torch",),
    "nodes": ("torch", "numpy", "tokenizers", "safetensors"),
    "net": ("zmq",),
    "sim.forge": ("msgpack",),
}
"""Part or module -> other people's libraries that it may import when it is loaded."""

FOREIGN_LATE: Mapping[str, tuple[str, ...]] = {
    "wire.tensors": ("torch",),
    "client": ("torch", "numpy", "rich"),
    "cli": ("numpy", "rich"),
    "net": ("zmq", "zeroconf", "ifaddr"),
}
"""The same for imports inside functions and for type checkers: loaded when needed."""

NOT_IN_CORE = {"asyncio", "datetime", "logging", "os", "random", "secrets", "socket", "threading", "time", "uuid"}
STANDARD = frozenset(sys.stdlib_module_names)


def imports(source: Source) -> Iterator[tuple[str, bool, int]]:
    """All (module, late, line) of a file; own modules as ".core.ledger", the package itself as "."."""
    typing_only = {
        id(inner)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(source.tree):
        late = id(node) in source.inside_functions or id(node) in typing_only
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _imported_from(source, node)
        else:
            continue
        for name in names:
            inside, _, rest = name.partition(".")
            yield (f".{rest}" if inside == PACKAGE else name), late, node.lineno


def _imported_from(source: Source, node: ast.ImportFrom) -> list[str]:
    if node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    here = list(PurePosixPath(source.path).parent.parts)
    base = here[: len(here) - node.level + 1] + ([node.module] if node.module else [])
    return [".".join([*base, alias.name]) for alias in node.names]


def is_below(name: str, tops: tuple[str, ...]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)


def import_layers(source: Source) -> Iterator[str]:
    if not source.is_ours:
        return
    if source.part not in OWN:
        yield f"1: {source.part!r} is not in the table of import rules"
        return
    foreign, late_too = (table.get(source.module, table.get(source.part, ())) for table in (FOREIGN, FOREIGN_LATE))
    for name, late, line in imports(source):
        top = name.partition(".")[0]
        if name.startswith("."):
            target = name[1:] or PACKAGE
            if not is_below(target, OWN[source.part]) and not (is_package_name(target) and PACKAGE in OWN[source.part]):
                yield f"{line}: {source.part or PACKAGE} may not import {PACKAGE}.{target}"
        elif top in STANDARD:
            if source.part == "core" and top in NOT_IN_CORE:
                yield f"{line}: core may not import {top}"
        elif top not in foreign and not (late and top in late_too):
            yield f"{line}: {source.module or PACKAGE} may not import {top}{'' if late else ' when it is loaded'}"


def is_package_name(target: str) -> bool:
    """Whether "local" or "ScatterError" is a name of the package itself, which imports it when it is asked for."""
    return target in {PACKAGE, "__version__", "connect", "local"} or target[:1].isupper()


# -- size -------------------------------------------------------------------------------------------------------------


def module_size(source: Source) -> Iterator[str]:
    if source.path.startswith("tests/"):
        return  # long lists of cases are easy to read
    lines = source.text.count("\n")
    if lines > LINES_MAX:
        yield f"1: {lines} lines, more than {LINES_MAX}"


def function_size(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"


# -- what may not be written ------------------------------------------------------------------------------------------

UNSAFE_MODULES = ("pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")
UNSAFE_CALLS = {"eval", "exec", "print", "breakpoint", "input"}
UNSAFE_METHODS = {"torch.load", "torch.save", "numpy.load", "np.load"}
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")))
SKIPPED = re.compile(r"mark\.(skip|xfail)|pytest\.(skip|xfail|importorskip)|unittest\.skip")


def banned_calls(source: Source) -> Iterator[str]:
    for name, _, line in imports(source):
        if is_below(name, UNSAFE_MODULES):
            yield f"{line}: {name} runs whatever the bytes say"
    if not source.is_ours:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in UNSAFE_CALLS:
            yield f"{node.lineno}: {called}() has no place in the package"
        if called in UNSAFE_METHODS and not refuses_pickles(node):
            yield f"{node.lineno}: {called}() can run what is in the file"
        if called.rpartition(".")[2] in {"recv_pyobj", "send_pyobj"}:
            yield f"{node.lineno}: {called}() runs whatever the bytes say"


def refuses_pickles(call: ast.Call) -> bool:
    words = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return words.get("allow_pickle") == "False"


def clock_and_chance(source: Source) -> Iterator[str]:
    """core/ gets the time with each event and never draws lots: the same events give the same actions."""
    if source.part != "core":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in NOT_IN_CORE:
            yield f"{node.lineno}: {node.value.id}.{node.attr} in core"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hash":
            yield f"{node.lineno}: hash() differs from run to run"


ORDERED = {"sorted", "len", "min", "max", "sum", "any", "all", "set", "frozenset", "bool"}
SET_MAKERS = r"^(set|frozenset)$|[.](union|intersection|difference|symmetric_difference)$"
ORDER_KEEPERS = {"list", "tuple", "enumerate", "iter", "dict.fromkeys", "zip", "map", "filter", "reversed"}


def order_of_sets(source: Source) -> Iterator[str]:
    """The order of a set of ids differs from run to run, so core/ must sort before it goes through one."""
    if source.part != "core":
        return
    known = names_of_sets(source.tree)
    harmless: set[int] = set()
    for node in ast.walk(source.tree):  # outer nodes come first
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ORDERED:
            harmless |= {id(argument) for argument in node.args}
        if id(node) in harmless or isinstance(node, ast.SetComp):
            continue
        for what in gone_through(node):
            if is_set(what, known):
                yield f"{what.lineno}: {ast.unparse(what)} is a set: its order is not fixed, use sorted()"


def gone_through(node: ast.AST) -> list[ast.expr]:
    """What this piece of syntax takes one by one, in order."""
    if isinstance(node, ast.For):
        return [node.iter]
    if isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
        return [part.iter for part in node.generators]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ORDER_KEEPERS:
        return node.args
    return [node.value] if isinstance(node, ast.Starred) else []


def names_of_sets(tree: ast.Module) -> frozenset[str]:
    """Names that the file declares to be sets, by annotation or by what is assigned."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and is_set_type(node.annotation):
            found.add(ast.unparse(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None and is_set_type(node.annotation):
            found.add(node.arg)
        elif isinstance(node, ast.Assign) and is_set(node.value, frozenset()):
            found |= {ast.unparse(target) for target in node.targets}
    return frozenset(name.rpartition(".")[2] for name in found)


def is_set_type(annotation: ast.expr) -> bool:
    return re.match(r"(set|frozenset|Set|AbstractSet|MutableSet)\b", ast.unparse(annotation)) is not None


def is_set(node: ast.expr, known: frozenset[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call):
        return re.search(SET_MAKERS, ast.unparse(node.func)) is not None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub | ast.BitXor):
        views = any(ast.unparse(side).endswith((".keys()", ".items()")) for side in (node.left, node.right))
        return views or is_set(node.left, known) or is_set(node.right, known)
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).rpartition(".")[2] in known


PREFIXED = {  # names that the interface or the standard library fixes
    "get_namespace",
    "get_status",
    "get_result",
    "get_response",
    "get_queue_stats",
    "get_healthcheck",
    "get_nowait",
    "set_str",
}


def getter_names(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = node.name.lstrip("_")
        if name.startswith(("get_", "set_")) and name not in PREFIXED:
            yield f"{node.lineno}: {name}: call it by what it is, or by what it does"


CATCHERS = {
    "scatterzmq/core/strategy.py",  # strategies are plug-ins: what they raise is reported
    "scatterzmq/execute/failure.py",  # nodes are plug-ins: what they raise is an error of their tasks
    "scatterzmq/eventstream/stream.py",  # listeners are plug-ins: one that raises is switched off
    "scatterzmq/sim/runs.py",  # whatever a core raises in a simulation is what it looks for
    "scatterzmq/sim/replay.py",  # the same for a core that lives through a recording
    "scatterzmq/embedded.py",  # the end of the peer's thread: whoever waits is told
    "scatterzmq/remote.py",  # the same for the client's thread
}
"""Files that may catch everything."""


def broad_except(source: Source) -> Iterator[str]:
    if not source.is_ours or source.path in CATCHERS:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(one is None or ast.unparse(one) in {"Exception", "BaseException"} for one in caught):
                yield f"{node.lineno}: catches everything: name what can happen"


def socket_options(source: Source) -> Iterator[str]:
    if not source.is_ours or source.path == "scatterzmq/net/options.py":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("setsockopt"):
            yield f"{node.lineno}: socket options are set in net/options.py only"


CONTAINERS = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
MAKERS = {"list", "dict", "set", "bytearray", "deque", "defaultdict", "OrderedDict", "Counter", "ChainMap", "local"}
MAKERS |= {"Lock", "RLock", "Event", "Condition", "Queue", "SimpleQueue", "count", "WeakSet", "WeakValueDictionary"}
CHANGERS = {"append", "add", "update", "pop", "clear", "extend", "insert", "remove", "setdefault", "discard", "popitem"}


def module_state(source: Source) -> Iterator[str]:
    """Two clients or peers in one process must not meet in a variable. Constants in capitals may be containers."""
    if not source.is_ours:
        return
    constants = set()
    for node in source.tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(node, ast.Assign | ast.AnnAssign) or value is None:
            continue
        names = [ast.unparse(name) for name in (node.targets if isinstance(node, ast.Assign) else [node.target])]
        made = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in MAKERS
        full = isinstance(value, CONTAINERS) and ast.unparse(value) not in {"[]", "{}"}
        if not made and not isinstance(value, CONTAINERS):
            continue
        if full and all(name.isupper() or name == "__all__" for name in names):
            constants |= set(names)
        else:
            yield f"{node.lineno}: {names[0]} is state of the module"
    for inner in ast.walk(source.tree):
        if isinstance(inner, ast.Global):
            yield f"{inner.lineno}: global {', '.join(inner.names)} is state of the module"
        if isinstance(inner, ast.Subscript | ast.Call) and changed_name(inner) in constants:
            yield f"{inner.lineno}: {changed_name(inner)} is a constant and is changed here"


def changed_name(node: ast.Subscript | ast.Call) -> str:
    """The variable whose content this changes: X[...] = ..., del X[...], X.append(...)."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return ast.unparse(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGERS:
        return ast.unparse(node.func.value)
    return ""


def module_purpose(source: Source) -> Iterator[str]:
    if source.is_ours and source.text.strip() and not ast.get_docstring(source.tree):
        yield "1: does not say what the file is for"


def unfinished(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if UNFINISHED.search(line) or SKIPPED.search(line):
            yield f"{number}: unfinished or skipped: {line.strip()}"


ABSOLUTE = re.compile(r"(?<![\w.:/~@-])(/(?:home|Users|root|work|mnt|media|private|tmp|opt)/\w|[A-Z]:\\Users)")


def machine_paths(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := ABSOLUTE.search(line):
            yield f"{number}: {found.group()}... is a place on one machine"


CODE_RULES: tuple[Rule, ...] = (
    import_layers,
    module_size,
    function_size,
    banned_calls,
    clock_and_chance,
    order_of_sets,
    getter_names,
    broad_except,
    socket_options,
    module_state,
    module_purpose,
    unfinished,
)


# -- the rules hold ---------------------------------------------------------------------------------------------------

TEXT_SUFFIXES = {"", ".cfg", ".json", ".jsonl", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
MADE_FOLDERS = {"__pycache__", "build", "dist"}
KEPT_FOLDERS = {".ci"}


def text_files(folder: Path) -> Iterator[Path]:
    """Everything a reader of the repository may open; not what tools leave behind."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            hidden = entry.name.startswith(".") and entry.name not in KEPT_FOLDERS
            made = entry.name in MADE_FOLDERS or entry.name.endswith(".egg-info") or (entry / "pyvenv.cfg").exists()
            if not hidden and not made:
                yield from text_files(entry)
        elif entry.suffix in TEXT_SUFFIXES and entry.name != ".coverage":
            yield entry


@pytest.fixture(scope="module")
def repository() -> tuple[Source, ...]:
    return tuple(
        Source(str(PurePosixPath(path.relative_to(ROOT))), path.read_text("utf-8")) for path in text_files(ROOT)
    )


def complaints(rule: Rule, sources: tuple[Source, ...]) -> list[str]:
    return [f"{source.path}:{complaint}" for source in sources for complaint in rule(source)]


@pytest.mark.parametrize("rule", CODE_RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Rule, repository: tuple[Source, ...]) -> None:
    code = tuple(source for source in repository if source.path.endswith(".py"))
    assert len(code) > 20
    found = complaints(rule, code)
    assert not found, "\n".join(found)


def test_no_text_names_a_place_on_one_machine(repository: tuple[Source, ...]) -> None:
    found = complaints(machine_paths, repository)
    assert not found, "\n".join(found)


def test_the_tables_name_only_what_is_there() -> None:
    below = {path.stem if path.is_file() else path.name for path in (ROOT / PACKAGE).iterdir()}
    assert set(OWN) - {""} <= below
    assert {name.partition(".")[0] for name in (*FOREIGN, *FOREIGN_LATE)} <= below
    assert {str(PurePosixPath(path.relative_to(ROOT))) for path in (ROOT / PACKAGE).rglob("*.py")} >= CATCHERS


# -- each rule can fail -----------------------------------------------------------------------------------------------

CORE = "scatterzmq/core/peer.py"
NODES = "scatterzmq/nodes/arith.py"
TEST = "tests/core/test_peer.py"
LATE_TORCH = "def f() -> None:\n    import torch"


@pytest.mark.parametrize(
    ("rule", "path", "text", "expected"),
    [
        (import_layers, CORE, "import torch", "1: core.peer may not import torch when it is loaded"),
        (import_layers, CORE, LATE_TORCH, "2: core.peer may not import torch"),
        (import_layers, CORE, "import time", "1: core may not import time"),
        (import_layers, CORE, "from os import path", "1: core may not import os"),
        (import_layers, CORE, "from ..wire import frames", "1: core may not import scatterzmq.wire.frames"),
        (import_layers, CORE, "from .. import client", "1: core may not import scatterzmq.client"),
        (import_layers, CORE, "import scatterzmq.nodes.base", "1: core may not import scatterzmq.nodes.base"),
        (import_layers, CORE, "from tests import helper", "1: core.peer may not import tests"),
        (import_layers, "scatterzmq/wire/frames.py", "from ..core.peer import Peer", "core.peer.Peer"),
        (import_layers, "scatterzmq/wire/frames.py", LATE_TORCH, "2: wire.frames may not import torch"),
        (import_layers, "scatterzmq/wire/tensors.py", "import torch", "1: wire.tensors may not import torch when"),
        (import_layers, "scatterzmq/client/sync.py", "import torch", "1: client.sync may not import torch when"),
        (import_layers, "scatterzmq/client/sync.py", "from ..execute.store import X", "execute.store.X"),
        (import_layers, "scatterzmq/cli/run.py", "import rich.progress", "1: cli.run may not import rich when"),
        (import_layers, "scatterzmq/errors.py", "from .ids import TaskId", "1: errors may not import scatterzmq.ids"),
        (import_layers, "scatterzmq/odd.py", "", "1: 'odd' is not in the table of import rules"),
        (module_size, NODES, "x = 1\n" * 601, "1: 601 lines"),
        (function_size, TEST, "def f():\n" + "    x = 1\n" * 70, "1: f has 71 lines"),
        (function_size, TEST, "class A:\n  async def f(self):\n" + "    x = 1\n" * 70, "2: f has 71 lines"),
        (banned_calls, TEST, "import pickle", "1: pickle runs whatever"),
        (banned_calls, TEST, "from dill import loads", "1: dill.loads runs whatever"),
        (banned_calls, CORE, "print(1)", "1: print() has no place"),
        (banned_calls, NODES, "eval('1')", "1: eval() has no place"),
        (banned_calls, NODES, "exec('1')", "1: exec() has no place"),
        (banned_calls, NODES, "torch.load('x')", "1: torch.load() can run"),
        (banned_calls, NODES, "np.load('x')", "1: np.load() can run"),
        (banned_calls, NODES, "np.load('x', allow_pickle=True)", "1: np.load() can run"),
        (banned_calls, NODES, "socket.recv_pyobj()", "1: socket.recv_pyobj() runs"),
        (clock_and_chance, CORE, "x = time.monotonic()", "1: time.monotonic in core"),
        (clock_and_chance, CORE, "x = random.random()", "1: random.random in core"),
        (clock_and_chance, CORE, "x = hash('a')", "1: hash() differs"),
        (order_of_sets, CORE, "for x in {1, 2}: pass", "1: {1, 2} is a set"),
        (order_of_sets, CORE, "x = list(set(y))", "1: set(y) is a set"),
        (order_of_sets, CORE, "x = [y for y in frozenset(z)]", "1: frozenset(z) is a set"),
        (order_of_sets, CORE, "a: set[str] = f()\nfor x in self.a: pass", "2: self.a is a set"),
        (order_of_sets, CORE, "def f(a: frozenset[str]): return tuple(a)", "1: a is a set"),
        (order_of_sets, CORE, "self._a = set()\nx = [*self._a]", "2: self._a is a set"),
        (order_of_sets, CORE, "for x in set(a) - b: pass", "1: set(a) - b is a set"),
        (order_of_sets, CORE, "for x in a.keys() & b: pass", "1: a.keys() & b is a set"),
        (order_of_sets, CORE, "x = tuple(a.union(b))", "1: a.union(b) is a set"),
        (getter_names, TEST, "def get_size(): pass", "1: get_size:"),
        (getter_names, TEST, "class A:\n    async def _set_size(self): pass", "2: set_size:"),
        (broad_except, CORE, "try: pass\nexcept Exception: pass", "2: catches everything"),
        (broad_except, CORE, "try: pass\nexcept: pass", "2: catches everything"),
        (broad_except, CORE, "try: pass\nexcept (OSError, BaseException): pass", "2: catches everything"),
        (socket_options, CORE, "socket.setsockopt(1, 2)", "1: socket options"),
        (module_state, CORE, "CACHE = {}", "1: CACHE is state"),
        (module_state, CORE, "names = [1, 2]", "1: names is state"),
        (module_state, CORE, "seen: set[int] = set()", "1: seen is state"),
        (module_state, CORE, "LOCK = threading.Lock()", "1: LOCK is state"),
        (module_state, CORE, "def f():\n    global x", "2: global x is state"),
        (module_state, CORE, "NAMES = {'a': 1}\ndef f(): NAMES['b'] = 2", "2: NAMES is a constant"),
        (module_state, CORE, "NAMES = [1]\ndef f(): NAMES.append(2)", "2: NAMES is a constant"),
        (module_purpose, NODES, "x = 1", "1: does not say"),
        (unfinished, TEST, "x = 1\n# TO" + "DO: later", "2: unfinished"),
        (unfinished, CORE, "raise NotImplemented" + "Error", "1: unfinished"),
        (unfinished, TEST, "@pytest.mark." + "skip", "1: unfinished or skipped"),
        (machine_paths, "README.md", "cd /ho" + "me/anna/x", "me/a... is a place"),
        (machine_paths, "README.md", "a `C:" + "\\Users\\anna`", "is a place on one machine"),
    ],
)
def test_what_breaks_a_rule_is_found(rule: Rule, path: str, text: str, expected: str) -> None:
    found = list(rule(Source(path, text)))
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (import_layers, CORE, "from ..errors import GraphError\nfrom . import queues\nimport heapq"),
        (import_layers, "scatterzmq/wire/tensors.py", LATE_TORCH),
        (import_layers, "scatterzmq/client/sync.py", "if TYPE_CHECKING:\n    import torch"),
        (import_layers, "scatterzmq/cli/run.py", "def f():\n    from .. import local, ScatterError"),
        (import_layers, TEST, "import torch, time, anything"),
        (module_size, NODES, "x = 1\n" * 600),
        (module_size, TEST, "x = 1\n" * 900),
        (function_size, TEST, "def f():\n" + "    x = 1\n" * 69),
        (banned_calls, TEST, "print(1)"),
        (banned_calls, NODES, "model.eval(); np.load('x', allow_pickle=False); safetensors.torch.load(b'')"),
        (clock_and_chance, NODES, "x = time.monotonic()"),
        (clock_and_chance, CORE, "x = self.time.now"),
        (order_of_sets, CORE, "for x in sorted({1, 2}): pass\ny = any(a for a in {1})\nz = {a for a in {1}}"),
        (order_of_sets, CORE, "x: dict[str, int] = {}\nfor y in x: pass\nz = 1 in {1}"),
        (order_of_sets, NODES, "for x in {1, 2}: pass"),
        (getter_names, TEST, "def get_status(): pass\ndef getter(): pass\ndef settle(): pass"),
        (broad_except, "scatterzmq/execute/failure.py", "try: pass\nexcept Exception: pass"),
        (broad_except, CORE, "try: pass\nexcept (OSError, ValueError): pass"),
        (socket_options, "scatterzmq/net/options.py", "socket.setsockopt(1, 2)"),
        (module_state, CORE, "NAMES = {'a': 1}\n__all__ = ['f']\ndef f(): return [NAMES['a']]"),
        (module_state, CORE, "class A:\n    def f(self): self.x = []; self.x.append(1)"),
        (module_purpose, NODES, '"""What for."""'),
        (module_purpose, TEST, "x = 1"),
        (module_purpose, "scatterzmq/core/__init__.py", ""),
        (machine_paths, "README.md", "a/home/b https://x.org/home/c ~/tmp/x GET /api/info"),
    ],
)
def test_what_keeps_a_rule_is_left_alone(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text))) == []
