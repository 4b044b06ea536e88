"""Peers of simulated worlds, recorded and replayed: the same events lead to the same actions, whatever happens."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from scatterzmq.core.actions import Action
from scatterzmq.core.events import Event
from scatterzmq.core.peermessages import Contact
from scatterzmq.recording import Beginning, RecordedCore, RecordingFile, name_of
from scatterzmq.settings import Settings
from scatterzmq.sim import process
from scatterzmq.sim.options import Options, draw
from scatterzmq.sim.replay import main
from scatterzmq.sim.runs import run
from tests.recording.life import Tape


def recorded_run(options: Options, patch: pytest.MonkeyPatch) -> list[Tape]:
    """A recording of each peer of a run."""
    tapes: list[Tape] = []

    def make(me: Contact, settings: Settings, *, nonce: bytes, **options: Any) -> RecordedCore:
        tape = Tape(Beginning(program="test", time_s=0.5, settings=settings, me=me, nonce=nonce))
        tapes.append(tape)
        return RecordedCore(me, settings, nonce=nonce, record=tape.add, **options)

    with patch.context() as patched:
        patched.setattr(process, "PeerCore", make)
        assert not run(options).wrong
    return tapes


EVERYTHING = replace(
    draw(3, peers=3),
    clients=3,
    tasks=60,
    batch_max=16,
    namespaces=("cached", "recursion", "chain"),
    domain=20,
    cancels=0.3,
    clears=0.3,
    safety_s=40.0,
    load_s=40.0,
    exec_ms=200.0,
    executors=(1, 2, 1),
    faults={
        "crash": 4.0,
        "bounce": 4.0,
        "leave": 6.0,
        "disk_full": 8.0,
        "power": 2.0,
        "reset": 5.0,
        "damage": 0.2,
        "exec_crash": 0.05,
        "exec_hang": 0.05,
        "exec_exit": 10.0,
        "evict": 60.0,
        "client_crash": 5.0,
        "client_reset": 5.0,
    },
    sections={
        "journal": {"mode": "batch"},
        "store": {"inline_bytes": 0},
        "executor": {"batch_size": 4, "max_exec_s": 5.0},
        "tasks": {"max_retries": 1000},
    },
)
"""A run in which everything happens that can happen to a peer."""


def test_the_same_events_lead_to_the_same_actions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All kinds of events, and all kinds of actions but one: nobody redefines a graph there."""
    kinds: set[str] = set()
    for number, tape in enumerate(recorded_run(EVERYTHING, monkeypatch)):
        file = tmp_path / f"{number}.rec"
        file.write_bytes(tape.data)
        said: list[str] = []
        assert main([str(file), "--check-every", "10"], said.append) == 0, said
        assert said[-1].endswith(" as they were")
        with closing(RecordingFile(str(file))) as recording:
            for recorded in recording:
                kinds |= {type(recorded.event).__name__, *map(name_of, recorded.marks or ())}
    known = {kind.__name__ for union in (Event, Action) for kind in get_args(union)}
    assert known - kinds == {"RetirePlan"}


def test_it_is_the_same_whatever_the_hash_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The order of sets of texts, and where objects lie, are others in another process."""
    tapes = recorded_run(draw(4, peers=3), monkeypatch)
    files = [tmp_path / f"{number}.rec" for number in range(len(tapes))]
    for file, tape in zip(files, tapes, strict=True):
        file.write_bytes(tape.data)
    program = (
        "import sys; from scatterzmq.sim.replay import main\n"
        "sys.exit(sum(main([file, '--check-every', '0'], print) for file in sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, files)],
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as they were") == len(tapes) >= 3
