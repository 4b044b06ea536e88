"""The worker: who fails when a batch fails, and that nothing gets lost, twice or out of place on the way."""

from math import log2
from typing import Any

import pytest
import torch

from scatterzmq.errors import ErrorCode, MissingBlob
from scatterzmq.execute.worker import fencing_text
from scatterzmq.ids import PeerId, Token
from scatterzmq.wire.tensors import row_digests, to_tensor


def double(node: Any, batch: Any) -> Any:
    batch.emit("out", value=batch.uniform("value") * 2)


def guilty(*numbers: Any, error: Any = ValueError) -> Any:
    """Doubles, unless one of these values is in the batch."""

    def act(node: Any, batch: Any) -> Any:
        found = [int(value) for value in batch.uniform("value")[:, 0] if int(value) in numbers]
        if found:
            raise error(f"value {found[0]}")
        double(node, batch)

    return act


def doubled(rows: Any) -> Any:
    return {row: ("out", [2.0 * row, 2.0 * row]) for row in rows}


def runs(bench: Any) -> Any:
    return [int(line.split()[1]) for line in bench.log if line.startswith("run")]


def test_a_batch_runs_once_and_comes_back_whole(bench: Any, answers: Any) -> None:
    work = bench.work(bench.one(bench.kind("double", double)), 32)
    done = bench.worker().run(work)
    assert (done.order, done.failed) == (work.order.order, ())
    assert len(done.emitted) == 1
    assert done.emitted[0].rows == tuple(range(32))
    assert answers(done) == doubled(range(32))
    assert runs(bench) == [32]


def test_positions_are_those_of_the_order_when_rows_are_missing(bench: Any, answers: Any) -> None:
    full = bench.work(bench.one(bench.kind("double", double)), 5)
    part = torch.tensor([[1.0, 1.0], [4.0, 4.0]])
    work = type(full)(order=full.order, rows=(1, 4), columns=bench.work(full.order.plan, 2, value=part).columns)
    assert answers(bench.worker().run(work)) == doubled([1, 4])


def test_tasks_belong_to_their_rows(bench: Any) -> None:
    seen = []

    def act(node: Any, batch: Any) -> Any:
        seen.append(
            [(task, int(value)) for task, value in zip(batch.task_ids, batch.uniform("value")[:, 0], strict=True)]
        )
        guilty(2)(node, batch)

    work = bench.work(bench.one(bench.kind("act", act)), 4)
    bench.worker().run(work)
    assert [entry for batch in seen for entry in batch] == [
        (work.order.tasks[value], value) for batch in seen for _, value in batch
    ]


def test_no_rows_no_answers(bench: Any) -> None:
    work = bench.work(bench.one(bench.kind("double", double)), 0, value=torch.zeros(0, 2))
    done = bench.worker().run(work)
    assert (done.emitted, done.failed) == ((), ())


def test_answers_in_parts_and_in_any_order_keep_their_positions(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> None:
        value = batch.uniform("value")
        if 5 in value:
            raise ValueError
        odd = [row for row in range(len(batch)) if value[row, 0] % 2][::-1]
        even = [row for row in range(len(batch)) if not value[row, 0] % 2]
        batch.emit("out", odd, value=value[odd] * 2)
        batch.emit("out", even, value=value[even] * 2)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 8))
    assert answers(done) == doubled(row for row in range(8) if row != 5)
    assert set(failures(done)) == {5}


@pytest.mark.parametrize("bad", [(0,), (31,), (13,), (0, 31), (7, 8), (3, 4, 20)])
def test_halving_finds_the_guilty_and_keeps_the_others(bench: Any, answers: Any, failures: Any, bad: Any) -> None:
    done = bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(*bad))), 32))
    assert answers(done) == doubled(row for row in range(32) if row not in bad)
    assert failures(done) == {row: (ErrorCode.GENERAL_EXCEPTION, f"ValueError: value {row}") for row in bad}
    assert len(runs(bench)) - 1 <= 2 * len(bad) * log2(32)


def test_halves_that_must_hold_the_guilty_are_not_run_whole_again(bench: Any) -> None:
    bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(31))), 32))
    assert runs(bench) == [32, 16, 8, 4, 2, 1, 1]


def test_all_guilty(bench: Any, answers: Any, failures: Any) -> None:
    done = bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(*range(8)))), 8))
    assert answers(done) == {}
    assert set(failures(done)) == set(range(8))


def test_the_same_failure_is_told_once_for_all_its_rows(bench: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        raise ValueError("always")

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 8))
    assert [sorted(failed.rows) for failed in done.failed] == [list(range(8))]


def test_rows_that_fail_only_together_all_succeed_apart(bench: Any, answers: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        if len(batch) > 3:
            raise ValueError("too many for me")
        double(node, batch)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 16))
    assert done.failed == ()
    assert answers(done) == doubled(range(16))


def test_answers_of_a_run_that_failed_are_not_used(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        # The early answer is wrong on purpose: it must not survive the error after it.
        batch.emit("out", [0], value=batch.uniform("value")[:1] * 0 - 1)
        guilty(5)(node, batch) if len(batch) > 1 else None

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 2))
    assert answers(done) == {0: ("out", [-1.0, -1.0]), 1: ("out", [-1.0, -1.0])}
    assert failures(done) == {}
    assert runs(bench) == [2, 1, 1]


def test_a_rejected_row_fails_without_another_run(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        batch.reject(1, "not this one", code="refused", final=True)
        batch.emit("out", [0, 2], value=batch.uniform("value")[[0, 2]] * 2)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 3))
    assert answers(done) == doubled([0, 2])
    assert failures(done) == {1: (ErrorCode.REFUSED, "not this one")}
    assert done.failed[0].final
    assert runs(bench) == [3]


def test_who_is_not_answered_fails_and_is_named(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        keep = batch.uniform("value")[:, 0] != 2
        batch.emit("out", keep, value=batch.uniform("value")[keep] * 2)

    work = bench.work(bench.one(bench.kind("act", act)), 8)
    done = bench.worker().run(work)
    assert answers(done) == doubled(row for row in range(8) if row != 2)
    (code, message) = failures(done)[2]
    assert code == ErrorCode.GENERAL_EXCEPTION
    assert work.order.tasks[2] in message


def test_who_is_answered_twice_fails_alone(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        double(node, batch)
        if 3 in batch.uniform("value"):
            double(node, batch)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 8))
    assert set(failures(done)) == {3}
    assert answers(done) == doubled(row for row in range(8) if row != 3)


def test_the_row_of_the_wrong_format_fails_alone(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        batch.emit("out", value=[torch.zeros(3) if row[0] == 1 else row * 2 for row in batch.rows("value")])

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 4))
    assert answers(done) == doubled([0, 2, 3])
    assert "float32[3]" in failures(done)[1][1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit, "SystemExit: value 1"),
        (GeneratorExit, "GeneratorExit: value 1"),
        (type("Own", (BaseException,), {}), "Own: value 1"),
        (RecursionError, "RecursionError: value 1"),
    ],
)
def test_whatever_a_node_raises_fails_its_row(bench: Any, answers: Any, failures: Any, error: Any, text: Any) -> None:
    done = bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(1, error=error))), 4))
    assert failures(done) == {1: (ErrorCode.GENERAL_EXCEPTION, text)}
    assert answers(done) == doubled([0, 2, 3])


def test_a_keyboard_interrupt_ends_the_batch_at_once(bench: Any, failures: Any) -> None:
    worker = bench.worker()
    done = worker.run(bench.work(bench.one(bench.kind("act", guilty(1, error=KeyboardInterrupt))), 4))
    assert set(failures(done)) == {0, 1, 2, 3}
    assert runs(bench) == [4]
    assert worker.interrupted
    worker.run(bench.work(bench.one(bench.kind("double", double)), 4))
    assert not worker.interrupted


def test_an_error_that_cannot_even_be_told(bench: Any, failures: Any) -> None:
    class MuteError(Exception):
        def __str__(self) -> Any:
            raise RuntimeError

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(0, error=MuteError))), 1))
    assert failures(done)[0][1] == "MuteError: (and describing the error failed too)"


def test_messages_can_be_sent_and_are_bounded(bench: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        raise ValueError("\udcff" + "x" * 100_000)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 1))
    message = failures(done)[0][1]
    message.encode()
    assert len(message) < 3_000
    done.failed[0].traceback.encode()
    assert len(done.failed[0].traceback) < 20_000


def test_the_traceback_begins_in_the_node(bench: Any) -> None:
    done = bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(0))), 1))
    lines = done.failed[0].traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in execute" in lines[1]
    assert lines[-1] == "ValueError: value 0"
    assert "noderun.py" not in done.failed[0].traceback


# ---- memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap: not enough memory"),
    ],
)
def test_a_batch_too_large_for_memory_runs_in_halves(bench: Any, answers: Any, failures: Any, error: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        if len(batch) > 2 or 5 in batch.uniform("value"):
            raise error
        double(node, batch)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 8))
    assert answers(done) == doubled(row for row in range(8) if row != 5)
    assert {row: code for row, (code, _) in failures(done).items()} == {5: ErrorCode.OUT_OF_MEMORY}
    # Half the rows need half the memory: both halves are tried whole.
    assert runs(bench) == [8, 4, 2, 2, 4, 2, 1, 1, 2]


def test_another_runtime_error_is_no_lack_of_memory(bench: Any, failures: Any) -> None:
    done = bench.worker().run(bench.work(bench.one(bench.kind("act", guilty(0, error=RuntimeError))), 1))
    assert failures(done)[0][0] == ErrorCode.GENERAL_EXCEPTION


def test_the_last_row_makes_room_by_unloading_other_nodes(bench: Any, answers: Any) -> None:
    nodes = bench.nodes()
    worker = bench.worker(nodes)
    other = bench.one(bench.kind("double", double), ns="other")
    worker.run(bench.work(other, 1))

    def act(node: Any, batch: Any) -> Any:
        if nodes.loaded() and any(digest == other.digest for digest, _ in nodes.loaded()):
            raise MemoryError
        double(node, batch)

    done = worker.run(bench.work(bench.one(bench.kind("act", act)), 2))
    assert answers(done) == doubled(range(2))
    assert "unload other:main:n" in bench.log


def test_the_search_ends_before_the_batch_is_given_up(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        bench.clock_s += 0.2
        guilty(7)(node, batch)

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 8))  # may take 1 s
    assert runs(bench) == [8, 4, 2]
    assert answers(done) == doubled(range(6))
    assert set(failures(done)) == {6, 7}


# ---- inputs


def scribble(node: Any, batch: Any) -> Any:
    value = batch.uniform("value")
    if 1 in value:
        value.add_(1)
    double(node, batch)


def test_writing_to_inputs_is_an_error_and_nothing_runs_on_spoiled_ones(
    bench: Any, answers: Any, failures: Any
) -> None:
    worker = bench.worker()
    plan = bench.one(bench.kind("scribble", scribble))
    done = worker.run(bench.work(plan, 4))
    assert set(failures(done)) == {0, 1, 2, 3}
    assert "input 'value' in place" in failures(done)[0][1]
    assert runs(bench) == [4]
    # From now on the node gets copies, so that only the guilty fail and the inputs stay as they were.
    work = bench.work(plan, 4)
    done = worker.run(work)
    assert answers(done) == doubled([0, 2, 3])
    assert set(failures(done)) == {1}
    assert to_tensor(work.columns["value"])[:, 0].tolist() == [0, 1, 2, 3]


def test_an_error_after_writing_to_inputs_is_not_tried_again_on_them(bench: Any, answers: Any, failures: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        value = batch.uniform("value")
        value.add_(1)
        raise ValueError("after writing")

    done = bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 4))
    assert failures(done) == dict.fromkeys(range(4), (ErrorCode.GENERAL_EXCEPTION, "ValueError: after writing"))
    assert runs(bench) == [4]


def test_runs_after_the_first_get_copies(bench: Any, answers: Any, failures: Any) -> None:
    """A node that writes only when it is run again must not spoil what the runs after that get."""

    def act(node: Any, batch: Any) -> Any:
        if len(batch) == 4:
            raise ValueError
        value = batch.uniform("value")
        if 0 in value:
            value.fill_(9)
        double(node, batch)

    work = bench.work(bench.one(bench.kind("act", act)), 4)
    done = bench.worker().run(work)
    assert answers(done) == doubled([1, 2, 3])
    assert set(failures(done)) == {0}
    assert to_tensor(work.columns["value"])[:, 0].tolist() == [0, 1, 2, 3]


def test_rows_that_do_not_fit_the_input_fail_alone(bench: Any, answers: Any, failures: Any) -> None:
    plan = bench.one(bench.kind("double", double))
    rows = [torch.tensor([0.0, 0.0]), torch.tensor([1.0]), torch.tensor([2.0, 2.0])]
    done = bench.worker().run(bench.work(plan, 3, value=rows))
    assert answers(done) == doubled([0, 2])
    assert failures(done)[1] == (
        ErrorCode.GENERAL_EXCEPTION,
        "ns:main:n: field 'value': expected float[2], got float32[1]",
    )
    done = bench.worker().run(bench.work(plan, 3, value=torch.zeros(3, 5)))
    message = "ns:main:n: field 'value': expected float[2], got float32[5]"
    assert failures(done) == dict.fromkeys(range(3), (ErrorCode.GENERAL_EXCEPTION, message))


def test_nodes_run_without_gradients(bench: Any) -> None:
    grads = []

    def act(node: Any, batch: Any) -> Any:
        grads.append(torch.is_grad_enabled())
        double(node, batch)

    bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 1))
    assert grads == [False]
    assert torch.is_grad_enabled()


# ---- what a batch knows


def test_cleared_tasks_are_seen_by_the_node_under_their_own_row(bench: Any) -> None:
    alive = []

    def act(node: Any, batch: Any) -> Any:
        alive.append([batch.alive(row) for row in range(len(batch))])
        guilty(3)(node, batch)

    work = bench.work(bench.one(bench.kind("act", act)), 4)
    work.dead.add(2)
    bench.worker().run(work)
    assert alive == [[True, True, False, True], [True, True], [False], [True]]


def test_a_batch_that_nobody_waits_for_does_not_run(bench: Any, failures: Any) -> None:
    work = bench.work(bench.one(bench.kind("double", double)), 2)
    work.dead.update((0, 1))
    done = bench.worker().run(work)
    assert {code for code, _ in failures(done).values()} == {ErrorCode.CANCELLED}
    assert runs(bench) == []


def test_fencing_tokens_compare_as_tokens_do() -> None:
    peers = [PeerId("P" + digit * 32) for digit in "19"]
    tokens = [Token(n, peer, seq) for n in (1, 10) for peer in peers for seq in (2, 11)]
    assert tokens == sorted(tokens)
    assert [fencing_text(token) for token in tokens] == sorted(fencing_text(token) for token in tokens)


def test_the_node_gets_the_token_of_the_order(bench: Any) -> None:
    seen = []

    def act(node: Any, batch: Any) -> Any:
        seen.append(batch.fencing_token(0))
        double(node, batch)

    work = bench.work(bench.one(bench.kind("act", act)), 1)
    bench.worker().run(work)
    assert seen == [fencing_text(work.order.token)]


def test_prints_become_lines_of_the_node(capsys: Any, bench: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        print("hello", len(batch))  # noqa: T201
        double(node, batch)

    bench.output.install()
    bench.worker().run(bench.work(bench.one(bench.kind("act", act)), 2))
    bench.output.remove()
    assert bench.printed == [("ns:main:n", "hello 2")]
    assert capsys.readouterr().out == ""


# ---- loading, digests, calls


def test_a_node_that_cannot_be_loaded_fails_all_rows_with_its_place(bench: Any, failures: Any) -> None:
    def load(self: Any, resources: Any) -> Any:
        raise OSError("no such weights")

    done = bench.worker().run(bench.work(bench.one(bench.kind("broken", double, load=load)), 3))
    message = "ns:main:n cannot be loaded: OSError: no such weights"
    assert failures(done) == dict.fromkeys(range(3), (ErrorCode.GENERAL_EXCEPTION, message))
    assert done.loaded is None
    assert "in load" in done.failed[0].traceback


@pytest.mark.parametrize("when", ["load", "execute"])
def test_a_missing_blob_has_its_own_code_and_is_final(bench: Any, failures: Any, when: Any) -> None:
    def fail(self: Any, what: Any) -> Any:
        what = what if when == "load" else bench
        what.blobs.open("nowhere.bin")

    done = bench.worker().run(bench.work(bench.one(bench.kind("blobs", **{"act": double, when: fail})), 2))
    assert {code for code, _ in failures(done).values()} == {ErrorCode.MISSING_BLOB}
    assert done.failed[0].final
    assert "MissingBlob" in done.failed[0].message
    assert issubclass(MissingBlob, Exception)


def test_loaded_is_told_when_it_changed(bench: Any) -> None:
    worker = bench.worker()
    plan = bench.one(bench.kind("double", double))
    first = worker.run(bench.work(plan, 1))
    assert first.loaded == ((plan.digest, next(iter(plan.queues))),)
    assert worker.run(bench.work(plan, 1)).loaded is None
    other = bench.one("test.double", ns="other")
    assert len(worker.run(bench.work(other, 1)).loaded) == 2


def test_each_worker_is_told_for_itself(bench: Any) -> None:
    nodes = bench.nodes()
    plan = bench.one(bench.kind("double", double))
    for _ in range(2):
        assert len(bench.worker(nodes).run(bench.work(plan, 1)).loaded) == 1


def test_digests_where_the_plan_wants_them(bench: Any) -> None:
    graph = {**simple("double"), "cache": True}
    bench.kind("double", double, pure=True)
    done = bench.worker().run(bench.work(bench.plan(graph), 3))
    part = done.emitted[0]
    assert part.digests == {"value": row_digests(part.columns["value"])}
    assert bench.worker().run(bench.work(bench.one("test.double"), 3)).emitted[0].digests == {}


def test_a_call_names_the_graph_by_its_id(bench: Any) -> None:
    call = {"graph": "other", "args": {"value": ["float", [2]]}, "ret": {"value": ["float", [2]]}}
    graph = simple("double")
    graph["nodes"][0].update(kind="call", args=call)
    bench.kind("double", double)
    plan = bench.plan([graph, {**simple("double"), "name": "other"}])
    work = bench.work(plan, 2)
    work = type(work)(
        order=type(work.order)(
            **{name: getattr(work.order, name) for name in work.order.__slots__ if name != "node"},
            node=next(iter(plan.graphs[plan.entry].nodes.values())),
        ),
        rows=work.rows,
        columns=work.columns,
    )
    done = bench.worker().run(work)
    assert [plan.graphs[part.call].name for part in done.emitted] == ["other"]
    assert done.emitted[0].output == "out"


def test_an_error_of_our_own_fails_the_rows_and_not_the_executor(bench: Any, failures: Any) -> None:
    work = bench.work(bench.one(bench.kind("double", double)), 3)
    done = bench.worker().run(type(work)(order=work.order, rows=work.rows, columns={}))
    assert set(failures(done)) == {0, 1, 2}


def simple(kind: Any) -> Any:
    return {
        "name": "main",
        "description": "",
        "input": "n",
        "input_format": {"value": ["float", [2]]},
        "output_format": {"value": ["float", [2]]},
        "vmap": {"value": "n:value"},
        "nodes": [
            {"name": "n", "kind": f"test.{kind}", "args": {}, "vmap": {"value": ":value"}, "outs": {"out": None}}
        ],
    }


def test_a_node_with_an_own_guess_is_asked_before_it_runs(bench: Any, answers: Any) -> None:
    def expected(node: Any, batch: Any) -> Any:
        node.log.append(f"expected {len(batch)}")
        batch.uniform("value").zero_()
        return {"out": (2.0, len(batch) * 8), "far": (float("inf"), 1), "odd": "much", "more": (1, -1)}

    work = bench.work(bench.one(bench.kind("double", double, expected=expected)), 3)
    assert answers(bench.worker().run(work)) == doubled(range(3)), "what it does to its copy harms nobody"
    (announced,) = bench.announced
    assert (announced.order, announced.outputs) == (work.order.order, {"out": (2.0, 24)})
    assert bench.log.index("expected 3") < bench.log.index("run 3")


def test_a_guess_that_raises_or_is_none_costs_nothing(bench: Any, answers: Any) -> None:
    def raising(node: Any, batch: Any) -> Any:
        raise RuntimeError("no idea")

    for name, expected in (("raising", raising), ("silent", lambda node, batch: None)):
        work = bench.work(bench.one(bench.kind(name, double, expected=expected)), 2)
        assert answers(bench.worker().run(work)) == doubled(range(2))
        assert bench.announced.pop().outputs == {}


def test_a_node_without_an_own_guess_announces_nothing(bench: Any) -> None:
    bench.worker().run(bench.work(bench.one(bench.kind("double", double)), 2))
    assert bench.announced == []
