"""`--boot`: who cannot start stays, says so once, and goes when it is told to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CODE = """
import signal, sys
from scatterzmq.cli.boot import stay
from scatterzmq.errors import ConfigError

before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
came = stay(ConfigError("peer.toml: two\\nlines"))
assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
sys.stdout.write(came.name)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_so_once_and_waits_for_a_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert process.poll() is None
            os.kill(process.pid, number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert line == "scatterzmq: cannot start, and stays because of --boot: peer.toml: two lines\n"
    assert (process.returncode, out, err) == (0, number.name, "")
