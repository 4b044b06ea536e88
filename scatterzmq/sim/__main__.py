"""`python -m scatterzmq.sim`: run seeds, tell the story of one that fails, make it small.

`python -m scatterzmq.sim replay FILE`: the same for a peer that was recorded (sim/replay.py).
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from .options import FAULTS, Options, draw
from .replay import main as replay
from .runs import Coverage, Result, minimise, run, sweep

STORY_LINES = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if something that must hold did not."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["replay"]:
        return replay(words[1:], _say)
    parser = argparse.ArgumentParser(
        prog="python -m scatterzmq.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=_at_least(1), default=1, help="how many, one after another")
    parser.add_argument("--jobs", type=_at_least(1), default=1, help="processes to share them")
    parser.add_argument("--steps", type=_at_least(0), help="end faults after so many steps")
    parser.add_argument("--peers", type=_at_least(1), help="that many, whatever the seed says")
    parser.add_argument("--no", action="append", default=[], choices=sorted(FAULTS), help="without this fault")
    parser.add_argument(
        "--check-every", type=_at_least(0), default=0, help="events of a peer between looks at all it holds"
    )
    parser.add_argument("--trace", action="store_true", help="print the whole story")
    parser.add_argument("--minimise", action="store_true", help="look for fewer steps and faults that still fail")
    given = parser.parse_args(words)
    many = [_options(seed, given) for seed in range(given.seed, given.seed + given.seeds)]
    coverage, events, wrong = Coverage(), 0, []
    begun = time.perf_counter()
    for result in sweep(many, jobs=given.jobs):
        coverage.add(result)
        events += result.events
        if given.seeds == 1:
            _say(f"SEED={given.seed} {result.options.told()}")
            _say(f"{result.steps} steps, {result.events} events, {result.now_us / 1e6:.1f} s, trace {result.digest}")
        if result.wrong:
            wrong.append(result.options.seed)
            _tell(result, given)
        if given.trace:
            _say("\n".join(run(result.options, is_told=True).texts))
    if given.seeds > 1:
        seconds = time.perf_counter() - begun
        _say(f"\n{given.seeds} seeds, {events} events, {events / seconds:.0f} events/s, {seconds:.1f} s")
        _say(f"violations: {len(wrong)}{' in seeds ' + ' '.join(map(str, sorted(wrong))) if wrong else ''}")
        _say("\n".join(coverage.lines()))
    return 1 if wrong else 0


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return number


def _options(seed: int, given: argparse.Namespace) -> Options:
    options = draw(seed, peers=given.peers, steps=given.steps, check_every=given.check_every)
    return options.without(*given.no)


def _again(options: Options, given: argparse.Namespace) -> str:
    """The command that runs exactly these options."""
    words: list[object] = ["--seed", options.seed]
    if given.peers is not None:
        words += ["--peers", given.peers]
    if given.check_every:
        words += ["--check-every", given.check_every]
    words += ["--steps", options.steps]
    drawn = draw(options.seed, peers=given.peers).faults
    for fault in sorted(drawn.keys() - options.faults.keys()):
        words += ["--no", fault]
    return " ".join(["python -m scatterzmq.sim", *map(str, words)])


def _tell(result: Result, given: argparse.Namespace) -> None:
    """What went wrong, and the story of the tasks concerned."""
    options = result.options
    _say(f"\nVIOLATION SEED={options.seed} {options.told()}\n{result.wrong}")
    if given.minimise:
        options = minimise(options, result.wrong)
        _say(f"\nsmaller: {options.told()}")
    _say(f"again: {_again(options, given)}")
    told = run(options, is_told=True)
    names = told.tasks[:1]
    lines = [line for line in told.texts if not names or any(_names(line, name) for name in names)]
    _say("\n".join(lines[-STORY_LINES:]))


def _names(line: str, name: str) -> bool:
    return f"{name}," in line or f"{name})" in line or f"{name} " in line or " world " in line


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
