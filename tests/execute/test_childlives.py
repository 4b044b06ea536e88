"""How children begin and end with their pool: starts that fail, a control process that is killed, what it imports."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

import scatterzmq.execute.children
from scatterzmq.execute import childprocess
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.execute.children import ChildPool, threads_per_child
from scatterzmq.execute.childwire import Begin
from tests.execute.childworld import NEGATE, TIMEOUT_S, World, is_running, world


def test_a_child_that_cannot_start_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = ChildPool._begin

    def without_torch(pool: ChildPool) -> Begin:
        return replace(begin(pool), path=())

    monkeypatch.setattr(ChildPool, "_begin", without_torch)
    monkeypatch.setattr(scatterzmq.execute.children, "_WAIT_S", 0.01)
    with world(tmp_path) as children:
        (problem,) = children.check(NEGATE).problems
        assert problem.endswith("no executor can be started: No module named 'torch'")
        assert children.reports == [
            ("warning.executor.start", {"reason": "No module named 'torch'", "retry_s": retry_s})
            for retry_s in (0.01, 0.02, 0.04)
        ]
        monkeypatch.setattr(scatterzmq.execute.children, "_CHECK_S", 0.01)
        (problem,) = children.check(NEGATE).problems
        assert problem.endswith("no executor has become ready within 0.01 s")
        assert children.posted == []


def test_a_device_that_is_not_here_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatterzmq.execute.children, "_WAIT_S", 0.01)
    with world(tmp_path, executor={"device": "cuda:63", "count": 2}) as children:
        (problem,) = children.check(NEGATE).problems
        assert "no executor can be started: executor.device: 'cuda:63' is not here" in problem
        children.loop.until(lambda: not children.pool._children)
        children.loop.turn(0.1)
        (reason,) = children.despair
        assert reason.startswith("executor.device: 'cuda:63' is not here, torch sees ")
        assert (children.reports, children.posted, children.pool._children) == ([], [], {})


def test_a_device_that_was_here_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatterzmq.execute.children, "_WAIT_S", 0.01)
    begin = ChildPool._begin
    with world(tmp_path) as children:
        executor = children.executor()

        def elsewhere(pool: ChildPool) -> Begin:
            made = begin(pool)
            return replace(made, executor=replace(made.executor, device="cuda:63"))

        monkeypatch.setattr(ChildPool, "_begin", elsewhere)
        children.pool.replace(executor)
        children.loop.until(lambda: "warning.executor.start" in [name for name, _ in children.reports])
        assert children.despair == []
        monkeypatch.setattr(ChildPool, "_begin", begin)
        assert children.executor() != executor


def test_a_process_that_cannot_be_made_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    before = len(os.listdir("/proc/self/fd"))
    with BlobStore(tmp_path) as blobs:
        children = World(blobs)
        children.pool.start()
        ((name, context),) = children.reports
        assert (name, context["retry_s"]) == ("warning.executor.start", 1.0)
        assert "nothing" in str(context["reason"])
        children.close()
    assert len(os.listdir("/proc/self/fd")) == before


PARENT = """
    import sys
    from pathlib import Path
    from tests.execute.childworld import world, write_kinds

    folder = Path(sys.argv[1])
    write_kinds(folder)
    sys.path.insert(0, str(folder))
    with world(folder / "blobs") as children:
        children.reserve()
        children.pool.run(children.executor(), children.act("hang"))
        children.loop.until(lambda: children.lines)
        sys.stdout.write(" ".join(str(child.pid) for child in children.pool._children.values()) + "\\n")
        sys.stdout.flush()
        sys.stdin.read()
"""


def test_children_end_with_the_control_process(tmp_path: Path) -> None:
    """One can hear it, the other hangs and cannot."""
    parent = subprocess.Popen(
        [sys.executable, "-c", dedent(PARENT), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        parent.kill()
        parent.wait()
    until_s = time.monotonic() + TIMEOUT_S
    while any(map(is_running, pids)):
        assert time.monotonic() < until_s


def test_the_control_process_does_not_import_torch() -> None:
    source = "import scatterzmq.execute.children, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_a_child_is_not_for_users() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "scatterzmq.execute.child"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "is started by peers" in ran.stderr


def test_several_children_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_child(1) is None
    assert threads_per_child(2) == max(1, cores // 2)
    assert threads_per_child(10 * cores) == 1


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "count", "policy"],
)
def test_threads_of_torch_do_not_take_cores_from_other_processes(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    """Unless whoever runs the peer has said how they are to wait."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert childprocess._environment().get("GOMP_SPINCOUNT") == spins
