"""What is said between control process and children, without children: words, shared memory, answers, manifests."""

import json
import os
import random
import selectors
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from scatterzmq.core.events import RowsFailed
from scatterzmq.errors import ErrorCode
from scatterzmq.execute import childwire
from scatterzmq.execute.childbatches import done_of, finished_of, run_of, work_of
from scatterzmq.execute.childwire import (
    IN_LINE_NBYTES_MAX,
    Begin,
    BlobFetched,
    CancelRows,
    DropPlan,
    Expected,
    FetchBlob,
    Finished,
    Guess,
    LoadedNode,
    Manifest,
    Part,
    Ready,
    Run,
    Told,
    Unfit,
    UsePlan,
    Word,
    opened,
    opened_apart,
    wrapped,
)
from scatterzmq.execute.childwire import Describe as DescribeWord
from scatterzmq.execute.poller import Poller
from scatterzmq.execute.sharedmemory import (
    HANDLES_MAX,
    MAPPED_NBYTES_MIN,
    BadPacket,
    Channel,
    Packet,
    Scratch,
    share,
    shared_bytes,
)
from scatterzmq.execute.work import Done, EmittedColumns, Work
from scatterzmq.graph.check import Checked, check
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.graph.manifest import describe_from, described
from scatterzmq.graph.nodeinfo import CallInfo, Described, NodeInfo
from scatterzmq.ids import ExecutorId, GraphId, PeerId, QueueId, TaskId, Token
from scatterzmq.nodes.registry import BUILT_IN, Registry
from scatterzmq.settings import BlobSettings, ExecutorSettings, PluginSettings
from scatterzmq.wire.columns import Apart, Column, gather, gather_apart
from tests.execute.childworld import column, floats, texts

QUEUE, GRAPH = QueueId("Q" + "1" * 32), GraphId("G" + "2" * 32)
DIGEST = b"d" * 32
EXECUTOR = ExecutorId("E" + "3" * 32)
CONFIG = Path(__file__).parents[2] / "config" / "graphs"

INFO = NodeInfo(
    input_format={"value": FieldFormat("float", (2, None))},
    outputs={"out": {"value": FieldFormat("uint8", (None,))}, "else": {}},
    pure=True,
    weight=1.5,
    load_cost=0.0,
    calls=(CallInfo(graph="inner", args={"x": FieldFormat("bool", ())}, output="out"),),
    thread_safe=True,
    doc="Says what it is.",
    arguments=("a", "b"),
    unused=("c",),
)
WORDS: list[Word] = [
    Begin(
        executor=ExecutorSettings(count=3),
        plugins=PluginSettings(allow=("a", "b.c")),
        blobs=BlobSettings(dir="x", packages=("*",)),
        path=("", "y"),
        threads=None,
    ),
    UsePlan(digest=DIGEST, definition="{}"),
    DropPlan(digest=DIGEST),
    Run(
        order=7,
        digest=DIGEST,
        queue=QUEUE,
        tasks=(TaskId("T" + "4" * 32), TaskId("T" + "5" * 32)),
        token=Token(1, PeerId("P" + "6" * 32), 2),
        solo=True,
        max_exec_ms=1000,
        rows=(0, 1),
    ),
    CancelRows(order=7, rows=(1,)),
    DescribeWord(request=1, definition="[]"),
    Ready(),
    Unfit(reason="no device", for_good=True),
    Expected(order=7, outputs={"out": Guess(weight=1.0, nbytes=2)}),
    Finished(
        order=7,
        parts=(Part(output="out", rows=(1,), digests={"value": (DIGEST,)}, call=None),
               Part(output="", rows=(0,), digests={}, call=GRAPH)),
        failed=(RowsFailed(rows=(2, 3), code=ErrorCode.GENERAL_EXCEPTION, message="m", traceback="t", final=True),),
        loaded=(LoadedNode(digest=DIGEST, queue=QUEUE),),
    ),
    Manifest(
        request=1,
        nodes=(Described(place="ns:main:n", info=INFO), Described(place="p", info=None, error="e", unknown=True)),
        problem="",
    ),
    BlobFetched(request=2, problem="p", place="a/b"),
    FetchBlob(request=2, name="a/b", digest=DIGEST),
    Told(name="tally.node.load", texts={"node": "ns:main:n"}, figures={"load_cost": 2.5}),
]  # fmt: skip


@pytest.fixture
def no_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


# ---- words


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_words_come_as_they_went(word: Any) -> None:
    assert opened(wrapped(word)) == (word, [])


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("size", [0, 1, IN_LINE_NBYTES_MAX // 4, MAPPED_NBYTES_MIN // 4 - 1, MAPPED_NBYTES_MIN // 4])
def test_columns_come_as_they_went(size: int) -> None:
    """In line, copied out of shared memory, and mapped."""
    columns = [("a", floats([[1.0] * size, [], [2.0]])), ("b", texts("x", "yz")), ("c", column("bool", 0, (3,), b""))]
    packet = wrapped(WORDS[3], columns)
    assert len(packet.handles) == (4 * (size + 1) + 3 > IN_LINE_NBYTES_MAX)
    word, got = opened(packet)
    assert word == WORDS[3]
    assert [(name, col.layout, bytes(col.data)) for name, col in got] == [
        (name, col.layout, bytes(col.data)) for name, col in columns
    ]
    assert not any(col.data.readonly for _, col in got if len(col.data))


@pytest.mark.usefixtures("no_leaks")
def test_more_columns_than_handles() -> None:
    columns = [(f"c{number}", floats([[float(number)] * 2048])) for number in range(HANDLES_MAX + 20)]
    packet = wrapped(WORDS[3], columns)
    assert len(packet.handles) == HANDLES_MAX
    _, got = opened(packet)
    assert [(name, col.data.cast("f")[0]) for name, col in got] == [
        (f"c{number}", number) for number in range(HANDLES_MAX + 20)
    ]


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    made = Scratch()
    yield made
    made.close()
    made.close()


def kept_bytes(scratch: Scratch) -> int:
    assert scratch._handle is not None
    return os.fstat(scratch._handle).st_size


def through(scratch: Scratch, *columns: tuple[str, Column | Apart]) -> list[tuple[str, bytes]]:
    packet = wrapped(WORDS[3], columns, scratch)
    _, got = opened(packet)
    assert packet.handles == []
    assert not any(col.data.readonly for _, col in got)
    return [(name, bytes(col.data)) for name, col in got]


@pytest.mark.usefixtures("no_leaks")
def test_columns_through_memory_that_is_used_again(scratch: Scratch) -> None:
    for number, size in ((1.0, 50_000), (2.0, 80_000), (3.0, 20_000)):
        columns = [("a", floats([[number] * size])), ("b", texts("x", "yz")), ("c", floats([[], [number]]))]
        assert through(scratch, *columns) == [(name, bytes(col.data)) for name, col in columns]
    assert kept_bytes(scratch) == 80_000 * 4 + 3 + 4


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("size", [1, 10_000, 30_000])
@pytest.mark.parametrize("has_scratch", [True, False])
def test_columns_that_lie_apart_come_in_one_piece(scratch: Scratch, size: int, has_scratch: bool) -> None:
    """In line, in shared memory, in a scratch; between others."""
    rows = [floats([[float(number)] * size, [9.0] * size]) for number in range(3)]
    parts = [(rows[number], number % 2) for number in range(3)]
    apart = gather_apart(parts)
    assert isinstance(apart, Apart)
    packet = wrapped(WORDS[3], [("a", texts("x")), ("b", apart), ("c", texts("yz"))], scratch if has_scratch else None)
    _, got = opened(packet)
    assert [(name, bytes(col.data)) for name, col in got] == [
        ("a", b"x"), ("b", bytes(gather(parts).data)), ("c", b"yz"),
    ]  # fmt: skip
    assert got[1][1].layout == gather(parts).layout


@pytest.mark.usefixtures("no_leaks")
def test_large_rows_can_have_memory_of_their_own_each(scratch: Scratch) -> None:
    """Whether alike or not; small ones and lone ones lie in one piece."""
    large = 1 << 16
    columns = [
        ("alike", column("float", 2, (large,), bytes(8 * large))),
        ("ragged", floats([[1.0] * 3 * large, [], [2.0] * large])),
        ("small", floats([[3.0] * (large - 2), [4.0] * (large + 1)])),
        ("lone", floats([[5.0] * large])),
    ]
    _, got = opened_apart(wrapped(WORDS[9], columns, scratch))
    assert [name for name, col in got if isinstance(col, Apart)] == ["alike", "ragged"]
    for (name, col), (wanted_name, wanted) in zip(got, columns, strict=True):
        whole = col.joined() if isinstance(col, Apart) else col
        assert (name, whole.layout, bytes(whole.data)) == (wanted_name, wanted.layout, bytes(wanted.data))
    assert len({id(data.obj) for _, col in got if isinstance(col, Apart) for data in col.datas}) == 5


@pytest.mark.usefixtures("no_leaks")
def test_rows_in_memory_of_their_own_are_checked_as_others() -> None:
    nbytes = 1 << 19
    handle = os.memfd_create("x")
    os.pwrite(handle, b"\2", nbytes - 1)
    head = ["c", 2, 2, 0, [nbytes // 2]]
    for code, raw in ((2, nbytes + 1), (1, nbytes)):
        head[1] = code
        with pytest.raises(ValueError, match=r"its shape needs|other than 0 and 1"):
            opened_apart(Packet(msgpack.packb([6, [], [head], [raw]]), [os.dup(handle)]))
    os.ftruncate(handle, nbytes - 1)
    head[1] = 2
    with pytest.raises(ValueError, match="beyond"):
        opened_apart(Packet(msgpack.packb([6, [], [head], [nbytes]]), [handle]))


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("size", [1, IN_LINE_NBYTES_MAX // 4 + 1])
def test_what_is_not_needed_for_long_is_given_back(scratch: Scratch, size: int) -> None:
    through(scratch, ("a", floats([[0.0] * 100_000])))
    small = ("a", floats([[1.0] * size]))
    for _ in range(15):
        through(scratch, small)
    assert kept_bytes(scratch) == 400_000
    through(scratch, small)
    assert kept_bytes(scratch) == (0 if size == 1 else 4 * size)
    assert through(scratch, small) == [("a", bytes(small[1].data))]


@pytest.mark.usefixtures("no_leaks")
def test_what_is_too_large_to_be_kept(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(childwire, "SCRATCH_NBYTES_MAX", 400_000)
    assert through(scratch, ("a", floats([[1.0] * 100_001]))) == [("a", bytes(floats([[1.0] * 100_001]).data))]
    assert scratch._handle is None
    through(scratch, ("a", floats([[1.0] * 100_000])))
    assert kept_bytes(scratch) == 400_000


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("beside", [[101], [100, 1], [-1], [1 << 40], [None, 10], [True, 100]])
def test_columns_beyond_their_memory_are_a_value_error(beside: list[int | None]) -> None:
    handle = os.memfd_create("x")
    os.ftruncate(handle, 100)
    heads = [[f"c{index}", 2, 1, index, [place or 0]] for index, place in enumerate(beside)]
    with pytest.raises(ValueError, match=r"shared memory|sealed|beyond|bool|negative"):
        opened(Packet(msgpack.packb([6, [], heads, beside]), [handle]))


@pytest.mark.usefixtures("no_leaks")
def test_a_column_in_no_memory_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not there"):
        opened(Packet(msgpack.packb([6, [], [["a", 2, 1, 0, [1]]], [1]])))


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        [1, 2, 3],
        [99, [], [], []],
        [-1, [], [], []],
        [6, [], [["a", 1, 1, 0, [1]]], []],
        [6, [], [["a", 2, 1, 0, [1]]], [None]],
        [6, [], [["a", 2, 1, 0, [1]]], [7]],
        [6, [], [["a", 2, 1, 0, [2]]], [b"x"]],
        [6, [], [["a", 2, 1 << 60, 0, [1]]], [b"x"]],
        [6, [], [["a", 1, 1, 0, [1]]], [b"\2"]],
        [9, [7], [], []],
        [9, [7, [["out", [1], [], "no id"]], [], None], [], []],
        [9, [7, [["out", ["1"], [], None]], [], None], [], []],
        [9, [7, [["out", [1], [["a", ["text"]]], None]], [], None], [], []],
        [9, [7, [["out", [1], [["a"]], None]], [], None], [], []],
        [9, [7, [["out", [1], None]], [], None], [], []],
        [9, [7, [], [["x"]], None], [], []],
        [9, [7, [], [], [[b"", "x"]]], [], []],
        [9, [7, [], [], 7], [], []],
    ],
)
def test_nonsense_is_a_value_error(values: object) -> None:
    handle = share(b"x" * 100)
    with pytest.raises(ValueError):  # noqa: PT011 -- whichever
        opened(Packet(msgpack.packb(values), [handle]))


@pytest.mark.usefixtures("no_leaks")
def test_whatever_bytes_come() -> None:
    """Bits that turn in words that were good."""
    chance = random.Random(1)
    good = [bytes(wrapped(word, [("a", floats([[1.0], [2.0, 3.0]]))]).body) for word in WORDS]
    refused = 0
    for _ in range(3000):
        raw = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            opened(Packet(bytes(raw[: chance.randint(1, len(raw))] if chance.random() < 0.3 else raw)))
        except (ValueError, OSError):
            refused += 1
    assert refused > 1000


# ---- channels and shared memory


def test_what_is_shared_is_sealed_and_private() -> None:
    handle = share(b"x" * MAPPED_NBYTES_MIN)
    with pytest.raises(PermissionError):
        os.pwrite(handle, b"y", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(handle, 10)
    first, second = shared_bytes(handle), shared_bytes(handle)
    os.close(handle)
    first[0] = ord("z")
    assert (first[0], second[0]) == (ord("z"), ord("x"))


def test_memory_that_is_not_sealed_is_refused(tmp_path: Path) -> None:
    open_memory = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for handle in (open_memory, file):
        os.write(handle, b"x" * 10)
        with pytest.raises(BadPacket):
            shared_bytes(handle)
        os.close(handle)


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("nbytes", [0, 1, 100_000, 1 << 17, (1 << 17) + 1, 10_000_000])
def test_packets_of_any_size(nbytes: int) -> None:
    ours, their_socket = Channel.pair()
    theirs = Channel(their_socket)
    packet = Packet(b"b" * nbytes, [share(b"first"), share(b"second")])
    ours.send(packet)
    assert packet.handles == []
    got = theirs.receive()
    assert got is not None
    assert bytes(got.body) == b"b" * nbytes
    assert [bytes(shared_bytes(handle)) for handle in got.handles] == [b"first", b"second"]
    got.close()
    ours.finish()
    assert theirs.receive() is None
    theirs.send(Packet(b"still"))
    answer = ours.receive()
    assert answer is not None
    assert bytes(answer.body) == b"still"
    with pytest.raises(BlockingIOError):
        ours.receive()
    ours.close()
    theirs.close()


def test_bytes_that_are_no_packet() -> None:
    ours, theirs = Channel.pair()
    for raw in (b"\1", b"x" * 200_000):
        theirs.send(raw)
        with pytest.raises(BadPacket):
            ours.receive()
    theirs.close()
    ours.close()


def test_an_alarm_rings_once() -> None:
    rung: list[float] = []
    poller = Poller(lambda: rung.append(time.monotonic()))
    with selectors.DefaultSelector() as selector:
        selector.register(poller.fileno(), selectors.EVENT_READ)
        for due_s in (time.monotonic() + 0.02, 0.0):
            poller.plan(due_s)
            assert selector.select(10.0)
            poller.run()
            assert rung.pop() >= due_s
        poller.plan(time.monotonic() + 0.001)
        poller.plan(None)
        assert not selector.select(0.02)
    poller.close()


# ---- batches


def a_work() -> Work:
    """A batch of three rows for the node of a small graph."""
    plan = check(definition("constant_op"), Registry().describe).require()
    (node,) = plan.queues.values()
    run = WORDS[3]
    assert isinstance(run, Run)
    run = run._replace(digest=plan.digest, queue=node.queue, rows=(0, 2, 3))
    return work_of(run, [("value", floats([[1.0], [2.0], [3.0]]))], plan, set())


def test_a_work_comes_as_it_went() -> None:
    work = a_work()
    run, columns = run_of(work)
    again = work_of(
        run, [(name, column) for name, column in columns if isinstance(column, Column)], work.order.plan, set()
    )
    assert again.order == work.order
    assert (again.rows, again.columns, again.dead) == (work.rows, work.columns, work.dead)


def answer(**changes: Any) -> Finished:
    good = Finished(
        order=7,
        parts=(Part(output="out", rows=(3, 0), digests={"value": (DIGEST, DIGEST)}, call=None),),
        failed=(RowsFailed(rows=(2,), code=ErrorCode.CANCELLED, message=""),),
        loaded=None,
    )
    return good._replace(**changes)


def test_an_answer_comes_as_it_went() -> None:
    done = Done(
        executor=EXECUTOR,
        order=7,
        emitted=(
            EmittedColumns(
                output="out",
                rows=(3, 0),
                columns={"value": floats([[1.0], [2.0]])},
                digests={"value": (DIGEST, DIGEST)},
            ),
        ),
        failed=(RowsFailed(rows=(2,), code=ErrorCode.CANCELLED, message="", node="n"),),
        loaded=((DIGEST, QUEUE),),
    )
    again = done_of(*finished_of(done), a_work(), EXECUTOR)
    assert (again.executor, again.order, again.failed, again.loaded) == (EXECUTOR, 7, done.failed, done.loaded)
    (part,), (before,) = again.emitted, done.emitted
    assert (part.output, part.rows, part.columns, part.digests, part.call) == (
        before.output, before.rows, before.columns, before.digests, before.call,
    )  # fmt: skip


PART = answer().parts[0]
GOOD = [("0:value", floats([[1.0], [2.0]]))]


@pytest.mark.parametrize(
    ("word", "columns", "words"),
    [
        (answer(order=8), GOOD, "batch 8"),
        (answer(failed=()), GOOD, "2 rows are answered"),
        (answer(failed=(RowsFailed(rows=(0,), code=ErrorCode.CANCELLED, message=""),)), GOOD, "each once"),
        (answer(failed=(RowsFailed(rows=(1,), code=ErrorCode.CANCELLED, message=""),)), GOOD, "each once"),
        (answer(parts=(PART._replace(output="no"),)), GOOD, "unknown output 'no'"),
        (answer(parts=(PART._replace(call=GRAPH),)), GOOD, "a graph that is not there"),
        (answer(parts=(PART._replace(digests={"value": (DIGEST,)}),)), GOOD, "digests of field 'value'"),
        (answer(parts=(PART._replace(digests={"value": (DIGEST, b"x")}),)), GOOD, "digests of field 'value'"),
        (answer(parts=(PART._replace(digests={"other": (DIGEST, DIGEST)}),)), GOOD, "digests of field 'other'"),
        (answer(), [], "fields []"),
        (answer(), [("1:value", GOOD[0][1])], "'1:value' that belongs to nothing"),
        (answer(), [("x:value", GOOD[0][1])], "belongs to nothing"),
        (answer(), [*GOOD, ("0:more", GOOD[0][1])], "fields ['more', 'value']"),
        (answer(), [("0:value", floats([[1.0]]))], "1 rows of field 'value'"),
        (answer(), [("0:value", floats([[1.0, 2.0], [3.0, 4.0]]))], "another shape"),
        (answer(), [("0:value", floats([[1.0], [2.0, 3.0]]))], "another shape"),
        (answer(), [("0:value", column("int", 2, (1,), bytes(8)))], "int32 of another shape"),
    ],
)
def test_answers_that_make_no_sense(word: Finished, columns: list[tuple[str, Column]], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("[", r"\[").replace("]", r"\]")):
        done_of(word, columns, a_work(), EXECUTOR)


# ---- manifests

VALUE, TEXT, STACK = ["float", [1]], ["uint8", [None]], ["int", [None]]
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]] = {
    # kind -> args, inputs, what its output gives, its outputs
    "assertion_error": ({"msg": "no"}, {}, {}, []),
    "bin_op": ({"op": "mul", "input": VALUE}, {"left": VALUE, "right": VALUE}, {"value": VALUE}, ["out"]),
    "call": ({"graph": "inner", "args": {"value": VALUE}, "ret": {"value": VALUE}}, {"value": VALUE}, {"value": VALUE},
             ["out"]),
    "constant_op": ({"op": "add", "const": 1, "input": VALUE}, {"value": VALUE}, {"value": VALUE}, ["out"]),
    "for_loop": ({"graph": "inner", "init": 3}, {"stack": STACK}, {"stack": STACK}, ["inner", "out"]),
    "if_op": ({}, {"condition": ["bool", [1]]}, {}, ["then", "else"]),
    "load_constant": ({"data": "0:8:x", "ret": VALUE}, {}, {"value": VALUE}, ["out"]),
    "mat_square": ({"size": 2}, {"value": ["float", [2, 2]]}, {"value": ["float", [2, 2]]}, ["out"]),
    "str_concat": ({"delimiter": " "}, {"left": TEXT, "right": TEXT}, {"value": TEXT}, ["out"]),
    "test_cache": ({"postfix": "a", "seed": "b"}, {"text": TEXT}, {"text": TEXT}, ["out"]),
    "tokenize": ({"tokenizer": "pkg/x/tokenizer.json"}, {"text": TEXT}, {"tokens": ["int64", [None]]}, ["out"]),
    "torch_class": (
        {"class": "torch.nn.Identity", "inputs": {"input": VALUE}, "outputs": {"value": VALUE}},
        {"input": VALUE}, {"value": VALUE}, ["out"],
    ),
}  # fmt: skip


def definition(kind: str) -> dict[str, Any]:
    """A graph of one node, and another one that it may call."""
    args, inputs, given, outputs = KINDS[kind]
    node = {
        "name": "n", "kind": kind, "args": args, "vmap": {name: f":{name}" for name in inputs},
        "outs": dict.fromkeys(outputs), "cache": True, "batch_size": 5,
    }  # fmt: skip
    main = {
        "name": "main", "input": "n", "input_format": inputs, "output_format": given,
        "vmap": {name: f"n:{name}" for name in given}, "nodes": [node],
    }  # fmt: skip
    form = {"stack": STACK} if kind == "for_loop" else {"value": VALUE}
    (name,) = form
    step = {"op": "add", "const": 1, "input": form[name]}
    inner_node = {
        "name": "i",
        "kind": "constant_op",
        "args": step,
        "vmap": {"value": f":{name}"},
        "outs": {"out": None},
    }
    inner = {
        "name": "inner", "input": "i", "input_format": form, "output_format": form, "vmap": {name: "i:value"},
        "nodes": [inner_node], "is_block": True,
    }  # fmt: skip
    graphs = [main, inner] if kind in ("call", "for_loop") else [main]
    return {"ns": "ns", "entry": "main", "graphs": graphs}


def test_every_kind_is_here() -> None:
    assert KINDS.keys() == BUILT_IN.keys()


def both_ways(text: str, registry: Registry) -> tuple[Checked, Checked]:
    """A check with the nodes themselves, and one with what was told of them."""
    word = Manifest(request=1, nodes=described(text, registry.describe))
    told, _ = opened(wrapped(word))
    assert isinstance(told, Manifest)
    return check(text, registry.describe), check(text, describe_from(told.nodes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_gives_the_same_plan(kind: str) -> None:
    registry = Registry(("torch.nn",))
    here, told = both_ways(json.dumps(definition(kind)), registry)
    assert here.infos[("main", "n")] == told.infos[("main", "n")]
    assert (here.problems, here.warnings) == (told.problems, told.warnings)
    assert same(here.plan) == same(told.plan)
    if kind not in ("test_cache", "tokenize"):
        assert here.plan is not None, here.problems


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.json")), ids=lambda path: path.stem)
def test_a_manifest_of_a_graph_of_ours_gives_the_same_plan(path: Path) -> None:
    here, told = both_ways(path.read_text("utf-8"), Registry())
    assert here.plan is not None, here.problems
    assert same(here.plan) == same(told.plan)
    assert here.warnings == told.warnings


@pytest.mark.parametrize("kind", ["nothing", "constant_op", "bin_op"])
def test_what_nobody_reaches_is_judged_the_same(kind: str) -> None:
    """An unknown kind is a problem anywhere, wrong arguments only where tasks come by."""
    wanted = definition("constant_op")
    aside = {"name": "aside", "kind": kind, "args": {}, "vmap": {"value": ":value"}, "outs": {"out": None}}
    wanted["graphs"][0]["nodes"].append(aside)
    here, told = both_ways(json.dumps(wanted), Registry())
    assert (here.problems, here.warnings) == (told.problems, told.warnings)
    assert bool(told.problems) == (kind == "nothing")
    assert told.warnings or kind == "nothing"


def test_an_ignored_argument_is_told_by_whoever_checks() -> None:
    wanted = definition("constant_op")
    wanted["graphs"][0]["nodes"][0]["args"]["konst"] = 9
    here, told = both_ways(json.dumps(wanted), Registry())
    assert here.plan is not None
    line = "argument 'konst' is ignored, this kind of node has none of that name; did you mean 'const'?"
    assert here.warnings == told.warnings == (f"ns:main:n: {line}",)


def same(value: Any) -> Any:
    """Everything in a plan, in comparable form."""
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, FieldFormat):
        return {name: same(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: same(entry) for name, entry in value.items()}
    return value


def test_a_manifest_with_holes_is_a_problem() -> None:
    checked = check(definition("constant_op"), describe_from(()))
    assert checked.plan is None
    assert "left it out" in checked.problems[0]
