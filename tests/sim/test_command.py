"""The command of the simulator: what it prints of a failure can be run again, and what it is told is looked at."""

import pytest

from scatterzmq.sim.__main__ import main
from scatterzmq.sim.checkers import Violation
from scatterzmq.sim.network import Network

SEED = 334
"""A short one, whose network loses messages."""


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that the third lost message breaks."""
    happens = Network._happens

    def checked(self: Network, kind: str) -> bool:
        happened = happens(self, kind)
        if happened and self._world.fired["loss"] == 3:
            raise Violation("three are lost")
        return happened

    monkeypatch.setattr(Network, "_happens", checked)


@pytest.mark.usefixtures("fragile")
def test_a_failure_is_made_smaller_and_its_command_fails_in_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", str(SEED), "--peers", "2", "--check-every", "50", "--minimise"]) == 1
    told = capsys.readouterr().out
    again = next(line for line in told.splitlines() if line.startswith("again: "))
    words = again.removeprefix("again: python -m scatterzmq.sim ").split()
    assert {"--no", "--peers", "--check-every"} <= set(words), "it has hardly been made smaller"
    assert "loss" not in words
    assert main(words) == 1
    assert "three are lost" in capsys.readouterr().out
    fewer = [*words, "--steps", str(int(words[words.index("--steps") + 1]) - 1)]
    assert main(fewer) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--seeds", "0"], "at least 1, got '0'"),
        (["--jobs", "0"], "at least 1, got '0'"),
        (["--jobs", "two"], "a whole number of at least 1, got 'two'"),
        (["--peers", "-1"], "at least 1, got '-1'"),
        (["--steps", "-5"], "at least 0, got '-5'"),
        (["--check-every", "-1"], "at least 0, got '-1'"),
        (["--no", "bogus"], "invalid choice: 'bogus'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert words[0] in last
    assert said in last
