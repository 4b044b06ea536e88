"""The command line as a whole: help, versions, exit codes, pipes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import scatterzmq

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    [],
    ["run"],
    ["submit"],
    ["status"],
    ["release"],
    ["graph"],
    ["graph", "check"],
    ["graph", "show"],
    ["healthcheck"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_a_screen_and_shows_an_example(cli: Any, command: list[str]) -> None:
    ran = cli(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"example:\n  scatterzmq {' '.join(command)}" in ran.out
    assert len(ran.out.splitlines()) <= 30
    assert max(map(len, ran.out.splitlines())) <= 80


def test_the_version(cli: Any) -> None:
    assert cli("--version") == (0, f"scatterzmq {scatterzmq.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [[], ["graph"], ["nonsense"], ["--nonsense"], ["graph", "check"], ["submit"], ["release"]]
)
def test_wrong_usage_is_one_line_and_exit_2(cli: Any, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("scatterzmq")
    assert ran.err.count("\n") == 1
    assert "--help" in ran.err


def test_help_is_quick_and_loads_no_heavy_library() -> None:
    code = (
        "import sys, time; from scatterzmq.cli import main; main(['--help'])\n"
        "sys.stderr.write(' '.join([str(time.process_time()), *sys.modules]))"  # what others run must not count
    )
    took = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        spent, *modules = done.stderr.split()
        took.append(float(spent))
        assert not {"torch", "numpy", "msgpack", "rich", "asyncio"} & set(modules)
    assert min(took) < 0.25


def test_python_dash_m_works() -> None:
    done = subprocess.run([sys.executable, "-m", "scatterzmq"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("scatterzmq: ")


def test_a_reader_who_leaves_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "import sys; from scatterzmq import cli; from scatterzmq.cli import graph\n"
        "graph._check = lambda options: sys.stdout.write('x' * 100) and 0\n"
        "sys.exit(cli.main(['graph', 'check', 'x.json']))"
    )
    command = [sys.executable, "-c", code]
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_is_utf8_whatever_the_language_of_the_machine() -> None:
    code = (
        "import sys; from scatterzmq import cli; from scatterzmq.cli import graph\n"
        "graph._check = lambda options: sys.stdout.write('\\xe4\\ud800') and 0\n"
        "sys.exit(cli.main(['graph', 'check', 'x.json']))"
    )
    language = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT, env=language)
    assert done.stdout == "\xe4\\ud800".encode()
