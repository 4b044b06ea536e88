"""`python -m scatterzmq.sim replay`: what it says of recordings: sound, cut, damaged, old, and going another way."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scatterzmq.core.actions import CheckGraph, Left
from scatterzmq.core.events import PeerSeen
from scatterzmq.core.peer import PeerCore
from scatterzmq.recording import marks_of
from scatterzmq.recording.files import FORMAT, framed, packed_beginning, packed_record
from scatterzmq.settings import Settings
from scatterzmq.sim.__main__ import main
from scatterzmq.wire.frames import packed, unpacked
from scatterzmq.wire.refusal import Limits, Reject
from tests.recording.life import LIFE, ME, beginning, recorded_core, tape

Replayed = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replayed:
    """The exit code of a replay of these bytes, and its lines, with FILE for the file's name."""

    def run(data: bytes, *words: str) -> tuple[int, list[str]]:
        file = tmp_path / "peer.rec"
        file.write_bytes(data)
        code = main(["replay", str(file), *words])
        captured = capsys.readouterr()
        assert not captured.err
        return code, captured.out.replace(str(file), "FILE").splitlines()

    return run


def test_a_sound_one(replayed: Replayed) -> None:
    code, (begun, ended) = replayed(tape().data)
    assert code == 0
    assert begun.startswith(f"FILE: peer me ({ME.id}) at tcp://host:7411, since 2023-11-1")
    assert ended == "4 events in 1.500 s, as they were"


def test_the_whole_story(replayed: Replayed) -> None:
    code, lines = replayed(tape().data, "--trace")
    assert code == 0
    assert lines[1] == "       0.000 #1     ExecutorStarted(executor=E33333)"
    assert lines[2].startswith("       0.000 #1         -> Report(name='tally.executor.start'")
    assert lines[3].startswith("     100.000 #2     MessageReceived(sender=C22222, message=LoadGraph(mid=1")
    assert len(lines) == 9


def test_what_was_cut_is_replayed_up_to_there(replayed: Replayed) -> None:
    """As a kill leaves it: in the middle of a record, or of its head."""
    parts = tape().parts
    whole = b"".join(parts[:-1])
    for more in (1, 11, 13, len(parts[-1]) - 1):
        code, lines = replayed(whole + parts[-1][:more])
        assert code == 0
        assert lines[1:] == [
            "FILE: ends in the middle of event 4: the peer was killed, or its disk was full",
            "3 events in 0.500 s, as they were",
        ]
    assert replayed(whole) == (0, [lines[0], "3 events in 0.500 s, as they were"])


def test_what_was_changed(replayed: Replayed) -> None:
    """Every byte of an event counts."""
    parts = tape().parts
    start = len(parts[0]) + len(parts[1])
    for at in (0, 5, 9, 12, len(parts[2]) - 1):
        data = bytearray(b"".join(parts))
        data[start + at] ^= 4
        code, lines = replayed(bytes(data))
        assert code == 1
        reason = "its length is none" if at < 8 else "its checksum does not match"
        assert lines[1:] == [f"FILE: event 2 (at byte {start}) is damaged: {reason}"]


def test_what_is_no_event(replayed: Replayed) -> None:
    """Written by somebody else, with the right checksums."""
    begun = packed_beginning(beginning())
    for fields, reason in (
        ((1,), "expected [time, event, marks]"),
        ((1, (16, ()), b"x"), "expected marks of 8 bytes each"),
        ((1, (99, ()), None), "expected [kind, fields], got tuple"),
        ((1, (3, (5,)), None), "PeerSeen.address: expected a text, got int"),
        ((1, (1, (b"x" * 16, (200, ()))), None), "MessageReceived.message: unknown kind 200"),
        ((1, (12, (((("X" * 33), 1),),)), None), "BlocksEvicted.ids: expected [maker, counter], got tuple"),
        ((1, (9, (1, ((), ()))), None), "GraphChecked.plan: Plan.ns: expected a text, got tuple"),
    ):
        code, lines = replayed(begun + framed(packed(fields)))
        assert code == 1
        (said,) = lines[1:]
        assert said == f"FILE: event 1 (at byte {len(begun)}) is damaged: {reason}"


def test_another_version(replayed: Replayed) -> None:
    """Of the format: nothing can be said. Of the program: it may go another way."""
    head = packed_beginning(beginning())
    fields = list(unpacked(head[len(b"scatterzmq recording\n") + 12 :], Limits(), Reject.BODY))
    fields[:2] = [FORMAT + 1, "9.9"]
    text = f"was recorded by scatterzmq 9.9 in format {FORMAT + 1}, this one reads format {FORMAT}"
    data = b"scatterzmq recording\n" + framed(packed(fields)) + b"anything"
    assert replayed(data) == (1, [f"FILE: {text}: replay it with that version"])
    code, lines = replayed(packed_beginning(beginning("9.9")))
    assert code == 0
    assert lines[1].startswith("recorded by scatterzmq 9.9, this is ")


def test_what_is_no_recording(replayed: Replayed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(b"#!/bin/sh\n") == (1, ["FILE: is no recording of a peer (see events.record)"])
    assert replayed(b"scatterzmq recording\n") == (1, ["FILE: ends before its first event: nothing was recorded"])
    data = b"scatterzmq recording\n" + framed(packed((FORMAT, "0.1.0", 5)))
    assert replayed(data) == (1, ["FILE: what it begins with (at byte 21) is damaged: body: expected seven fields"])
    missing = tmp_path / "missing"
    assert main(["replay", str(missing)]) == 1
    assert capsys.readouterr().out == f"{missing}: cannot be read: No such file or directory\n"


def test_settings_that_do_not_hold_here(replayed: Replayed) -> None:
    head = packed_beginning(beginning())
    fields = list(unpacked(head[len(b"scatterzmq recording\n") + 12 :], Limits(), Reject.BODY))
    settings = json.loads(str(fields[3]))
    settings["store"]["mode"] = "magic"
    fields[3] = json.dumps(settings)
    code, (said,) = replayed(b"scatterzmq recording\n" + framed(packed(fields)))
    assert code == 1
    assert said.startswith("FILE: was recorded with settings that do not hold here: settings: store.mode: expected one")
    strategy = Settings.of({"strategy": {"node": "my_package.mine"}, "plugins": {"allow": ["my_package"]}})
    code, lines = replayed(packed_beginning(replace(beginning(), settings=strategy)))
    assert code == 1
    assert lines[1].startswith("FILE: cannot be replayed here: strategy.node: module 'my_package.mine' cannot be impor")


def with_marks(place: int, marks: tuple[bytes, ...] | None) -> bytes:
    """The small life with other actions recorded for one of its events."""
    parts = tape().parts
    event, now_ms = LIFE[place]
    return b"".join([*parts[: place + 1], packed_record(now_ms, event, marks), *parts[place + 2 :]])


def test_where_it_goes_another_way(replayed: Replayed) -> None:
    """The first event that leads to something else, and what."""
    code, lines = replayed(with_marks(1, ()))
    assert code == 1
    where = "FILE: event 2 (MessageReceived, 0.100 s after the first): "
    assert lines[1] == f"{where}action 1 was nothing, and is CheckGraph now"
    assert lines[2].startswith("    MessageReceived(sender=C22222, message=LoadGraph(mid=1")
    assert lines[3].startswith("    -> CheckGraph(request=")
    assert len(lines) == 4
    (check,) = marks_of([CheckGraph(request=1, definition="{}", settles=True)])
    (other,) = marks_of([CheckGraph(request=1, definition="{}")])
    assert replayed(with_marks(1, (check,)))[0] == 0
    assert replayed(with_marks(1, (other,)))[1][1] == f"{where}action 1, CheckGraph, is not what it was"
    (left,) = marks_of([Left(lost=1)])
    assert replayed(with_marks(1, (check, left)))[1][1] == f"{where}action 2 was Left, and is nothing now"
    unknown = b"\xff" * 8
    assert replayed(with_marks(1, (unknown,)))[1][1].startswith(f"{where}action 1 was an unknown action (255), and is")
    assert replayed(with_marks(1, None))[1][1] == f"{where}the core raised then, and does not now"


def test_a_core_that_raises(replayed: Replayed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a peer died of is the last event of its recording."""
    tape_of_it = tape()
    with pytest.raises(AssertionError, match="time went back"):
        recorded_core(tape_of_it.add).handle(PeerSeen(address="x"), -1)
    code, lines = replayed(tape_of_it.data)
    assert code == 1
    start = "FILE: event 5 (PeerSeen, -1.001 s after the first): the core raises, "
    assert lines[1] == f"{start}as it did then: AssertionError: time went back"
    assert any("core/peer.py" in line for line in lines)

    def broken(_core: PeerCore) -> None:
        raise AssertionError("nothing holds")

    monkeypatch.setattr(PeerCore, "check_invariants", broken)
    code, lines = replayed(tape().data, "--check-every", "3")
    assert code == 1
    start = "FILE: event 3 (MessageReceived, 0.500 s after the first): the core raises, "
    assert lines[1] == f"{start}and did not then, or was not looked at: AssertionError: nothing holds"
    assert replayed(tape().data, "--check-every", "0")[0] == 0
