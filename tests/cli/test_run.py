"""`scatterzmq run`: what goes in, what comes out, in which order, and what becomes of errors."""

import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scatterzmq.cli.io import JsonWriter
from scatterzmq.errors import GraphError


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return path

    return write


def test_results_come_as_json_lines_in_input_order(cli: Any, client: Any, file: Any) -> None:
    path = file("in.jsonl", '{"x": [1]}\n{"x": [2, 3]}\n\n{"x": [0.1]}')
    ran = cli("run", "graph.json", "--input", path)
    assert ran == (0, '{"y": [2.0]}\n{"y": [4.0, 6.0]}\n{"y": [0.2]}\n', "")
    assert client.loaded == ["graph.json"]
    assert client.closed


def test_a_bad_line_costs_nobody_else_anything(cli: Any, client: Any, file: Any) -> None:
    path = file("in.jsonl", '[1]\n{"x": [1]}\n{"x"\n\udcff\n{"x": [2]}\n{"z": [2]}\n{"x": [3]}\n7')
    ran = cli("run", "graph.json", "--input", path)
    assert ran.code == 1
    found = lines(ran.out)
    assert [answer.get("y") for answer in found] == [None, [2.0], None, None, [4.0], None, [6.0], None]
    errors = {index: answer["error"] for index, answer in enumerate(found) if "error" in answer}
    assert {error["code"] for error in errors.values()} == {"invalid_input"}
    assert [errors[index]["line"] for index in (0, 2, 3, 5, 7)] == [1, 3, 4, 6, 8]
    assert errors[0]["message"] == "line 1: expected an object of fields, got [1]; write one object per line"
    assert errors[2]["message"] == "line 3: not JSON: Expecting ':' delimiter at column 5; write one object per line"
    assert errors[3]["message"] == "line 4: not UTF-8: invalid start byte at byte 1"
    assert errors[5]["message"] == "line 6: expected fields ['x'], got ['z']"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes at column 2; write one object per line"),
        ('{"x": [1]} 2', "not JSON: Extra data at column 12; write one object per line"),
        ("[" * 100_000, "not JSON that can be read: nested too deeply"),
        ('{"x": [%s]}' % ("1" * 5000), "not JSON that can be read: Exceeds the limit"),
        ('"%s"' % ("a" * 60), 'expected an object of fields, got "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...; write one'),
        ("null", "expected an object of fields, got null; write one object per line"),
        ('{"x": [1], "x": [2]}', "'x' is given more than once; leave one of them out"),
        ('{"x": [1e400]}', "1e400 is beyond the largest number; write Infinity if that is meant"),
        ('{"x": [-1E+0309]}', "-1E+0309 is beyond the largest number; write Infinity if that is meant"),
        ('{"x": [%s.0]}' % ("9" * 400), "9999999999999999999999999999999999999999 is beyond the largest number"),
    ],
)
def test_each_wrong_line_is_told_in_one_line(cli: Any, client: Any, file: Any, line: str, message: str) -> None:
    ran = cli("run", "graph.json", "--input", file("in.jsonl", f'{{"x": [1]}}\n\n{line}\n{{"x": [1e308]}}\n'))
    assert ran.code == 1
    good, bad, large = lines(ran.out)
    assert good == {"y": [2.0]}
    assert large == {"y": ["Infinity"]}
    assert bad["error"]["code"] == "invalid_input"
    assert bad["error"]["line"] == 3
    assert bad["error"]["message"].startswith(f"line 3: {message}")


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("numbers", ["[NaN, Infinity, -Infinity]", '["NaN", "Infinity", "-Infinity"]'])
def test_numbers_that_json_does_not_have_are_texts(cli: Any, client: Any, file: Any, numbers: str) -> None:
    client.outputs = {"y": ("float", (3,)), "one": ("double", ()), "many": ("cfloat", (1,)), "small": ("half", (1, 1))}

    def same(item: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        y = torch.tensor([float(number) for number in item["x"]])
        nan = y[0]
        return {"y": y, "one": nan.double(), "many": torch.complex(nan, -y[1])[None], "small": nan.half()[None, None]}

    client.function = same
    ran = cli("run", "graph.json", "--input", file("in.jsonl", f'{{"x": {numbers}}}\n'))
    assert json.loads(ran.out, parse_constant=no_constant) == {
        "y": ["NaN", "Infinity", "-Infinity"],
        "one": "NaN",
        "many": [["NaN", "-Infinity"]],
        "small": [["NaN"]],
    }


def test_a_failed_task_says_where_and_why(cli: Any, client: Any, file: Any) -> None:
    client.function = lambda item: {"y": torch.tensor([1 // item["x"]])}
    ran = cli("run", "graph.json", "--input", file("in.jsonl", '{"x": 0}\n{"x": 1}\n'))
    assert ran.code == 1
    error, result = lines(ran.out)
    assert result == {"y": [1]}
    assert (error["error"]["code"], error["error"]["line"]) == ("general_exception", 1)
    assert "zero" in error["error"]["message"]
    assert error["error"]["context"] == {"task": "T1", "graph": "main:main", "node": "main:main:n"}


@pytest.mark.parametrize("count", [3, 2500])
def test_bad_lines_do_not_pile_up_and_keep_their_places(cli: Any, client: Any, file: Any, count: int) -> None:
    good, bad = '{"x": [1]}\n', "bad\n" * count
    ran = cli("run", "graph.json", "--input", file("in.jsonl", bad + good + bad + good), "--window", "2")
    answers = lines(ran.out)
    assert ran.code == 1
    assert [index for index, answer in enumerate(answers) if "y" in answer] == [count, 2 * count + 1]
    assert [answer["error"]["line"] for answer in answers[:count]] == list(range(1, count + 1))


def test_no_more_than_the_window_is_under_way(cli: Any, client: Any, file: Any) -> None:
    ran = cli("run", "graph.json", "--input", file("in.jsonl", '{"x": [1]}\n' * 50), "--window", "8")
    assert len(lines(ran.out)) == 50
    assert client.under_way_max == 8


def test_stdin_and_a_file_for_the_output(
    cli: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x": [1]}\n')))
    ran = cli("run", "graph.json", "--input", "-", "--output", tmp_path / "out.jsonl")
    assert ran == (0, "", "")
    assert (tmp_path / "out.jsonl").read_text() == '{"y": [2.0]}\n'


def test_lines_of_text_go_in_as_strings_and_texts_come_out_as_strings(cli: Any, client: Any, file: Any) -> None:
    client.outputs = {"y": ("uint8", (None,)), "raw": ("uint8", (2,))}
    seen = []

    def shout(item: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        seen.append(item["x"])
        text = torch.tensor(list(item["x"].upper().encode()), dtype=torch.uint8)
        return {"y": text, "raw": torch.tensor([1, 2], dtype=torch.uint8)}

    client.function = shout
    ran = cli("run", "graph.json", "--input", file("in.txt", "\ufeffäpfel\r\n\nb  \n"))
    assert seen == ["äpfel", "", "b  "]
    assert [answer["y"] for answer in lines(ran.out)] == ["ÄPFEL", "", "B  "]
    assert lines(ran.out)[0]["raw"] == [1, 2]
    assert "ÄPFEL" in ran.out


def test_bytes_that_are_no_text_stay_visible(cli: Any, client: Any, file: Any) -> None:
    client.outputs = {"y": ("uint8", (None,))}
    client.function = lambda item: {"y": torch.tensor([65, 255], dtype=torch.uint8)}
    ran = cli("run", "graph.json", "--input", file("in.txt", "a\n"))
    assert lines(ran.out) == [{"y": "A\\xff"}]


def test_rows_of_an_array_go_in_and_out(cli: Any, client: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    client.function = lambda item: {"y": torch.from_numpy(item["x"]) * 2}
    ran = cli("run", "graph.json", "--input", tmp_path / "in.npy", "--output", tmp_path / "out.npy")
    assert ran == (0, "", "")
    out = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert out.dtype == np.float32
    assert out.tolist() == [[0, 2], [4, 6], [8, 10]]


def test_a_failed_row_of_an_array_is_nan_and_told_on_stderr(cli: Any, client: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array([0, 2, 0, 4], dtype=np.int64))

    def divide(item: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        if not item["x"]:
            raise ZeroDivisionError("no")
        return {"y": torch.tensor([8.0 / int(item["x"])])}

    client.function = divide
    ran = cli("run", "graph.json", "--input", tmp_path / "in.npy", "--output", tmp_path / "out.npy")
    assert ran.code == 1
    assert [line["item"] for line in lines(ran.err)] == [1, 3]
    out = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert out.shape == (4, 1)
    assert np.isnan(out[:, 0]).tolist() == [True, False, True, False]
    assert out[[1, 3], 0].tolist() == [4.0, 2.0]


def test_an_array_without_rows_can_be_read_back(cli: Any, client: Any, file: Any, tmp_path: Path) -> None:
    ran = cli("run", "graph.json", "--input", file("in.jsonl", ""), "--output", tmp_path / "out.npy")
    assert ran.code == 0
    assert np.load(tmp_path / "out.npy", allow_pickle=False).shape == (0,)


@pytest.mark.parametrize(("fields", "listed"), [(("y", "b"), "b, y"), ((), "none")])
def test_an_array_holds_one_field_and_never_drops_another(
    cli: Any, client: Any, file: Any, tmp_path: Path, fields: tuple[str, ...], listed: str
) -> None:
    client.outputs = dict.fromkeys(fields, ("float", (None,)))
    path, out = file("in.jsonl", '{"x": [1]}\n'), file("out.npy", "what was there")
    ran = cli("run", "graph.json", "--input", path, "--output", out)
    assert ran == (2, "", f"scatterzmq: a .npy file holds one field, this graph gives {listed}: use .jsonl\n")
    assert out.read_text() == "what was there"


def test_rows_of_different_shape_are_no_array(cli: Any, client: Any, file: Any, tmp_path: Path) -> None:
    path = file("in.jsonl", '{"x": [1]}\n{"x": [1, 2]}\n')
    ran = cli("run", "graph.json", "--input", path, "--output", tmp_path / "out.npy")
    assert ran.code == 1
    assert ran.err == (
        "scatterzmq: result 2 has shape [2], the first one [1]: rows of an array are alike, use .jsonl\n"
    )


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor(0.1), 0.1),
        (torch.tensor([[0.1, 1e10], [3.0, -0.5]]), [[0.1, 1e10], [3.0, -0.5]]),
        (torch.zeros(2, 0), [[], []]),
        (torch.zeros(0, 2), []),
        (torch.tensor([0.1], dtype=torch.float16), [0.1]),
        (torch.tensor([0.1], dtype=torch.float64), [0.1]),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (torch.tensor([True]), [True]),
        (torch.tensor([[1 + 2j]]), [[[1.0, 2.0]]]),
    ],
)
def test_json_says_every_kind_of_number(cli: Any, client: Any, file: Any, tensor: Any, expected: Any) -> None:
    client.function = lambda item: {"y": tensor}
    assert lines(cli("run", "graph.json", "--input", file("in.jsonl", '{"x": 1}')).out) == [{"y": expected}]


def test_options_reach_the_cluster_and_others_keep_their_defaults(cli: Any, client: Any, file: Any) -> None:
    path = file("in.jsonl", "")
    assert cli("run", "graph.json", "--input", path).code == 0
    assert client.options == {"blobs": {"packages": ["*"]}}
    more = "--executors 2 --batch-size 7 --max-retries 0 --no-cache --allow a --allow b.c --device cpu --peers 1"
    assert cli("run", "graph.json", "--input", path, *more.split()).code == 0
    assert client.options == {
        "peers": 1,
        "executors": 2,
        "batch_size": 7,
        "max_retries": 0,
        "device": "cpu",
        "cache": False,
        "plugins": ["a", "b.c"],
        "blobs": {"packages": ["*"]},
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "in.xml"], "argument --input: expected - or a file name with .jsonl"),
        (["--input", "-", "--output", "x.txt"], "argument --output: expected - or"),
        (["--input", "-", "--executors", "0"], "argument --executors: expected a whole number of at least 1, got '0'"),
        (["--input", "-", "--window", "x"], "argument --window: expected a whole number of at least 1, got 'x'"),
        ([], "the following arguments are required: --input"),
        (["--input", "-", "--nearest", "2", "--output", "o.npy"], "--nearest writes texts"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(cli: Any, client: Any, arguments: list[str], expected: str) -> None:
    ran = cli("run", "graph.json", *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert expected in ran.err


def test_the_input_is_never_overwritten(cli: Any, client: Any, file: Any) -> None:
    path = file("in.jsonl", '{"x": [1]}\n')
    ran = cli("run", "graph.json", "--input", path, "--output", path)
    assert ran.code == 2
    assert path.read_text() == '{"x": [1]}\n'


def test_text_for_a_graph_with_two_fields_is_wrong_usage(cli: Any, client: Any, file: Any) -> None:
    client.inputs = frozenset({"a", "b"})
    ran = cli("run", "graph.json", "--input", file("in.txt", "x\n"))
    assert (ran.code, ran.err) == (
        2,
        "scatterzmq: a .txt file holds one field, this graph takes a, b: use .jsonl\n",
    )


def test_a_missing_file_is_one_line_and_starts_nothing(cli: Any, client: Any, tmp_path: Path) -> None:
    ran = cli("run", "graph.json", "--input", tmp_path / "none.jsonl")
    assert ran.code == 1
    assert ran.err.startswith("scatterzmq: ")
    assert ran.err.count("\n") == 1
    assert "No such file" in ran.err
    assert client.options == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("no array"), " is no .npy file; make one with numpy.save, or use .jsonl"),
        (lambda path: path.write_bytes(b""), " is no .npy file; make one with numpy.save, or use .jsonl"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01"), " holds no array of numbers that can be read: "),
        (lambda path: np.save(path, np.array([{}])), " holds no array of numbers that can be read: "),
        (lambda path: np.save(path, np.float32(1)), ": expected an array with a row per item, got a single number"),
    ],
)
def test_what_is_no_array_is_one_line(
    cli: Any, client: Any, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "in.npy"
    make(path)
    ran = cli("run", "graph.json", "--input", path)
    assert ran.code == 1
    assert f"{path}{message}" in ran.err
    assert ran.err.count("\n") == 1


def test_a_row_that_does_not_fit_is_named_by_its_index(cli: Any, client: Any, tmp_path: Path) -> None:
    client.inputs = frozenset({"x"})
    client.function = lambda item: {"y": torch.tensor([1 // int(item["x"][0])])}
    np.save(tmp_path / "in.npy", np.array([[1.0], [0.0]]))
    ran = cli("run", "graph.json", "--input", tmp_path / "in.npy")
    assert ran.code == 1
    assert [answer.get("error", {}).get("row") for answer in lines(ran.out)] == [None, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "{}/nope.jsonl"], "cannot read '{}/nope.jsonl': No such file or directory; check the path"),
        (["--input", "{}/a.jsonl"], "cannot read '{}/a.jsonl': Is a directory; check the path"),
        (
            ["--input", "{}/in.jsonl", "--output", "{}/no/x.jsonl"],
            "cannot write '{}/no/x.jsonl': No such file or directory; check the path",
        ),
    ],
)
def test_files_that_are_not_there_are_one_line(
    cli: Any, client: Any, file: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    file("in.jsonl", '{"x": [1]}\n')
    (tmp_path / "a.jsonl").mkdir()
    ran = cli("run", "graph.json", *[argument.format(tmp_path) for argument in arguments])
    assert ran == (1, "", f"scatterzmq: {message.format(tmp_path)}\n")


def test_an_error_of_the_graph_is_one_line_unless_debug(cli: Any, client: Any, file: Any) -> None:
    def refuse(path: str) -> str:
        raise GraphError("2 problems:\n  graph main: no\n  graph main: node a: no")

    client.load_graph = refuse
    path = file("in.jsonl", "")
    ran = cli("run", "graph.json", "--input", path)
    assert (ran.code, ran.err) == (1, "scatterzmq: 2 problems: graph main: no graph main: node a: no\n")
    with pytest.raises(GraphError, match="2 problems"):
        cli("run", "graph.json", "--input", path, "--debug")


def test_an_interrupt_ends_with_130_and_closes_the_client(cli: Any, client: Any, file: Any) -> None:
    def interrupt(item: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        raise KeyboardInterrupt

    client.function = interrupt
    ran = cli("run", "graph.json", "--input", file("in.jsonl", '{"x": 1}\n'))
    assert (ran.code, ran.err) == (130, "scatterzmq: interrupted\n")
    assert client.closed


def test_an_interrupt_anywhere_takes_the_tasks_back_before_the_client_goes(
    cli: Any, client: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    def results(*_: object, **__: object) -> Any:
        try:
            yield {"y": torch.tensor([1.0])}
        finally:
            closed.append(client.closed)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    client.map = lambda ns, items, **keys: results(next(items))
    monkeypatch.setattr(JsonWriter, "write", interrupted)
    assert cli("run", "graph.json", "--input", file("in.jsonl", '{"x": 1}\n')).code == 130
    assert closed == [False]
    assert client.closed
