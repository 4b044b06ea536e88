"""A cluster that is none: what the commands need of `scatterzmq.local`, computed on the spot."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Self

import pytest
import torch

import scatterzmq
from scatterzmq.cli import main
from scatterzmq.errors import ErrorCode, ErrorContext, ErrorInfo, FormatError, TaskError
from tests.test_remote import Peer, until
from tests.test_remote import served as served  # noqa: PLC0414 - a fixture of the commands' tests, too

Format = tuple[str, tuple[int | None, ...]]


@dataclass
class FakeClient:
    """Doubles "x", or whatever `function` says. `options`: what `local` was called with."""

    inputs: frozenset[str] = frozenset({"x"})
    outputs: dict[str, Format] = field(default_factory=lambda: {"y": ("float", (None,))})
    function: Callable[[Mapping[str, Any]], Mapping[str, torch.Tensor]] = lambda item: {
        "y": torch.tensor(item["x"], dtype=torch.float32) * 2
    }
    options: dict[str, Any] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    under_way_max: int = 0
    closed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def load_graph(self, path: str) -> str:
        self.loaded.append(path)
        return "main"

    def main_inputs(self, ns: str) -> frozenset[str]:
        assert ns == "main"
        return self.inputs

    def main_outputs(self, ns: str) -> frozenset[str]:
        return frozenset(self.outputs)

    def output_format(self, ns: str, name: str) -> Format:
        return self.outputs[name]

    def map(
        self, ns: str, items: Iterator[Mapping[str, Any]], *, window: int, ordered: bool, return_exceptions: bool
    ) -> Iterator[Any]:
        """Reads ahead as far as the window allows before it gives the first result, as a client may."""
        assert ordered
        assert return_exceptions
        source = iter(items)
        while held := list(islice(source, window)):
            self.under_way_max = max(self.under_way_max, len(held))
            for item in held:
                yield self._result(item)

    def _result(self, item: Mapping[str, Any]) -> Any:
        if set(item) != self.inputs:
            return FormatError(f"expected fields {sorted(self.inputs)}, got {sorted(item)}")
        try:
            return self.function(item)
        except ZeroDivisionError as error:
            where = ErrorContext(task="T1", graph="main:main", node="main:main:n")
            return TaskError("T1", ErrorInfo(code=ErrorCode.GENERAL_EXCEPTION, message=str(error), context=where))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """What `scatterzmq.local` gives in this test."""
    made = FakeClient()

    def local(**options: Any) -> FakeClient:
        made.options = options
        return made

    monkeypatch.setitem(vars(scatterzmq), "local", local)
    return made


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""

    def call(*argv: object) -> Ran:
        code = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def running() -> Iterator[Callable[..., Peer]]:
    """Starts a real peer in a thread; others join it by its address."""
    with ExitStack() as started:

        def start(*join: str, **sections: Any) -> Peer:
            peer = Peer(*join, **sections)
            started.callback(peer.stop)
            return peer

        yield start


@pytest.fixture
def pair(running: Callable[..., Peer]) -> list[Peer]:
    """Two that know each other."""
    first = running(name="first")
    second = running(first.address, name="second")
    until(lambda: "peer.join" in first.events and "peer.join" in second.events)
    return [first, second]
