"""Whole runs: the same seed is the same run, everything drains, and what is wrong is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scatterzmq.sim.options import draw
from scatterzmq.sim.runs import run

SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line[:1].isdigit()
]


def test_one_seed_is_one_run_whatever_the_hash_seed() -> None:
    digest = run(draw(4)).digest
    assert run(draw(4)).digest == digest
    assert run(draw(5)).digest != digest
    program = "from scatterzmq.sim.runs import run; from scatterzmq.sim.options import draw; print(run(draw(4)).digest)"
    for hash_seed in ("1", "77"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == digest


def test_a_told_run_is_the_same_run() -> None:
    told = run(draw(6), is_told=True)
    assert told.digest == run(draw(6)).digest
    assert told.texts


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_failed_once(seed: int) -> None:
    assert not run(draw(seed)).wrong


def test_random_lives_of_one_peer() -> None:
    for seed in range(60):
        result = run(draw(seed, peers=1))
        assert not result.wrong, f"seed {seed}: {result.wrong}"


def test_random_lives_of_many_peers() -> None:
    for seed in range(1000, 1030):
        result = run(draw(seed))
        assert not result.wrong, f"seed {seed}: {result.wrong}"
