"""What nodes print goes to a callback, what everybody else prints to where it went before."""

# ruff: noqa: T201 -- printing is what is tested here

import sys
import threading
from typing import Any

import pytest

from scatterzmq.execute.output import NodeOutput


@pytest.fixture
def lines() -> Any:
    return []


@pytest.fixture
def output(capsys: Any, lines: Any) -> Any:
    made = NodeOutput()
    yield made
    made.remove()


@pytest.fixture
def of(output: Any, lines: Any) -> Any:
    """(place) -> a context whose lines go to `lines`."""
    return lambda place: output.lines_of(lambda line: lines.append((place, line)))


def test_lines_of_a_node_go_to_the_callback_and_nothing_else_does(
    output: Any, of: Any, lines: Any, capsys: Any
) -> None:
    output.install()
    print("before")
    with of("a"):
        print("one", 1)
        print("two\nthree", flush=True)
        print()
    print("after")
    assert lines == [("a", "one 1"), ("a", "two"), ("a", "three"), ("a", "")]
    assert capsys.readouterr().out == "before\nafter\n"


def test_a_line_is_told_when_it_is_complete_or_the_node_is_done(output: Any, of: Any, lines: Any) -> None:
    output.install()
    with of("a"):
        print("half", end="")
        assert lines == []
        print(" whole")
        print("rest", end="")
        assert lines == [("a", "half whole")]
    assert lines[1:] == [("a", "rest")]


def test_also_when_the_node_raises(output: Any, of: Any, lines: Any, capsys: Any) -> None:
    output.install()

    def run() -> None:
        with of("a"):
            print("rest", end="")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        run()
    print("outside")
    assert lines == [("a", "rest")]
    assert capsys.readouterr().out == "outside\n"


def test_other_threads_are_not_affected(output: Any, of: Any, lines: Any, capsys: Any) -> None:
    output.install()
    with of("a"):
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join()
        print("here")
    assert lines == [("a", "here")]
    assert capsys.readouterr().out == "elsewhere\n"


def test_nested_nodes(output: Any, of: Any, lines: Any) -> None:
    output.install()
    with of("outer"):
        with of("inner"):
            print("in")
        print("out")
    assert lines == [("inner", "in"), ("outer", "out")]


def test_a_line_without_end_comes_in_pieces(output: Any, of: Any, lines: Any) -> None:
    output.install()
    with of("a"):
        sys.stdout.write("x" * 20_000)
        assert [len(line) for _, line in lines] == [8192, 8192]
    assert "".join(line for _, line in lines) == "x" * 20_000


def test_it_looks_like_the_stream_it_stands_for(output: Any, of: Any, capsys: Any) -> None:
    output.install()
    assert sys.stdout.encoding.lower() == "utf-8"
    assert not sys.stdout.isatty()
    with of("a"):
        sys.stdout.writelines(["a\n", "b\n"])
        with pytest.raises(TypeError):
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]


def test_removing_puts_back_what_was_there(lines: Any) -> None:
    before = sys.stdout
    output = NodeOutput()
    output.install()
    output.install()
    assert sys.stdout is not before
    output.remove()
    output.remove()
    assert sys.stdout is before
    with output.lines_of(lines.append):
        print("passes")
    assert lines == []


def test_two_at_once_removed_in_any_order(lines: Any, capsys: Any) -> None:
    before = sys.stdout
    first = NodeOutput()
    second = NodeOutput()
    first.install()
    second.install()
    first.remove()
    with second.lines_of(lines.append):
        print("x")
    print("outside")
    second.remove()
    assert sys.stdout is before
    assert lines == ["x"]
    assert capsys.readouterr().out == "outside\n"


def test_somebody_who_took_over_after_us_keeps_it(monkeypatch: Any, lines: Any, capsys: Any) -> None:
    output = NodeOutput()
    output.install()
    ours = sys.stdout

    class Other:
        def write(self, text: Any) -> Any:
            return ours.write(text.upper())

    other = Other()
    monkeypatch.setattr(sys, "stdout", other)
    output.remove()
    assert sys.stdout is other
    print("passes")
    assert capsys.readouterr().out == "PASSES\n"
    monkeypatch.undo()
