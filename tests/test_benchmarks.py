"""The commands that measure: they run, and what they say is possible."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zmq

from benchmarks import bench_journal, bench_kill, bench_large, bench_scale, bench_waiting, kill_demo
from benchmarks.bench_mesh import large_inputs
from scatterzmq.net.options import COPIED_BYTES
from scatterzmq.sim.metered import Cluster, on_the_wire

ROOT = Path(__file__).parents[1]
HOLDS_MORE = """
import numpy as np
from benchmarks import bench_large

before = bench_large.held_bytes()
more = np.ones(64 << 20, dtype=np.uint8)  # so much is always fresh memory
assert 56 << 20 < bench_large.held_bytes() - before < 96 << 20
"""


def test_three_peers_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench_scale.measure(3, rounds=1)
    assert (figures.links, figures.sockets, figures.descriptors) == (2, 3, 7)
    assert 200 < figures.idle.bytes_mean < figures.loaded.bytes_mean < 100_000
    assert figures.loaded.kinds["Replicate"] > 0.01, "accepted tasks have copies"
    assert figures.join.most <= 1_000
    assert figures.killed.most <= 2_000
    assert 3_000 <= figures.silent.p99 <= 7_000
    assert figures.queue.most <= 1_000
    assert all(1.0 <= ratio < 1.5 for ratio in figures.fairness)
    report = bench_scale.Report([figures], [bench_scale.makespan(4, spread=True, peers=3, tasks=300)])
    assert 1.0 <= report.makespans[0].ratio < 1.5, "no scheduler beats the bound"
    text = bench_scale.table(report.figures) + bench_scale.table_of_makespans(report.makespans)
    assert f"{figures.wall_s:.0f}" in text
    assert [limit for _, _, limit in bench_scale.targets(report)] == [1.25]
    assert capsys.readouterr().out == ""


def test_a_figure_above_its_limit_is_missed() -> None:
    missed = bench_scale.Report(makespans=[bench_scale.Makespan(32, spread=False, made_ms=1300.0, bound_ms=1000.0)])
    [(what, figure, limit)] = bench_scale.targets(missed)
    assert what == "unequal, batches of 32, given to one: makespan / bound"
    assert (round(figure, 3), limit) == (1.3, 1.25)


def test_what_cannot_be_drawn_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_scale, "find_spec", lambda _: None)
    monkeypatch.setattr(bench_scale, "measure", lambda *_: pytest.fail("it takes minutes"))
    with pytest.raises(SystemExit):
        bench_scale.main(["--plot", "here.svg"])
    assert "--plot needs matplotlib" in capsys.readouterr().err


def test_what_goes_around_a_message_is_counted() -> None:
    assert on_the_wire([b"x" * 10]) == 10 + 33 + 2 + 66
    assert on_the_wire([b"x" * 10, b"x" * 223]) == 10 + 33 + 2 + 223 + 33 + 9 + 66
    assert on_the_wire([b"x" * 1500]) == 1500 + 33 + 9 + 2 * 66


def test_what_is_said_to_many_counts_for_each() -> None:
    few, many = Cluster(2), Cluster(5)
    few.form()
    many.form()
    ratio = many.traffic(5_000).messages_mean / few.traffic(5_000).messages_mean
    assert ratio == pytest.approx(4.0, rel=0.1)


def test_one_core_is_measured() -> None:
    costs = bench_waiting.measure(2, 200, samples=2)
    assert costs.waiting == 200
    assert costs.remote is not None
    assert min(costs.enqueue.mean_us, costs.local.mean_us, costs.remote.mean_us) > 0
    taken = bench_waiting.memory(1000)
    assert 500 < taken.alone < taken.owner
    assert 200 < taken.copy < taken.owner
    assert taken.owner <= bench_waiting.BYTES_MAX


def test_a_disk_is_measured(tmp_path: Path) -> None:
    cost = bench_journal.measure(tmp_path, "sync", tasks=40, per_write=10, under_way=2, nbytes=64)
    assert (cost.mode, cost.tasks_per_write) == ("sync", 10)
    assert cost.tasks_per_s == pytest.approx(10_000 / cost.write_ms)


def test_the_first_task_that_is_begun_again_is_found() -> None:
    diary = ["1.0 5 100", "2.0 6 101", "1.5 -5 100", "3.5 7 101", "4.0 6 102", "5.0 5 102"]
    assert kill_demo.rerun_s(diary, 3.0) == 4.0
    assert kill_demo.rerun_s(diary, 4.5) == 5.0
    assert kill_demo.rerun_s(diary[:4], 3.0) is None


def test_what_is_lost_or_never_happens_is_shown() -> None:
    outcome = kill_demo.Outcome(
        timeline=[(0.0, "begins"), (1.5, "ends")], tasks=9, lost=1, wrong=0, took_s=1.5, noticed_s=0.25, rerun_s=None
    )
    assert kill_demo.report(outcome).splitlines() == [
        "   0.000 s  begins",
        "   1.500 s  ends",
        "noticed after 0.250 s, first task run again never; nothing is lost: False",
    ]


@pytest.mark.processes
def test_a_peer_is_killed_in_the_middle_of_a_job() -> None:
    outcome = kill_demo.demonstrate(300, 4.0)
    assert (outcome.lost, outcome.wrong) == (0, 0)
    assert outcome.noticed_s is not None
    assert 0 <= outcome.noticed_s < 5
    said = kill_demo.report(outcome)
    assert "kill -9 of local-" in said
    assert "300 tasks done" in said
    assert said.endswith("nothing is lost: True")


def test_of_several_rounds_the_worst_is_shown() -> None:
    rounds = [
        bench_kill.Figures(done=9, lost=0, stuck=0, took_s=1.0, rerun_s=0.5),
        bench_kill.Figures(done=6, lost=1, stuck=2, took_s=3.0, rerun_s=0.25),
        bench_kill.Figures(done=9, lost=0, stuck=0, took_s=2.0),
    ]
    told = bench_kill.line("owner killed", rounds)
    assert told == ("owner killed: 2.00 s, done 6, lost 1, stuck 2, the first task is run again 0.50 s after the kill")
    assert bench_kill.line("pool", rounds[2:]) == "pool: 2.00 s, done 9, lost 0, stuck 0"


@pytest.mark.processes
@pytest.mark.parametrize("kill_owner", [True, False])
def test_the_end_of_a_peer_costs_no_task(kill_owner: bool) -> None:
    figures = bench_kill.measure_peers(90, 10.0, kill_owner=kill_owner)
    assert (figures.done, figures.lost, figures.stuck) == (90, 0, 0)


@pytest.mark.processes
def test_the_end_of_a_worker_breaks_a_pool() -> None:
    figures = bench_kill.measure_pool(90, 10.0)
    assert figures.done + figures.lost == 90
    assert figures.lost > 0


def test_what_this_process_and_its_own_hold_is_counted_together() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert bench_large.family(os.getpid())[0] == os.getpid()
        assert child.pid in bench_large.family(os.getpid())
        assert child.stdin is not None
        child.stdin.write(b"\n")
    assert child.pid not in bench_large.family(os.getpid())
    # In a process of its own: of this one's others may end meanwhile, that tests before have started.
    subprocess.run([sys.executable, "-c", HOLDS_MORE], check=True, cwd=ROOT)


def test_large_tensors_are_shown_beside_what_is_raw() -> None:
    report = bench_large.Report(
        mesh=[100.0, 300.0, 200.0],
        raw_pieces=[1000.0],
        raw_frames=[800.0],
        raw_hops=[500.0],
        over=[1.25],
        grown_bytes=-(10**6),
    )
    report.peak_bytes = 5 * 10**6
    report.copies = {COPIED_BYTES: {"both": 40.0, "reader": 30.0, "sender": 35.0, "none": 20.0}}
    assert bench_large.table(report) == [
        "W4: 200 MB/s",
        "raw: 1,000 MB/s in pieces, 800 in one frame: W4 has 20%",
        "hops: 500 MB/s raw over the same hops: W4 has 40%",
        "over: 1.25 bytes crossed a socket per byte of input and output",
        "memory: -1 MB after all rounds, +5 MB at most",
        "",
        "us of CPU per message, who copies:",
        "    bytes     both   reader   sender     none   none / both",
        "   65,536     40.0     30.0     35.0     20.0          0.50  <- COPIED_BYTES",
    ]


@pytest.mark.processes
@pytest.mark.parametrize("onward", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("count", [1, 3])
def test_so_many_arrays_go_by_way_of_another_process(
    monkeypatch: pytest.MonkeyPatch, count: int, onward: float
) -> None:
    heads, send = [], zmq.Socket.send_multipart

    def sent(socket: "zmq.Socket[bytes]", frames: list[bytes], **how: bool) -> None:
        heads.append(frames[0][:1])
        send(socket, frames, **how)

    monkeypatch.setattr(zmq.Socket, "send_multipart", sent)
    with bench_large.echoes(count) as sockets:
        assert bench_large.by_echo(sockets, [np.ones(10, np.float32)] * 5, 16, onward) > 0
    assert heads.count(bench_large.ONWARD) == round(5 * onward)


@pytest.mark.processes
def test_raw_arrays_come_back_and_copies_are_measured() -> None:
    report = bench_large.Report(over=[1.5])
    bench_large.measure_raw(report, large_inputs(3), 2, rounds=1)
    assert min(*report.raw_pieces, *report.raw_frames, *report.raw_hops) > 0
    bench_large.measure_copies(report, total_mb=1, rounds=1)
    assert list(report.copies) == list(bench_large.SIZES)
    assert all(cost > 0 for costs in report.copies.values() for cost in costs.values())
