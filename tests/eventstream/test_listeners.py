"""The listeners that come with it, and those of plug-ins."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.eventstream import Context, Event, event_stream
from scatterzmq.eventstream.listeners import FileListener, StreamListener, line_for_people, line_of_json
from scatterzmq.settings import Settings
from tests.conftest import PLUGINS


def event(name: str = "peer.join", context: Context | None = None, source: str = "") -> Event:
    return Event(name=name, time_ms=1_700_000_000_007, clock_ms=5, source=source, context=context or {})


@pytest.mark.parametrize(
    ("context", "shown"),
    [
        ({}, ""),
        ({"peer": "P12", "silent_ms": 2500, "cost": 0.1234567891}, " peer=P12 silent_ms=2500 cost=0.123457"),
        ({"reason": "it left"}, ' reason="it left"'),
        ({"reason": ""}, ' reason=""'),
        ({"reason": 'a "b"'}, r' reason="a \"b\""'),
        ({"reason": "a=b"}, ' reason="a=b"'),
        ({"name": "Jürgen"}, " name=Jürgen"),
        ({"name": "two\nlines\x1b[2Jü"}, r' name="two\nlines\u001b[2J\u00fc"'),
        ({"name": "\u202e\x9b"}, r' name="\u202e\u009b"'),
        ({"name": "x" * 301}, " name=" + "x" * 297 + "..."),
    ],
)
def test_people_get_one_line(context: Context, shown: str) -> None:
    line = line_for_people(event(context=context))
    assert line.partition(" ")[2] == f"peer.join{shown}"
    assert line.partition(" ")[0].endswith(":20.007")


def test_people_see_which_peer_it_is() -> None:
    assert line_for_people(event(source="alpha")).endswith(".007 [alpha] peer.join")


def test_machines_get_all_of_it() -> None:
    line = line_of_json(event(context={"reason": "ü\n", "n": 3, "s": 0.5}, source="alpha"))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.007Z",
        "clock_ms": 5,
        "event": "peer.join",
        "source": "alpha",
        "context": {"reason": "ü\n", "n": 3, "s": 0.5},
    }


def test_a_stream_gets_each_line_at_once() -> None:
    stream = io.StringIO()
    StreamListener(stream).take(event("a"))
    StreamListener(stream, as_json=True).take(event("b"))
    first, second, rest = stream.getvalue().split("\n")
    assert first.endswith(" a")
    assert (json.loads(second)["event"], rest) == ("b", "")


def names_in(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text("utf-8").splitlines()]


def test_a_file_is_written_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for name in ("a", "b"):
        listener = FileListener(str(path))
        listener.take(event(name))
        listener.close()
        listener.close()
    assert names_in(path) == ["a", "b"]


def test_a_file_that_is_full_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "events"
    size = len(line_of_json(event("0"))) + 1
    listener = FileListener(str(path), bytes_max=2 * size)
    for number in range(5):
        listener.take(event(str(number)))
    assert (names_in(tmp_path / "events.1"), names_in(path)) == (["2", "3"], ["4"])
    listener.take(event("larger than any file may be" * 10))
    listener.take(event("5"))
    listener.close()
    assert len(names_in(tmp_path / "events.1")) == 1
    assert names_in(path) == ["5"]
    assert sorted(os.listdir(tmp_path)) == ["events", "events.1"]


def test_a_file_is_set_aside_only_if_something_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "events"
    listener = FileListener(str(path), bytes_max=1)
    listener.take(event("a"))
    listener.close()
    assert os.listdir(tmp_path) == ["events"]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "events"
    listener = FileListener(str(path))
    listener.take(event("a"))
    path.rename(tmp_path / "moved")
    listener.take(event("b"))
    path.unlink()
    path.write_text("")
    listener.take(event("c"))
    listener.close()
    assert (names_in(tmp_path / "moved"), names_in(path)) == (["a"], ["c"])


def test_two_may_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "events"
    size = len(line_of_json(event("0"))) + 1
    one, other = (FileListener(str(path), bytes_max=3 * size) for _ in range(2))
    for number in range(0, 6, 2):
        one.take(event(str(number)))
        other.take(event(str(number + 1)))
    one.close()
    other.close()
    assert (names_in(tmp_path / "events.1"), names_in(path)) == (["0", "1", "2"], ["3", "4", "5"])


# ---- by settings


def settings(*listeners: str, disable: tuple[str, ...] = (), allow: str = PLUGINS) -> Settings:
    return Settings.of({"events": {"listeners": listeners, "disable": disable}, "plugins": {"allow": [allow]}})


def test_settings_name_the_listeners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events"
    stream = event_stream(settings("stdout-json", f"file:{path}", "stdout-json", disable=("debug",)), source="alpha")
    stream.emit("peer.join", {"peer": "P1"})
    stream.emit("debug.task")
    stream.close()
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text("utf-8"))
    assert names_in(path) == ["peer.join"]


def test_people_are_told_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    stream = event_stream(Settings())
    stream.emit("peer.join", {"peer": "P1"})
    stream.emit("cache.hit")
    stream.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(" peer.join peer=P1")


PLUG_IN = """
    from scatterzmq.eventstream import Event, Listener

    got = []

    class Mine(Listener):
        disable = ("peer",)

        def take(self, event):
            got.append(event.name)
            if event.name == "error.task":
                raise ValueError("enough")
"""


def test_a_plug_in_listens(write_plugin: Callable[[str], str]) -> None:
    said: list[str] = []
    stream = event_stream(settings(write_plugin(PLUG_IN)), complain=said.append)
    for name in ("debug.task", "peer.join", "error.task", "debug.task"):
        stream.emit(name)
    stream.close()
    assert sys.modules[f"{PLUGINS}.mine"].got == ["debug.task", "error.task"]
    assert said == [f"event listener {PLUGINS}.mine failed and gets no more events: ValueError: enough"]


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        (
            "stdot",
            (
                "events.listeners: unknown 'stdot'; known are stdout, stdout-json, file:PATH, "
                "and modules such as 'my_package.my_events'"
            ),
        ),
        ("os.path", "events.listeners: module 'os.path' may not be imported; allow it with plugins.allow"),
        (f"{PLUGINS}.none", f"events.listeners: module '{PLUGINS}.none' cannot be imported: ModuleNotFoundError: "),
        (PLUGINS + ".mine", "must hold exactly one subclass of Listener, found none"),
        ("file:none/events", "events.listeners: file:none/events: cannot be opened: No such file or directory"),
        ("file:", "events.listeners: file:: cannot be opened: "),
    ],
)
def test_what_is_no_listener_is_refused_in_one_line(
    write_plugin: Callable[[str], str], tmp_path: Path, listener: str, message: str
) -> None:
    write_plugin("x = 1")
    first = tmp_path / "events"
    with pytest.raises(ConfigError) as caught:
        event_stream(settings(f"file:{first}", listener))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert f"{first}" not in {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
